"""What every method of the suite provides."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from sasg.cluster import Cluster
from sasg.errors import CodeError, ContractError, NoSmoothness
from sasg.gradients import Oracle
from sasg.origins import place_of

STATE_SCOPES = ("worker", "shared", "server")

Schedule = Callable[[int], float]
"""epoch (0-based) -> step size of a server that sums the workers' updates."""


class Smoothness(Protocol):
    """Smoothness constants of a sum objective f = sum_m f_m."""

    total: float  # L, of f
    workers: np.ndarray  # [M], L_m of f_m
    coordinates: np.ndarray  # [d], of f along each coordinate


def _unknown_smoothness() -> Smoothness:
    raise NoSmoothness("no smoothness constant is known here; give a number instead")


@dataclass(frozen=True)
class Workspace:
    """What a method is set up with. W workers are held by this process, of M in all."""

    shapes: tuple[tuple[int, ...], ...]  # of the parameter tensors, in the order of the flat vector
    cluster: Cluster
    device: torch.device
    dtype: torch.dtype
    seed: int  # of the run; what a part draws begins with a `draws.Stream` instead, which no other part shares
    smoothness: Callable[[], Smoothness] = _unknown_smoothness
    proximal: Callable[[Tensor], None] | None = None  # of the objective, on w [d] in place, after each update

    @property
    def num_held(self) -> int:
        """W."""
        return len(self.cluster.workers)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Entries of each parameter tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def num_parameters(self) -> int:
        """d."""
        return sum(self.sizes)

    def zeros(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Zeros on the run's device, of its state's type unless another is given."""
        return torch.zeros(shape, dtype=dtype or self.dtype, device=self.device)


@dataclass(frozen=True)
class State:
    """What a part has declared of one tensor of its state."""

    scope: str  # of STATE_SCOPES
    write: Callable[[Any, Tensor], None] | None  # takes over (part, tensor); None: it is copied into the attribute


class Part(ABC):  # noqa: B024 -- what kinds of parts must have is abstract there
    """A piece of a method. Its state are tensors that are updated in place, declared in `setup` by `register_state`.

    Parts that are its attributes, or in lists, tuples and dicts that are, belong to it: they are set up with it, begin
    epochs with it, and their state is part of its own.

    phase: names what it does, where that changes with the epoch (in `begin_epoch`): a GPU then captures `step` anew.
    """

    extra_columns: ClassVar[tuple[str, ...]] = ()
    """What its payloads cost beside values, indices and flags: "side_bits" (also of a varying count), "vote_bits"."""
    phase: str = ""

    def setup(self, workspace: Workspace) -> None:
        """Allocate the state; called once, before anything else."""
        for _, part in self.children():
            part.setup(workspace)

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        """Take over what the schedule says for this epoch (0-based)."""
        for _, part in self.children():
            part.begin_epoch(epoch, schedule)

    def register_state(self, name: str, tensor: Tensor, scope: str) -> Tensor:
        """Make `tensor` the attribute `name`, and part of what a checkpoint holds.

        scope: "worker", with a leading axis W; "shared", equal in every process; "server", which counts in the
        server's process alone. ContractError: it is none of these, or not a tensor.
        """
        if not isinstance(tensor, Tensor):
            raise ContractError(f"the state {name!r} is a {type(tensor).__name__} and not a tensor", self)
        setattr(self, name, tensor)
        self.declare_state(name, scope)
        return tensor

    def declare_state(self, name: str, scope: str, write: Callable[[Any, Tensor], None] | None = None) -> None:
        """Make the attribute `name`, which may be a property, part of what a checkpoint holds; see `register_state`.

        write: takes over (self, tensor), after all that was declared before; by default a copy in place.
        """
        if scope not in STATE_SCOPES:
            scopes = ", ".join(STATE_SCOPES)
            raise ContractError(f"the state {name!r} is of scope {scope!r}; choose one of {scopes}", self)
        if not hasattr(self, name):
            raise ContractError(f"the state {name!r} is declared, but there is no such attribute", self)
        self._declared()[name] = State(scope, write)

    def _declared(self) -> dict[str, State]:
        return self.__dict__.setdefault("_states", {})

    def state(self, scope: str) -> dict[str, Tensor]:
        """The state tensors of "worker", "shared" or "server" scope, those of nested parts included."""
        own = {name: getattr(self, name) for name, state in self._declared().items() if state.scope == scope}
        for prefix, part in self.children():
            own.update({f"{prefix}.{name}": tensor for name, tensor in part.state(scope).items()})
        return own

    def load_state(self, scope: str, tensors: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""
        own = dict(tensors)
        for prefix, part in self.children():
            theirs = [path for path in own if path.startswith(f"{prefix}.")]
            part.load_state(scope, {path.removeprefix(f"{prefix}."): own.pop(path) for path in theirs})
        for name, state in self._declared().items():
            if state.scope != scope:
                continue
            if state.write is None:
                getattr(self, name).copy_(own[name])
            else:
                state.write(self, own[name])

    def all_extra_columns(self) -> tuple[str, ...]:
        """Its own `extra_columns` and those of nested parts."""
        nested = [column for _, part in self.children() for column in part.all_extra_columns()]
        return (*self.extra_columns, *nested)

    def all_phases(self) -> tuple[str, ...]:
        """Its own `phase` and those of nested parts."""
        return (self.phase, *(part.phase for _, part in self.descendants()))

    def children(self) -> Iterator[tuple[str, "Part"]]:
        """The parts that belong to it, by name: `memory`, `stages[0]`, `votes[first]`."""
        for name, value in vars(self).items():
            yield from _parts_in(name, value)

    def descendants(self) -> Iterator[tuple[str, "Part"]]:
        """The parts below it at every depth, by path: `compressor.stages[0]`."""
        for name, part in self.children():
            yield name, part
            yield from ((f"{name}.{path}", below) for path, below in part.descendants())


def _parts_in(name: str, value: object) -> Iterator[tuple[str, Part]]:
    if isinstance(value, Part):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from _parts_in(f"{name}[{position}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _parts_in(f"{name}[{key}]", item)


def check_state(method: Part, num_held: int) -> None:
    """CodeError if a part of a method that was set up has state per worker without an axis for them; num_held: W."""
    for part in (method, *(part for _, part in method.descendants())):
        own = {name: getattr(part, name) for name, state in part._declared().items() if state.scope == "worker"}
        for name, tensor in own.items():
            if tensor.shape[:1] != (num_held,):
                kind = type(part)
                raise CodeError(
                    f"{place_of(kind, 'def setup')}: the worker state {name!r} of {kind.__name__} is of shape "
                    f"{list(tensor.shape)}, but the first axis must be W={num_held}"
                )


class Algorithm(Part):
    """A method: what its workers and its server do in one iteration.

    After `step`, `sent` [W] says who uploaded (None: everyone), and `difference` [W] and `threshold` (scalar)
    hold what the decision compared, or None for methods that do not decide.
    local_steps: H, the mini-batches that an iteration uses; an epoch has floor(mini-batches / H) iterations.
    num_published_models: how many models the published notebook initialises for it; None: it has no such method.
    parameters_at_server: between requests the server alone has the right parameters. They are spread before an
    evaluation, a checkpoint holds the server's, and workers that do not upload count in no training loss.
    """

    num_published_models: int | None = None
    local_steps: int = 1
    parameters_at_server: ClassVar[bool] = False
    sent: Tensor | None = None
    difference: Tensor | None = None
    threshold: Tensor | None = None
    _proximal: Callable[[Tensor], None] | None = None

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self._proximal = workspace.proximal

    def apply_(self, parameters: Tensor, update: Tensor) -> Tensor:
        """w <- w - update, in place, and the proximal step where the objective has one; w's decrease [d]."""
        if update.shape != parameters.shape:
            raise ContractError(f"the update is of shape {list(update.shape)}, the parameters {list(parameters.shape)}")
        if self._proximal is None:
            parameters.sub_(update)
            return update
        before = parameters.clone()
        self._proximal(parameters.sub_(update))
        return before.sub_(parameters)

    @abstractmethod
    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        """One iteration: update `parameters` [d] in place, exchanging through the workspace's cluster.

        Straight-line code on tensors: no host synchronisation, no data-dependent shapes on a GPU.
        """
