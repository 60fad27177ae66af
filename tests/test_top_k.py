"""Exact top-k: the same set as a stable sort, ties to the lowest index."""

import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sasg.algorithms import scan
from sasg.algorithms.top_k import TopKSelector
from sasg.cluster import Segment

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
    yield "hidden from a strided sample", np.where(np.arange(normal.shape[1]) % 101 == 0, 0.0, normal)
    yield "seen by a strided sample", np.where(np.arange(normal.shape[1]) % 101 == 0, 100.0, normal)
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


def test_a_diverging_run_does_not_stop_here():
    vectors = torch.randn(2, sum(s.size for s in SEGMENTS))
    vectors[1, :1000] = torch.nan
    indices = TopKSelector(SEGMENTS)(vectors, None)[1]
    assert indices.shape == (2, sum(s.kept for s in SEGMENTS))
    assert np.array_equal(indices[:1].numpy(), by_stable_sort(vectors[:1].numpy(), SEGMENTS))


def test_some_entries_that_are_no_numbers_count_as_the_largest():
    vectors = torch.randn(2, sum(s.size for s in SEGMENTS))
    vectors[1, [90_007, 90_100]] = torch.nan  # in a segment that keeps more than these
    indices = TopKSelector(SEGMENTS)(vectors, None)[1]
    vectors[1, [90_007, 90_100]] = torch.inf
    assert np.array_equal(indices.numpy(), by_stable_sort(vectors.numpy(), SEGMENTS))


def test_an_entry_that_is_no_number_beside_a_tie():
    (indices,) = TopKSelector((Segment(5, 3),))(torch.tensor([[torch.nan, 5.0, 3.0, 3.0, 1.0]]), None)[1]
    assert indices.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name, array", list(cases()), ids=[name for name, _ in cases()])
def test_the_scan_is_the_same_without_numba(name, array, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)  # an import fails
    plain = SimpleNamespace(**runpy.run_path(scan.__file__))
    assert plain.take is not scan.take and hasattr(scan.take, "py_func") and hasattr(scan.at_least, "py_func")
    found = []
    for functions in (plain, scan):
        row = np.ascontiguousarray(array[0, :-3])
        mask, positions = np.zeros(-(-len(row) // 8) * 8, dtype=np.uint8), np.empty(len(row) + 8, dtype=np.int64)
        magnitudes = np.empty(len(row))
        number = functions.at_least(row, 1.0, mask, positions, magnitudes)
        positions, magnitudes = positions[:number].copy(), magnitudes[:number].copy()
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
