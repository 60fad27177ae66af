"""The reference engine: plain PyTorch, one worker after another."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sasg.gradients.engine import Engine, PerSampleLoss
from sasg.kernels.rows import aligned


class LoopEngine(Engine):
    """Autograd on each worker's mini-batch in turn."""

    def __init__(self, model: nn.Module, loss: PerSampleLoss):
        super().__init__(model, loss)
        self._pass = _Pass(self.model, loss)

    @torch.enable_grad()
    def per_worker(self, parameters: Tensor, x: Tensor, y: Tensor, out: Tensor, statistics: Tensor) -> Tensor:
        losses = []
        x = aligned(x)
        parameters = parameters if parameters.dim() == 1 else aligned(parameters)
        for worker in range(len(x)):
            own = parameters if parameters.dim() == 1 else parameters[worker]
            leaves = {name: view.detach().requires_grad_() for name, view in self.layout.views(own).items()}
            tensors = {f"model.{n}": t for n, t in (leaves | self.statistics.views(statistics[worker])).items()}
            losses.append(functional_call(self._pass, tensors, (x[worker], y[worker])))
            self.layout.flatten(map(_gradient, leaves.values()), out=out[worker])
        return torch.stack(losses)


class _Pass(nn.Module):
    """Forward and backward pass as one call: activation checkpointing runs parts of `forward` again in `backward`."""

    def __init__(self, model: nn.Module, loss: PerSampleLoss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loss = self.loss(self.model(x), y).mean()
        loss.backward()
        return loss.detach()


def _gradient(leaf: Tensor) -> Tensor:
    if leaf.grad is None:
        return torch.zeros_like(leaf)
    return leaf.grad.to_dense() if leaf.grad.is_sparse else leaf.grad
