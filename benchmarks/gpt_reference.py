"""Is the GPT itself right? Plain PyTorch, one process, 2,000 steps of AdamW on 12 windows of tiny Shakespeare each.

    python benchmarks/gpt_reference.py data/input.txt

The model is that of conf/model/gpt.yaml; nothing else of the suite is used but its windows. AdamW with beta 0.9 and
0.99, weight decay 0.1 on matrices, gradients clipped at norm 1; 100 steps of warm-up to 1e-3, then a cosine to 1e-4:
the set-up for a CPU in nanoGPT's README, which reports a validation loss of 1.88 there.
"""

import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sasg.problem.models import gpt
from sasg.problem.objectives import IGNORED
from sasg.problem.text import Windows, shakespeare

STEPS, BATCH, WARMUP, LARGEST, SMALLEST = 2000, 12, 100, 1e-3, 1e-4


def step_size(step: int) -> float:
    if step < WARMUP:
        return LARGEST * (step + 1) / WARMUP
    return SMALLEST + (LARGEST - SMALLEST) * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))) / 2


def loss_of(model: torch.nn.Module, x: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=IGNORED, reduction=reduction)


@torch.no_grad()
def validation_loss(model: torch.nn.Module, test: Windows) -> float:
    total, count = 0.0, 0
    for index in torch.arange(len(test)).split(256):
        x, y = test.raw(index)
        total += float(loss_of(model, x, y, "sum"))
        count += int((y != IGNORED).sum())
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="input.txt of tiny Shakespeare")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    data = shakespeare(arguments.file.parent, download=False, context=64)
    model = gpt(64, data.num_classes)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    print(f"d = {sum(p.numel() for p in model.parameters()):,}, seed {arguments.seed}")
    started = time.perf_counter()
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = step_size(step)
        mean = loss_of(model, *data.train.raw(torch.randint(len(data.train), (BATCH,))))
        optimiser.zero_grad()
        mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % 250 == 0:
            seconds = time.perf_counter() - started
            loss = validation_loss(model, data.test)
            print(f"step {step + 1}: validation loss {loss:.4f}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
