#!/usr/bin/env python
"""Do the runs of a study that are missing, then write its tables and figures.

    sasg study table2                             # everything; start it again at any time
    sasg study table2 task=mnist seeds=1,19 jobs=2 budget=30m
    sasg study demo                               # a minute or two, no data needed
    sasg study table2 task=mnist epochs=2         # other settings: tables in a folder of their own
    sasg study table2 jobs=0                      # only the tables, from the runs that are finished

study: of conf/study, yours beside the call (or in SASG_CONF) too, or a YAML file. Not installed:
experiments/reproduce.py study=NAME ...
task, method, seeds: what to run (default: all that the study names); several with commas.
jobs: runs at a time (default: as many as cores, or as GPUs), 0 for tables alone. budget: stop cleanly after e.g. 30m.
force=true: start even if it would take more than a day. tuned=true (frontier): choose step sizes first, each a stage of
its own, then run at those. Everything else is passed on to the runs (sasg train --help):
device=cpu, cluster=distributed, data.root=DIR, runs_dir=DIR.

Exit code 0: all runs finished, or jobs=0. 1: some failed or diverged, with the reason. 2: something to mend, said in
one line. 3: stopped by budget or signal; the same command goes on. What is finished has its tables in each case.
"""

import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), os.getcwd()]  # the suite without installation; a user's own methods beside the call

from sasg.environment import require  # noqa: E402

require("hydra", "torch")

from experiments.composing import telling_errors  # noqa: E402
from experiments.study import Command, Study, Tuning, different, load_study, parse, study_name  # noqa: E402
from sasg.__main__ import EXIT_CODES  # noqa: E402
from sasg.config import UNHASHED, Config  # noqa: E402
from sasg.errors import UserError  # noqa: E402
from sasg.lifetime import outlive_terminal  # noqa: E402

STOPPED = EXIT_CODES["stopped"]


def main() -> int:
    """Run what is missing, report, and say how it went (exit code)."""
    outlive_terminal()
    words = sys.argv[1:]
    if any(word in ("-h", "--help") for word in words):
        print(__doc__.strip())
        return 0
    command = parse(words)
    study = load_study(command.study)
    if command.tuned and study.tuning is None:
        raise UserError(f"tuned=true: study {command.study} has no `tuning`")
    wanted = study.grid(*_axes(command, study), command.overrides)
    seconds = replace(wanted[0], budget=command.budget).budget_seconds
    configs, name = _reported(command, study, wanted)
    if command.jobs == 0 and not _any_finished(wanted):
        raise UserError(f"jobs=0: none of these runs is finished in {wanted[0].runs_dir}: there is nothing to tabulate")
    refusal = None
    try:
        code = 0
        if command.jobs != 0:
            check_report(study, configs)
            deadline = time.monotonic() + seconds
            if command.tuned:
                code = run_tuned(study.tuning, command, wanted, deadline)
            else:
                code = run_missing(command, wanted, deadline)
    except KeyboardInterrupt:  # before the first run; later it stops the runs
        code = STOPPED
    except UserError as error:
        if not _any_finished(wanted):
            raise
        refusal = error
    if refusal is None and code == STOPPED:
        print("stopped; the same command goes on from there", file=sys.stderr)
    print("\n".join(report(study, configs, Path(wanted[0].runs_dir).parent / name)))
    if refusal is not None:
        raise refusal
    return code


def _any_finished(configs: Sequence[Config]) -> bool:
    from sasg.report.runs import look_up

    return any(entry.run for entry in look_up(configs))


