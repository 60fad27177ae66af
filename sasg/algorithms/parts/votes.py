"""Which positions do the workers agree on? Votes on a mask of K of d entries (arXiv 2011.06495)."""

from abc import abstractmethod
from collections.abc import Iterable
from math import ceil

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Part, Workspace
from sasg.algorithms.parts.draws import Stream
from sasg.algorithms.parts.top_k import TopKSelector
from sasg.cluster import Payload, Segment, Uploads
from sasg.cluster.payload import first_entries
from sasg.errors import UserError
from sasg.randomness import Purpose, device_uniform


def num_kept(density: float, size: int) -> int:
    """K = ceil(density * size); the tolerance keeps e.g. 0.07 * 100 = 7.000000000000001 from gaining an entry."""
    return max(1, ceil(density * size - 1e-9))


class Vote(Part):
    """The workers' votes, each on K entries of its vector, and the server's choice of K entries by them.

    density: the algorithm's, K / d.
    """

    extra_columns = ("vote_bits",)

    def __init__(self, density: float):
        self.density = density

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.num_parameters = workspace.num_parameters
        self.num_kept = num_kept(self.density, workspace.num_parameters)
        self.counts = workspace.zeros(workspace.num_parameters)  # of votes, at the server
        self._choose = TopKSelector((Segment(workspace.num_parameters, self.num_kept),))

    @abstractmethod
    def __call__(self, vectors: Tensor) -> Payload:
        """The votes of the workers held here: positions alone, by what is largest in `vectors` [W, d]."""

    @abstractmethod
    def elect(self, arriving: Iterable[Uploads]) -> Tensor:
        """The server's choice, K ascending positions (int64), from everyone's votes."""

    def _most(self, scores: Tensor) -> Tensor:
        """The K positions of the largest scores [d], which are not negative; ties to the lowest index."""
        return self._choose(scores.unsqueeze(0), None)[1][0]


class TopKVote(Vote):
    """Each worker votes for its K entries of largest magnitude; the K entries with most votes win.

    Ties to the lowest index, here and there.
    """

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.segments = (Segment(self.num_parameters, self.num_kept),)
        self._select = TopKSelector(self.segments)
        self._one = workspace.zeros(1) + 1

    def __call__(self, vectors: Tensor) -> Payload:
        return Payload(None, self._select(vectors, None)[1], self.segments)

    def elect(self, arriving: Iterable[Uploads]) -> Tensor:
        return self._most(self._count(arriving))

    def _count(self, arriving: Iterable[Uploads]) -> Tensor:
        self.counts.zero_()
        for uploads in arriving:
            positions = uploads.payload.indices.flatten()
            self.counts.index_add_(0, positions, self._one.expand(len(positions)))
        return self.counts


class RandomVote(TopKVote):
    """As `TopKVote`, but the server draws the K entries without replacement, with probability proportional to votes.

    The first K arrivals of a race (Efraimidis, Spirakis 2006): entry i arrives at time E_i / votes_i, with E_i
    exponential. The draws are a function of (seed, iteration).
    """

    def __init__(self, density: float):
        super().__init__(density)
        self.stream = Stream(Purpose.VOTE)

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.iteration = self.register_state("iteration", workspace.zeros(dtype=torch.int64), "server")

    def elect(self, arriving: Iterable[Uploads]) -> Tensor:
        exponential = device_uniform(self.stream.word, self.iteration, self.num_parameters).log_().neg_()
        self.iteration.add_(1)
        return self._most(self._count(arriving) / exponential.to(self.counts.dtype))


class AddDropVote(Vote):
    """Each worker keeps its vote, and changes at most k' = ceil(change_density * d) entries of it in an iteration.

    The largest magnitudes outside the vote are set against the smallest inside, pair by pair; where the one outside is
    larger, it enters and the other leaves. Only these changes are uploaded, up to 2 k' positions of 2 d: i for an entry
    that enters, d + i for one that leaves. Ties: the lowest index enters, or leaves, first. The K entries with
    most votes win, ties to the lowest index.

    The first vote is the same for all, K entries that are spread evenly over the vector: nothing has to be uploaded
    for it, and K / k' iterations can replace all of it.

    Options
    -------
    change_density: k' / d, in (0, density]; larger follows the gradients faster and uploads more positions.
    """

    extra_columns = ("vote_bits", "side_bits")  # how many changes there are

    def __init__(self, density: float, change_density: float = 0.001):
        super().__init__(density)
        if not 0 < change_density <= density:
            raise UserError(f"change_density={change_density}: must be in (0, density={density}], a part of the vote")
        self.change_density = change_density

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        size = self.num_parameters
        first = torch.arange(self.num_kept, device=workspace.device) * size // self.num_kept
        # [W, K] ascending positions
        self.vote = self.register_state("vote", first.repeat(workspace.num_held, 1), "worker")
        self.counts[first] = workspace.cluster.num_workers
        self.declare_state("counts", "server")
        self.num_changes = num_kept(self.change_density, size)  # k'
        self.segments = (Segment(2 * size, 2 * self.num_changes),)
        self._select = TopKSelector((Segment(size, self.num_changes),))

    def __call__(self, vectors: Tensor) -> Payload:
        entering, leaving, swaps = self._candidates(vectors)
        dropped = self.vote.gather(1, leaving)
        self.vote.scatter_(1, leaving, torch.where(swaps, entering, dropped))
        self.vote.copy_(self.vote.sort(1).values)
        size = self.num_parameters
        changes = torch.cat([entering, dropped + size], 1)
        changes = changes.masked_fill_(~swaps.repeat(1, 2), 2 * size).sort(1).values
        changes.masked_fill_(changes == 2 * size, 0)
        return Payload(None, changes, self.segments, count=2 * swaps.sum(1))

    def _candidates(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs [W, k']: position that may enter, place in `vote` of the one that may leave, whether they do."""
        inside = vectors.gather(1, self.vote)
        vectors.scatter_(1, self.vote, 0)  # for a moment, so that what is selected is outside
        outside, entering = self._select(vectors, None)
        vectors.scatter_(1, self.vote, inside)
        largest, order = outside.abs().sort(dim=1, descending=True, stable=True)
        smallest, leaving = inside.abs().sort(dim=1, stable=True)
        smallest, leaving = (column[:, : self.num_changes] for column in (smallest, leaving))
        return entering.gather(1, order), leaving, largest > smallest

    def elect(self, arriving: Iterable[Uploads]) -> Tensor:
        for uploads in arriving:
            changes, count = uploads.payload.indices, uploads.payload.count
            votes = torch.where(changes < self.num_parameters, 1, -1)
            if count is not None:
                votes = votes * first_entries(count, changes.shape[1])
            positions = (changes % self.num_parameters).flatten()
            self.counts.index_add_(0, positions, votes.flatten().to(self.counts.dtype))
        return self._most(self.counts)
