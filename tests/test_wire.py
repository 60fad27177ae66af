"""What is packed arrives as it was sent, to the bit, and takes exactly the bytes that the ledger counts."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from naive_codes import as_bytes, written

from sasg.cluster import IntegerLevelCode, Ledger, LevelCode, Payload, Segment
from sasg.cluster.accounting.codes import ANNOUNCEMENT_BITS, CODES, WRITABLE, packed_bits, position_bits
from sasg.cluster.accounting.position_coding import decode_positions, encode_positions
from sasg.cluster.wire import WireFormat
from sasg.errors import ClusterError, UserError

CPU = torch.device("cpu")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COLUMNS = (*CODES, "delta", "packed")


def sent_over(payload: Payload, row: int, wire: str) -> tuple[WireFormat, Payload, int]:
    """One row's form, what arrives of it, and how many bytes went over the wire."""
    form, total = WireFormat.of(payload, wire), 0
    if form.num_headers:
        indices, count = (None if x is None else x[row : row + 1] for x in (payload.indices, payload.count))
        headers = form.headers(indices, count)
        assert headers.dtype == torch.int32 and headers.shape == (1, form.num_headers)
        form, total = form.announced(headers[0], "a rank"), 4 * form.num_headers
    data = torch.empty(2 * form.num_bytes, dtype=torch.uint8)
    form.blank(data)
    values, indices = (None if x is None else x[row, : form.k] for x in (payload.values, payload.indices))
    form.pack(values, indices, data, None if payload.side is None else payload.side[row])
    return form, form.unpack(data.unsqueeze(0), ["a rank"], CPU), total + form.num_bytes


