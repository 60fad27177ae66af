"""A stand-in for CUDA graphs on the CPU: operations are recorded, and done again on the same memory."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RecordedOperations(TorchDispatchMode):
    """Records what torch is told to do between `begin` and `end`, without a lasting effect until it is replayed.

    As in a capture, nobody may read a value meanwhile. What does not go through torch's dispatcher is not recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_graphs = 0
        self._is_at_it = False

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._is_at_it:  # an error came between
                self._undo()

    def begin(self) -> None:
        self._done, self._before, self._own = [], {}, set()
        self._is_at_it = True
        self.__enter__()

    def _undo(self) -> None:
        self.__exit__(None, None, None)
        self._is_at_it = False
        for tensor, contents in self._before.values():
            tensor.copy_(contents)

    def end(self):
        self._undo()
        self.num_graphs += 1
        operations = self._done

        def replay() -> None:
            for function, args, kwargs, outputs in operations:
                for kept, new in zip(outputs, tree_leaves(function(*args, **kwargs)), strict=True):
                    if kept is not None:
                        kept.copy_(new)

        return replay

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("a value is read while operations are recorded")
        for argument, given in zip(function._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._keep(given)
        for argument in function._schema.arguments:
            if argument.kwarg_only and argument.alias_info is not None and argument.alias_info.is_write:
                self._keep(kwargs.get(argument.name))
        result = function(*args, **kwargs)
        is_alias = [output.alias_info is not None for output in function._schema.returns]
        outputs = [None if any(is_alias) else leaf for leaf in tree_leaves(result)]
        self._own |= {leaf.untyped_storage().data_ptr() for leaf in outputs if isinstance(leaf, Tensor)}
        self._done.append((function, args, kwargs, outputs))
        return result

    def _keep(self, tensor: Tensor | None) -> None:
        """What a tensor holds that is written to, and that was there before the recording."""
        if tensor is None or (place := tensor.untyped_storage().data_ptr()) in self._own | self._before.keys():
            return
        whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        self._before[place] = whole, whole.clone()
