"""BatchNorm's running statistics as a linear function of the workers' batch statistics.

One model is trained by M workers, each normalising with its own batch. The published simulation updates
the one set of running statistics worker after worker, M sequential updates per iteration:

    r <- (1-p) r + p b_m,   m = 0 .. M-1        (p = momentum, b_m = worker m's batch statistics)

which is linear, r <- (1-p)^M r + sum_m p (1-p)^(M-1-m) b_m. So each process keeps the *share* of its own
workers, and the shares are added up only when someone evaluates. The same is kept for the workers of each source of
images alone, where there are several.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sasg.errors import UserError
from sasg.gradients.layout import Layout


def tracked_layers(model: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """The batch normalisations of a model in training mode that keep running statistics, with their names.

    One that its model leaves in evaluation mode while it trains is a constant, and none of them.
    """

    def keeps(module: nn.Module) -> bool:
        return isinstance(module, _BatchNorm) and module.training and module.running_mean is not None

    return [(name, module) for name, module in model.named_modules() if keeps(module)]


def statistics_layout(model: nn.Module) -> Layout:
    """Layout of all running means and variances as one flat vector [s] (s = 0 without BatchNorm)."""
    return Layout.of(
        (f"{name}.{kind}", getattr(layer, kind))
        for name, layer in tracked_layers(model)
        for kind in ("running_mean", "running_var")
    )


def expose_batch_statistics(model: nn.Module) -> None:
    """Make every training pass write its batch statistics, not a moving average, into the buffers.

    With momentum 1 the "running" buffers hold the batch mean and unbiased variance after a forward pass,
    at no extra cost and in every backend's fused kernel.
    """
    for _, layer in tracked_layers(model):
        layer.momentum = 1.0
        layer.num_batches_tracked = None


class RunningStatistics:
    """This process's share [G, s] of the running statistics of G groups of the M workers.

    update: "sequential" (an update by each worker of the group in each iteration, as the published code does) or "mean"
    (one by the mean of their batch statistics). workers: those held here. groups: their members, of all M workers.
    """

    def __init__(self, model: nn.Module, workers: range, update: str, groups: Sequence[Sequence[int]]):
        layers = tracked_layers(model)
        if any(layer.momentum is None for _, layer in layers):
            raise UserError("model: BatchNorm with momentum=None (cumulative average) is not supported; give a number")
        self.layout = statistics_layout(model)
        momentum = torch.cat(
            [torch.full((2 * layer.num_features,), layer.momentum, dtype=torch.float64) for _, layer in layers]
            or [torch.empty(0, dtype=torch.float64)]
        )
        self._keep = torch.empty(len(groups), self.layout.size, dtype=torch.float64)
        self._weights = torch.zeros(len(groups), len(workers), self.layout.size, dtype=torch.float64)
        for group, members in enumerate(groups):
            size = len(members)
            self._keep[group] = (1 - momentum) ** (size if update == "sequential" else 1)
            for place, worker in enumerate(members):
                if worker in workers:
                    later = (1 - momentum) ** (size - 1 - place)  # what the workers that follow leave of it
                    weight = momentum * later if update == "sequential" else momentum / size
                    self._weights[group, worker - workers.start] = weight
        self.share = torch.zeros_like(self._keep)
        if 0 in workers:  # the starting values belong to one share only
            buffers = [getattr(layer, kind) for _, layer in layers for kind in ("running_mean", "running_var")]
            if buffers:
                self.share[:] = torch.cat([b.double().cpu() for b in buffers])

    def to(self, device: torch.device, dtype: torch.dtype) -> "RunningStatistics":
        self._keep, self._weights, self.share = (
            t.to(device=device, dtype=dtype) for t in (self._keep, self._weights, self.share)
        )
        return self

    def update(self, batch: Tensor) -> None:
        """Take in the held workers' batch statistics [W, s] of one iteration."""
        self.share.mul_(self._keep).add_((self._weights * batch).sum(1))

    def totals(self, add_shares: Callable[[Tensor], Tensor]) -> list[dict[str, Tensor]]:
        """Running means and variances of each group, by buffer name; `add_shares` sums [G, s] over the processes."""
        return [self.layout.views(total) for total in add_shares(self.share.clone())]
