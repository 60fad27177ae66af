#!/usr/bin/env python
"""Does a method keep what the suite promises of every method? The contract, as a command.

    sasg check my_method.yaml                     # a file as those of conf/algorithm, wherever it lies
    sasg check algorithm=sasg                     # one that sasg train knows
    sasg check my_method.yaml model=my_model      # with a model, data set or task of your own
    sasg check task=mnist algorithm=sasg max_iterations=10 cluster.workers=4

(Not installed: experiments/check.py ...)

Without a task of your own, the problem is a tiny one (digits, or logistic regression where the method asks for
smoothness constants): seconds on one core. Gradients are those of plain PyTorch; a run repeats bit for bit; it goes on
exactly from a checkpoint; 1, 2 and M processes do what the simulation does, and a checkpoint moves between them; the
bytes on the wire are those of the ledger; workers that do not upload send nothing. All in float64 on the CPU, in at
most 30 iterations, and on the tiny problem with at most seven local steps in each.

Exit code 0: all of it holds. 1: something does not, and the table says what. 2: something to mend first, in one line.
"""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), os.getcwd()]  # the suite without installation; a user's own methods beside the call

SMALL = ("cluster.workers=5", "epochs=30", "task.batch_size=20", "++task.decay_epochs=[2]")
LOCAL_STEPS = 7
"""At most, of a method with local steps, unless a word says so: an epoch is of 14 mini-batches."""
TASKS = (
    ("task=digits", "model.hidden=[16]", *SMALL, "task.max_delay=3", "++task.warmup_epochs=1"),
    ("task=logistic_regression", *SMALL),
)
"""Problems on which methods skip, upload and are forced to within 30 iterations; the second knows its smoothness."""


def main() -> int:
    """Check what the command line names, and print the table."""
    words = sys.argv[1:]
    if any(word in ("-h", "--help") for word in words):
        print(__doc__.strip())
        return 0
    from experiments.messages import refuse_twice
    from sasg.checks import check
    from sasg.errors import UserError
    from sasg.training.progress import counted

    if not words:
        raise UserError("which method? Give its YAML file, or algorithm=NAME; see --help")
    refuse_twice(words)
    config, (findings,) = first_that_fits(words, lambda config: check([config]))
    task, method = config.task.name, config.algorithm["name"]
    print(f"{method} on {task}, {counted(config.cluster.workers, 'worker')}:")
    for finding in findings:
        print(f"  {'yes' if finding.holds else 'NO':<4}{finding.promise:<27} {finding.seen}")
    return 0 if all(finding.holds for finding in findings) else 1


def first_that_fits(words, action):
    """The configuration of these words, and `action` of it, on the first of `TASKS` that has what the method needs.

    Words that choose a task, a data set or a model leave the rest of the problem as that choice has it.
    """
    from sasg.errors import NoSmoothness

    for number, task in enumerate(TASKS):
        own = any(word.startswith("task=") for word in words)
        small = [] if own else [word for word in task if not (_chooses(words, "model") and word.startswith("model."))]
        try:
            config = compose_words([*small, *words])
            if not own and not _sets_local_steps(words):
                config = _with_few_local_steps(config)
            return config, action(config)
        except NoSmoothness:
            if own or number == len(TASKS) - 1:
                raise
    raise AssertionError


def _chooses(words, group) -> bool:
    return any(word.startswith(f"{group}=") for word in words)


def _sets_local_steps(words):
    return any(word.lstrip("+").startswith("algorithm.local_steps=") for word in words)


def _with_few_local_steps(config):
    if config.algorithm.get("local_steps", 1) <= LOCAL_STEPS:
        return config
    return replace(config, algorithm={**config.algorithm, "local_steps": LOCAL_STEPS})


def compose_words(words):
    """The configuration that these words name; a word that is a YAML file is a method. UserError."""
    from hydra import compose, initialize_config_dir

    from experiments.composing import composed, quiet_hydra
    from sasg.errors import UserError
    from sasg.places import CONF

    files = [word for word in words if word.endswith(".yaml") and "=" not in word]
    overrides = [word for word in words if word not in files]
    with tempfile.TemporaryDirectory() as scratch, initialize_config_dir(str(CONF), version_base="1.3"):
        if len(files) > 1:
            raise UserError(f"{' '.join(files)}: give one file")
        for name in files:
            path = Path(name).resolve()
            if not path.is_file():
                raise UserError(f"{name}: there is no such file")
            (Path(scratch) / "algorithm").symlink_to(path.parent)
            sys.path.append(str(path.parent))
            search = f"hydra.searchpath=[file://{scratch},file://{os.environ.get('SASG_CONF') or Path.cwd() / 'conf'}]"
            overrides += [search, f"algorithm={path.stem}"]
        try:
            with quiet_hydra():
                return composed(compose("train", overrides))[0]
        except Exception as error:
            if files and scratch in str(error):
                raise _elsewhere(error, f"{scratch}/algorithm", str(path.parent)) from None
            raise


def _elsewhere(error, folder, real):
    """The error as one line, with the folder where the file really lies."""
    from experiments.yaml_errors import about_yaml
    from sasg.errors import UserError

    return UserError((about_yaml(error) or str(error)).replace(folder, real))


if __name__ == "__main__":
    from sasg.environment import require

    require("hydra", "torch")
    from experiments.composing import telling_errors

    sys.exit(telling_errors(main))
