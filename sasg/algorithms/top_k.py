"""Exact top-k by magnitude, ties to the lowest index."""

import numpy as np
import torch
from torch import Tensor

from sasg.cluster import Segment
from sasg.rows import has_kernels, sending

_SMALL = 65_536  # segments up to this size are selected for all rows at once
_STRIDE = 101  # one entry in so many is sampled


class TopKSelector:
    """Selects from each segment of [W, d] rows the `kept` entries of largest magnitude.

    The result is exact, and the same on every device: among equal magnitudes the lowest index wins (ties
    are real on MNIST, where equal pixels give equal gradient entries). What is not a number, in a run that
    diverges, counts as infinite or is left out.
    """

    def __init__(self, segments: tuple[Segment, ...]):
        self.segments = segments
        self._kernels = None  # on a GPU
        self._long_rows: dict[int, _LongRow] = {}  # by the segment's start

    def __call__(self, vectors: Tensor, sent: Tensor | None, clear: bool = False) -> tuple[Tensor, Tensor]:
        """Values and positions [W, K] of `vectors` [W, d], positions ascending in each segment.

        Rows that do not send are not looked at and hold something finite. On a GPU the next call overwrites the result.
        clear: set what is selected to zero in `vectors`.
        """
        if not vectors.is_cuda:
            return self._on_cpu(vectors, sent, clear)
        values, indices = self._on_gpu(vectors, sent)
        if clear:
            self._clear_on_gpu(vectors, indices, sent)
        return values, indices

    def _on_gpu(self, vectors: Tensor, sent: Tensor | None) -> tuple[Tensor, Tensor]:
        if not has_kernels(vectors):
            return self._by_sorting(vectors)
        if self._kernels is None:
            from sasg.gpu.top_k import TritonTopK

            segments = [(segment.size, segment.kept) for segment in self.segments]
            self._kernels = TritonTopK(segments, len(vectors), vectors.device)
        return self._kernels(vectors, sent)

    def _clear_on_gpu(self, vectors: Tensor, indices: Tensor, sent: Tensor | None) -> None:
        if has_kernels(vectors):
            from sasg.gpu import rows

            rows.clear_(vectors, indices, sent)
        else:
            kept = 0 if sent is None else vectors.gather(1, indices).masked_fill_(sent.unsqueeze(1), 0)
            vectors.scatter_(1, indices, kept)

    def _by_sorting(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        positions, start = [], 0
        for segment in self.segments:
            magnitudes = vectors[:, start : start + segment.size].abs()
            order = magnitudes.sort(dim=1, descending=True, stable=True).indices[:, : segment.kept]
            positions.append(order.sort(dim=1).values + start)
            start += segment.size
        indices = torch.cat(positions, dim=1)
        return vectors.gather(1, indices), indices

    def _on_cpu(self, vectors: Tensor, sent: Tensor | None, clear: bool) -> tuple[Tensor, Tensor]:
        rows = sending(sent, len(vectors))
        array = vectors.numpy()
        indices = np.zeros((len(vectors), sum(segment.kept for segment in self.segments)), dtype=np.int64)
        values = np.zeros(indices.shape, array.dtype)
        start = filled = 0
        for segment in self.segments:
            part = array[:, start : start + segment.size]
            chosen, taken = (whole[:, filled : filled + segment.kept] for whole in (indices, values))
            if segment.kept < segment.size and segment.size > _SMALL:
                if start not in self._long_rows:
                    self._long_rows[start] = _LongRow(segment.size, segment.kept, array.dtype)
                for row in rows:
                    self._long_rows[start](part[row], clear, chosen[row], taken[row])
            elif rows:
                for row, largest in zip(rows, _largest(np.abs(part[rows]), segment.kept), strict=True):
                    _take_at(part[row], largest, clear, chosen[row], taken[row])
            chosen += start
            start, filled = start + segment.size, filled + segment.kept
        return torch.from_numpy(values), torch.from_numpy(indices)


class _LongRow:
    """`_largest` for one long row [n], thinned first by a threshold that a sample suggests.

    Its buffers are kept: memory that is new every time costs more than the comparisons.
    """

    def __init__(self, size: int, kept: int, dtype: np.dtype):
        from sasg.algorithms import scan  # which compiles, if it has to

        self.kept = kept
        self._at_least, self._take = scan.at_least, scan.take
        self._mask = np.zeros(-(-size // 8) * 8, dtype=np.uint8)
        self._positions = np.empty(len(self._mask), dtype=np.int64)
        self._magnitudes = np.empty(size, dtype)

    def __call__(self, row: np.ndarray, clear: bool, chosen: np.ndarray, values: np.ndarray) -> None:
        """Write the ascending indices `chosen` [kept] and the `values` there; clear: then set them to zero."""
        sample = np.abs(row[::_STRIDE])
        for surplus in (1.3, 4.0):  # how many times `kept` the threshold should let through
            rank = len(sample) - min(len(sample), int(surplus * self.kept / _STRIDE) + 8)
            threshold = np.partition(sample, rank)[rank]
            found = self._at_least(row, threshold, self._mask, self._positions, self._magnitudes)
            if found >= self.kept:
                magnitudes = self._magnitudes[:found]
                last = np.partition(magnitudes, found - self.kept)[-self.kept]
                self._take(row, self._positions[:found], magnitudes, last, clear, chosen, values)
                return
        _take_at(row, _largest(np.abs(row)[None], self.kept)[0], clear, chosen, values)


def _take_at(row: np.ndarray, positions: np.ndarray, clear: bool, chosen: np.ndarray, values: np.ndarray) -> None:
    """Write the `positions` [k] to `chosen`, and the `values` of `row` there; clear: then set them to zero."""
    chosen[:] = positions
    values[:] = row[positions]
    if clear:
        row[positions] = 0


def _largest(magnitudes: np.ndarray, kept: int) -> np.ndarray:
    """Ascending indices [R, kept] of the largest entries of each row [R, n]; ties to the lowest index."""
    n = magnitudes.shape[1]
    if kept == n:
        return np.broadcast_to(np.arange(n), magnitudes.shape)
    if np.isnan(magnitudes).any():
        magnitudes = np.where(np.isnan(magnitudes), np.inf, magnitudes)
    last = np.partition(magnitudes, n - kept, axis=1)[:, n - kept, None]
    chosen = magnitudes >= last
    surplus = np.count_nonzero(chosen, axis=1, keepdims=True) - kept
    if surplus.any():  # ties at the last
        equal = magnitudes == last
        left_out = np.cumsum(equal, axis=1) > np.count_nonzero(equal, axis=1, keepdims=True) - surplus
        chosen &= ~(equal & left_out)
    return np.nonzero(chosen)[1].reshape(len(magnitudes), kept)
