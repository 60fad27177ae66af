"""Workers vectorised with torch.func.vmap; any model whose operators have batching rules."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from sasg.gradients.engine import Engine, PerSampleLoss
from sasg.gradients.normalisation import tracked_layers


class VmapEngine(Engine):
    """torch.func.vmap over workers of torch.func.grad of the mean loss."""

    def __init__(self, model: nn.Module, loss: PerSampleLoss):
        super().__init__(model, loss)
        self._seen: dict[str, Tensor] = {}  # batch statistics of the pass in progress
        for name, layer in tracked_layers(self.model):
            # vmap loses what batch_norm writes into its buffers, so the statistics are taken from its input
            layer.running_mean = layer.running_var = None
            layer.track_running_stats = False
            layer.register_forward_pre_hook(self._record(name))

    def _record(self, name: str):
        def hook(layer: _BatchNorm, inputs: tuple[Tensor]) -> None:
            others = [axis for axis in range(inputs[0].dim()) if axis != 1]
            variance, mean = torch.var_mean(inputs[0].detach(), others, correction=1)
            self._seen.update({f"{name}.running_mean": mean, f"{name}.running_var": variance})

        return hook

    def per_worker(self, parameters: Tensor, x: Tensor, y: Tensor, out: Tensor, statistics: Tensor) -> Tensor:
        def loss_of(parameters, x, y):
            self._seen = {}
            outputs = functional_call(self.model, parameters, (x,))
            return self.loss(outputs, y).mean(), self._seen

        shared = None if parameters.dim() == 1 else 0
        gradients, (loss, seen) = vmap(grad_and_value(loss_of, has_aux=True), in_dims=(shared, 0, 0))(
            self.layout.views(parameters), x, y
        )
        self._seen = {}
        for views, values in ((self.layout.views(out), gradients), (self.statistics.views(statistics), seen)):
            for name, view in views.items():
                view.copy_(values[name])
        return loss