def _reported(command: Command, study: Study, wanted: Sequence[Config]) -> tuple[list[Config], str]:
    """The runs behind the tables, and the name of their folder.

    These are the study's whole grid and what was wanted besides; or, where other settings were wanted than the
    study's, these runs alone, in a folder of their own.
    """
    overrides: tuple[str, ...] = ()
    if any(_changes_numbers(word) for word in command.overrides):
        usual = study.grid(*_axes(command, study), ())
        if [config.settings for config in wanted] != [config.settings for config in usual]:
            return list(wanted), _folder_name(command, wanted)
    elif not any(_key(word) == "device" for word in command.overrides):  # other runs may be from another one
        overrides = command.overrides  # with which most are composed already: it takes time
    runs_dir = wanted[0].runs_dir
    grid = study.grid(study.tasks, study.methods, study.seeds, overrides)
    configs = [*(replace(config, runs_dir=runs_dir) for config in grid), *wanted]
    return different(configs), study_name(command.study)


def _axes(command: Command, study: Study) -> tuple[Sequence[str], Sequence[str], Sequence[int]]:
    """Tasks, methods and seeds."""
    return command.task or study.tasks, command.method or study.methods, command.seed or study.seeds


def run_missing(command: Command, wanted: Sequence[Config], deadline: float) -> int:
    """Do the runs that are not finished, until the deadline (time.monotonic); returns the exit code."""
    from experiments.display import Display, listing
    from experiments.plan import gpus_for, jobs_for, num_slots, too_long
    from experiments.pool import Pool
    from sasg.report.runs import look_up

    entries = look_up(wanted)
    jobs = jobs_for(entries)
    slots = command.jobs or num_slots(jobs)
    print(f"{command.study}: runs in {wanted[0].runs_dir}\n{listing(entries, jobs, slots)}", flush=True)
    if not command.force and (words := too_long(jobs, slots)):
        raise UserError(words)
    pool = Pool(jobs, slots, deadline, gpus_for(jobs, slots))
    with Display(pool) as display:
        pool.work(display)
    states = {job.state for job in jobs} | {entry.run.summary["status"] for entry in entries if entry.run}
    if states & {"failed", "diverged"}:
        return 1
    return 0 if states == {"finished"} else STOPPED


def run_tuned(tuning: Tuning, command: Command, wanted: Sequence[Config], deadline: float) -> int:
    """Choose step sizes, then do the runs at the chosen ones; returns the exit code.

    A method whose trials fail has none; the others go on.
    """
    from experiments.tuning import at_chosen, outcomes_of

    asked: list[Config] = []
    while True:  # what came of some trials may ask for others
        outcomes = outcomes_of(tuning, wanted)
        missing = [config for found in outcomes.values() for config in found.missing]
        if not (new := [config for config in missing if config not in asked]):
            chosen = at_chosen(wanted, outcomes)
            code = run_missing(command, chosen, deadline) if chosen else 1
            return code or int(bool(missing))
        if run_missing(command, new, deadline) == STOPPED:
            return STOPPED
        asked += new


def check_report(study: Study, configs: Sequence[Config]) -> None:
    """Write a study's tables and figures once to nowhere, so that what is wrong with them is known before training."""
    with tempfile.TemporaryDirectory(prefix="sasg-report-") as nowhere:
        report(study, configs, Path(nowhere))


def report(study: Study, configs: Sequence[Config], folder: Path) -> list[str]:
    """Write a study's tables and figures from the runs that are finished; what they say."""
    from experiments.tuning import with_tuning
    from sasg.report.runs import look_up
    from sasg.report.writing import write_part

    entries = look_up(with_tuning(study, configs))
    return [write_part(f"report[{number}]", part, entries, folder) for number, part in enumerate(study.report)]


def _folder_name(command: Command, wanted: Sequence[Config]) -> str:
    """A name that tells the settings, so that the study's own tables are not overwritten."""
    words = [word for word in command.overrides if _changes_numbers(word)]
    name = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", "-".join([study_name(command.study), *words]))
    return name if words and len(name) <= 60 else f"{study_name(command.study)}-{wanted[0].settings[:8]}"


def _changes_numbers(override: str) -> bool:
    return _key(override) == "cluster.workers" or _key(override).split(".")[0] not in UNHASHED


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~")


if __name__ == "__main__":
    sys.exit(telling_errors(main))
