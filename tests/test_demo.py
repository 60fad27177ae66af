"""DeMo: against a naive loop in float64, and what is known of it and of its transform."""

from itertools import pairwise
from math import cos, pi, sqrt

import numpy as np
import pytest
import torch
from naive_demo import NaiveDeMo, chunks_of
from scipy.fft import dctn
from test_companions_more import follow
from test_independence import ProductsByShape
from torch import Tensor

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.methods.demo import DeMo
from sasg.algorithms.parts.cosines import CosineChunks, largest_divisor, transform
from sasg.cluster import Payload, SimulatedCluster
from sasg.errors import UserError
from sasg.parts import build

CPU = torch.device("cpu")
ITERATIONS = 40
TYPES = [torch.float32, torch.float64]
SHAPES = ((128, 64), (70, 9), (65,), (192,), (6, 4, 3, 3), (1,), ())


def workspace(shapes, num_workers: int = 1, dtype=torch.float64) -> Workspace:
    return Workspace(tuple(shapes), SimulatedCluster(num_workers, CPU), CPU, dtype, seed=3)


# -- the transform --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_the_transform_is_the_orthonormal_cosine_transform(size):
    matrix = transform(size)
    for k in range(size):
        factor = sqrt((1 if k == 0 else 2) / size)
        expected = [factor * cos(pi * (2 * n + 1) * k / (2 * size)) for n in range(size)]
        assert matrix[k].tolist() == pytest.approx(expected, abs=1e-14)
    torch.testing.assert_close(matrix @ matrix.t(), torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-14)


DIVISORS = [(64, 64, 64), (128, 64, 64), (96, 64, 48), (65, 64, 13), (67, 64, 1), (12, 64, 12), (1, 64, 1), (256, 9, 8)]


@pytest.mark.parametrize(("number", "side", "expected"), DIVISORS)
def test_a_side_that_does_not_divide_becomes_the_largest_divisor_below_it(number, side, expected):
    assert largest_divisor(number, side) == expected


