"""Passes over a row on the CPU, compiled by numba where it is installed.

A row [n] is seen as lines of equal width, the last one may be shorter. While it is read, a matrix product can be added
to it: line l grows by sum_b left[b, l] * right[b] for left [B, lines] and right [B, width]. With B = 0 nothing is
added. Memory traffic decides the time, and this way a gradient is added and looked through in one pass.
"""

from functools import cache

import numpy as np

_SAMPLED = 16  # neighbours, a cache line of float32, are sampled
_STRIDE = 101 * _SAMPLED  # once in so many entries


def sample_size(n: int) -> int:
    """How many magnitudes `sample` writes at most."""
    return n // _STRIDE * _SAMPLED


try:
    from numba import njit
except ImportError:  # the same results, in more passes
    MAX_TERMS = 0  # nothing can be added

    def sample(num_terms):
        """The function (row, left, right, magnitudes): write some |row[i]| as they will be; their number.

        num_terms: B. magnitudes: [sample_size(n)], of the type of `row`.
        """
        return _sample

    def _sample(row, left, right, magnitudes):
        lines = np.abs(row[: len(row) // _STRIDE * _STRIDE].reshape(-1, _STRIDE)[:, :_SAMPLED])
        magnitudes[:] = lines.ravel()
        return len(magnitudes)

    def at_least(num_terms):
        """The function (row, left, right, threshold, mask, nonzero, positions, magnitudes): add, and find the large.

        It writes the ascending positions i with |row[i]| >= threshold (or NaN), and |row[i]|; their number.
        num_terms: B. mask: [width rounded up to 8] uint8, nonzero: [width / 8, rounded up] int64, both overwritten;
        positions: [n] int64; magnitudes: [n], of the type of `row`.
        """
        return _at_least

    def _at_least(row, left, right, threshold, mask, nonzero, positions, magnitudes):
        found = np.flatnonzero(~(np.abs(row) < threshold))
        positions[: len(found)] = found
        magnitudes[: len(found)] = np.abs(row[found])
        return len(found)

    def take(row, positions, magnitudes, last, clear, chosen, values):
        """Write the `chosen` [k] of `positions` whose `magnitudes` are largest, and the `values` [k] of `row` there.

        last: the k-th largest magnitude; of those that equal it the first are taken. clear: set `row` to zero there.
        """
        above, equal = ~(magnitudes <= last), magnitudes == last
        equal &= np.cumsum(equal) <= len(chosen) - np.count_nonzero(above)
        chosen[:] = positions[above | equal]
        values[:] = row[chosen]
        if clear:
            row[chosen] = 0

else:
    MAX_TERMS = 12  # beyond, BLAS is faster; far beyond, the sum is no longer compiled to vector instructions
    _BYTES = np.uint64(0x0001020304050607)  # times 2^(8 i) it has i in its highest byte

    @njit(cache=True, fastmath={"contract"})  # products and sums are rounded once, as in BLAS
    def _product(left, right, line, column, num_terms):
        total = left.dtype.type(0)
        for b in range(num_terms):  # a constant number where it is called: no loop
            total += left[b, line] * right[b, column]
        return total

    @cache
    def add(num_terms):
        """The function (row, left, right, keep): row = left^T right, or row + left^T right if `keep`."""

        @njit(cache=True)
        def compiled(row, left, right, keep):
            width = right.shape[1]
            for line in range(left.shape[1]):
                part = row[line * width : (line + 1) * width]
                if keep:
                    for j in range(width):
                        part[j] += _product(left, right, line, j, num_terms)
                else:
                    for j in range(width):
                        part[j] = _product(left, right, line, j, num_terms)

        return compiled

    @cache
    def sample(num_terms):
        @njit(cache=True)
        def compiled(row, left, right, magnitudes):
            width = right.shape[1]
            size = min(_SAMPLED, width)
            filled = 0
            for start in range(0, len(row) - _STRIDE + 1, _STRIDE):
                line = start // width
                first = min(start - line * width, width - size)  # all of them in one line
                part = row[line * width + first : line * width + first + size]
                written = magnitudes[filled : filled + size]
                for j in range(size):
                    value = part[j]
                    if num_terms:
                        value += _product(left, right, line, first + j, num_terms)
                    written[j] = abs(value)
                filled += size
            return filled

        return compiled

    @cache
    def at_least(num_terms):
        @njit(cache=True)
        def compiled(row, left, right, threshold, mask, nonzero, positions, magnitudes):
            width = right.shape[1]
            words = mask.view(np.uint64)  # eight flags at a time: most words are zero
            num_found = 0
            for line in range(left.shape[1]):
                start = line * width
                part = row[start : start + width]
                for j in range(len(part)):  # a loop that compiles to vector instructions
                    value = part[j]
                    if num_terms:
                        value += _product(left, right, line, j, num_terms)
                        part[j] = value
                    mask[j] = not abs(value) < threshold  # NaN is large
                mask[len(part) :] = 0
                num_nonzero = 0
                for word in range(len(words)):  # without branches, which could not be predicted
                    nonzero[num_nonzero] = word
                    num_nonzero += words[word] != 0
                for k in range(num_nonzero):
                    word = nonzero[k]
                    flags = words[word]
                    while flags != 0:
                        lowest = flags & (~flags + np.uint64(1))
                        j = 8 * word + np.int64((lowest * _BYTES) >> np.uint64(56))
                        positions[num_found] = start + j
                        magnitudes[num_found] = abs(part[j])
                        num_found += 1
                        flags ^= lowest
            return num_found

        return compiled

    @njit(cache=True)
    def take(row, positions, magnitudes, last, clear, chosen, values):
        num_equal = len(chosen)  # how many that equal `last` are taken
        for magnitude in magnitudes:
            num_equal -= not magnitude <= last
        filled = 0
        for k in range(len(positions)):
            if filled == len(chosen):
                break
            chosen[filled] = positions[k]
            equal = (magnitudes[k] == last) & (num_equal > 0)
            num_equal -= equal
            filled += equal | (not magnitudes[k] <= last)
        for k in range(len(chosen)):
            values[k] = row[chosen[k]]
            if clear:
                row[chosen[k]] = 0
