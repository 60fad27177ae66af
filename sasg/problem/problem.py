"""A task made concrete: data, shards, model and gradients, for the workers that one process holds."""

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from sasg.config import Config
from sasg.errors import NoSmoothness, UserError
from sasg.gradients.admission import admit, materialise
from sasg.gradients.engines import choose_engine
from sasg.gradients.layout import trained_parameters
from sasg.gradients.normalisation import RunningStatistics
from sasg.gradients.oracle import Oracle
from sasg.parts import build, takes
from sasg.problem.batches import Batches
from sasg.problem.datasets import Dataset
from sasg.problem.draws import Counter, Draws
from sasg.problem.full_objective import FullObjective, Smoothness
from sasg.problem.objectives import IGNORED, CrossEntropy, Objective, SumObjective

OWN_STATISTICS = "_own_statistics"
"""At the end of a column of accuracies for which BatchNorm has each source's own running statistics."""

_EVALUATION_BATCH = 1000
_EVALUATED_CHARACTERS = 2**14  # at once


def load_dataset(config: Config) -> Dataset:
    """The data set of a configuration; UserError if it is not there, damaged, or not the one named."""
    dataset = build("dataset", config.dataset, Dataset, **given_to_loader(config))
    if config.data_sha256 not in (None, dataset.sha256):
        raise UserError(
            f"data.root={config.data.root}: {dataset.name} differs from the data of this configuration "
            f"(SHA-256 {dataset.sha256[:12]}..., not {config.data_sha256[:12]}...); use the same files"
        )
    return dataset


def given_to_loader(config: Config) -> dict[str, Any]:
    """What a data set's loader is called with besides its options. UserError: a file, where it takes none."""
    data = config.data
    given = {"root": data.root, "download": data.download}
    if takes(config.dataset, "file"):
        return {**given, "file": data.file, "test_file": data.test_file}
    for key in ("file", "test_file"):
        if getattr(data, key) is not None:
            value = getattr(data, key)
            raise UserError(f"data.{key}={value}: is for dataset=npz, csv, folder or text; name one of them")
    return given


def given_to_model(config: Config) -> tuple[str, ...]:
    """The names of what a model's factory is called with besides its options; the data set gives the values."""
    return ("context", "num_characters") if build_objective(config).is_of_sequences else ("image_shape", "num_classes")


def build_objective(config: Config) -> Objective:
    """What is minimised. UserError: a part or option is wrong, or the baseline's metric is not one of its columns."""
    if config.objective is None:
        objective: Objective = CrossEntropy()
    else:
        objective = build("objective", config.objective, Objective)
    baseline = config.task.baseline
    if baseline is not None and baseline.metric not in objective.metrics:
        known, why = ", ".join(objective.metrics), ""
        if baseline.metric == "objective_error" and isinstance(objective, SumObjective):
            why = "is not convex, so that its minimum is not known; it "
        raise UserError(f"task.baseline.metric={baseline.metric}: {type(objective).__name__} {why}has {known}")
    if config.weight_decay and isinstance(objective, SumObjective):
        raise UserError(f"weight_decay={config.weight_decay}: is no part of the objective; use objective.l2")
    return objective


