"""Passes over a long row on the CPU, compiled by numba where it is installed."""

import numpy as np

try:
    from numba import njit
except ImportError:  # the same results, in more passes

    def at_least(row, threshold, mask, positions, magnitudes):
        """Write the ascending positions i of `row` [n] with |row[i]| >= threshold, and |row[i]|; their number.

        mask: [n rounded up to 8] uint8, zero behind n; positions: int64 [len(mask)]; magnitudes: [n], of the type of
        `row`. All three are overwritten.
        """
        found = np.flatnonzero(np.abs(row) >= threshold)
        positions[: len(found)] = found
        magnitudes[: len(found)] = np.abs(row[found])
        return len(found)

    def take(row, positions, magnitudes, last, clear, chosen, values):
        """Write the `chosen` [k] of `positions` whose `magnitudes` are largest, and the `values` [k] of `row` there.

        last: the k-th largest magnitude; of those that equal it the first are taken. clear: set `row` to zero there.
        """
        above, equal = magnitudes > last, magnitudes == last
        equal &= np.cumsum(equal) <= len(chosen) - np.count_nonzero(above)
        chosen[:] = positions[above | equal]
        values[:] = row[chosen]
        if clear:
            row[chosen] = 0

else:
    _BYTES = np.uint64(0x0001020304050607)  # times 2^(8 i) it has i in its highest byte

    @njit(cache=True)
    def at_least(row, threshold, mask, positions, magnitudes):
        for i in range(len(row)):  # a loop that compiles to vector instructions
            mask[i] = abs(row[i]) >= threshold
        words = mask.view(np.uint64)  # eight flags at a time: most words are zero
        nonzero = positions[len(positions) - len(words) :]  # read before it is overwritten: at most 8 entries a word
        num_nonzero = 0
        for word in range(len(words)):  # without branches, which could not be predicted
            nonzero[num_nonzero] = word
            num_nonzero += words[word] != 0
        num_found = 0
        for k in range(num_nonzero):
            word = nonzero[k]
            flags = words[word]
            while flags != 0:
                lowest = flags & (~flags + np.uint64(1))
                i = 8 * word + np.int64((lowest * _BYTES) >> np.uint64(56))
                positions[num_found] = i
                magnitudes[num_found] = abs(row[i])
                num_found += 1
                flags ^= lowest
        return num_found

    @njit(cache=True)
    def take(row, positions, magnitudes, last, clear, chosen, values):
        num_equal = len(chosen)  # how many that equal `last` are taken
        for magnitude in magnitudes:
            num_equal -= magnitude > last
        filled = 0
        for k in range(len(positions)):
            if filled == len(chosen):
                break
            chosen[filled] = positions[k]
            equal = (magnitudes[k] == last) & (num_equal > 0)
            num_equal -= equal
            filled += (magnitudes[k] > last) | equal
        for k in range(len(chosen)):
            values[k] = row[chosen[k]]
            if clear:
                row[chosen[k]] = 0
