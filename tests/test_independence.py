"""A worker's bits do not depend on which other workers its process holds, whatever the BLAS underneath does.

BLAS libraries choose how they sum by the shapes that they are given, and each does so in its own way. Here every
product is made to depend on its shapes as much as it may, so that what holds here holds for all of them.
"""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from math import prod
from pathlib import Path
from zlib import crc32

import pytest
import torch
from ranks import configuration
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.methods.power_sgd import PowerSGD
from sasg.algorithms.parts.draws import number_streams
from sasg.algorithms.parts.qsgd import RandomRounding
from sasg.algorithms.parts.quantisers import LogUniformGroups
from sasg.cluster import SimulatedCluster
from sasg.gradients.engines import make_engine
from sasg.kernels.rows import add_rows_, squared_distances, sum_in_order
from sasg.problem.building import load_dataset
from sasg.problem.models import fc
from sasg.problem.objectives import CrossEntropy
from sasg.training.trainer import Trainer

aten = torch.ops.aten
CPU = torch.device("cpu")
PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.mv, aten.dot, aten.convolution, aten.convolution_backward}
TYPES = [torch.float32, torch.float64]
W, B, IN, CLASSES = 7, 5, 37, 6


class ProductsByShape(TorchDispatchMode):
    """Multiplies what a product gives by 1 + eps * (a number that depends on the shapes of its operands)."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket in PRODUCTS:
            shapes = [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]
            for part in result if isinstance(result, tuple) else [result]:
                if part is not None:
                    part.mul_(1 + torch.finfo(part.dtype).eps * (crc32(str(shapes).encode()) % 97))
        return result


@pytest.fixture(params=["this", "by_shape"])
def products(request):
    if request.param == "this":
        yield
    else:
        with ProductsByShape():
            yield


def mini_batches(dtype, batch=B):
    torch.manual_seed(3)
    x = torch.randn(W, batch, 1, 1, IN, dtype=dtype)
    x[..., [4, 9, 30]] = x[..., [4, 4, 4]]  # equal pixels: equal entries of the gradient
    return x, torch.randint(0, CLASSES, (W, batch))


def some_workers():
    """Contiguous parts of the workers, and each alone."""
    return [(0, W), (0, 3), (3, W), *pairwise(range(W + 1))]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("batch", [1, B, 17])  # also more terms than are compiled
@pytest.mark.parametrize("gradients", ["batched", "loop"])
def test_rows_do_not_depend_on_each_other(products, gradients, batch, dtype):
    model = fc((1, 1, IN), CLASSES, hidden=(70, 33)).to(dtype)
    engine = make_engine(gradients, model, CrossEntropy().losses)
    x, y = mini_batches(dtype, batch)
    shared = nn.utils.parameters_to_vector(model.parameters()).detach()
    past = shared + 1e-3 * torch.randn(3, len(shared), dtype=dtype)
    rows = torch.tensor([0, 2, 2, 1, 0, 1, 2])

    def passes(a, b):
        """Everything that methods ask for, of the workers a to b."""
        n, found = b - a, []
        for parameters in (shared, past[rows[a:b]].clone()):
            out, none = torch.empty(n, len(shared), dtype=dtype), torch.empty(n, 0, dtype=dtype)
            found += [engine.per_worker(parameters, x[a:b], y[a:b], out, none), out]
        if engine.can_factor(x):
            loss, mine = engine.factored(shared, x[a:b], y[a:b])
            others = engine.factored(past, x[a:b], y[a:b], rows[a:b])[1]
            memory = torch.ones(n, len(shared), dtype=dtype)
            mine.add_(memory, torch.tensor(0.3, dtype=dtype), None)
            found += [loss, mine.dense(), others.dense(), mine.squared_distance(others), memory]
        return found

    together = passes(0, W)
    for a, b in some_workers():
        for number, (found, expected) in enumerate(zip(passes(a, b), together, strict=True)):
            assert torch.equal(found, expected[a:b]), (number, a, b)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_equal_pixels_stay_ties(dtype):
    pytest.importorskip("numba")
    model = fc((1, 1, IN), CLASSES, hidden=(70,)).to(dtype)
    engine = make_engine("batched", model, CrossEntropy().losses)
    x, y = mini_batches(dtype)
    with ProductsByShape():
        gradients = engine.factored(nn.utils.parameters_to_vector(model.parameters()).detach(), x, y)[1].dense()
    first = gradients[:, : 70 * IN].view(W, 70, IN)
    assert torch.equal(first[..., 4], first[..., 9])
    assert torch.equal(first[..., 4], first[..., 30])
    assert first.abs().sum() > 0


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("length", [1, 3, 15, 16, 63, 1000, 4099])
def test_operations_on_rows_do_not_depend_on_each_other(length, dtype):
    torch.manual_seed(1)
    rows, others = torch.randn(2, W, length, dtype=dtype)

    def results(a, b):
        mine, theirs = rows[a:b].clone(), others[a:b].clone()
        added = mine.clone()
        add_rows_(added, theirs, 0.3)
        norms = RandomRounding(3)
        norms.draws = _Halves()
        return [
            added,
            squared_distances(mine, theirs),
            (mine - theirs).square_().sum(1),
            mine.mean(1),
            mine.view(b - a, 1, length).sum(1),
            theirs.view(b - a, length, 1).sum((1, 2)),
            *norms(mine),
            *LogUniformGroups(4)(mine),
        ]

    together = results(0, W)
    for a, b in some_workers():
        for number, (found, expected) in enumerate(zip(results(a, b), together, strict=True)):
            assert torch.equal(found, expected[a:b]), (number, a, b)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("rank", [1, 3])
def test_operations_of_power_sgd_do_not_depend_on_the_other_rows(products, rank, dtype):
    shapes = ((7,), (33, 29), (13,), (30, 11, 5))
    torch.manual_seed(2)
    gradients = torch.randn(W, sum(map(prod, shapes)), dtype=dtype)

    def factors(a, b):
        """What the workers a to b upload in both exchanges."""
        algorithm = PowerSGD(rank)
        number_streams(algorithm)
        algorithm.setup(Workspace(shapes, _Held((a, b), W, []), CPU, dtype, seed=3))
        algorithm.memory.copy_(gradients[a:b])
        left = algorithm._left_factors().values
        return [left, algorithm._right_factors(torch.arange(left.shape[1]).to(dtype).cos()).values]

    together = factors(0, W)
    for a, b in some_workers():
        for number, (found, expected) in enumerate(zip(factors(a, b), together, strict=True)):
            assert torch.equal(found, expected[a:b]), (number, a, b)


class _Halves:
    """Draws that are always one half."""

    def in_pieces(self, count):
        return [(slice(count), 0.5)]


@pytest.mark.parametrize("num_rows", [1, 2, 10, 40])
def test_the_server_adds_in_worker_order(num_rows):
    rows = torch.randn(num_rows, 70_000)
    one_by_one = torch.zeros(70_000)
    for row in rows:
        one_by_one += row
    assert torch.equal(sum_in_order(rows), one_by_one)


class _Held(SimulatedCluster):
    """Some workers of a simulated cluster, which are told what the server returned there."""

    def __init__(self, workers, num_workers, updates):
        super().__init__(num_workers, CPU)
        self.workers = range(*workers)
        self.is_server = False
        self._updates = iter(updates)

    def exchange(self, payload, sent, server, reply=None):
        return next(self._updates)


class _Recorded(SimulatedCluster):
    def __init__(self, num_workers):
        super().__init__(num_workers, CPU)
        self.updates = []

    def exchange(self, payload, sent, server, reply=None):
        self.updates.append(super().exchange(payload, sent, server).clone())
        return self.updates[-1]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("method", ["sparse", "lasg", "sasg", "sasg_paper"])
def test_a_run_of_some_workers_has_the_bits_of_the_run_of_all(products, method, dtype):
    precision = "fp64" if dtype == torch.float64 else "fp32"
    config = replace(configuration(method, evaluate_every=30), precision=precision)
    dataset = load_dataset(config)
    whole = Trainer(config, dataset, _Recorded(10), dtype)
    decisions = []
    for _ in range(30):
        whole.run_iteration()
        decisions.append(None if whole.algorithm.sent is None else whole.algorithm.sent.clone())
    for workers in ((0, 3), (3, 10), (6, 7)):
        part = Trainer(config, dataset, _Held(workers, 10, whole.cluster.updates), dtype)
        for sent in decisions:
            part.run_iteration()
            assert sent is None or torch.equal(part.algorithm.sent, sent[slice(*workers)])
        assert torch.equal(part.problem.parameters, whole.problem.parameters)
        for name, tensor in part.algorithm.state("worker").items():
            assert torch.equal(tensor, whole.algorithm.state("worker")[name][slice(*workers)]), name
        assert torch.equal(part.records.loss, whole.records.loss[slice(*workers)])


PATHS = {
    "COMPATIBLE": {"MKL_CBWR": "COMPATIBLE"},
    "AVX2": {"MKL_CBWR": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "scalar": {"ATEN_CPU_CAPABILITY": "default"},
    "without numba": {"SASG_TEST_WITHOUT_NUMBA": "1"},
    "as on AMD": {"PYTHONPATH": str(Path(__file__).parent / "as_on_amd")},
}


@pytest.mark.parametrize("path", PATHS)
def test_the_same_on_other_code_paths(path):
    """This file, in a process of its own whose libraries take another code path."""
    if "SASG_TEST_PATH" in os.environ:
        pytest.skip("this is that process")
    if path == "as on AMD" and not torch.backends.mkl.is_available():
        pytest.skip("this torch is not built with MKL")
    chosen = "rows_do_not and this and batched or operations or run_of_some and this and sasg-"
    options = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-k", chosen]
    command = [sys.executable, "-m", "pytest", *options, __file__]
    environment = {**os.environ, "SASG_TEST_PATH": path, **PATHS[path]}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
