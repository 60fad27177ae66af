"""One run's configuration: plain, typed, checked before anything is allocated or started."""

import hashlib
import json
import math
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from sasg.errors import UserError
from sasg.parts import coerce, resolved, without_defaults


@dataclass(frozen=True)
class Baseline:
    """What is to be reached: an accuracy, from below, or a target for another metric, from above."""

    metric: Literal["top1", "top5", "loss", "objective", "objective_error", "gradient_norm"]
    accuracy: float | None = None  # of top1 and top5: a fraction; the crossing is strictly above it
    target: float | None = None  # of the others; the crossing is strictly below it

    def __post_init__(self):
        given, other = ("accuracy", "target") if self.metric.startswith("top") else ("target", "accuracy")
        if getattr(self, given) is None or getattr(self, other) is not None:
            raise UserError(f"task.baseline: {self.metric} needs `{given}`, and no `{other}`")
        if self.accuracy is not None and not 0 < self.accuracy < 1:
            raise UserError(f"task.baseline.accuracy={self.accuracy}: must be a fraction between 0 and 1")

    @property
    def value(self) -> float:
        """The accuracy or the target."""
        return self.target if self.accuracy is None else self.accuracy

    def is_passed_by(self, value: float) -> bool:
        """Whether the metric's value lies strictly beyond the baseline."""
        return value < self.target if self.accuracy is None else value > self.accuracy


@dataclass(frozen=True)
class Task:
    """Hyper-parameters of a task; the step size is that of a server that sums the workers' updates."""

    name: str
    batch_size: Literal["full"] | int  # samples per worker and iteration; full: the whole shard, in its own order
    step_size: float | str  # a number, or e.g. 1/L: that over the smoothness constant of a sum objective
    decay_epochs: tuple[int, ...] = ()  # the step size is multiplied by decay_factor from these epochs on (0-based)
    decay_factor: float = 0.1
    warmup_epochs: int = 0  # the first epochs, in which the step size rises linearly to its full size
    warmup_factor: float = 1.0  # what it begins with, as a share of that
    cosine_factor: float | None = None  # instead of decay_epochs: falls as a cosine to this share in the last epoch
    batches_per_epoch: int | None = None  # mini-batches of an epoch, redrawn for each; null: a pass over the shard
    baseline: Baseline | None = None

    def __post_init__(self):
        if self.batch_size != "full":
            _at_least("task.batch_size", self.batch_size, 1)
        if not isinstance(self.step_size, str):
            _positive("task.step_size", self.step_size)
        elif not re.fullmatch(r"\d*\.?\d+/L", self.step_size) or float(self.step_size.removesuffix("/L")) == 0:
            raise UserError(f"task.step_size={self.step_size}: must be positive: a number, or one over L such as 1/L")
        _positive("task.decay_factor", self.decay_factor)
        _at_least("task.warmup_epochs", self.warmup_epochs, 0)
        _positive("task.warmup_factor", self.warmup_factor)
        if self.cosine_factor is not None:
            _positive("task.cosine_factor", self.cosine_factor)
            if self.decay_epochs:
                raise UserError("task.cosine_factor: is instead of task.decay_epochs; leave one of them out")
        if self.batches_per_epoch is not None:
            _at_least("task.batches_per_epoch", self.batches_per_epoch, 1)
        if any(epoch < 1 for epoch in self.decay_epochs):
            raise UserError(f"task.decay_epochs={list(self.decay_epochs)}: epochs are counted from 0; give 1 or more")


@dataclass(frozen=True)
class ClusterConfig:
    """Where the workers live."""

    kind: Literal["simulated", "distributed"] = "simulated"
    workers: int = 10
    processes: int | None = None  # that workers are spread over; None: one per GPU or core, or as torchrun starts
    backend: Literal["auto", "gloo", "nccl"] = "auto"  # nccl: one GPU per process; gloo: any, staged through the host
    reception: Literal["auto", "serial", "parallel"] = "auto"  # uploads one at a time, or together; auto: by memory
    wire: Literal["plain", "packed"] = "plain"  # positions as int32, or in the shortest code, upload by upload
    timeout_s: float = 120.0  # a process that is silent for longer ends the run, once iterations have begun
    port: int | None = None  # of the rendezvous; a free one

    def __post_init__(self):
        _at_least("cluster.workers", self.workers, 1)
        _positive("cluster.timeout_s", self.timeout_s)
        if self.processes is not None:
            _at_least("cluster.processes", self.processes, 1)
            if self.processes > self.workers:
                raise UserError(
                    f"cluster.processes={self.processes}: more than cluster.workers={self.workers}; "
                    "a process holds at least one"
                )
        if self.port is not None and not 0 < self.port < 65536:
            raise UserError(f"cluster.port={self.port}: must be between 1 and 65535")


