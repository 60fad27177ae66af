"""Models: factories `f(image_shape (C, H, W), num_classes, **options) -> nn.Module`, logits [n, num_classes].

Of text, `f(context, num_characters, **options)`: characters int64 [n, T] -> logits [n, T, num_characters] of each
place's next one, from those up to it alone.

Only standard layers: the gradient engines exchange Linear, Conv2d and BatchNorm2d modules for worker-batched ones.
"""

from itertools import pairwise
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from sasg.errors import UserError


def fc(image_shape: tuple[int, int, int], num_classes: int, hidden: tuple[int, ...] = (512,)) -> nn.Module:
    """Fully connected with ReLU; 784-512-10 (d = 407,050) on MNIST."""
    widths = [prod(image_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))


def linear(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """One weight per feature and output, no bias, from zero: what the sum objectives are made for."""
    layer = nn.Linear(prod(image_shape), num_classes, bias=False)
    nn.init.zeros_(layer.weight)
    return nn.Sequential(nn.Flatten(), layer)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016, figure 2), which is projected where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet18 for small images: 3x3 stem, no max-pool; d = 11,173,962 with width 64, 3 channels and 10 classes."""

    def __init__(self, channels_in: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks = []
        channels = width
        for stage in range(4):
            stage_channels = width * 2**stage
            blocks.append(BasicBlock(channels, stage_channels, stride=1 if stage == 0 else 2))
            blocks.append(BasicBlock(stage_channels, stage_channels, stride=1))
            channels = stage_channels
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def resnet18(image_shape: tuple[int, int, int], num_classes: int, width: int = 64) -> nn.Module:
    """The usual ResNet18 of the CIFAR literature; any image size and number of channels."""
    return ResNet18(image_shape[0], num_classes, width)


class TransformerBlock(nn.Module):
    """Causal self-attention and a perceptron of four times the width, each after a LayerNorm, beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.attention = nn.Linear(width, 3 * width, bias=False)  # queries, keys and values
        self.project1 = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.expand = nn.Linear(width, 4 * width, bias=False)
        self.project2 = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        of_heads = self.attention(self.norm1(x)).view(n, length, 3, self.heads, width // self.heads)
        queries, keys, values = of_heads.permute(2, 0, 3, 1, 4).unbind(0)  # each [n, heads, T, width / heads]
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.project1(mixed.transpose(1, 2).reshape(n, length, width))
        return x + self.project2(F.gelu(self.expand(self.norm2(x))))


class GPT(nn.Module):
    """The transformer of GPT-2 (Radford et al., 2019) without biases and without dropout, with its initialisation.

    Weights are normal with deviation 0.02; those that add to the shortcuts are smaller, as there are 2 * layers.
    """

    def __init__(self, context: int, num_characters: int, layers: int, heads: int, width: int, tied: bool) -> None:
        super().__init__()
        self.characters = nn.Embedding(num_characters, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, bias=False)
        self.output = nn.Linear(width, num_characters, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5 if ".project" in name else 0.02)
        if tied:
            self.output.weight = self.characters.weight

    def forward(self, x: Tensor) -> Tensor:
        places = self.places.weight[: x.shape[1]]
        return self.output(self.norm(self.blocks(self.characters(x) + places)))


def gpt(
    context: int, num_characters: int, layers: int = 4, heads: int = 4, width: int = 128, tied: bool = True
) -> nn.Module:
    """A small GPT; d = 804,096 with windows of 64 of 65 characters.

    tied: the weights of the output are the characters' embeddings.
    """
    for key, value in (("layers", layers), ("heads", heads), ("width", width)):
        if value < 1:
            raise UserError(f"{key}={value}: must be at least 1")
    if width % heads:
        raise UserError(f"heads={heads}: must divide width={width}")
    return GPT(context, num_characters, layers, heads, width, tied)
