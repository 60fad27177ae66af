"""Exact top-k by magnitude, ties to the lowest index."""

from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from sasg.cluster import Segment
from sasg.gradients import Gradients
from sasg.kernels.rows import has_kernels, sending

_SMALL = 65_536  # longer segments are thinned before the selection
_SURPLUS = 1.6  # how many times as many as are kept the threshold should let through
_LINE = 4096  # entries that are looked through at once


class TopKSelector:
    """Selects from each segment of [W, d] rows the `kept` entries of largest magnitude.

    The result is exact, and the same on every device: among equal magnitudes the lowest index wins (ties
    are real on MNIST, where equal pixels give equal gradient entries). What is not a number, in a run that
    diverges, counts as infinite or more.
    """

    def __init__(self, segments: tuple[Segment, ...]):
        self.segments = segments
        starts = accumulate((segment.size for segment in segments), initial=0)
        self._starts = dict(zip(starts, segments))  # segments by the position of their first entry
        self._kernels = None  # on a GPU
        self._selections: dict[int, _Selection] = {}  # on a CPU, by the segment's start

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> tuple[Tensor, Tensor]:
        """Values and positions [W, K] of `vectors` [W, d], positions ascending in each segment.

        Rows that do not send are not looked at and hold something finite. On a GPU the next call overwrites the result.
        """
        return self._on_gpu(vectors, sent) if vectors.is_cuda else self._on_cpu(vectors, sent)

    def take_(self, vectors: Tensor, sent: Tensor | None, gradients: Gradients, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Add scale * gradients to the rows that send, select, and set to zero there what is selected.

        On the CPU a long segment whose gradients are a product of few terms is looked through while it is added to.
        """
        if not vectors.is_cuda:
            return self._on_cpu(vectors, sent, gradients, scale)
        gradients.add_(vectors, scale, sent)
        values, indices = self._on_gpu(vectors, sent)
        self._clear_on_gpu(vectors, indices, sent)
        return values, indices

    def _on_gpu(self, vectors: Tensor, sent: Tensor | None) -> tuple[Tensor, Tensor]:
        if not has_kernels(vectors):
            return self._by_sorting(vectors)
        if self._kernels is None:
            from sasg.kernels.triton_top_k import TritonTopK

            segments = [(segment.size, segment.kept) for segment in self.segments]
            self._kernels = TritonTopK(segments, len(vectors), vectors.device)
        return self._kernels(vectors, sent)

    def _clear_on_gpu(self, vectors: Tensor, indices: Tensor, sent: Tensor | None) -> None:
        if has_kernels(vectors):
            from sasg.kernels import triton_rows as rows

            rows.clear_(vectors, indices, sent)
        else:
            kept = 0 if sent is None else vectors.gather(1, indices).masked_fill_(sent.unsqueeze(1), 0)
            vectors.scatter_(1, indices, kept)

    def _by_sorting(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        positions = []
        for start, segment in self._starts.items():
            magnitudes = vectors[:, start : start + segment.size].abs()
            order = magnitudes.sort(dim=1, descending=True, stable=True).indices[:, : segment.kept]
            positions.append(order.sort(dim=1).values + start)
        indices = torch.cat(positions, dim=1)
        return vectors.gather(1, indices), indices

    def _on_cpu(
        self,
        vectors: Tensor,
        sent: Tensor | None,
        gradients: Gradients | None = None,
        scale: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """With `gradients`: taken as in `take_`."""
        rows = sending(sent, len(vectors))
        array = vectors.numpy()
        indices = np.zeros((len(vectors), sum(segment.kept for segment in self.segments)), dtype=np.int64)
        values = np.zeros(indices.shape, array.dtype)
        filled = 0
        for start, segment in self._starts.items():
            if start not in self._selections:
                self._selections[start] = _Selection(segment, array.dtype)
            select = self._selections[start]
            entries = slice(start, start + segment.size)
            factors = []
            if gradients is not None:
                product = gradients.product(entries)
                if product is not None and select.can_add(product[0].shape[1]):
                    left, right = product
                    factors = [(left * scale).contiguous().numpy(), right.contiguous().numpy()]
                else:
                    gradients.add_(vectors, scale, sent, entries)
            chosen, taken = (whole[:, filled : filled + segment.kept] for whole in (indices, values))
            for row in rows:
                own = [factor[row] for factor in factors]
                select(array[row, entries], own, gradients is not None, chosen[row], taken[row])
            chosen += start
            filled += segment.kept
        return torch.from_numpy(values), torch.from_numpy(indices)


class _Selection:
    """From one segment [n] of a row, on the CPU.

    Buffers are kept: memory that is new every time costs more than the comparisons.
    """

    def __init__(self, segment: Segment, dtype: np.dtype):
        from sasg.kernels import scan  # numba takes long to import

        self._scan = scan
        self._kept, self._is_long = segment.kept, _is_long(segment)
        self._sample = np.empty(self._scan.sample_size(segment.size), dtype)
        self._mask = np.empty(segment.size + 8, dtype=np.uint8)
        self._nonzero = np.empty(len(self._mask) // 8, dtype=np.int64)
        self._positions = np.empty(segment.size, dtype=np.int64)
        self._magnitudes = np.empty(segment.size, dtype)
        line = min(segment.size, _LINE)
        self._nothing = [np.empty((0, -(-segment.size // line)), dtype), np.empty((0, line), dtype)]

    def can_add(self, num_terms: int) -> bool:
        """Whether a product of so many terms is added while a row is read."""
        return self._is_long and num_terms <= self._scan.MAX_TERMS

    def __call__(
        self, row: np.ndarray, product: list[np.ndarray], clear: bool, chosen: np.ndarray, values: np.ndarray
    ) -> None:
        """Write the ascending indices `chosen` [kept] and the `values` there; clear: then set them to zero.

        product: [left [B, o], right [B, i]] or []; left^T right is added to a long `row` [o * i] first.
        """
        left, right = product or self._nothing
        found = self._at_least(self._threshold(row, left, right), row, left, right)
        positions, magnitudes = self._positions[:found], self._magnitudes[:found]
        if found < self._kept:  # the sample misled
            positions, magnitudes = np.arange(len(row)), np.abs(row)
        last = _at_rank(magnitudes, self._kept)
        if np.isnan(last):
            magnitudes[np.isnan(magnitudes)] = last = np.inf
        self._scan.take(row, positions, magnitudes, last, clear, chosen, values)

    def _threshold(self, row: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
        """What `kept` magnitudes, and not many more, reach when the product is added; of a long row an estimate."""
        if not self._is_long:
            return _at_rank(np.abs(row), self._kept)
        size = self._scan.sample(len(left))(row, left, right, self._sample)
        return _at_rank(self._sample[:size], int(_SURPLUS * self._kept * size / len(row)) + 9)

    def _at_least(self, threshold: float, row: np.ndarray, left: np.ndarray, right: np.ndarray) -> int:
        mask = self._mask[: -(-right.shape[1] // 8) * 8]
        return self._scan.at_least(len(left))(
            row, left, right, threshold, mask, self._nonzero, self._positions, self._magnitudes
        )


def _at_rank(magnitudes: np.ndarray, rank: int) -> float:
    """The rank-th largest, from 1."""
    place = max(0, len(magnitudes) - rank)
    return np.partition(magnitudes, place)[place]


def _is_long(segment: Segment) -> bool:
    return segment.kept < segment.size and segment.size > _SMALL
