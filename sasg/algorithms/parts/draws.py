"""Random numbers of every iteration, made where they are used.

They are a function of (seed, iteration, worker, position) alone, so that the CPU, a GPU, any number of processes and a
resumed run see the same ones, and an iteration can be captured in a CUDA graph.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Part, Workspace
from sasg.errors import UserError
from sasg.randomness import GAMMA, Purpose, bits, mixed, shifted, signed

_PIECE = 4096
"""So many numbers of each worker at a time on a CPU, whose caches hold them then."""


class Stream(Part):
    """A word of 64 bits that no other stream of the same method has: what a part's draws begin with.

    number: among the method's streams for this purpose, in the order of its parts; set by `number_streams`.
    """

    number: int | None = None

    def __init__(self, purpose: Purpose):
        self.purpose = purpose

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        if self.number is None:
            raise UserError(f"algorithm: a {type(self).__name__} must be there before set-up: make it in __init__")
        self.word = int(bits(workspace.seed, self.purpose, count=self.number + 1)[self.number])


def number_streams(method: Part) -> None:
    """Tell a method's streams apart, before it is set up; every process comes to the same numbers."""
    numbers = dict.fromkeys(Purpose, 0)
    for stream in dict.fromkeys(part for _, part in method.descendants() if isinstance(part, Stream)):
        stream.number = numbers[stream.purpose]
        numbers[stream.purpose] += 1


class Draws(Stream):
    """Uniform numbers for the workers held here; every call is an iteration of its own."""

    def __init__(self):
        super().__init__(Purpose.COMPRESS)

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.iteration = self.register_state("iteration", workspace.zeros(dtype=torch.int64), "shared")
        self._key = signed(self.word)
        self._workers = torch.tensor(workspace.cluster.workers, device=workspace.device)
        self._dtype = workspace.dtype

    def per_worker(self, count: int) -> Tensor:
        """[W, count] numbers in [0, 1)."""
        return torch.cat([numbers for _, numbers in self.in_pieces(count)], 1)

    def in_pieces(self, count: int) -> Iterator[tuple[slice, Tensor]]:
        """The numbers of `per_worker`, one piece [W, n] after another, with where it stands among the `count`.

        On a CPU a piece, and what is made of it, stays in the caches; on a GPU it is all of them.
        """
        return self._uniform((self._workers + 1).unsqueeze(1), count)

    def shared(self, count: int) -> Tensor:
        """[count] numbers in [0, 1), the same in every process."""
        return torch.cat([numbers for _, numbers in self._uniform(0, count)])

    def _uniform(self, stream: Tensor | int, count: int) -> Iterator[tuple[slice, Tensor]]:
        key = mixed(mixed(self.iteration * GAMMA + self._key) + stream * GAMMA)
        self.iteration.add_(1)
        piece = _PIECE if key.device.type == "cpu" else max(1, count)
        return (
            (slice(i, i + piece), self._numbers(key, i, min(piece, count - i))) for i in range(0, max(count, 1), piece)
        )

    def _numbers(self, key: Tensor, start: int, count: int) -> Tensor:
        """Those from position `start` on."""
        positions = torch.arange(start + 1, start + 1 + count, device=key.device)
        # as many bits as the type holds exactly, so that 1 is never reached
        kept = 53 if self._dtype == torch.float64 else 24
        return shifted(mixed(key + positions * GAMMA), 64 - kept).to(self._dtype).mul_(2.0**-kept)
