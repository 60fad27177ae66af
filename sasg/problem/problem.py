"""A task made concrete: data, shards, model and gradients, for the workers that one process holds."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sasg.config import Config
from sasg.errors import NoSmoothness, UserError
from sasg.gradients.engines import choose_engine
from sasg.gradients.layout import trained_parameters
from sasg.gradients.normalisation import RunningStatistics
from sasg.gradients.oracle import Oracle
from sasg.problem.batches import Batches
from sasg.problem.building import build_model, build_objective
from sasg.problem.datasets import Dataset
from sasg.problem.draws import Draws
from sasg.problem.evaluation import Accuracies, Evaluation, NextCharacters
from sasg.problem.full_objective import FullObjective, Smoothness
from sasg.problem.objectives import NextCharacter, SumObjective
from sasg.problem.text import Windows


class Problem:
    """What W workers learn: their mini-batches, the oracle for gradients, and the test set."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        workers: range,
        device: torch.device,
        dtype: torch.dtype,
        draws: Draws,
        agree: Callable[[int], int] = int,
    ):
        """agree: the largest of the processes' numbers, known to all (see `Cluster.largest`)."""
        num_workers = config.cluster.workers
        self.dataset = dataset
        self.objective = build_objective(config)
        if not isinstance(self.objective, SumObjective) and not len(dataset.test):
            raise UserError(f"dataset: {dataset.name} has no test set for accuracies; choose an objective")
        shards = draws.shards(config.shards, dataset, num_workers)
        task = config.task
        self.batches = Batches(
            dataset, shards, workers, task.batch_size, config.seed, draws, device, dtype, task.batches_per_epoch
        )
        model = build_model(config, dataset, draws).to(device, dtype)
        is_bfloat16 = config.precision == "bf16"
        #: an engine, what is to be said about it, and whether passes can be captured in a CUDA graph
        self.choice = choose_engine(
            config.gradients,
            model,
            self.objective.losses,
            *self._samples([shard[: self.batches.batch_size] for shard in shards[:2]]),  # the same in every process
            bfloat16=is_bfloat16,
            agree=agree,
            # and the trial's data, so that what is kept is what another process finds
            identity=[config.model, config.objective, config.seed, config.shards, config.dataset, dataset.sha256],
        )
        engine = self.choice.engine
        groups = [range(num_workers), *_workers_by_source(dataset, shards)]
        running = RunningStatistics(model, workers, config.batchnorm, groups)
        self.running = running.to(device, dtype)
        self.layout = engine.layout
        self.parameters = torch.empty(self.layout.size, device=device, dtype=dtype)  # w, [d]
        self.layout.flatten((p.detach() for p in trained_parameters(model).values()), out=self.parameters)
        self.oracle = Oracle(
            engine,
            self.batches,
            self.running,
            config.weight_decay,
            like=self.parameters,
            bfloat16=is_bfloat16,
            penalty_gradient=self.objective.penalty_gradient,
        )
        self.model = model.eval()  # its own tensors are the starting ones
        self._evaluation = self._make_evaluation(shards)

    def _make_evaluation(self, shards: list[np.ndarray]) -> Evaluation:
        if isinstance(self.objective, SumObjective):
            return FullObjective(self.objective, self.oracle.engine, self.batches, lambda: self._everyone(shards))
        held = (self.model, self.layout, self.running)
        if isinstance(self.objective, NextCharacter):
            assert isinstance(self.dataset.test, Windows)
            return NextCharacters(*held, self.objective, self.batches, self.dataset.test.context)
        return Accuracies(*held, self.dataset, self.batches)

    def _samples(self, shards: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Samples of whichever workers, equally many of each, not augmented: x [n, B, ...], y [n, B] or [n, B, T]."""
        held = torch.from_numpy(np.stack(shards))
        return self.batches.samples(self.dataset.train.part(held.flatten()), held.shape)

    def _everyone(self, shards: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """All workers' samples as they enter the model: x [M, n, features], y [M, n], in float64."""
        x, y = self._samples(shards)
        return x.double().flatten(2).cpu().numpy(), y.double().cpu().numpy()

    @property
    def smoothness(self) -> Smoothness:
        """The objective's smoothness constants. UserError if it has none that are known."""
        if not isinstance(self._evaluation, FullObjective):
            raise NoSmoothness("cross entropy of a network has no known smoothness constant; give a number instead")
        return self._evaluation.smoothness

    def step_size(self, wanted: float | str) -> float:
        """task.step_size as a number: "c/L" is c over the smoothness constant of f."""
        if isinstance(wanted, str):
            return float(wanted.removesuffix("/L")) / self.smoothness.total
        return wanted

    @torch.no_grad()
    def evaluate(
        self, add_shares: Callable[[Tensor], Tensor], share_of_work: tuple[int, int] = (0, 1)
    ) -> dict[str, float]:
        """The columns that tell how good the parameters are; all processes together (see `Evaluation`)."""
        return self._evaluation.columns(self.parameters, add_shares, share_of_work)


def _workers_by_source(dataset: Dataset, shards: list[np.ndarray]) -> list[list[int]]:
    """The workers of each source, if there are several and each worker has samples of one; else none."""
    if len(dataset.sources) == 1:
        return []
    held = [dataset.train.sources[shard].unique().tolist() for shard in shards]
    by_source = [[m for m, sources in enumerate(held) if sources == [s]] for s in range(len(dataset.sources))]
    return by_source if all(by_source) and sum(map(len, by_source)) == len(shards) else []