def build_model(config: Config, dataset: Dataset, draws: Draws | None = None) -> nn.Module:
    """The model with its starting parameters, which depend on the seed (and the draws: counters by default) alone.

    UserError if it cannot be trained.
    """
    objective = build_objective(config)
    num_outputs = objective.num_outputs(dataset.num_classes)
    output_shape = dataset.output_shape(num_outputs)
    if objective.is_of_sequences != (len(output_shape) > 1):
        kinds = "text, and needs" if len(output_shape) > 1 else "no text, which is needed for"
        raise UserError(f"objective: {dataset.name} is {kinds} objective=next_character")
    one = config.task.batch_size == 1  # which BatchNorm does not take
    inputs = dataset.random_inputs(2, 1 if one else 2)

    def make() -> nn.Module:
        model = build("model", config.model, nn.Module, **dataset.given_to_model(num_outputs))
        materialise(model, inputs[0])
        return model

    model = (draws or Counter(config.seed)).initialised(make)
    described = dataset.describe_inputs() + (", one at a time" if one else "")
    admit(model, inputs, output_shape, described, config.model)
    return model.train()


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
            identity=[config.model, config.objective, config.seed, config.shards, dataset.sha256],
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
        self.full: FullObjective | None = None
        if isinstance(self.objective, SumObjective):
            self.full = FullObjective(self.objective, engine, self.batches, lambda: self._everyone(shards))
        self._model = model.eval()

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
        if self.full is None:
            raise NoSmoothness("cross entropy of a network has no known smoothness constant; give a number instead")
        return self.full.smoothness

    def step_size(self, wanted: float | str) -> float:
        """task.step_size as a number: "c/L" is c over the smoothness constant of f."""
        if isinstance(wanted, str):
            return float(wanted.removesuffix("/L")) / self.smoothness.total
        return wanted

    @torch.no_grad()
    def evaluate(
        self, add_shares: Callable[[Tensor], Tensor], share_of_work: tuple[int, int] = (0, 1)
    ) -> dict[str, float]:
        """The objective's metrics; all processes together, whose shares `add_shares` adds up.

        Accuracies with each source's own BatchNorm statistics, too, where its workers have no other images.
        """
        if self.full is not None:
            return self.full.columns(self.parameters, add_shares)
        if self.objective.is_of_sequences:
            return self.next_characters(add_shares, share_of_work)
        everyone, *by_source = self.running.totals(add_shares)
        columns = self.accuracy([everyone], add_shares, share_of_work)
        if everyone and by_source:
            own = self.accuracy(by_source, add_shares, share_of_work)
            columns |= {f"{name}{OWN_STATISTICS}": share for name, share in own.items()}
        return columns

    @torch.no_grad()
    def accuracy(
        self,
        running_statistics: list[dict[str, Tensor]],
        add_shares: Callable[[Tensor], Tensor],
        share_of_work: tuple[int, int] = (0, 1),
    ) -> dict[str, float]:
        """Test accuracies as fractions: top1, top5 and, with several sources, top1_<source>.

        running_statistics: what BatchNorm normalises with; one for all images, or one for those of each source.
        share_of_work: (i, n), this process looks at part i of n; `add_shares` adds the processes' counts.
        With several sources, top1 and top5 are means over the sources' own test sets. A tie counts as wrong.
        """
        part, num_parts = share_of_work
        num_sources = len(self.dataset.sources)
        correct = torch.zeros(3, num_sources, dtype=torch.int64, device=self.parameters.device)
        parameters = self.layout.views(self.parameters)
        for batch in islice(self.batches.evaluation(_EVALUATION_BATCH), part, None, num_parts):
            for source, statistics in enumerate(running_statistics):
                x, y, sources = batch if len(running_statistics) == 1 else _only(source, *batch)
                if len(y) == 0:
                    continue
                if x.is_cuda and x.dim() == 4:
                    x = x.contiguous(memory_format=torch.channels_last)  # which cuDNN is faster with
                logits = functional_call(self._model, {**parameters, **statistics}, (x,))
                below = (logits < logits.gather(1, y.unsqueeze(1))).sum(1)
                num_above = logits.shape[1] - 1 - below  # not below: above, equal or not a number
                for row, hits in enumerate((num_above < 1, num_above < 5, torch.ones_like(y, dtype=torch.bool))):
                    correct[row].index_add_(0, sources, hits.long())
        top1, top5, number = add_shares(correct).double().cpu()
        named = {"top1": float((top1 / number).mean()), "top5": float((top5 / number).mean())}
        if num_sources > 1:
            for source, share in zip(self.dataset.sources, (top1 / number).tolist(), strict=True):
                named[f"top1_{source.name}"] = share
        return named

    @torch.no_grad()
    def next_characters(
        self, add_shares: Callable[[Tensor], Tensor], share_of_work: tuple[int, int] = (0, 1)
    ) -> dict[str, float]:
        """Of the whole validation text: `loss`, the mean in nats over its characters, and `top1`, a fraction.

        share_of_work, add_shares: as of `accuracy`; the sum over batches does not depend on how they are shared.
        """
        part, num_parts = share_of_work
        (statistics,) = self.running.totals(add_shares)
        tensors = {**self.layout.views(self.parameters), **statistics}
        size = max(1, _EVALUATED_CHARACTERS // self.dataset.test.context)
        sums = []
        for place, (x, y, _) in enumerate(self.batches.evaluation(size)):
            sums.append(self.parameters.new_zeros(3, dtype=torch.float64))  # of losses, hits and characters
            if place % num_parts == part:
                outputs, counts = functional_call(self._model, tensors, (x,)), y != IGNORED
                losses = self.objective.of_characters(outputs, y)
                hits = (outputs.argmax(2) == y) & counts
                for i, values in enumerate((losses, hits, counts)):
                    sums[-1][i] = values.double().sum()
        loss, hits, number = add_shares(torch.stack(sums)).sum(0).tolist()
        return {"loss": loss / number, "top1": hits / number}


def _workers_by_source(dataset: Dataset, shards: list[np.ndarray]) -> list[list[int]]:
    """The workers of each source, if there are several and each worker has samples of one; else none."""
    if len(dataset.sources) == 1:
        return []
    held = [dataset.train.sources[shard].unique().tolist() for shard in shards]
    by_source = [[m for m, sources in enumerate(held) if sources == [s]] for s in range(len(dataset.sources))]
    return by_source if all(by_source) and sum(map(len, by_source)) == len(shards) else []


def _only(source: int, x: Tensor, y: Tensor, sources: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    chosen = sources == source
    return x[chosen], y[chosen], sources[chosen]
