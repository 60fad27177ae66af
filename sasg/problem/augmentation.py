"""Random crop, flip and rotation, and normalisation, of whole batches on any device.

The order is torchvision's (crop, flip, rotation, normalise). The three random steps only move pixels, so they are one
gather by composed integer coordinates. Their parameters are drawn and rounded to integers on the CPU: every device
moves exactly the same pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sasg import randomness
from sasg.problem.datasets import Source
from sasg.randomness import Purpose

ONE = 1 << 16  # rotations are in 16.16 fixed point, as in Pillow


class Augmentation:
    """Prepares inputs [*shape], e.g. images [C, H, W], of any of `sources`; steps that no source asks for cost nothing.

    Inputs that are no images, but features or characters, are of sources that ask for none.
    """

    def __init__(
        self, sources: Sequence[Source], shape: Sequence[int], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.sources = tuple(sources)
        self.height, self.width = (1, *shape)[-2:]
        self.dtype = dtype
        self.rotates = any(source.rotation for source in sources)
        self.moves = any(source.is_augmented for source in sources)
        # Normalisation is image * scale + shift, computed in float32 at least.
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        mean = torch.tensor([source.mean for source in sources], dtype=torch.float64)
        std = torch.tensor([source.std for source in sources], dtype=torch.float64)
        self.scale = (1 / (255 * std))[:, :, None, None].to(device, wide)  # [S, C, 1, 1]
        self.shift = (-mean / std)[:, :, None, None].to(device, wide)
        self.rows = torch.arange(self.height, device=device, dtype=torch.int32).view(1, -1, 1)
        self.columns = torch.arange(self.width, device=device, dtype=torch.int32).view(1, 1, -1)

    def draw(self, seed: int, worker: int, epoch: int, sources: np.ndarray) -> np.ndarray:
        """Parameters for a worker's images in the order of the epoch, whose sources are `sources` [n].

        Returns int32 [n, 0] (nothing moves), [n, 3] (row offset, column offset, flip) or [n, 7] (and the rotation).
        """
        n = len(sources)
        if not self.moves:
            return np.zeros((n, 0), dtype=np.int32)
        # Always four numbers per image, so that switching one step on or off leaves the others as they are.
        u = randomness.uniform(seed, Purpose.AUGMENT, worker, epoch, count=4 * n).reshape(n, 4).T
        steps = [(source.crop, source.flip, source.rotation) for source in self.sources]
        crop, flip, rotation = (np.array(step)[sources] for step in zip(*steps, strict=True))
        offsets = [np.floor(number * (2 * crop + 1)) - crop for number in u[:2]]
        parameters = [*offsets, flip & (u[2] < 0.5)]
        if self.rotates:
            parameters += rotation_matrix((2 * u[3] - 1) * rotation, self.height, self.width)
        return np.stack(parameters, axis=1).astype(np.int32)

    def prepare(self, images: Tensor, sources: Tensor, draws: Tensor | None = None) -> Tensor:
        """images uint8 [n, C, H, W], sources int64 [n], draws as from `draw` or None (evaluation) -> [n, C, H, W].

        Features, which are real, and characters, which are int64, stay what they are. Never waits for the device and
        has no data-dependent shapes, so it can be captured in a CUDA graph.
        """
        if images.dtype != torch.uint8:
            return images.to(self.dtype) if images.is_floating_point() else images
        if self.moves and draws is not None:
            images = self._move(images, draws)
        several = len(self.sources) > 1
        scale = self.scale.index_select(0, sources) if several else self.scale
        shift = self.shift.index_select(0, sources) if several else self.shift
        return images.to(scale.dtype).mul_(scale).add_(shift).to(self.dtype)

    def _move(self, images: Tensor, draws: Tensor) -> Tensor:
        """Every pixel from its source, found step by step from the last to the first; zero where there is none."""
        n, channels = images.shape[:2]
        columns = draws.view(n, -1, 1, 1).unbind(1)
        y, x = self.rows, self.columns
        inside = None
        if self.rotates:
            cos, sin, x0, y0 = columns[3:]
            y, x = (y0 - sin * x + cos * y) >> 16, (x0 + cos * x + sin * y) >> 16
            inside = self._inside(y, x)
        offset_y, offset_x, flip = columns[:3]
        x = torch.where(flip != 0, self.width - 1 - x, x) + offset_x
        y = y + offset_y
        inside = self._inside(y, x) if inside is None else inside & self._inside(y, x)
        index = ((y * self.width + x) * inside).long().view(n, 1, -1).expand(-1, channels, -1)
        moved = images.view(n, channels, -1).gather(2, index).view_as(images)
        return moved.mul_(inside.unsqueeze(1))

    def _inside(self, y: Tensor, x: Tensor) -> Tensor:
        return ((y >= 0) & (y < self.height)) & ((x >= 0) & (x < self.width))


def rotation_matrix(degrees: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Pillow's inverse matrix of a counter-clockwise rotation about the centre: cos, sin, x0, y0 in fixed point.

    Output pixel (x, y) comes from column (x0 + cos x + sin y) >> 16 and row (y0 - sin x + cos y) >> 16.
    """
    radians = -np.radians(degrees)
    cos, sin = np.round(np.cos(radians), 15), np.round(np.sin(radians), 15)
    # From the pixel's centre (+ 0.5) relative to the image's centre, and back.
    x, y = 0.5 - width / 2, 0.5 - height / 2
    x0, y0 = cos * x + sin * y + width / 2, -sin * x + cos * y + height / 2
    return [np.floor(value * ONE + 0.5) for value in (cos, sin, x0, y0)]