def counted_bytes(payload: Payload, row: int, code: str) -> int:
    """Of the upload of one row; coded values end at a whole byte."""
    rows = len(payload.entries)
    ledger = Ledger(rows, CPU, COLUMNS, ("side_bits", "vote_bits"))
    ledger.count_uploads(payload, torch.arange(rows) == row)
    totals = ledger.totals()
    parts = [totals[name] for name in ("value_bits", "side_bits", f"index_bits_{code}", f"vote_bits_{code}")]
    assert not any(bits % 8 for bits in parts[1:])
    return sum((bits + 7) // 8 for bits in parts)


def assert_arrives(payload: Payload, wire: str) -> list[WireFormat]:
    forms = []
    for row in range(len(payload.entries)):
        form, arrived, num_bytes = sent_over(payload, row, wire)
        k = payload.entries.shape[1] if payload.count is None else int(payload.count[row])
        for name in ("values", "indices", "side"):
            given, taken = getattr(payload, name), getattr(arrived, name)
            if given is None or (name == "indices" and payload.known_support):
                assert taken is None, name
                continue
            expected = given[row] if name == "side" else given[row, :k]
            assert taken.dtype == expected.dtype and taken.shape == (1, len(expected))
            assert torch.equal(bits(taken[0]), bits(expected)), name
        assert num_bytes == counted_bytes(payload, row, "int32" if wire == "plain" else "packed")
        forms.append(form)
    return forms


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def random_values(draw: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Any bit patterns, NaN among them."""
    values = torch.empty(shape, dtype=dtype)
    bits(values).copy_(torch.from_numpy(draw.integers(0, 256, bits(values).shape, dtype=np.uint8)))
    return values


def ascending(draw: np.random.Generator, segments: tuple[Segment, ...], rows: int) -> torch.Tensor:
    starts = np.cumsum([0] + [s.size for s in segments[:-1]])
    parts = [
        [np.sort(draw.choice(s.size, s.kept, replace=False)) + start for s, start in zip(segments, starts, strict=True)]
        for _ in range(rows)
    ]
    return torch.from_numpy(np.stack([np.concatenate(row) for row in parts]).astype(np.int64))


def random_segments(draw: np.random.Generator) -> tuple[Segment, ...]:
    sizes = [int(2 ** draw.uniform(0, 11)) for _ in range(draw.integers(1, 6))]
    densities = draw.choice([0.0, 0.01, 0.1, 0.5, 1.0], len(sizes))
    return tuple(Segment(n, round(n * share)) for n, share in zip(sizes, densities, strict=True))


def in_some_order(draw: np.random.Generator, indices: torch.Tensor, segments: tuple[Segment, ...]) -> torch.Tensor:
    """Ascending; or any order within segments; or of the whole vector."""
    order = draw.integers(3)
    if order == 0:
        return indices
    lengths = [s.kept for s in segments] if order == 1 else [indices.shape[1]]
    parts = [part[:, torch.from_numpy(draw.permutation(part.shape[1]))] for part in indices.split(lengths, 1)]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("wire", ["plain", "packed"])
@pytest.mark.parametrize("seed", range(12))
def test_payloads_of_every_kind_arrive_as_they_were_sent(seed, wire):
    draw = np.random.default_rng(seed)
    dtype = DTYPES[seed % len(DTYPES)]
    segments = random_segments(draw)
    size = sum(s.size for s in segments)
    indices = in_some_order(draw, ascending(draw, segments, 2), segments)
    values = random_values(draw, tuple(indices.shape), dtype)
    side = random_values(draw, (2, 3), torch.float64)
    assert_arrives(Payload(values, indices, segments), wire)
    assert_arrives(Payload(values, indices, segments, side=side), wire)
    assert_arrives(Payload(values, indices, segments, known_support=True), wire)
    assert_arrives(Payload(random_values(draw, (2, size), dtype)), wire)
    assert_arrives(Payload(None, indices, segments), wire)
    whole = (Segment(size, size),)
    row = torch.from_numpy(np.sort(draw.permutation(size)[: size // 2 + 1])).expand(4, -1)
    count = torch.tensor([0, 1, row.shape[1] // 2, row.shape[1]])
    values = random_values(draw, tuple(row.shape), dtype)
    assert_arrives(Payload(values, row, whole, count=count), wire)
    assert_arrives(Payload(None, row, whole, count=count, side=side[:1].expand(4, -1)), wire)


@pytest.mark.parametrize("wire", ["plain", "packed"])
def test_coded_values_arrive_with_positions_in_any_number(wire):
    generator = torch.Generator().manual_seed(1)
    levels = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    chosen = torch.randint(4, (3, 37), generator=generator)
    values = levels.gather(1, chosen) * (torch.randint(2, (3, 37), generator=generator) * 2 - 1)
    indices = torch.randperm(1000, generator=generator)[:37].sort().values.expand(3, -1)
    coded = {"code": LevelCode(3), "side": levels}
    assert_arrives(Payload(values, indices, (Segment(1000, 37),), **coded), wire)
    count = torch.tensor([0, 5, 37])
    assert_arrives(Payload(values, indices, (Segment(1000, 1000),), count=count, **coded), wire)
    code, norms = IntegerLevelCode(7, bucket_size=5), torch.rand(2, 8, generator=generator)
    signed = torch.randint(-7, 8, (2, 37), generator=generator).float()
    values = code.dequantise(signed, norms.repeat_interleave(5, 1)[:, :37])
    for order in (indices[:2], indices[:2].flip(1)):  # which bucket a value is in depends on its place
        assert_arrives(Payload(values, order, (Segment(1000, 37),), code=code, side=norms), wire)


@pytest.mark.parametrize(
    ("size", "kept", "cheapest"),
    [(10_000, 100, "delta"), (100, 100, "bitmask"), (100, 45, "bitmask"), (2**31 - 1, 1, "log2"), (1, 1, "log2")],
)
def test_the_cheapest_is_taken(size, kept, cheapest):
    positions = torch.linspace(0, size - 1, kept, dtype=torch.float64).long().unsqueeze(0)
    payload = Payload(None, positions, (Segment(size, kept),))
    (form,) = assert_arrives(payload, "packed")
    assert form.position_code == cheapest
    lengths = [int(position_bits(code, positions, None, payload.segments)) for code in WRITABLE]
    assert form.position_bytes == (min(lengths) + 7) // 8
    counted = int(position_bits("packed", positions, None, payload.segments))
    assert counted == 8 * form.position_bytes + ANNOUNCEMENT_BITS


def test_what_a_code_cannot_express_is_sent_in_another():
    segments = (Segment(1000, 3), Segment(10**6, 3))
    for row, code in {
        (1, 5, 999, 1000, 1001, 5000): "delta",
        (5, 1, 999, 1000, 1001, 5000): "log2",  # not ascending
        (1, 1, 999, 1000, 1001, 5000): "log2",  # twice
        (1, 5, 1000, 1001, 1002, 5000): "int32",  # not in its segment
        (1, 5, 6, 7, 1001, 5000): "int32",
    }.items():
        (form,) = assert_arrives(Payload(None, torch.tensor([row]), segments), "packed")
        assert form.position_code == code, row


def test_vectors_of_nearly_two_to_the_31_entries():
    """Nothing is as long as the vector, unless its positions are."""
    draw, size = np.random.default_rng(3), 2**31 - 1
    places = np.unique(np.concatenate([[0, 1, 2**30, size - 1], draw.integers(0, size, 2000)]))
    indices = torch.from_numpy(places).unsqueeze(0)
    k = len(places)
    values = random_values(draw, (1, k), torch.float32)
    (form,) = assert_arrives(Payload(values, indices, (Segment(size, k),)), "packed")
    assert form.position_code == "delta"
    assert_arrives(Payload(values, indices, (Segment(size, size),), count=torch.tensor([k])), "packed")
    halves = (Segment(2**30, int((places < 2**30).sum())), Segment(2**30 - 1, int((places >= 2**30).sum())))
    (form,) = assert_arrives(Payload(values, indices, halves), "packed")
    assert form.position_code == "delta"
    (form,) = assert_arrives(Payload(values, indices.flip(1), (Segment(size, k),)), "packed")
    assert form.position_code == "log2" and form.position_bytes == (31 * k + 7) // 8


def test_positions_of_segments_lie_behind_each_other_without_gaps():
    segments = (Segment(300, 2), Segment(10, 3), Segment(5, 1))
    indices = torch.tensor([[7, 299, 300, 302, 309, 313]])
    form = WireFormat.of(Payload(None, indices, segments), "packed")
    form = form.announced(form.headers(indices, None)[0], "a rank")
    data = torch.empty(form.num_bytes, dtype=torch.uint8)
    form.pack(None, indices[0], data)
    inside = [[7, 299], [0, 2, 9], [3]]
    assert data.tolist() == as_bytes(written(form.position_code, inside, [300, 10, 5]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("code", WRITABLE)
def test_a_gpu_makes_the_same_bytes(code):
    segments = (Segment(100_000, 1000), Segment(50, 20), Segment(1, 1))
    indices = ascending(np.random.default_rng(5), segments, 1)
    assert packed_bits(indices.cuda(), None, segments)[0].cpu() == packed_bits(indices, None, segments)[0]
    length = (int(position_bits(code, indices, None, segments)) + 7) // 8
    data = encode_positions(code, indices[0], segments, length)
    on_gpu = encode_positions(code, indices[0].cuda(), segments, length)
    assert torch.equal(on_gpu.cpu(), data)
    assert torch.equal(decode_positions(code, on_gpu, 1021, segments).cpu(), indices[0])


def test_a_support_is_announced_with_its_length():
    """As the server's update: its headers are not counted."""
    update = torch.zeros(5000, dtype=torch.float64)
    update[torch.arange(0, 5000, 37)] = 1.5
    support = update.nonzero().squeeze(1)
    form = WireFormat.of_support(update.dtype, len(update), "packed")
    sparse = form.announced(form.headers(support.unsqueeze(0), torch.tensor([len(support)]))[0], "the server")
    ledger = Ledger(2, CPU, COLUMNS)
    ledger.count_download(update, sparse=True, receivers=2)
    assert 8 * sparse.num_bytes == ledger.totals()["downlink_broadcast_bits_packed"]
    data = torch.empty(sparse.num_bytes, dtype=torch.uint8)
    sparse.pack(update[support], support, data)
    values, _, indices = sparse.parts(data, CPU)
    assert torch.equal(values, update[support]) and torch.equal(indices, support)


# -- damage ---------------------------------------------------------------------------------------


def test_headers_that_announce_no_payload_are_refused():
    form = replace(WireFormat.of_positions(100, 10_000, "packed"), dtype=torch.float32)
    for num_bytes, code in itertools.product((-1, 0, 1, 50, 400, 401, 1249, 1251, 10**6), WRITABLE):
        if (num_bytes, code) in {(400, "int32"), (400, "delta")}:
            continue  # as long as they may be
        header = torch.tensor([4 * num_bytes + WRITABLE.index(code)], dtype=torch.int32)
        with pytest.raises(ClusterError, match=f"a rank sent 100 positions as {num_bytes} bytes of {code}"):
            form.announced(header, "a rank")


@pytest.mark.parametrize("code", WRITABLE)
def test_bytes_that_are_damaged_never_give_a_position_outside(code):
    """Positions outside are refused; what arrives lies within, in the right number."""
    draw = np.random.default_rng(WRITABLE.index(code))
    segments, k = (Segment(1000, 100), Segment(50, 20)), 120
    indices = ascending(draw, segments, 1)
    length = (int(position_bits(code, indices, None, segments)) + 7) // 8
    form = replace(WireFormat.of(Payload(None, indices, segments)), position_code=code, announced_position_bytes=length)
    refused = 0
    for damage in range(200):
        data = torch.empty(2 * form.num_bytes, dtype=torch.uint8)
        form.blank(data)
        form.pack(None, indices[0], data)
        hit = draw.integers(0, length, 1 + damage % 3)
        data[hit] = torch.from_numpy(draw.integers(0, 256, len(hit), dtype=np.uint8))
        try:
            arrived = form.unpack(data.unsqueeze(0), ["a rank"], CPU).indices
        except ClusterError as error:
            assert "outside 0..1049" in str(error)
            refused += 1
            continue
        assert arrived.shape == (1, k) and arrived.min() >= 0 and arrived.max() < 1050
    assert refused > 10 or code == "log2"


def test_payloads_too_large_for_the_header_are_refused(monkeypatch):
    monkeypatch.setattr("sasg.cluster.wire.packed_bits", lambda *_: (torch.tensor([2**32]), torch.tensor([1])))
    with pytest.raises(UserError, match=r"cluster.wire=packed: .* use cluster.wire=plain"):
        WireFormat.of_positions(1, 10, "packed").headers(torch.zeros(1, 1, dtype=torch.int64), None)


@pytest.mark.parametrize("num", [1, 5, 8, 40])
def test_short_messages_whose_bytes_are_all_ones_are_taken(num):
    """A code of one bit, say, whose symbols end the message."""
    payload = Payload(None, torch.arange(num).unsqueeze(0), (Segment(num, num),))
    (form,) = assert_arrives(payload, "packed")
    assert form.num_bytes <= 8
    assert int(packed_bits(payload.indices, None, payload.segments)[0]) == 8 * form.num_bytes
