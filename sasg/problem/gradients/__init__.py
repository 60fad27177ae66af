"""Per-worker losses and gradients: interchangeable engines behind one interface.

`loop` is the reference (plain PyTorch, one worker after another), `vmap` vectorises any model with
torch.func, `batched` runs the workers' samples as one batch through layers that know about workers. On a CUDA
device there are also `streams`, the reference with workers side by side, and `triton`, `batched` with own kernels.
"""

from importlib.util import find_spec

import torch
from torch import nn

from sasg.errors import UserError
from sasg.problem.gradients.batched import BatchedEngine
from sasg.problem.gradients.engine import Engine, PerSampleLoss
from sasg.problem.gradients.gradients import DenseGradients
from sasg.problem.gradients.loop import LoopEngine
from sasg.problem.gradients.streams import StreamsEngine
from sasg.problem.gradients.vmap import VmapEngine

__all__ = ["ENGINES", "DenseGradients", "Engine", "PerSampleLoss", "make_engine"]

ENGINES = ("loop", "vmap", "batched", "streams", "triton")


def make_engine(name: str, model: nn.Module, loss: PerSampleLoss) -> Engine:
    """The engine called `name`; "auto" takes the fastest that can run this model where its parameters are."""
    if name == "auto":
        name = _fastest(model)
    if name not in ENGINES:
        raise UserError(f"gradients={name}: unknown engine; choose one of auto, {', '.join(ENGINES)}")
    if name in ("streams", "triton") and not next(model.parameters()).is_cuda:
        raise UserError(f"gradients={name}: needs a CUDA device; use gradients=auto")
    if name == "triton":
        from sasg.problem.gradients.triton_engine import TritonEngine

        return TritonEngine(model, loss)
    engines = {"loop": LoopEngine, "vmap": VmapEngine, "batched": BatchedEngine, "streams": StreamsEngine}
    return engines[name](model, loss)


def _fastest(model: nn.Module) -> str:
    first = next(model.parameters())
    can_batch = BatchedEngine.supports(model)
    if not first.is_cuda:  # where convolutions of some workers together could round otherwise than each by itself
        only_linear = all(type(m) is nn.Linear for m in model.modules() if list(m.parameters(recurse=False)))
        return "batched" if can_batch and only_linear else "loop"
    if can_batch and not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return "batched"
    on_tensor_cores = first.dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    return "triton" if can_batch and on_tensor_cores and find_spec("triton") else "streams"
