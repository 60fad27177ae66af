"""The four methods as published code writes them: one worker after another, one tensor after another.

Autograd on each worker's mini-batch, `torch.topk` on each tensor, dense masked uploads, models copied where a worker
needs an older one. Kept to measure against; the results are those of the suite up to rounding and ties.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PublishedLoop:
    """SGD, Sparse, LASG or SASG with M workers on one shared model; `reference` preset, fixed step size."""

    def __init__(self, model: nn.Module, method: str, num_workers: int, step_size: float, alpha: float, max_delay: int):
        self.model, self.num_workers, self.step_size, self.max_delay = model, num_workers, step_size, max_delay
        self.sparse, self.lazy = method in ("sparse", "sasg"), method in ("lasg", "sasg")
        self.alpha = alpha / step_size
        self.iteration = 0
        self.rounds = 0
        self.losses = [0.0] * num_workers  # of the last iteration
        self.differences: list[float] = []  # squared norms of the last D - 1 updates
        zeros = [torch.zeros_like(p) for p in model.parameters()]
        self.memory = [copy.deepcopy(zeros) for _ in range(num_workers)]
        self.last_models = [copy.deepcopy(model) for _ in range(num_workers)] if self.lazy else []
        self.last_uploads = [copy.deepcopy(zeros) for _ in range(num_workers)]
        self.delay = [0] * num_workers

    def step(self, x: Tensor, y: Tensor) -> list[bool]:
        """One iteration on x [M, B, ...], y [M, B]; who uploaded."""
        total = [torch.zeros_like(p) for p in self.model.parameters()]
        sent = []
        for m in range(self.num_workers):
            gradients, self.losses[m] = _gradients(self.model, x[m], y[m])
            sent.append(not self.lazy or self._triggers(m, gradients, x[m], y[m]))
            if sent[m]:
                self.last_uploads[m] = self._compress(m, gradients)
                self.rounds += 1
            for accumulated, upload in zip(total, self.last_uploads[m]):
                accumulated += upload
        squared = 0.0
        with torch.no_grad():
            for p, update in zip(self.model.parameters(), total):
                p -= update
                squared += float((update**2).sum())
        self.differences = [*self.differences, squared][-(self.max_delay - 1) :]
        self.iteration += 1
        return sent

    def _triggers(self, m: int, gradients: list[Tensor], x: Tensor, y: Tensor) -> bool:
        old, _ = _gradients(self.last_models[m], x, y)
        difference = sum(float(((g - o) ** 2).sum()) for g, o in zip(gradients, old))
        first = self.iteration < self.max_delay
        threshold = self.alpha * sum(self.differences) / self.num_workers**2
        if first or self.delay[m] > self.max_delay or difference > threshold:
            self.delay[m] = 0 if first else 1
            self.last_models[m].load_state_dict(self.model.state_dict())
            return True
        self.delay[m] += 1
        return False

    def _compress(self, m: int, gradients: list[Tensor]) -> list[Tensor]:
        uploads = []
        for i, gradient in enumerate(gradients):
            upload = self.step_size * gradient
            if self.sparse:
                corrected = upload + self.memory[m][i]
                flat = corrected.view(-1)
                _, indices = torch.topk(flat.abs(), max(1, int(0.01 * flat.numel())))
                upload = torch.zeros_like(flat)
                upload[indices] = flat[indices]
                upload = upload.view_as(corrected)
                self.memory[m][i] = corrected - upload
            uploads.append(upload)
        return uploads


def _gradients(model: nn.Module, x: Tensor, y: Tensor) -> tuple[list[Tensor], float]:
    """With the loss."""
    model.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return [p.grad.clone() for p in model.parameters()], loss.item()
