#!/usr/bin/env python
"""Train one method on one task (a Hydra front to sasg.training.run); see --help."""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), os.getcwd()]  # the suite without installation; a user's own methods beside the call

from sasg.environment import require  # noqa: E402

require("hydra", "torch")

import hydra  # noqa: E402
from hydra.core.hydra_config import HydraConfig  # noqa: E402

from experiments.composing import RunNotFinished, composed, quiet_hydra, telling_errors  # noqa: E402
from experiments.messages import refuse_twice  # noqa: E402
from experiments.several import Several, names, told  # noqa: E402
from sasg.__main__ import EXIT_CODES, run_config  # noqa: E402
from sasg.config import Config  # noqa: E402
from sasg.errors import UserError  # noqa: E402
from sasg.lifetime import outlive_terminal  # noqa: E402
from sasg.places import CONF, refuse_hidden  # noqa: E402

_QUEUE: list[Config] = []  # Hydra composes and checks all runs before the first one starts
_NAMES = "SASG_RUN_NAMES"  # of a sweep's runs, for the launcher's processes


@hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
def _compose(values) -> None:
    config, write = composed(values)
    if write:
        try:
            Path(write).write_text(json.dumps(config.as_dict(), indent=2) + "\n")
        except OSError as error:
            raise UserError(f"write={write}: cannot be written ({error.strerror})") from None
        print(write)
    else:
        _QUEUE.append(config)


@hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
def _run_in_job(values) -> None:
    """One run of a sweep, in the process that a launcher started for it."""
    outlive_terminal()
    config = composed(values)[0]
    number, called = HydraConfig.get().job.num, json.loads(os.environ[_NAMES])
    print(told(number + 1, len(called), called[number]), file=sys.stderr, flush=True)
    if code := run_config(config):
        raise RunNotFinished(code)


def main() -> int:
    """Compose, check and run; the worst exit code of the runs, or with a launcher that of the first that is not 0."""
    outlive_terminal()
    words = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))  # anywhere on the line
    of_launcher = [word for word in words if word.startswith(("hydra/launcher=", "hydra.launcher."))]
    if not of_launcher or words[0] not in ("-m", "--multirun"):
        _compose_all(words)
        return _run_all()
    _compose_all([word for word in words if word not in of_launcher])
    os.environ[_NAMES] = json.dumps(names(_QUEUE))
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # for the launcher's processes
    try:
        _with_hydra(_run_in_job, words)
    except RunNotFinished as error:
        return error.code
    except RuntimeError as error:
        if "srun" in str(error):
            raise UserError("hydra/launcher=slurm: there is no SLURM (srun) here; use hydra/launcher=joblib") from None
        raise
    return 0


def _compose_all(words: list[str]) -> None:
    """Fill the queue. UserError: one of several runs has a mistake, before the first one starts."""
    refuse_hidden()
    refuse_twice(words)
    _with_hydra(_compose, words)
    if len(_QUEUE) > 1:  # a single run checks itself
        from sasg.training.trainer import check_parts

        for config in _QUEUE:
            check_parts(config)


def _run_all() -> int:
    worst = 0
    several = Several(_QUEUE)
    for config in _QUEUE:
        several.announce(config)
        code = run_config(config)
        worst = max(worst, code)
        if code == EXIT_CODES["stopped"] and config.budget is None:
            break  # by a signal, which means all that is left
    return worst


def _with_hydra(function: Callable[[], None], words: list[str]) -> None:
    sys.argv[1:] = words
    with quiet_hydra(), tempfile.TemporaryDirectory(prefix="sasg-multirun-") as folder:
        os.environ["SASG_MULTIRUN"] = folder  # for conf/train.yaml: Hydra writes to it, nobody reads it
        function()


if __name__ == "__main__":
    sys.exit(telling_errors(main))
