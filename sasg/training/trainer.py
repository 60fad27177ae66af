"""A method at work on a problem: iterations, evaluations, and the state between them."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sasg.algorithms.algorithm import STATE_SCOPES, Algorithm, Workspace, check_state
from sasg.algorithms.parts.draws import number_streams
from sasg.cluster import Cluster, Ledger
from sasg.cluster.accounting.codes import CODES, check_codes
from sasg.cluster.accounting.links import Link
from sasg.config import PARTS, Config
from sasg.errors import ContractError, UserError
from sasg.parts import build, resolve
from sasg.problem.building import build_objective, given_to_loader, given_to_model
from sasg.problem.datasets import Dataset
from sasg.problem.draws import make_draws
from sasg.problem.problem import Problem
from sasg.training.graph import Captured
from sasg.training.records import Records
from sasg.training.schedule import StepSchedule

_RECORDS_OF_WORKERS = ("loss", "sent", "difference")


def check_parts(config: Config) -> None:
    """UserError if a part cannot be imported or refuses its options, before any data is read."""
    algorithm = build_algorithm(config)
    make_draws(config, algorithm.num_published_models)
    build_objective(config)
    check_codes(config.index_codes or CODES)
    if config.link is not None:
        build("link", config.link, Link)
    resolve("dataset", config.dataset, given_to_loader(config))
    resolve("shards", config.shards, PARTS["shards"])
    resolve("model", config.model, given_to_model(config))


def build_algorithm(config: Config) -> Algorithm:
    """The method of a configuration; its `name` is its runs' and no option. UserError: a part or option is wrong."""
    return build("algorithm", {key: value for key, value in config.algorithm.items() if key != "name"}, Algorithm)


