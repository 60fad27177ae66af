"""The contract between methods, problems and clusters, as a list of checks on a configuration."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sasg.checks.audit import differences
from sasg.checks.observe import dataset_of, observe
from sasg.checks.processes import Lost, run_worlds
from sasg.cluster.accounting.codes import CODES
from sasg.cluster.distributed import spread_workers
from sasg.cluster.transport import rank_name
from sasg.config import Config
from sasg.errors import UserError, lack_of_memory
from sasg.origins import described, fault_of_user
from sasg.problem.draws import Counter
from sasg.problem.problem import Problem
from sasg.training.trainer import check_parts

ITERATIONS = 30
"""At most so many are looked at; the configuration may say fewer (max_iterations)."""

_TOLERANCE = 1e-12
_GRADIENT_TOLERANCE = 1e-9  # of the largest entry
_TIMEOUT_S = 20.0
_SECONDS = 120.0  # for one configuration in all its processes


@dataclass(frozen=True)
class Finding:
    """Whether one promise holds, and how that was seen."""

    promise: str
    holds: bool
    seen: str


def check(configs: Sequence[Config], worlds: Sequence[int] | None = None) -> list[list[Finding]]:
    """What holds of each configuration, on the CPU in float64. The processes are started once for all of them.

    worlds: numbers of processes, 1, 2 and M by default; all configurations have the same number of workers.
    An error in the first, simulated run is raised as it is: there is nothing to check yet.
    """
    configs = [_prepared(config) for config in configs]
    (num_workers,) = {config.cluster.workers for config in configs}
    worlds = sorted({1, min(2, num_workers), num_workers}) if worlds is None else worlds
    alone = []
    for config in configs:
        check_parts(config)
        alone.append(observe(config))
    spread = _in_worlds(configs, worlds, alone)
    return [
        [
            _attempt("right gradients", right_gradients, config),
            _attempt("the same again", the_same_again, config, run),
            _attempt("exact resume", exact_resume, config, run),
            *(_attempt(f"simulated = {_processes(n)}", same_as_simulated, run, of[n]) for n in worlds),
            _attempt("a state moves between them", state_moves, config, run, of),
            _attempt("bytes = ledger", bytes_equal_ledger, run, of),
            _attempt("silent when it says so", silent_when_it_says_so, run, of),
        ]
        for config, run, of in zip(configs, alone, spread, strict=True)
    ]


class Broken(Exception):
    """A promise does not hold. The message is one line: how that was seen."""


def right_gradients(config: Config) -> str:
    """The engine that the configuration takes gives what `loop`, plain PyTorch worker by worker, gives."""
    dataset, workers, found = dataset_of(config), range(config.cluster.workers), {}
    for engine in ("loop", config.gradients):
        problem = Problem(
            replace(config, gradients=engine), dataset, workers, _CPU, torch.float64, Counter(config.seed)
        )
        found[engine] = _gradients(problem)
        name = type(problem.oracle.engine).__name__
    worst = 0.0
    for what, expected in found["loop"].items():
        difference = (found[config.gradients][what] - expected).abs().max() if expected.numel() else torch.zeros(())
        scale = expected.abs().max() if expected.numel() else 1.0
        if not difference <= _GRADIENT_TOLERANCE * scale:
            raise Broken(f"{name} is off by {float(difference):.1e} of {float(scale):.1e} in the {what}")
        worst = max(worst, float(difference))
    return f"{name} is within {worst:.0e} of plain PyTorch"


@torch.no_grad()
def _gradients(problem: Problem) -> dict[str, Tensor]:
    """All kinds of passes on the first mini-batch of each worker."""
    oracle, w = problem.oracle, problem.parameters
    problem.batches.start_epoch(0)
    oracle.go_to(0)
    oracle.begin()
    own = w + 0.1 * w.abs().mean() * torch.linspace(-1, 1, len(oracle.loss), dtype=w.dtype).unsqueeze(1)
    passes = {
        "gradients of each worker": oracle(w).dense().clone(),
        "losses": oracle.loss.clone(),
        "batch statistics": oracle.statistics.clone(),
        "gradients at parameters of their own": oracle(own).dense().clone(),
        "gradients at shared earlier parameters": oracle.at(own, torch.arange(len(own)) // 2).dense().clone(),
    }
    oracle.go_to(0)
    oracle.begin()
    return {**passes, "sum of gradients": oracle.total(w).clone()}


def the_same_again(config: Config, run: dict[str, Any]) -> str:
    """A run is repeated bit for bit."""
    _same_bits(observe(config), run, "a second run")
    return f"{run['num_iterations']} iterations repeated bit for bit"


def exact_resume(config: Config, run: dict[str, Any]) -> str:
    """A run that goes on from a checkpoint gives the bits of one that was not interrupted."""
    iteration = run["halfway"]["iteration"]
    _same_bits(observe(config, run["halfway"], True), run, f"a run that goes on from iteration {iteration}")
    return f"bit for bit from iteration {iteration}"


def same_as_simulated(run: dict[str, Any], ranks: list[dict[str, Any]]) -> str:
    """Spread over processes, the method takes the same decisions and, to 1e-12, the same steps; all processes agree."""
    ranks = _arrived(ranks)
    difference = _same(ranks[0], run, "it")
    held = spread_workers(run["sent"].shape[1], len(ranks))
    for number, rank in enumerate(ranks[1:], 1):
        name = rank_name(number, held[number])
        if not torch.equal(rank["parameters"], ranks[0]["parameters"]):
            raise Broken(f"the parameters of {name} differ from the server's")
        for key, tensor in rank["shared"].items():
            if not _equal(tensor, ranks[0]["shared"][key]):
                raise Broken(f"shared state {key} of {name} differs from the server's")
    return f"the same decisions, parameters within {difference:.0e}"


def state_moves(config: Config, run: dict[str, Any], of: dict[int, list[dict[str, Any]]]) -> str:
    """A checkpoint of one number of processes goes on in another."""
    sizes = list(of)
    for size, ranks in of.items():
        _same(observe(config, _arrived(ranks)[0]["halfway"], True), run, f"a state of {_processes(size)}, simulated,")
    _same(_arrived(of[sizes[-1]], "resumed")[0], run, f"a simulated state in {_processes(sizes[-1])}")
    return f"of {', '.join(map(str, sizes))} processes to the simulation, and from it to {sizes[-1]}"


def bytes_equal_ledger(run: dict[str, Any], of: dict[int, list[dict[str, Any]]]) -> str:
    """What goes over the wire is what the ledger counts, process by process and in both directions."""
    for size, ranks in of.items():
        if wrong := differences(_arrived(ranks), ranks[0]["row"]):
            raise Broken(f"with {_processes(size)}, {wrong[0]}")
    up, down = (of[max(of)][0]["moved"][way][kind] for way, kind in (("received", "payloads"), ("sent", "updates")))
    return f"{up:,} bytes up and {down:,} down with {_processes(max(of))}"


def silent_when_it_says_so(run: dict[str, Any], of: dict[int, list[dict[str, Any]]]) -> str:
    """A worker of which the method says that it does not upload uploads nothing."""
    for ranks in ([run], *map(_arrived, of.values())):
        for rank in ranks:
            if rank["spoke"]:
                raise Broken(f"in iteration {rank['spoke'][0]} a worker uploads although `sent` says that it does not")
    skipped = int((~run["sent"]).sum())
    return f"{skipped} of {run['sent'].numel()} uploads skipped" if skipped else "no upload was skipped"


_CPU = torch.device("cpu")


def _prepared(config: Config) -> Config:
    """The configuration as it is looked at: simulated on the CPU in float64, a few iterations, one evaluation.

    Positions are counted as the packed wire sends them, too.
    """
    iterations = min(config.max_iterations or ITERATIONS, ITERATIONS)
    cluster = replace(config.cluster, kind="simulated", processes=None, timeout_s=_TIMEOUT_S, port=None)
    numbers = {"max_iterations": iterations, "evaluate_every": iterations}
    plain = {"device": "cpu", "precision": "fp64", "tracker": None, "link": None, "budget": None}
    codes = tuple(dict.fromkeys((*(config.index_codes or CODES), "packed")))
    return replace(config, cluster=cluster, index_codes=codes, **numbers, **plain)


def _in_worlds(configs: list[Config], worlds: Sequence[int], alone: list[dict]) -> list[dict[int, list[Any]]]:
    """By configuration and number of processes, what each rank observed; "resumed" is beside it in the largest."""
    jobs = []
    for size in worlds:
        reception, wire = ("parallel", "packed") if size == 2 else ("serial", "plain")
        where = {"kind": "distributed", "processes": size, "reception": reception, "wire": wire}
        spread = [replace(config, cluster=replace(config.cluster, **where)) for config in configs]
        last = size == worlds[-1]
        arguments = [(config, run["halfway"] if last else None) for config, run in zip(spread, alone, strict=True)]
        jobs.append((size, [(_observe_twice, each) for each in arguments]))
    results = run_worlds(jobs, _SECONDS * len(configs))
    return [{size: results[w][c] for w, size in enumerate(worlds)} for c in range(len(configs))]


def _observe_twice(config: Config, halfway: dict[str, Any] | None) -> dict[str, Any]:
    """A whole run; and, if a state is given, another that goes on from there."""
    whole = observe(config)
    return whole if halfway is None else {**whole, "resumed": observe(config, halfway, True)}


def _arrived(ranks: list[Any], key: str | None = None) -> list[dict[str, Any]]:
    """What the ranks observed. Broken: one of them failed, and how."""
    failed = [rank for rank in ranks if isinstance(rank, Exception)]
    if failed:
        first = next((error for error in failed if not isinstance(error, (Lost, ConnectionError))), failed[0])
        raise Broken("a process ended before it was done" if isinstance(first, Lost) else _told(first))
    return ranks if key is None else [rank[key] for rank in ranks]


def _attempt(promise: str, action: Callable[..., str], *arguments: Any) -> Finding:
    try:
        return Finding(promise, True, action(*arguments))
    except Broken as broken:
        return Finding(promise, False, str(broken))
    except Exception as error:  # of the method, the model or the data: one more way in which a promise is broken
        return Finding(promise, False, _told(error))


def _told(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return fault_of_user(error) or lack_of_memory(error) or described(error)


def _same_bits(found: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    for name in ("sent", "parameters", "running"):
        if not _equal(found[name], expected[name]):
            raise Broken(f"{what} has other {_WORDS[name]}{_where(found, expected)}")
    if wrong := [name for name, value in expected["row"].items() if found["row"][name] != value]:
        raise Broken(f"{what} has another {wrong[0]}: {found['row'][wrong[0]]} instead of {expected['row'][wrong[0]]}")


def _same(found: dict[str, Any], expected: dict[str, Any], what: str) -> float:
    """The largest difference of the parameters. Broken: other decisions or counts, or numbers beyond 1e-12."""
    if not torch.equal(found["sent"], expected["sent"]):
        raise Broken(f"{what} takes other decisions{_where(found, expected)}")
    for name in ("parameters", "running"):
        difference = (found[name] - expected[name]).abs().max() if expected[name].numel() else torch.zeros(())
        scale = max(1.0, float(expected[name].abs().max())) if expected[name].numel() else 1.0
        if not difference <= _TOLERANCE * scale:
            raise Broken(f"{what} has other {_WORDS[name]}: {float(difference):.1e} apart")
    for name, value in expected["row"].items():
        if isinstance(value, int) and found["row"].get(name) != value:
            raise Broken(f"{what} counts {name} {found['row'].get(name):,} instead of {value:,}")
    return float((found["parameters"] - expected["parameters"]).abs().max())


_WORDS = {"sent": "uploads", "parameters": "parameters", "running": "running statistics of BatchNorm"}


def _where(found: dict[str, Any], expected: dict[str, Any]) -> str:
    one, other = found["sent"], expected["sent"]
    if one.shape != other.shape or torch.equal(one, other):
        return ""
    iteration, worker = (one != other).nonzero()[0].tolist()
    return f", first those of worker {worker} in iteration {iteration}"


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    """The same bits; NaN equals NaN."""
    return one is other or (
        one is not None
        and other is not None
        and one.shape == other.shape
        and bool(((one == other) | ((one != one) & (other != other))).all())
    )


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"
