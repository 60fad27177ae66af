"""Step sizes chosen on training samples that are held out: a stage of a study before its tuned runs.

For each method of a task the same factors of the task's step size are tried, for a few epochs, on the training set
without the samples that are held out, on which the trials are judged; the test set has no part in it. Where the best
factor is the smallest or the largest, the next one is tried too. A trial is a run like any other: what is finished is
never run again, and what was chosen follows from the trials alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from experiments.study import Study, Tuning, different
from sasg.config import Config
from sasg.errors import UserError
from sasg.report.runs import Entry, look_up
from sasg.report.tuning import HELD_OUT, best

_FARTHEST = 2.0**10
"""No factor beyond this one, or below its inverse, is tried."""


@dataclass(frozen=True)
class Outcome:
    """What came of the trials of a method on a task."""

    trials: tuple[Entry, ...]  # by factor, ascending: those that the outcome so far asks for, run or not
    factor: float | None  # the best, once all of them have ended

    @property
    def missing(self) -> list[Config]:
        return [entry.config for entry in self.trials if entry.run is None]


def outcome(config: Config, tuning: Tuning) -> Outcome:
    """Look the trials of a configuration's method up, as far as they go. UserError: its step size is no number."""
    if isinstance(config.task.step_size, str):
        raise UserError(f"tuned=true: task {config.task.name} has task.step_size={config.task.step_size}, no number")
    tried: dict[float, Entry] = {}
    wanted = sorted(tuning.factors)
    while wanted:
        tried |= zip(wanted, look_up([_trial(config, tuning, factor) for factor in wanted]), strict=True)
        trials = tuple(tried[factor] for factor in sorted(tried))
        if any(entry.run is None for entry in trials):
            return Outcome(trials, None)
        chosen = best({factor: entry.run for factor, entry in tried.items() if entry.run})
        beyond = [f for f, end in ((chosen / 2, min(tried)), (2 * chosen, max(tried))) if chosen == end]
        wanted = [factor for factor in beyond if 1 / _FARTHEST <= factor <= _FARTHEST]
    return Outcome(trials, chosen)


def _trial(config: Config, tuning: Tuning, factor: float) -> Config:
    return replace(
        config,
        task=replace(config.task, step_size=factor * config.task.step_size),
        dataset={"kind": HELD_OUT, "of": config.dataset, "number": tuning.held_out},
        epochs=tuning.epochs,
        seed=tuning.seed,
    )


def with_tuning(study: Study, configs: Sequence[Config]) -> list[Config]:
    """A study's configurations at the task's step size, then those with the chosen ones, then the trials.

    A chosen step size may be the task's own: then it stands there once.
    """
    if study.tuning is None:
        return list(configs)
    outcomes = outcomes_of(study.tuning, configs)
    trials = [entry.config for found in outcomes.values() for entry in found.trials]
    return different([*configs, *at_chosen(configs, outcomes), *trials])


def outcomes_of(tuning: Tuning, configs: Sequence[Config]) -> dict[str, Outcome]:
    """By `method_key`: the trials are of a seed of their own."""
    firsts = {method_key(config): config for config in reversed(configs)}
    return {key: outcome(firsts[key], tuning) for key in dict.fromkeys(map(method_key, configs))}


def at_chosen(configs: Sequence[Config], outcomes: dict[str, Outcome]) -> list[Config]:
    """The configurations with the step sizes that were chosen; without those of which none is chosen yet."""
    factors = [outcomes[method_key(config)].factor for config in configs]
    return [
        replace(config, task=replace(config.task, step_size=factor * config.task.step_size))
        for config, factor in zip(configs, factors, strict=True)
        if factor is not None
    ]


def method_key(config: Config) -> str:
    """Equal for configurations that differ in their seed alone."""
    return replace(config, seed=0).settings
