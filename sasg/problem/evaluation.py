"""What a run's rows say of the parameters: accuracies on the test set, or the loss of a validation text."""

from collections.abc import Callable
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sasg.gradients.layout import Layout
from sasg.gradients.normalisation import RunningStatistics
from sasg.problem.batches import Batches
from sasg.problem.datasets import Dataset
from sasg.problem.objectives import IGNORED, NextCharacter

OWN_STATISTICS = "_own_statistics"
"""At the end of a column of accuracies for which BatchNorm has each source's own running statistics."""

_IMAGES = 1000  # at once
_CHARACTERS = 2**14


class Evaluation(Protocol):
    """The columns of a row of metrics."""

    def columns(
        self, parameters: Tensor, add_shares: Callable[[Tensor], Tensor], share_of_work: tuple[int, int]
    ) -> dict[str, float]:
        """Of `parameters` [d]; all processes together.

        share_of_work: (i, n), this process looks at part i of n; `add_shares` adds the processes' counts or sums.
        """


class Accuracies:
    """Test accuracies as fractions: top1, top5 and, with several sources, top1_<source>.

    With several sources, top1 and top5 are means over the sources' own test sets. A tie counts as wrong. Once more with
    each source's own BatchNorm statistics, where its workers have no other images.
    """

    def __init__(
        self, model: nn.Module, layout: Layout, running: RunningStatistics, dataset: Dataset, batches: Batches
    ):
        self._model, self._layout, self._running, self._dataset, self._batches = (
            model,
            layout,
            running,
            dataset,
            batches,
        )

    def columns(
        self, parameters: Tensor, add_shares: Callable[[Tensor], Tensor], share_of_work: tuple[int, int]
    ) -> dict[str, float]:
        everyone, *by_source = self._running.totals(add_shares)
        columns = self._shares(parameters, [everyone], add_shares, share_of_work)
        if everyone and by_source:
            own = self._shares(parameters, by_source, add_shares, share_of_work)
            columns |= {f"{name}{OWN_STATISTICS}": share for name, share in own.items()}
        return columns

    def _shares(
        self,
        parameters: Tensor,
        running_statistics: list[dict[str, Tensor]],
        add_shares: Callable[[Tensor], Tensor],
        share_of_work: tuple[int, int],
    ) -> dict[str, float]:
        """running_statistics: what BatchNorm normalises with; one for all images, or one for those of each source."""
        part, num_parts = share_of_work
        num_sources = len(self._dataset.sources)
        correct = torch.zeros(3, num_sources, dtype=torch.int64, device=parameters.device)
        views = self._layout.views(parameters)
        for batch in islice(self._batches.evaluation(_IMAGES), part, None, num_parts):
            for source, statistics in enumerate(running_statistics):
                x, y, sources = batch if len(running_statistics) == 1 else _only(source, *batch)
                if len(y) == 0:
                    continue
                if x.is_cuda and x.dim() == 4:
                    x = x.contiguous(memory_format=torch.channels_last)  # which cuDNN is faster with
                logits = functional_call(self._model, {**views, **statistics}, (x,))
                below = (logits < logits.gather(1, y.unsqueeze(1))).sum(1)
                num_above = logits.shape[1] - 1 - below  # not below: above, equal or not a number
                for row, hits in enumerate((num_above < 1, num_above < 5, torch.ones_like(y, dtype=torch.bool))):
                    correct[row].index_add_(0, sources, hits.long())
        top1, top5, number = add_shares(correct).double().cpu()
        named = {"top1": float((top1 / number).mean()), "top5": float((top5 / number).mean())}
        if num_sources > 1:
            for origin, share in zip(self._dataset.sources, (top1 / number).tolist(), strict=True):
                named[f"top1_{origin.name}"] = share
        return named


class NextCharacters:
    """Of the whole validation text: `loss`, the mean in nats over its characters, and `top1`, a fraction.

    The sum over batches does not depend on how processes share them.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        running: RunningStatistics,
        objective: NextCharacter,
        batches: Batches,
        context: int,
    ):
        """context: T, characters of a window."""
        self._model, self._layout, self._running, self._objective = model, layout, running, objective
        self._batches, self._context = batches, context

    def columns(
        self, parameters: Tensor, add_shares: Callable[[Tensor], Tensor], share_of_work: tuple[int, int]
    ) -> dict[str, float]:
        part, num_parts = share_of_work
        (statistics,) = self._running.totals(add_shares)
        tensors = {**self._layout.views(parameters), **statistics}
        size = max(1, _CHARACTERS // self._context)
        sums = []
        for place, (x, y, _) in enumerate(self._batches.evaluation(size)):
            sums.append(parameters.new_zeros(3, dtype=torch.float64))  # of losses, hits and characters
            if place % num_parts == part:
                outputs, counts = functional_call(self._model, tensors, (x,)), y != IGNORED
                losses = self._objective.of_characters(outputs, y)
                hits = (outputs.argmax(2) == y) & counts
                for i, values in enumerate((losses, hits, counts)):
                    sums[-1][i] = values.double().sum()
        loss, hits, number = add_shares(torch.stack(sums)).sum(0).tolist()
        return {"loss": loss / number, "top1": hits / number}


def _only(source: int, x: Tensor, y: Tensor, sources: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    chosen = sources == source
    return x[chosen], y[chosen], sources[chosen]
