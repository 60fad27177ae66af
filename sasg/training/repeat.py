"""A finished run once more: what its folder says that it must be done with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sasg.config import Config, from_dict
from sasg.errors import UserError
from sasg.gradients.engines import ENGINES
from sasg.training.run_folder import RunFolder, read_identity


class Repetition:
    """Of the run in folder `original`: the configuration that repeats it, and the `folder` where that is.

    UserError: there is no finished run, or `into` is where it lies.
    """

    def __init__(self, path: Path, into: str):
        """path: the run's config.json. into: the runs_dir of the repetition."""
        identity = read_identity(path.parent) if path.name == "config.json" else None
        summary = None if identity is None else RunFolder(path.parent, identity).summary()
        if summary is None:
            raise UserError(f"--into: {path} must be the config.json of a finished run, which is then repeated")
        config = replace(from_dict(identity), runs_dir=into)
        self.config = replace(config, **_settings(summary, config))
        self.original, self.folder = path.parent, Path(into) / config.run_name(identity)
        if self.folder.resolve() == self.original.resolve():
            raise UserError(f"--into {into}: the run itself lies there; name another folder")


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
