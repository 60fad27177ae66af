"""Codes of positions and of quantised values: what is counted is what an encoder writes, and nothing is lost."""

from math import ceil, comb, log2

import numpy as np
import pytest
import torch
from naive_codes import as_bytes, symbols, written

from sasg.cluster import IntegerLevelCode, Ledger, LevelCode, Payload, Positions, Segment, ValueCode
from sasg.cluster.accounting.codes import CODES, MORE_CODES, WRITABLE, check_codes, position_bits
from sasg.cluster.accounting.ledger import uplink_bits
from sasg.cluster.accounting.position_coding import decode_positions, encode_positions
from sasg.cluster.payload import compact
from sasg.errors import ContractError, UserError

CPU = torch.device("cpu")
ALL = (*CODES, *MORE_CODES)
EXTRA = ("side_bits", "vote_bits")


def cases() -> list[tuple[int, int]]:
    """Sizes and numbers of positions: none, one, all, and at random."""
    draw = np.random.default_rng(0)
    sizes = [1, 2, 3, 8, 100, 1024, *draw.integers(2, 3000, 20).tolist()]
    return [(n, k) for n in sizes for k in {0, 1, n, n // 2, int(draw.integers(0, n + 1)), ceil(n / 100)}]


def positions_of(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.sort(np.random.default_rng([n, k, seed]).choice(n, k, replace=False)).astype(np.int64)


@pytest.mark.parametrize("code", WRITABLE)
def test_positions_are_written_by_the_definition_and_read_as_they_were_written(code):
    for n, k in cases():
        positions = positions_of(n, k)
        bits = written(code, [positions.tolist()], [n])
        row = torch.full((1, n), n - 1)  # what is behind the positions is ignored
        row[0, :k] = torch.from_numpy(positions)
        assert position_bits(code, row, torch.tensor([k]), (Segment(n, n),)).tolist() == [len(bits)], (n, k)
        segments = (Segment(n, k),)
        data = encode_positions(code, row[0, :k], segments, ceil(len(bits) / 8))
        assert data.dtype == torch.uint8 and data.tolist() == as_bytes(bits), (n, k)
        assert decode_positions(code, data, k, segments).tolist() == positions.tolist(), (n, k)
        if k:
            assert position_bits(code, row[:, :k], None, segments).tolist() == [len(bits)], (n, k)


@pytest.mark.parametrize("code", WRITABLE)
def test_segments_are_coded_on_their_own(code):
    segments = (Segment(1000, 10), Segment(7, 2), Segment(1, 1), Segment(300, 300), Segment(2**20, 3))
    sizes, starts = [s.size for s in segments], np.cumsum([0] + [s.size for s in segments[:-1]])
    for seed in range(3):
        inside = [positions_of(s.size, s.kept, seed) for s in segments]
        row = torch.from_numpy(np.concatenate([p + start for p, start in zip(inside, starts, strict=True)]))
        if code == "int32":
            bits = written(code, [row.tolist()], [sum(sizes)])
        else:
            bits = written(code, [p.tolist() for p in inside], sizes)
        data = encode_positions(code, row, segments, ceil(len(bits) / 8))
        assert data.tolist() == as_bytes(bits)
        assert torch.equal(decode_positions(code, data, len(row), segments), row)
        shuffled = [np.random.default_rng(seed).permutation(p) + start for p, start in zip(inside, starts, strict=True)]
        rows = torch.stack([row, torch.from_numpy(np.concatenate(shuffled))])
        assert position_bits(code, rows, None, segments).tolist() == [len(bits)] * 2


def test_delta_is_close_to_the_bound_and_never_below_it():
    n = 100_000
    for k in (10, 100, 1000, 10_000, 50_000):
        row, segments = torch.from_numpy(positions_of(n, k)).unsqueeze(0), (Segment(n, k),)
        bound, delta = (int(position_bits(code, row, None, segments)) for code in ("entropy", "delta"))
        assert bound <= delta < 1.06 * bound, (k, delta, bound)


def test_entropy_is_the_logarithm_of_the_number_of_subsets():
    for n, k in cases():
        count = torch.tensor([k])
        bits = position_bits("entropy", torch.zeros(1, n, dtype=torch.int64), count, (Segment(n, n),))
        assert int(bits) == (comb(n, k) - 1).bit_length(), (n, k)


def test_compaction_lists_what_a_mask_holds():
    mask = torch.tensor([[False, True, False, True], [False] * 4, [True] * 4])
    positions, count = compact(mask)
    assert count.tolist() == [2, 0, 4]
    assert positions.tolist() == [[1, 3, 0, 0], [0] * 4, [0, 1, 2, 3]]


def test_a_ledger_counts_what_varies_upload_by_upload():
    vectors = torch.tensor([[0.0, 5.0, 0.0, -2.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    payload = Payload.of_survivors(vectors, vectors != 0)
    ledger = Ledger(3, CPU, ALL, EXTRA)
    ledger.count_uploads(payload, torch.tensor([True, True, False]))
    totals = ledger.totals()
    assert totals["rounds"] == 2 and totals["flag_bits"] == 3
    assert totals["paper_bits"] == totals["value_bits"] == 32 * (2 + 1)
    assert totals["side_bits"] == 2 * 32  # lengths
    assert totals["index_bits_int32"] == 32 * 3 and totals["index_bits_log2"] == 3 * 3
    assert totals["index_bits_bitmask"] == 2 * 5
    bits = [written("delta", [p], [5]) for p in ([1, 3], [0])]
    assert totals["index_bits_delta"] == sum(map(len, bits))
    assert totals["index_bits_entropy"] == ceil(log2(comb(5, 2))) + ceil(log2(comb(5, 1)))
    assert uplink_bits(totals, "none") == 32 * 3 + 2 * 32 + 3
    assert uplink_bits(totals, "int32") == uplink_bits(totals, "none") + 32 * 3
    assert payload.uploaded(torch.tensor([True, False, True])).sum(1).tolist() == [3.0, 0.0, 15.0]


def test_a_vote_is_no_round_and_has_columns_of_its_own():
    ledger = Ledger(2, CPU, CODES, EXTRA)
    vote = Payload(None, torch.tensor([[1, 2], [3, 99]]), (Segment(100, 2),))
    ledger.count_uploads(vote, None)
    ledger.count_reply(Positions(2, 100), torch.tensor([1, 3]), vote)
    totals = {name: bits for name, bits in ledger.totals().items() if bits}
    up = {"vote_bits_int32": 2 * 2 * 32, "vote_bits_log2": 2 * 2 * 7, "vote_bits_bitmask": 2 * 100}
    down = {"int32": 64, "log2": 14, "bitmask": 100}
    broadcast = {f"downlink_broadcast_bits_{code}": bits for code, bits in down.items()}
    unicast = {f"downlink_unicast_bits_{code}": 2 * bits for code, bits in down.items()}
    assert totals == {**up, **broadcast, **unicast}


def test_a_known_support_costs_nothing_and_quantised_values_what_their_code_takes():
    ledger = Ledger(3, CPU, CODES, EXTRA)
    values, mask = torch.ones(3, 5), torch.arange(5).expand(3, 5)
    coded = {"code": LevelCode(4), "side": torch.ones(3, 8)}
    ledger.count_uploads(Payload(values, mask, (Segment(100, 5),), known_support=True, **coded), None)
    totals = {name: bits for name, bits in ledger.totals().items() if bits}
    assert totals == {"rounds": 3, "paper_bits": 3 * 5 * 32, "value_bits": 3 * 5 * 4, "side_bits": 3 * 8 * 32}


def test_what_has_no_column_does_not_vanish():
    payload = Payload(torch.ones(1, 5), side=torch.ones(1, 1))
    with pytest.raises(ContractError, match="side_bits"):
        Ledger(1, CPU).count_uploads(payload, None)


def test_a_request_costs_a_bit_each_and_the_parameters_of_those_asked():
    ledger = Ledger(4, CPU)
    ledger.count_request(torch.tensor([False, True, True, False]), torch.zeros(10))
    ledger.count_request(torch.zeros(4, dtype=torch.bool), torch.zeros(10))
    for code in CODES:
        assert ledger.totals()[f"downlink_broadcast_bits_{code}"] == 2 * 4 + 320
        assert ledger.totals()[f"downlink_unicast_bits_{code}"] == 2 * 4 + 2 * 320


@pytest.mark.parametrize("sparse_bits", [True, False])
@pytest.mark.parametrize(("size", "positions"), [(1000, [3, 500, 999]), (20_000, [3, 4095, 4096, 16_500, 19_999])])
def test_the_downlink_in_more_codes(size, positions, sparse_bits):
    update = torch.zeros(size)
    update[positions] = 1.0
    ledger = Ledger(2, CPU, ALL)
    ledger.count_download(update, sparse=sparse_bits, receivers=2)
    values, delta = 32 * len(positions), len(written("delta", [positions], [size]))
    entropy = ceil(log2(comb(size, len(positions))))
    packed = 8 * ceil(min(delta, len(positions) * ceil(log2(size))) / 8)
    expected = {"delta": values + delta, "entropy": values + entropy, "packed": values + packed} if sparse_bits else {}
    for code in ("delta", "entropy", "packed"):
        assert ledger.totals()[f"downlink_broadcast_bits_{code}"] == expected.get(code, 32 * size)


@pytest.mark.parametrize("codes", [("delta",), (*CODES, "gzip"), (*CODES, "delta", "delta")])
def test_unknown_codes_are_refused(codes):
    with pytest.raises(UserError, match="index_codes="):
        check_codes(codes)


# -- values ---------------------------------------------------------------------------------------


class Symbols(ValueCode):
    """What a new code must provide, and no more: here values that are whole numbers."""

    def __init__(self, bits: int):
        self.bits = bits

    def _numbers(self, values, side):
        return values.long()

    def _values(self, numbers, side):
        return numbers


@pytest.mark.parametrize("bits", [1, 2, 3, 7, 8, 9, 13, 16, 17, 24, 31, 52])
def test_symbols_of_any_width_are_packed_without_gaps(bits):
    generator, code = torch.Generator().manual_seed(bits), Symbols(bits)
    for n in (0, 1, 7, 8, 9, 100):
        numbers = torch.randint(2**bits, (n,), generator=generator)
        numbers[:1] = 2**bits - 1
        data = code.encode(numbers.double(), None)
        assert data.tolist() == as_bytes(symbols(numbers.tolist(), bits)) and len(data) == code.num_bytes(n)
        assert torch.equal(code.decode(data, n, None, torch.float64), numbers.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 2, 4, 5])
def test_levels_are_decoded_exactly(bits, dtype):
    generator = torch.Generator().manual_seed(bits)
    code = LevelCode(bits)
    for n in (0, 1, 7, 8, 1000):
        levels = torch.rand(2 ** (bits - 1), generator=generator, dtype=dtype)
        levels[0] = 0.0  # of an empty group
        chosen = torch.randint(len(levels), (n,), generator=generator)
        values = levels[chosen] * (torch.randint(2, (n,), generator=generator) * 2 - 1)
        data = code.encode(values, levels)
        assert data.dtype == torch.uint8 and len(data) == ceil(n * bits / 8) == code.num_bytes(n)
        assert torch.equal(code.decode(data, n, levels, dtype), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_levels, bucket_size", [(1, None), (4, None), (7, 16), (255, 16)])
def test_integer_levels_are_decoded_exactly(num_levels, bucket_size, dtype):
    generator = torch.Generator().manual_seed(num_levels)
    code = IntegerLevelCode(num_levels, bucket_size)
    assert code.bits == 1 + ceil(log2(num_levels + 1))
    for n in (1, 15, 16, 1000):
        norms = torch.rand(1 if bucket_size is None else ceil(n / bucket_size), generator=generator, dtype=dtype)
        norms[-1:] *= torch.tensor(0.0 if n == 15 else 1.0)  # a vector of zeros has norm zero
        signed = torch.randint(-num_levels, num_levels + 1, (n,), generator=generator)
        by_value = norms.repeat_interleave(bucket_size or n)[:n]
        values = code.dequantise(signed.to(dtype), by_value)
        data = code.encode(values, norms)
        assert len(data) == ceil(n * code.bits / 8)
        assert torch.equal(code.decode(data, n, norms, dtype), values)
