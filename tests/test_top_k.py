"""Exact top-k: the same set as a stable sort, ties to the lowest index."""

import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.parts.compressors import TopK
from sasg.algorithms.parts.feedback import ErrorMemory
from sasg.algorithms.parts.top_k import TopKSelector
from sasg.cluster import Segment, SimulatedCluster
from sasg.gradients.engines import DenseGradients
from sasg.gradients.forms import FactoredGradients, Factors
from sasg.kernels import scan

SEGMENTS = (Segment(90_000, 900), Segment(512, 5), Segment(67_000, 1), Segment(10, 10), Segment(3, 1))


def by_stable_sort(vectors, segments):
    columns, start = [], 0
    for s in segments:
        order = np.argsort(-np.abs(vectors[:, start : start + s.size]), axis=1, kind="stable")
        columns.append(np.sort(order[:, : s.kept], axis=1) + start)
        start += s.size
    return np.concatenate(columns, axis=1)


def cases():
    generator = np.random.default_rng(0)
    normal = generator.standard_normal((4, sum(s.size for s in SEGMENTS)))
    yield "normal", normal
    yield "heavy ties", np.round(normal * 2) / 2
    yield "all equal", np.full_like(normal, -1.5)
    yield "zeros", np.zeros_like(normal)
    yield "few nonzero", np.where(generator.random(normal.shape) < 1e-3, normal, 0.0)
    yield "heavy tails", np.sign(normal) * np.exp(6 * normal)
    blocks = np.repeat(generator.standard_normal((4, normal.shape[1] // 50 + 1)), 50, axis=1)[:, : normal.shape[1]]
    yield "equal neighbours", blocks
    sampled = np.arange(normal.shape[1]) % (101 * 16) < 16  # in the first segment
    yield "hidden from the sample", np.where(sampled, 0.0, normal)
    yield "seen by the sample", np.where(sampled, 100.0, normal)
    yield "infinite", np.where(np.arange(normal.shape[1]) % 997 == 0, np.inf, normal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name, array", list(cases()), ids=[name for name, _ in cases()])
def test_equals_a_stable_sort(name, array, dtype):
    vectors = torch.from_numpy(array).to(dtype)
    values, indices = TopKSelector(SEGMENTS)(vectors, None)
    assert np.array_equal(indices.numpy(), by_stable_sort(vectors.numpy(), SEGMENTS))
    assert torch.equal(values, vectors.gather(1, indices))


def test_only_rows_that_send_are_looked_at():
    vectors = torch.randn(3, sum(s.size for s in SEGMENTS))
    select = TopKSelector(SEGMENTS)
    everyone = select(vectors, None)[1]
    some = select(vectors, torch.tensor([False, True, False]))[1]
    assert torch.equal(some[1], everyone[1])
    none = select(vectors, torch.zeros(3, dtype=torch.bool))
    assert none[0].shape == none[1].shape == everyone.shape


@pytest.mark.parametrize("numba", [True, False])
def test_a_diverging_run_does_not_stop_here(numba, request, monkeypatch):
    if not numba:
        monkeypatch.setattr("sasg.kernels.scan", request.getfixturevalue("plain"))
    vectors = torch.randn(2, sum(s.size for s in SEGMENTS))
    vectors[1, :1000] = torch.nan  # more than are kept
    vectors[1, [90_100, 100_000]] = torch.nan
    vectors[1, 70_000] = torch.inf
    indices = TopKSelector(SEGMENTS)(vectors, None)[1]
    vectors.nan_to_num_(nan=torch.inf, posinf=torch.inf)
    assert np.array_equal(indices.numpy(), by_stable_sort(vectors.numpy(), SEGMENTS))


def test_some_entries_that_are_no_numbers_count_as_the_largest():
    vectors = torch.randn(2, sum(s.size for s in SEGMENTS))
    vectors[1, [90_007, 90_100]] = torch.nan  # in a segment that keeps more than these
    indices = TopKSelector(SEGMENTS)(vectors, None)[1]
    vectors[1, [90_007, 90_100]] = torch.inf
    assert np.array_equal(indices.numpy(), by_stable_sort(vectors.numpy(), SEGMENTS))


def test_an_entry_that_is_no_number_beside_a_tie():
    (indices,) = TopKSelector((Segment(5, 3),))(torch.tensor([[torch.nan, 5.0, 3.0, 3.0, 1.0]]), None)[1]
    assert indices.tolist() == [0, 1, 2]


@pytest.fixture
def plain(monkeypatch):
    """The functions of `scan` as they are where numba is not installed."""
    monkeypatch.setitem(sys.modules, "numba", None)  # an import fails
    functions = SimpleNamespace(**runpy.run_path(scan.__file__))
    assert not functions.MAX_TERMS and not hasattr(functions.take, "py_func") and hasattr(scan.take, "py_func")
    return functions


@pytest.mark.parametrize("name, array", list(cases()), ids=[name for name, _ in cases()])
def test_the_scan_is_the_same_without_numba(name, array, plain):
    row = np.ascontiguousarray(array[0, :-3])
    left, right = np.empty((0, -(-len(row) // 4099))), np.empty((0, 4099))  # the last line is shorter
    found = []
    for functions in (plain, scan):
        sample = np.empty(scan.sample_size(len(row)))
        assert functions.sample(0)(row, left, right, sample) == len(sample)
        assert np.isin(sample, np.abs(row)).all()
        positions, magnitudes, number = at_least(functions, row, left, right, 1.0)
        assert np.array_equal(positions, np.flatnonzero(np.abs(row) >= 1.0))
        assert np.array_equal(magnitudes, np.abs(row[positions]))
        found.append([positions])
        for kept in {1, number // 2, number} if number > 1 else ():
            taken = row.copy()
            chosen, values = np.zeros(kept, dtype=np.int64), np.zeros(kept)
            last = np.partition(magnitudes, number - kept)[number - kept]
            functions.take(taken, positions, magnitudes, last, True, chosen, values)
            assert np.array_equal(np.flatnonzero(taken != row), chosen[values != 0])
            assert np.array_equal(values, row[chosen])
            found[-1].append(chosen)
    assert all(map(np.array_equal, *found)) and len(found[0]) == len(found[1])


def at_least(functions, row, left, right, threshold):
    """What it writes, and how many; with buffers full of something else."""
    size = -(-right.shape[1] // 8) * 8
    mask, nonzero = np.full(size, 255, dtype=np.uint8), np.full(size // 8, -7)
    positions, magnitudes = np.full(len(row), -7), np.full_like(row, -7)
    number = functions.at_least(len(left))(row, left, right, threshold, mask, nonzero, positions, magnitudes)
    return positions[:number], magnitudes[:number], number


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_terms, lines, width", [(1, 800, 101), (3, 10_000, 7), (10, 113, 784), (12, 40, 5003)])
def test_a_product_is_added_while_a_row_is_read(num_terms, lines, width, dtype):
    generator = np.random.default_rng(1)
    left, right = (generator.standard_normal((num_terms, n)).astype(dtype) for n in (lines, width))
    before = generator.standard_normal(lines * width).astype(dtype)
    expected = before + (left.T.astype(np.float64) @ right).ravel()
    row = before.copy()
    sample = np.full(scan.sample_size(len(row)), np.nan, dtype)
    sampled = sample[: scan.sample(num_terms)(row, left, right, sample)]
    assert np.array_equal(row, before) and len(sampled) > len(row) / 400
    positions, magnitudes, _ = at_least(scan, row, left, right, dtype(2))
    np.testing.assert_allclose(row, expected, rtol=0, atol=40 * np.finfo(dtype).eps * num_terms)
    assert np.array_equal(positions, np.flatnonzero(np.abs(row) >= 2))
    assert np.array_equal(magnitudes, np.abs(row[positions]))
    assert np.isin(sampled, np.abs(row)).all()


@pytest.mark.parametrize("scope", ["tensor", "vector"])
@pytest.mark.parametrize("batch", [5, 20])  # products that are added here, and that are not
def test_an_error_memory_takes_the_same_from_products_as_from_gradients(batch, scope):
    generator = torch.Generator().manual_seed(2)
    x, delta = (torch.randn(3, batch, n, generator=generator) for n in (300, 250))
    gradients = FactoredGradients([Factors(x, delta, 0, 75_000)], 75_250)
    sent, step_size = torch.tensor([True, False, True]), torch.tensor(0.1)
    rows, uploads = [], []
    for given in (gradients, DenseGradients(gradients.dense())):
        compressor, feedback = TopK(0.01, scope), ErrorMemory()
        cpu = torch.device("cpu")
        workspace = Workspace(((250, 300), (250,)), SimulatedCluster(3, cpu), cpu, x.dtype, 1)
        for part in (compressor, feedback):
            part.setup(workspace)
        for _ in range(3):
            payload = feedback(given, step_size, compressor, sent)
        rows.append(feedback.memory)
        uploads.append(payload)
    own, others = uploads
    assert torch.equal(own.indices, others.indices)
    torch.testing.assert_close(own.values, others.values)
    torch.testing.assert_close(*rows)
    assert not rows[0][1].any() and not rows[0][0][own.indices[0]].any() and rows[0][0].any()
