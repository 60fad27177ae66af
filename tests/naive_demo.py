"""DeMo once more, from its definition alone: one worker, one chunk after another, in float64, with scipy's transforms.

Nothing of the suite is used but the mini-batches and the starting parameters that the tests hand in.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from naive import NaiveServer
from scipy.fft import dctn, idctn
from torch import Tensor


def divisor(number: int, limit: int) -> int:
    return next(n for n in range(limit, 0, -1) if number % n == 0)


def chunks_of(vector: np.ndarray, shapes: list[tuple[int, ...]], side: int) -> Iterator[np.ndarray]:
    """Views [height, width], tensor after tensor and row by row."""
    start = 0
    for shape in shapes:
        size = int(np.prod(shape))
        matrix = vector[start : start + size].reshape(shape[0] if len(shape) > 1 else 1, -1)
        start += size
        height, width = (divisor(n, side) for n in matrix.shape)
        for top in range(0, matrix.shape[0], height):
            for left in range(0, matrix.shape[1], width):
                yield matrix[top : top + height, left : left + width]


@dataclass
class NaiveDeMo(NaiveServer):
    scale: float = 0.01
    decay: float = 0.999
    side: int = 64
    kept: int = 32

    def step(self, x: Tensor, y: Tensor, epoch: int) -> None:
        num_workers = self.settings.num_workers
        shapes = [tuple(p.shape) for p in self.model.parameters()]
        if self.iteration == 0:
            self.memories = [np.zeros(len(self.parameters)) for _ in range(num_workers)]
        lr = self.settings.step_sizes[epoch] * num_workers * self.scale
        uploads = []
        for m, memory in enumerate(self.memories):
            memory *= self.decay
            memory += lr * self.gradient(self.parameters, x[m], y[m]).numpy()
            uploads.append([self._upload(chunk) for chunk in chunks_of(memory, shapes, self.side)])
        step = np.zeros(len(self.parameters))
        for chunk, *sent in zip(chunks_of(step, shapes, self.side), *uploads, strict=True):
            mean = np.zeros(chunk.shape)
            for place in {place for one in sent for place in one}:
                values = [one[place] for one in sent if place in one]
                mean[place] = sum(values) / len(values)
            chunk[:] = np.where(idctn(mean, norm="ortho") < 0, -lr, lr)
        self.parameters = self.parameters - torch.from_numpy(step)
        self.iteration += 1

    def _upload(self, chunk: np.ndarray) -> dict[tuple[int, ...], float]:
        """The largest coefficients, by their place; they are taken out of the chunk."""
        found = dctn(chunk, norm="ortho")
        order = sorted(np.ndindex(*found.shape), key=lambda place: -abs(found[place]))
        sent = {place: found[place] for place in order[: self.kept]}
        taken = np.zeros(chunk.shape)
        for place, value in sent.items():
            taken[place] = value
        chunk -= idctn(taken, norm="ortho")
        return sent