class Trainer:
    """One run's moving parts. `iteration` counts the iterations done; `tell` gets what people should know of it."""

    def __init__(self, config: Config, dataset: Dataset, cluster: Cluster, dtype: torch.dtype):
        device = cluster.device
        self.cluster = cluster
        self.algorithm = build_algorithm(config)
        draws = make_draws(config, self.algorithm.num_published_models)
        self.problem = Problem(config, dataset, cluster.workers, device, dtype, draws, cluster.largest)
        task = config.task
        self.schedule = StepSchedule.of(task, self.problem.step_size(task.step_size), config.epochs)
        codes, extra_columns = config.index_codes or CODES, self.algorithm.all_extra_columns()
        cluster.ledger = Ledger(cluster.num_workers, device, codes, extra_columns)
        self._proximal_step = torch.zeros((), dtype=dtype, device=device)
        number_streams(self.algorithm)
        self.algorithm.setup(
            Workspace(
                self.problem.layout.shapes,
                cluster,
                device,
                dtype,
                config.seed,
                smoothness=lambda: self.problem.smoothness,
                proximal=self._proximal if self.problem.objective.is_proximal else None,
            )
        )
        check_state(self.algorithm, len(cluster.workers))
        self.iteration = 0
        num_batches = self.problem.batches.iterations_per_epoch
        self.iterations_per_epoch = num_batches // self.algorithm.local_steps
        if self.iterations_per_epoch == 0:
            raise UserError(f"local_steps={self.algorithm.local_steps}: an epoch has only {num_batches} mini-batches")
        self.num_iterations = config.epochs * self.iterations_per_epoch  # of the whole run
        if config.max_iterations is not None:
            self.num_iterations = min(self.num_iterations, config.max_iterations)
        capacity = min(config.evaluate_every, self.num_iterations)
        self.records = Records(capacity, len(cluster.workers), like=self.problem.parameters)
        self.tell: Callable[[str], None] = warnings.warn
        self._captures = device.type == "cuda" and self.problem.choice.capturable
        self._run_step = self._new_step()
        self.evaluates_epochs = config.evaluate_epochs and not self.problem.batches.is_full
        self.problem.oracle.stopwatch = cluster.stopwatch

    @property
    def epoch(self) -> int:
        """The epoch (0-based) of the next iteration."""
        return self.iteration // self.iterations_per_epoch

    @property
    def ends_epoch(self) -> bool:
        """Whether an epoch has just ended, where ends are evaluated."""
        return self.evaluates_epochs and self.iteration % self.iterations_per_epoch == 0

    def run_iteration(self) -> None:
        """One iteration of the method; starts an epoch where one is due."""
        position = self.iteration % self.iterations_per_epoch
        if position == 0:
            self._start_epoch(position)
        self._run_step()
        self.iteration += 1

    def _new_step(self) -> Callable[[], None]:
        """The step, to be captured where it can be."""
        if not self._captures:
            return self._step
        return Captured(self._step, self.cluster, self.problem.oracle.resumed, lambda words: self.tell(words))

    def _start_epoch(self, position: int) -> None:
        self.problem.batches.start_epoch(self.epoch)
        phases = self.algorithm.all_phases()
        self.algorithm.begin_epoch(self.epoch, self.schedule)
        if self._captures and self.algorithm.all_phases() != phases:
            self._run_step = self._new_step()
        self._proximal_step.fill_(self.schedule(self.epoch) * self.cluster.num_workers)
        self.problem.oracle.go_to(position * self.algorithm.local_steps)

    def _proximal(self, parameters: Tensor) -> None:
        self.problem.objective.proximal_(parameters, self._proximal_step)

    @torch.no_grad()
    def _step(self) -> None:
        """The part of an iteration that runs on the device alone."""
        oracle = self.problem.oracle
        oracle.begin()
        self.algorithm.step(oracle, self.problem.parameters)
        if oracle.num_batches != self.algorithm.local_steps:
            raise ContractError(
                f"an iteration used {oracle.num_batches} mini-batches, but local_steps is {self.algorithm.local_steps}",
                self.algorithm,
            )
        self.records.add(oracle.loss, self.algorithm)
        self.cluster.stopwatch.enter(None)

    def evaluate(self) -> tuple[dict[str, Any], Tensor]:
        """A row of metrics since the last evaluation, and who uploaded in its iterations, [n, M] bool.

        All processes evaluate together; the row is right at the server. The training loss is the mean over workers and
        iterations (with the parameters at the server, over uploads), the threshold over iterations.
        """
        if self.algorithm.parameters_at_server:
            self.cluster.spread(self.problem.parameters)
        since = self.records.take(self.cluster)
        loss = since["loss"].double()
        if self.algorithm.parameters_at_server and since["sent"].any():
            loss = loss[since["sent"]]  # the others had no parameters to compute it at
        add_shares = self.cluster.add_shares
        row = {
            "iteration": self.iteration,
            "epoch": self.iteration / self.iterations_per_epoch,
            "training_loss": float(loss.mean()),
            **self.problem.evaluate(add_shares, self.cluster.share_of_work),
            **self.cluster.ledger.totals(),
            **_trigger_columns(since["threshold"].double(), since["difference"].double()),
        }
        return row, since["sent"]

    def state(self) -> dict[str, Any]:
        """Everything that the next iteration depends on, as tensors and numbers; [M, ...] where per worker.

        All processes call this together; what it returns is whole at the server.
        """
        gather: Callable[[Tensor], Tensor] = self.cluster.gather
        held = self._held()
        return {
            **held,
            "worker": {name: gather(tensor) for name, tensor in held["worker"].items()},
            "iteration": self.iteration,
            "running_statistics": self.cluster.add_shares(self.problem.running.share.clone()),
            "records": {n: gather(t) if n in _RECORDS_OF_WORKERS else t for n, t in held["records"].items()},
        }

    def _held(self) -> dict[str, Any]:
        """The tensors of this process's part of the state."""
        return {
            **{scope: self.algorithm.state(scope) for scope in STATE_SCOPES},
            "worker": self._worker_state(),
            "parameters": self.problem.parameters,
            "running_statistics": self.problem.running.share,
            "ledger": self.cluster.ledger.counters,
            "records": self.records.state(),
        }

    def _worker_state(self) -> dict[str, Tensor]:
        """Tensors with a leading axis W."""
        held = self.algorithm.state("worker")
        if self.algorithm.parameters_at_server:  # what represents a worker that is not asked and computes nothing
            held |= {"oracle.loss": self.problem.oracle.loss, "oracle.statistics": self.problem.oracle.statistics}
        return held

    def misfit(self, state: dict[str, Any]) -> str | None:
        """What keeps this process, the server, from going on from a state, in words; None: nothing."""
        known, found = _shapes(self._held()), _shapes(state)
        for group, name in sorted(known.keys() | found.keys()):
            key, words = (group, name), f"{name} in its {group} state" if group else name
            if key not in found:
                return f"no {words}"
            if key not in known:
                return f"an unknown {words}"
            if known[key] != found[key]:
                return f"another shape of {words}"
        return None

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Continue from what `state` returned; all processes together, and only the server needs it (others: None)."""
        cluster, algorithm = self.cluster, self.algorithm
        self.iteration = cluster.largest(state["iteration"] if state else 0)
        if self.iteration % self.iterations_per_epoch:
            self._start_epoch(self.iteration % self.iterations_per_epoch)
        if state:
            algorithm.load_state("server", state["server"])
            algorithm.load_state("shared", state["shared"])
            self.problem.parameters.copy_(state["parameters"])
            self.problem.running.share.copy_(state["running_statistics"])
            cluster.ledger.counters.copy_(state["ledger"])
            for name in ("row", "threshold"):
                self.records.state()[name].copy_(state["records"][name])
        workers = self._worker_state()
        for name, held in workers.items():
            cluster.scatter(state and state["worker"][name], held)
        algorithm.load_state("worker", {name: workers[name] for name in algorithm.state("worker")})
        for name in _RECORDS_OF_WORKERS:
            cluster.scatter(state and state["records"][name], self.records.state()[name])
        for tensor in (*algorithm.state("shared").values(), self.problem.parameters):
            cluster.spread(tensor)
        for name in ("row", "threshold"):
            cluster.spread(self.records.state()[name])


def _shapes(state: dict[str, Any]) -> dict[tuple[str, str], torch.Size]:
    """Of a state's tensors by (group, name), without the axis of workers."""
    shapes: dict[tuple[str, str], torch.Size] = {}
    shapes |= {("", name): tensor.shape for name, tensor in state.items() if isinstance(tensor, Tensor)}
    for group in (*STATE_SCOPES, "records"):
        for name, tensor in state.get(group, {}).items():
            of_workers = group == "worker" or (group == "records" and name in _RECORDS_OF_WORKERS)
            shapes[group, name] = tensor.shape[int(of_workers) :]
    return shapes


def _trigger_columns(threshold: Tensor, difference: Tensor) -> dict[str, float | None]:
    """Mean threshold and smallest, mean and largest squared difference; None for methods that do not decide."""
    decides = bool(threshold.isfinite().any())
    return {
        "threshold": float(threshold.mean()) if decides else None,
        "difference_min": float(difference.min()) if decides else None,
        "difference_mean": float(difference.mean()) if decides else None,
        "difference_max": float(difference.max()) if decides else None,
    }
