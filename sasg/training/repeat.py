"""A finished run once more: what its folder says that it must be done with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sasg.config import Config, from_dict
from sasg.errors import UserError
from sasg.gradients.engines import ENGINES
from sasg.training.run_folder import RunFolder, read_identity


class Repetition:
    """Of a finished run: the configuration that repeats it, and the `folder` where that is."""

    def __init__(self, identity: dict[str, Any], summary: dict[str, Any], into: str):
        """identity, summary: of the run. into: the runs_dir of the repetition."""
        config = replace(from_dict(identity), runs_dir=into)
        self.config = replace(config, **_settings(summary, config))
        self.folder = Path(into) / config.run_name(identity)

    @classmethod
    def of_folder(cls, path: Path, into: str) -> "Repetition":
        """Of the run whose config.json is `path`. UserError: there is no finished run, or `into` is where it lies."""
        identity = read_identity(path.parent) if path.name == "config.json" else None
        summary = None if identity is None else RunFolder(path.parent, identity).summary()
        if identity is None or summary is None:
            raise UserError(f"--into: {path} must be the config.json of a finished run, which is then repeated")
        made = cls(identity, summary, into)
        if made.folder.resolve() == path.parent.resolve():
            raise UserError(f"--into {into}: the run itself lies there; name another folder")
        return made


def _settings(summary: dict[str, Any], config: Config) -> dict[str, Any]:
    """What a run was done with that its identity leaves out, and that can change bits; older summaries say less."""
    settings: dict[str, Any] = {key: summary[key] for key in ("deterministic", "threads") if key in summary}
    engine = str(summary.get("gradients")).removesuffix("Engine").lower()
    if engine in ENGINES:
        settings["gradients"] = engine
    cluster = summary.get("cluster", {})
    if cluster.get("kind") == "distributed":
        settings["cluster"] = replace(config.cluster, kind="distributed", processes=cluster["processes"])
    return settings