@dataclass(frozen=True)
class Data:
    """Where data sets are looked up, and whether they may be downloaded."""

    root: str = field(default_factory=lambda: os.environ.get("SASG_DATA", "data"))
    download: bool = True
    file: str | None = None  # of a user's own data, for loaders that take a `file`
    test_file: str | None = None

    def __post_init__(self):
        if not self.root:
            raise UserError("data.root: is empty; name a folder")


UNHASHED = (
    "cluster",  # but for its number of workers
    "device",  # but for its type
    "gradients",
    "deterministic",
    "budget",
    "threads",
    "runs_dir",
    "data",  # but for its content
    "tracker",
    "link",
    "commit",
    "data_sha256",
)
"""What does not change the numbers."""

LABELS = ("preset",)
"""What a run's folder says for its readers alone: written, but not hashed."""

PARTS = {
    "dataset": ("root", "download", "file", "test_file"),
    "shards": ("labels", "sources", "num_workers", "seed"),
    "model": ("image_shape", "num_classes", "context", "num_characters"),
    "algorithm": (),
    "objective": (),
}
"""The parts that change the numbers, and what the program calls each with besides its options."""


@dataclass(frozen=True)
class Config:
    """Everything that one run needs. `identity` is the part of it that changes the numbers."""

    task: Task
    dataset: dict
    shards: dict
    model: dict
    algorithm: dict
    epochs: int
    objective: dict | None = None  # what is minimised; None: cross entropy, judged by accuracies
    preset: str | None = None  # the name of the preset that it was composed with, for tables
    batchnorm: Literal["sequential", "mean"] = "sequential"  # running statistics: M updates an iteration, or their mean
    seed: int = 1
    draws: Literal["counter", "published"] = "counter"  # of weights, shards and epochs' orders; see problem.draws
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp64", "fp32", "tf32", "bf16"] = "tf32"  # of the passes; states are fp32 (fp64 for fp64)
    gradients: Literal["auto", "loop", "vmap", "batched", "streams", "triton"] = "auto"  # see gradients
    deterministic: bool = False
    max_iterations: int | None = None
    evaluate_every: int = 100
    evaluate_epochs: bool = True  # at each epoch's end too (never with full batches)
    budget: str | float | None = None
    threads: int = 1
    weight_decay: float = 0.0
    index_codes: tuple[str, ...] | None = None  # codes in which positions are counted; see cluster.accounting.codes
    runs_dir: str = "results/runs"
    data: Data = field(default_factory=Data)
    tracker: dict | None = None
    link: dict | None = None  # a link model, under which the run's communication time is told at its end
    commit: str | None = None  # of the code, where the machine that runs has no git
    data_sha256: str | None = None  # what the data must be, when a run is repeated

    def __post_init__(self):
        _at_least("epochs", self.epochs, 1)
        _at_least("evaluate_every", self.evaluate_every, 1)
        _at_least("threads", self.threads, 1)
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed}: must be between 0 and 2^63 - 1")
        if self.max_iterations is not None:
            _at_least("max_iterations", self.max_iterations, 1)
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise UserError(f"weight_decay={self.weight_decay}: must not be negative")
        if not self.runs_dir:
            raise UserError("runs_dir: is empty; name a folder")
        if "name" not in self.algorithm:
            raise UserError("algorithm: needs a `name`, which names its runs")
        for name in (self.algorithm["name"], self.task.name):
            if not re.fullmatch(r"[A-Za-z0-9_.]+", str(name)):
                raise UserError(f"{name!r}: names of tasks and algorithms may hold letters, digits, '_' and '.'")
        self.budget_seconds  # noqa: B018 -- checked here

    @property
    def budget_seconds(self) -> float:
        """The time after which the run stops, in seconds; infinite without a budget."""
        if self.budget is None:
            return math.inf
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(self.budget))
        if not match:
            raise UserError(f"budget={self.budget}: give a time such as 90s, 8m or 1.5h")
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]

    def identity(self, data_sha256: str, device_type: str) -> dict[str, Any]:
        """What changes the numbers, as plain data, nothing left to defaults: config.json, whose hash is the name."""
        known = {key: value for key, value in asdict(self).items() if key not in UNHASHED}
        known |= {key: resolved(known[key], given) for key, given in PARTS.items()}
        known["cluster"] = {"workers": self.cluster.workers}
        return json.loads(json.dumps({**known, "device": device_type, "data_sha256": data_sha256}))

    @property
    def settings(self) -> str:
        """A digest that is equal for configurations of the same run, whatever the data and the device."""
        return digest(self.identity("any", "any"))

    def shared(self) -> str:
        """What all processes of a distributed run must have in common: everything but paths and the like."""
        own = ("data", "runs_dir", "tracker", "threads", "commit")
        return json.dumps({k: v for k, v in asdict(self).items() if k not in own}, sort_keys=True)

    def as_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` and JSON take back."""
        return json.loads(json.dumps(asdict(self)))

    def run_name(self, identity: Mapping[str, Any]) -> str:
        """<task>-<method>-s<seed>-<hash8>."""
        return f"{self.task.name}-{self.algorithm['name']}-s{self.seed}-{digest(identity)[:8]}"


def digest(identity: Mapping[str, Any]) -> str:
    """SHA-256 of what is hashed of an identity."""
    return hashlib.sha256(json.dumps(hashed(identity), sort_keys=True).encode()).hexdigest()


def hashed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without its labels and without what is at its default, in parts too.

    So an option that is added later leaves the names of older runs as they are.
    """
    kept = _without_defaults(Config, {key: value for key, value in identity.items() if key not in LABELS})
    return {key: without_defaults(value) if key in PARTS else value for key, value in kept.items()}


def _without_defaults(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    kept = {}
    for f in fields(kind):
        if f.name not in values or values[f.name] == f.default:
            continue
        nested = [h for h in (hints[f.name], *typing.get_args(hints[f.name])) if is_dataclass(h)]
        value = values[f.name]
        kept[f.name] = _without_defaults(nested[0], value) if nested and isinstance(value, Mapping) else value
    return kept


def from_dict(values: Mapping[str, Any]) -> Config:
    """A checked configuration from plain data. UserError names the first key that is wrong."""
    return _dataclass_from(Config, values, "")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found


def load(path: Path) -> Config:
    """A configuration from a JSON file (a run's config.json is one too)."""
    try:
        values = json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a configuration in JSON") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold one JSON object")
    return from_dict(values)


def _dataclass_from(kind: type, values: Mapping[str, Any], where: str) -> Any:
    names = {f.name for f in fields(kind)}
    for key in values:
        if key not in names:
            raise UserError(f"{where}{key}: unknown key; known here: {', '.join(sorted(names))}")
    hints = typing.get_type_hints(kind)
    arguments = {key: _field_from(hints[key], value, f"{where}{key}") for key, value in values.items()}
    try:
        return kind(**arguments)
    except TypeError as error:
        missing = re.findall(r"'(\w+)'", str(error))
        raise UserError(f"{where.rstrip('.') or 'configuration'}: missing {', '.join(missing)}") from None


def _field_from(hint: Any, value: Any, where: str) -> Any:
    nested = [h for h in (hint, *typing.get_args(hint)) if is_dataclass(h)]
    if nested and isinstance(value, Mapping):
        return _dataclass_from(nested[0], value, f"{where}.")
    if nested and value is not None:
        raise UserError(f"{where}={value!r}: must be a mapping")
    return coerce(where, value, hint)


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{key}={value}: must be at least {least}")


def _positive(key: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{key}={value}: must be a positive number")