@pytest.mark.parametrize("side", [64, 5])
def test_coefficients_are_those_of_scipy_chunk_after_chunk(side):
    torch.manual_seed(0)
    space = workspace(SHAPES)
    chunks, vectors = CosineChunks(space, side), torch.randn(3, space.num_parameters, dtype=torch.float64)
    found = chunks.coefficients(vectors)
    shapes = [shape or (1,) for shape in SHAPES]
    for row, coefficients in zip(vectors, found, strict=True):
        expected = [dctn(chunk, norm="ortho") for chunk in chunks_of(row.numpy(), shapes, side)]
        flat = np.concatenate([one.ravel() for one in expected])
        np.testing.assert_allclose(coefficients.numpy(), flat, rtol=0, atol=1e-13)
        assert [one.size for one in expected] == [segment.size for segment in chunks.segments(32)]
    torch.testing.assert_close(chunks.vectors(found), vectors, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_workers_coefficients_do_not_depend_on_the_others(dtype):
    """Nor on where in memory its row begins."""
    torch.manual_seed(1)
    space = workspace(SHAPES, dtype=dtype)
    chunks, rows = CosineChunks(space, 64), torch.randn(5, space.num_parameters, dtype=dtype)
    padded = torch.empty(5, space.num_parameters + 3, dtype=dtype)
    elsewhere = padded[:, 3:].copy_(rows)
    for function in (chunks.coefficients, chunks.vectors):
        for products in (ProductsByShape, torch.no_grad):
            with products():
                whole = function(rows)
                for a, b in [(0, 2), (2, 5), *pairwise(range(6))]:
                    assert torch.equal(function(rows[a:b]), whole[a:b]), (a, b)
                    assert torch.equal(function(elsewhere[a:b]), whole[a:b]), (a, b)


# -- the method -----------------------------------------------------------------------------------

CASES = {
    "whole matrices": ("fc", {"kept": 9}),
    "small chunks": ("fc", {"side": 8, "kept": 5, "scale": 0.02}),
    "no memory": ("fc", {"decay": 0.0, "kept": 7}),
    "convolutions": ("batchnorm", {"kept": 3, "decay": 0.9}),
}
"""None uploads all of a chunk in which a gradient may be zero: what rounding leaves there has either sign."""


@pytest.mark.parametrize("case", CASES)
def test_it_equals_the_naive_loop(case):
    model, options = CASES[case]
    words = [f"algorithm.{key}={value}" for key, value in options.items()]
    trainer, naive = follow(("algorithm=demo", *words), NaiveDeMo, ITERATIONS, model, **options)
    for memory, expected in zip(trainer.algorithm.memory, naive.memories, strict=True):
        np.testing.assert_allclose(memory.numpy(), expected, rtol=0, atol=1e-10)
    assert trainer.algorithm.memory.any()
    totals, d, uploads = trainer.cluster.ledger.totals(), len(naive.parameters), 5 * ITERATIONS
    assert totals["rounds"] == uploads and totals["downlink_unicast_bits_log2"] == uploads * d  # signs
    if case == "small chunks":  # 16 of 6 x 8, two of 6, four of 5 x 6, two of 5
        assert totals["value_bits"] == uploads * 64 * 5 * (16 + 2 + 4 + 2)
        assert totals["index_bits_log2"] == uploads * 5 * (16 * 6 + 2 * 3 + 4 * 5 + 2 * 3)


class _Given:
    """An oracle whose gradients are these."""

    def __init__(self, rows: Tensor):
        self.rows = rows

    def __call__(self, parameters):
        return self

    def add_(self, target, scale, sent):
        target.add_(self.rows * scale)


def alone(shapes, num_workers: int = 1, dtype=torch.float64, **options) -> DeMo:
    """At the step size 1 / M of a server that sums, so that lr = scale."""
    algorithm = DeMo(**{"scale": 0.5, **options})
    algorithm.setup(workspace(shapes, num_workers, dtype))
    algorithm.begin_epoch(0, lambda epoch: 1 / num_workers)
    return algorithm


def step_of(algorithm: DeMo, rows: Tensor) -> Tensor:
    """What w falls by."""
    parameters = rows.new_zeros(rows.shape[1])
    algorithm.step(_Given(rows), parameters)
    return -parameters


def test_an_upload_of_a_whole_chunk_takes_32_values_and_32_positions_of_12_bits():
    algorithm = alone([(128, 64), (192,)], dtype=torch.float32)
    step_of(algorithm, torch.randn(1, 128 * 64 + 192))
    totals = algorithm.cluster.ledger.totals()
    assert totals["value_bits"] == 32 * 32 * (2 + 3)
    assert totals["index_bits_log2"] == 32 * (2 * 12 + 3 * 6)  # tensors of one axis: pieces of 64
    assert totals["value_bits"] + totals["index_bits_log2"] - 3 * 32 * (32 + 6) == 2 * 32 * (32 + 12)


@pytest.mark.parametrize("num_workers", [1, 4])
def test_where_all_coefficients_are_uploaded_it_is_the_sign_of_the_mean_gradient(num_workers):
    """And no momentum is left: what is uploaded is taken out."""
    torch.manual_seed(2)
    algorithm = alone([(12, 9), (7,)], num_workers, kept=108)
    for _ in range(3):
        rows = torch.randn(num_workers, 115, dtype=torch.float64)
        assert torch.equal(step_of(algorithm, rows), 0.5 * rows.mean(0).sign())
        assert algorithm.memory.abs().max() < 1e-14


def test_what_is_uploaded_and_what_is_kept_is_the_momentum():
    """Uploads, each decayed by its age, and the memory are the momentum of SGD: nothing is lost but by the decay."""
    torch.manual_seed(3)
    algorithm = alone([(12, 8)], 2, kept=5, decay=0.9)
    momentum, uploaded = torch.zeros(2, 2, 96, dtype=torch.float64)
    exchange = algorithm.cluster.exchange

    def seen(payload: Payload, *others):
        uploaded.mul_(0.9).add_(algorithm._chunks.vectors(payload.dense()))
        return exchange(payload, *others)

    algorithm.cluster.exchange = seen
    for _ in range(6):
        rows = torch.randn(2, 96, dtype=torch.float64)
        momentum.mul_(0.9).add_(rows, alpha=0.5)
        step_of(algorithm, rows)
        torch.testing.assert_close(uploaded + algorithm.memory, momentum, rtol=0, atol=1e-13)
    assert algorithm.memory.norm() > 0.1 and uploaded.norm() > 0.1


def wave(number: int) -> Tensor:
    """The cosine of a chunk of 16, of norm 1."""
    return transform(16)[number]


def test_a_weak_cosine_is_uploaded_when_its_momentum_is_the_largest():
    algorithm = alone([(16,)], kept=1)
    gradient = (wave(3) + 0.4 * wave(6)).unsqueeze(0)
    steps = [step_of(algorithm, gradient) for _ in range(3)]
    for step, number in zip(steps, (3, 3, 6), strict=True):
        assert torch.equal(step, 0.5 * wave(number).sign())
    left = 0.5 * transform(16) @ algorithm.memory[0]
    assert left[3] == pytest.approx(0.25) and left[6] == pytest.approx(0, abs=1e-14)


def test_a_coefficient_is_the_mean_of_those_who_uploaded_it():
    """Of three, two upload one cosine, the third another one: by three, the first would weigh twice as much."""
    rows = torch.stack([wave(3), wave(3), -1.2 * wave(6)])
    found = step_of(alone([(16,)], 3, kept=1), rows)
    expected = wave(3) - 1.2 * wave(6)
    assert torch.equal(found, 0.5 * expected.sign())
    assert not torch.equal(expected.sign(), rows.sum(0).sign())


def test_the_sign_of_zero_is_plus():
    assert torch.equal(step_of(alone([(4, 4)], kept=2), torch.zeros(1, 16)), torch.full((16,), 0.5))


def test_its_memory_keeps_the_step_size_of_its_time():
    algorithm = alone([(16,)], kept=1, decay=1.0)
    gradient = (wave(3) + 0.4 * wave(6)).unsqueeze(0)
    step_of(algorithm, gradient)
    algorithm.begin_epoch(1, lambda epoch: 0.1)
    step = step_of(algorithm, gradient)
    assert step.abs().tolist() == pytest.approx([0.05] * 16)
    assert torch.equal(step.sign(), wave(6).sign())  # 0.4 * 0.55 of the two step sizes, against 0.05


@pytest.mark.parametrize("options, says", [
    ({"scale": 0}, "scale=0.0: must be positive"),
    ({"decay": 1.5}, r"decay=1.5: must be in \[0, 1\]"),
    ({"side": 0}, "side=0: must be at least 1"),
    ({"kept": 0}, "kept=0: must be at least 1"),
])  # fmt: skip
def test_impossible_options_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        build("algorithm", {"kind": "demo", "scale": 0.01, **options}, DeMo)
