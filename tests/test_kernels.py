"""The Triton kernels' logic without a GPU: in Triton's interpreter, chosen at import, so in processes of their own."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find_spec("triton"), reason="needs triton")]

TOP_K = """
import torch
import sasg.kernels.triton_top_k as kernels
from sasg.algorithms.parts.top_k import TopKSelector
from sasg.cluster import Segment

kernels.TILE, kernels.LINE, kernels.SEARCHED, kernels.CHUNK = 64, 16, 256, 16
segments = (Segment(300, 7), Segment(5, 1), Segment(10, 10))
on_cpu = TopKSelector(segments)
on_gpu = kernels.TritonTopK([(s.size, s.kept) for s in segments], 2, torch.device("cpu"))
start = torch.randn(2, 315, generator=torch.Generator().manual_seed(0))
sent = torch.tensor([True, False])
for vectors, flags in ((start, None), (0.95 * start, sent), (0.1 * start, None), ((2 * start).round(), None)):
    for found, expected in zip(on_gpu(vectors, flags), on_cpu(vectors, flags)):
        rows = slice(None) if flags is None else slice(1)
        assert torch.equal(found[rows], expected[rows])
"""

ENGINE = """
import torch
import torch.nn.functional as F
from torch import nn
import sasg.kernels.convolution as kernels
from sasg.gradients.engines import make_engine
from sasg.gradients.triton_engine import TritonEngine

torch.backends.cudnn.allow_tf32 = False
kernels._small_blocks = lambda n, k: {"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16}
torch.manual_seed(0)
norm = nn.BatchNorm2d
first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), norm(16), nn.ReLU())
second = nn.Sequential(nn.Conv2d(16, 16, 3, 2, padding=1, bias=False), norm(16), nn.ReLU())
model = nn.Sequential(first, second, nn.Flatten(), nn.Linear(64, 3))
loss = lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none")
reference, engine = make_engine("loop", model.double(), loss), TritonEngine(model.float(), loss)
d, s = reference.layout.size, reference.statistics.size
x, y = torch.randn(2, 4, 3, 4, 4), torch.randint(0, 3, (2, 4))
shared = torch.cat([p.detach().flatten() for p in model.parameters()])
results = []
for parameters in (shared, shared.repeat(2, 1), shared + 0.1 * torch.randn(2, d)):
    expected, found = [torch.zeros(2, n).double() for n in (d, s)], [torch.zeros(2, n) for n in (d, s)]
    reference.per_worker(parameters.double(), x.double(), y, *expected)
    engine.per_worker(parameters, x, y, *found)
    results.append(found[0])
    for ours, theirs in zip(found, expected):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()
assert torch.equal(results[0], results[1])  # equal parameters, equal bits
"""


@pytest.mark.parametrize("program", [TOP_K, ENGINE], ids=["top_k", "engine"])
def test_kernels(program):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
