"""Data sets of text, whose samples are windows of characters: the targets of a window are the characters that follow.

The first part of the text is for training, the rest for validation. Characters are numbered in the order of their code
points, those of the whole text.
"""

import hashlib
import os
import re
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sasg.errors import UserError
from sasg.problem.datasets import Dataset, Samples, Source
from sasg.problem.image_files import check_root
from sasg.problem.objectives import IGNORED

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # 1,115,394 bytes
FILE = "input.txt"
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Windows(Samples):
    """Windows of `context` characters, on to the next `context`, at places of a text."""

    characters: Tensor  # int64 [L]
    following: Tensor  # int64 [L], the character after each; IGNORED where none is asked for
    starts: Tensor  # int64 [N], each at most L - context
    context: int
    labels: Tensor  # int64 [N], the speaker of a window's first character
    sources: Tensor  # int64 [N], zeros

    def part(self, index: Tensor) -> "Windows":
        chosen = {name: getattr(self, name)[index] for name in ("starts", "labels", "sources")}
        return replace(self, **chosen)

    def to(self, device: torch.device | str) -> "Windows":
        moved: dict[str, Any] = {name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)}
        return replace(self, **moved)

    def raw(self, index: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(self.context, device=index.device) + self.starts.index_select(0, index).unsqueeze(1)
        flat = places.flatten()
        inputs, targets = (t.index_select(0, flat).view_as(places) for t in (self.characters, self.following))
        return inputs, targets

    @property
    def most_held_out(self) -> int:
        return (len(self) - 1) // self._side_by_side

    def held_out(self, number: int) -> tuple[Tensor, Tensor]:
        """The last ones, side by side, and those that end before: windows at random would share their characters."""
        last, step = len(self) - 1, self._side_by_side
        held = torch.arange(last - (number - 1) * step, last + 1, step)
        return held, (self.starts + self.context <= self.starts[held[0]]).nonzero().flatten()

    @property
    def _side_by_side(self) -> int:
        """From one window to the next one that shares nothing with it."""
        stride = int(self.starts[1] - self.starts[0]) if len(self) > 1 else self.context
        return -(-self.context // stride)


class TextDataset(Dataset):
    """A `Dataset` whose train and test are `Windows`; its classes are the characters."""

    @property
    def _context(self) -> int:
        assert isinstance(self.train, Windows)
        return self.train.context

    def given_to_model(self, num_outputs: int) -> dict[str, Any]:
        return {"context": self._context, "num_characters": num_outputs}

    def output_shape(self, num_outputs: int) -> tuple[int, ...]:
        return self._context, num_outputs

    def random_inputs(self, *leading: int) -> Tensor:
        shape = *leading, self._context
        return torch.randint(self.num_classes, shape, generator=torch.Generator().manual_seed(0))

    def describe_inputs(self) -> str:
        return f"{self.name}'s windows of {self._context} characters"


def shakespeare(root: Path, download: bool, context: int, stride: int = 1) -> Dataset:
    """Tiny Shakespeare: 1,003,854 characters of his plays for training, 111,540 for validation, 65 different ones.

    `input.txt` in `root`, or a download. UserError: it is not there, or another text.
    """
    path = Path(root) / FILE
    if not path.exists():
        if not download:
            raise UserError(f"{path}: is not there; put tiny Shakespeare's {FILE} there, or set data.download=true")
        fetch(path)
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise UserError(f"{path}: is not tiny Shakespeare (its SHA-256 is another); your own text is dataset=text")
    return from_text("shakespeare", content, path, context, stride, speakers)


def text(root: Path, download: bool, file: str | None, test_file: str | None, context: int, stride: int = 1) -> Dataset:
    """A text of your own, data.file=PATH, in UTF-8; its last tenth is for validation."""
    if file is None or test_file is not None:
        raise UserError("dataset=text needs data.file=PATH, and no data.test_file: its last tenth is for validation")
    path = Path(file)
    return from_text(path.stem, _read(path), path, context, stride)


def from_text(
    name: str,
    content: bytes,
    path: Path,
    context: int,
    stride: int,
    label: Callable[[str], np.ndarray] | None = None,
) -> Dataset:
    """Windows of `context` characters at every `stride`-th place, of a text that `path` names in messages.

    Training: the first 90 %. Validation: each character of the rest is predicted once, but for the first, which nothing
    precedes, in windows side by side. label: of each character [L], for shards by class.
    """
    for key, value in (("context", context), ("stride", stride)):
        if value < 1:
            raise UserError(f"{key}={value}: must be at least 1")
    try:
        whole = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not a text in UTF-8 ({error.reason} at byte {error.start})") from None
    alphabet, numbers = np.unique(np.frombuffer(whole.encode("utf-32-le"), dtype=np.uint32), return_inverse=True)
    labels = label(whole) if label else np.zeros(len(numbers), dtype=np.int64)
    split = len(numbers) * 9 // 10
    if split <= context or len(numbers) - split < 2:
        raise UserError(f"{path}: its {len(numbers):,} characters are too few for windows of {context}")
    train = _windows(numbers[:split], labels[:split], context, stride, whole_ones=True)
    test = _windows(numbers[split:], labels[split:], context, context, whole_ones=False)
    origin = f"{path.name}, {len(numbers):,} characters, {len(alphabet)} different ones"
    sources = (Source(name, (0.0,), (1.0,)),)
    return TextDataset(name, len(alphabet), sources, train, test, origin, hashlib.sha256(content).hexdigest())


def speakers(play: str) -> np.ndarray:
    """Who speaks each character of a play, int64 [L]: numbers of the speakers' names in their alphabetical order.

    A speech begins with a line "Name:" at the text's beginning or after an empty line, and lasts until the next one.
    Equal names ("First Citizen") of several plays are one speaker.
    """
    heads = list(re.finditer(r"(?:\A|(?<=\n\n))([^\n:]+):\n", play))
    names = sorted({head[1] for head in heads})
    number = {name: i for i, name in enumerate(names)}
    begins = [0, *(head.start() for head in heads[1:]), len(play)]
    spoken = [number[head[1]] for head in heads] or [0]
    return np.repeat(np.array(spoken, dtype=np.int64), np.diff(begins))


def fetch(path: Path, url: str = URL) -> None:
    """Download tiny Shakespeare to `path`. UserError: it cannot be had, or is not what it should be."""
    check_root(path.parent, "tiny Shakespeare")
    advice = f"put the file at {path}"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
            content = answer.read()
    except OSError as error:
        raise UserError(f"tiny Shakespeare cannot be downloaded from {url} ({error}); {advice}") from None
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise UserError(f"what {url} gives is not tiny Shakespeare (its SHA-256 is another); {advice}")
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)  # whole, or not there


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _windows(numbers: np.ndarray, labels: np.ndarray, context: int, stride: int, whole_ones: bool) -> Windows:
    """Of a text [L], in which the characters from the second on are asked for; not whole_ones: to its very end."""
    characters, following = numbers[:-1], numbers[1:]
    last = len(characters) - context if whole_ones else len(characters) - 1
    starts = np.arange(0, last + 1, stride)
    beyond = max(0, int(starts[-1]) + context - len(characters))
    characters = np.pad(characters, (0, beyond))
    following = np.pad(following, (0, beyond), constant_values=IGNORED)
    text, targets, begins = (torch.from_numpy(array.astype(np.int64)) for array in (characters, following, starts))
    of_starts = torch.from_numpy(labels[starts])
    return Windows(text, targets, begins, context, of_starts, torch.zeros_like(of_starts))
