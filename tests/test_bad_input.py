"""Mistakes: one line that says what is wrong and where, exit code 2, and nothing written.

Most go through the same functions as the command lines, in this process; some through real ones.
"""

import fcntl
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from suite_config import config
from torch import nn

from experiments import train
from experiments.composing import telling_errors
from sasg.__main__ import EXIT_CODES, run_config
from sasg.config import Config, from_dict, load
from sasg.errors import UserError
from sasg.training import run as training
from sasg.training.run import run
from sasg.training.run_folder import CHECKPOINT, RunFolder

ROOT = Path(__file__).resolve().parent.parent
TINY = ("dataset.kind=tests.study_parts.tiny", "model.hidden=[8]", "task.batch_size=2", "epochs=1", "max_iterations=3")


def tiny(runs_dir: Path, *overrides: str) -> Config:
    return config(*TINY, f"runs_dir={runs_dir}", *overrides)


def changed(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A configuration's plain data with another value at a dotted path."""
    values = json.loads(json.dumps(values))
    at = values
    *parents, last = path.split(".")
    for key in parents:
        at = at[key]
    at[last] = value
    return values


def mistake(action, *words: str) -> str:
    """The message of the UserError that `action` raises: one line with all these words."""
    with pytest.raises(UserError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    return message


WRONG_VALUES = [
    ("colour", 1, "colour", "unknown key"),
    ("task.colour", 1, "task.colour", "unknown key", "step_size"),
    ("cluster.colour", 1, "cluster.colour", "unknown key"),
    ("seed", -1, "seed=-1", "between 0"),
    ("seed", 2**63, "seed=9223372036854775808", "between 0"),
    ("seed", 1.5, "seed=1.5", "int"),
    ("seed", "one", "seed='one'", "int"),
    ("seed", True, "seed=True", "int"),
    ("seed", None, "seed=None", "int"),
    ("epochs", 0, "epochs=0", "at least 1"),
    ("epochs", [3], "epochs=[3]", "int"),
    ("max_iterations", 0, "max_iterations=0", "at least 1"),
    ("evaluate_every", 0, "evaluate_every=0", "at least 1"),
    ("threads", 0, "threads=0", "at least 1"),
    ("weight_decay", -0.1, "weight_decay=-0.1", "negative"),
    ("weight_decay", float("nan"), "weight_decay=nan", "negative"),
    ("deterministic", "yes", "deterministic='yes'", "bool"),
    ("device", "gpu", "device=gpu", "auto, cpu, cuda"),
    ("precision", "fp16", "precision=fp16", "fp64, fp32, tf32, bf16"),
    ("gradients", "fast", "gradients=fast", "loop", "vmap", "batched"),
    ("budget", "8 minutes", "budget=8 minutes", "90s, 8m or 1.5h"),
    ("budget", "-3m", "budget=-3m", "90s, 8m or 1.5h"),
    ("budget", -3, "budget=-3", "90s, 8m or 1.5h"),
    ("runs_dir", "", "runs_dir", "empty"),
    ("runs_dir", 7, "runs_dir=7", "str"),
    ("data.root", "", "data.root", "empty"),
    ("data", "mnist", "data='mnist'", "mapping"),
    ("task.batch_size", 0, "task.batch_size=0", "at least 1"),
    ("task.batch_size", "all", "task.batch_size='all'", "int"),
    ("task.step_size", 0, "task.step_size=0", "positive"),
    ("task.step_size", float("inf"), "task.step_size=inf", "positive"),
    ("task.decay_factor", -1, "task.decay_factor=-1", "positive"),
    ("task.decay_epochs", [0], "task.decay_epochs=[0]", "1 or more"),
    ("task.decay_epochs", 20, "task.decay_epochs=20", "list"),
    ("task.baseline.accuracy", 98, "task.baseline.accuracy=98", "fraction"),
    ("task.baseline.metric", "top3", "task.baseline.metric=top3", "top1, top5"),
    ("task.name", "my/task", "'my/task'", "letters"),
    ("algorithm.name", "../sasg", "'../sasg'", "letters"),
    ("algorithm.name", "", "''", "letters"),
    ("algorithm", {"kind": "x.Y"}, "algorithm", "name"),
    ("preset.window", "D-2", "preset.window=D-2", "D-1, D"),
    ("cluster.workers", 0, "cluster.workers=0", "at least 1"),
    ("cluster.kind", "cloud", "cluster.kind=cloud", "simulated, distributed"),
]


@pytest.mark.parametrize(("path", "value", "words"), [(path, value, words) for path, value, *words in WRONG_VALUES])
def test_values(path, value, words):
    mistake(lambda: from_dict(changed(config(*TINY).as_dict(), path, value)), *words)


def test_missing_keys():
    values = config(*TINY).as_dict()
    del values["task"]["batch_size"], values["epochs"]
    mistake(lambda: from_dict(values), "task", "missing batch_size")
    del values["task"]
    mistake(lambda: from_dict(values), "missing task, epochs")


PARTS = [
    (["algorithm.kind=Composed"], "algorithm.kind=Composed", "dotted path"),
    (["algorithm.kind=sasg.algorithms.composed.Compose"], "algorithm.kind=", "cannot be imported", "Compose"),
    (["algorithm.kind=nowhere.Method"], "algorithm.kind=nowhere.Method", "cannot be imported", "PYTHONPATH"),
    (["~algorithm.kind"], "algorithm", "kind"),
    (["algorithm.kind=sasg.algorithms.triggers.Always", "algorithm=sgd"], "algorithm", "unknown option 'trigger'"),
    (["+algorithm.momentum=0.9"], "algorithm", "unknown option 'momentum'", "trigger"),
    (["+algorithm.compressor.levels=4"], "algorithm.compressor", "unknown option 'levels'", "density, scope"),
    (["~algorithm.compressor.density"], "algorithm.compressor", "needs the option 'density'"),
    (["algorithm.compressor.density=0"], "algorithm.compressor", "density=0.0", "(0, 1]"),
    (["algorithm.compressor.density=1.01"], "algorithm.compressor", "density=1.01", "(0, 1]"),
    (["algorithm.compressor.density=little"], "algorithm.compressor.density='little'", "float"),
    (["algorithm.compressor.scope=layer"], "algorithm.compressor.scope=layer", "tensor, vector"),
    (["task.max_delay=0"], "max_delay=0", "at least 1"),
    (["task.alpha.default=-1"], "alpha=-1", "negative"),
    (["task.alpha.default=nan"], "alpha=nan", "negative"),
    (["algorithm.trigger.kind=sasg.algorithms.triggers.Always"], "algorithm.trigger", "unknown option 'max_delay'"),
    (
        ["algorithm=sgd", "algorithm.trigger.kind=sasg.algorithms.compressors.Identity"],
        "algorithm.trigger.kind",
        "must give a Trigger",
    ),
    (["algorithm=sgd", "algorithm.feedback.kind=sasg.algorithms.feedback.ErrorMemory"], "algorithm", "NoFeedback"),
    (["dataset.kind=sasg.problem.datasets.mnits"], "dataset.kind", "cannot be imported", "mnits"),
    (["+dataset.colour=1"], "dataset", "unknown option 'colour'", "mean"),
    (["dataset.mean=0.5"], "dataset.mean=0.5", "list"),
    (["dataset.kind=sasg.problem.models.fc"], "dataset.kind=sasg.problem.models.fc", "root, download"),
    (["dataset.kind=tests.test_bad_input.no_dataset"], "dataset.kind", "must give a Dataset"),
    (["model.hidden=512"], "model.hidden=512", "list"),
    (["+model.depth=3"], "model", "unknown option 'depth'", "hidden"),
    (["model.kind=tests.test_bad_input.wrong_shape"], "model", "does not take tiny's images of shape 1x4x4"),
    (["model.kind=tests.test_bad_input.too_many_outputs"], "model", "[5] outputs for 2 classes"),
    (["model.kind=tests.test_bad_input.with_dropout"], "model", "draws at random"),
    (["model.kind=tests.test_bad_input.with_batchnorm", "task.batch_size=1"], "model", "one at a time"),
    (
        ["gradients=batched", "model.kind=tests.test_bad_input.with_own_parameters"],
        "gradients=batched",
        "gradients=auto",
    ),
    (["gradients=streams"], "gradients=streams", "CUDA"),
    (["shards=dirichlet", "shards.alpha=0"], "shards", "alpha is 0"),
    (["cluster.workers=201"], "201 workers", "200 training samples"),
    (["task.batch_size=21"], "task.batch_size=21", "between 1 and 20"),
    (["precision=bf16"], "precision=bf16", "GPU"),
]


def no_dataset(root, download, mean, std):
    return "images"


def wrong_shape(image_shape, num_classes, hidden):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, num_classes))


def too_many_outputs(image_shape, num_classes, hidden):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5))


def with_dropout(image_shape, num_classes, hidden):
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, num_classes))


def with_batchnorm(image_shape, num_classes, hidden):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, num_classes))


def with_own_parameters(image_shape, num_classes, hidden):
    return nn.Sequential(nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, num_classes))


@pytest.mark.parametrize(("overrides", "words"), [(overrides, words) for overrides, *words in PARTS])
def test_parts(tmp_path, overrides, words):
    mistake(lambda: run(tiny(tmp_path / "runs", *overrides)), *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_no_gpu(tmp_path):
    mistake(lambda: run(tiny(tmp_path / "runs", "device=cuda")), "device=cuda", "no GPU", "device=cpu")
    assert not (tmp_path / "runs").exists()


class TestData:
    OVERRIDES = ("task=mnist", "model.hidden=[8]", "data.download=false")

    def attempt(self, root: Path, *overrides: str):
        return lambda: run(config(*self.OVERRIDES, f"data.root={root}", f"runs_dir={root}/runs", *overrides))

    def test_nothing_there(self, tmp_path):
        for root in (tmp_path, tmp_path / "absent"):
            mistake(self.attempt(root), f"mnist is not in {root}", "MNIST/raw/", "mnist.npz", "data.download=true")
        assert list(tmp_path.iterdir()) == []

    def test_not_an_archive(self, tmp_path):
        (tmp_path / "mnist.npz").write_bytes(b"PK\x03\x04 and then nothing")
        mistake(self.attempt(tmp_path), str(tmp_path / "mnist.npz"), "cannot be read", "replace it")
        assert not (tmp_path / "runs").exists()

    def test_arrays_are_missing(self, tmp_path):
        np.savez(tmp_path / "mnist.npz", x_train=np.zeros((20, 28, 28), np.uint8))
        mistake(self.attempt(tmp_path), "mnist.npz", "lacks", "y_train")

    @pytest.mark.parametrize(
        ("key", "array", "words"),
        [
            ("x_train", np.zeros((20, 8, 8), np.uint8), ["x_train", "[28, 28]"]),
            ("x_train", np.zeros((20, 28, 28), np.float32), ["x_train", "uint8"]),
            ("y_train", np.zeros(19, np.uint8), ["y_train", "20 integers"]),
            ("y_test", np.full(20, 10, np.uint8), ["y_test", "outside 0 to 9"]),
        ],
    )
    def test_arrays_of_another_kind(self, tmp_path, key, array, words):
        images, labels = np.zeros((20, 28, 28), np.uint8), np.arange(20, dtype=np.uint8) % 10
        arrays = {"x_train": images, "x_test": images, "y_train": labels, "y_test": labels, key: array}
        np.savez(tmp_path / "mnist.npz", **arrays)
        mistake(self.attempt(tmp_path), "mnist.npz", *words)
        assert not (tmp_path / "runs").exists()

    def test_other_data_than_the_configuration_names(self, tmp_path):
        values = tiny(tmp_path / "runs").as_dict()
        mistake(lambda: run(from_dict({**values, "data_sha256": "0" * 64})), "data.root=", "000000", "same files")
        assert not (tmp_path / "runs").exists()


class TestFolder:
    """Where a run's folder is not what it should be, nothing in it changes."""

    @pytest.fixture
    def stopped(self, tmp_path, monkeypatch) -> Path:
        """A run that its budget ended before its first iteration."""
        folder = Path(run(tiny(tmp_path / "runs", "budget=0s"))["folder"])
        assert (folder / CHECKPOINT).exists()
        return folder

    @staticmethod
    def contents(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def refused(self, folder: Path, *words: str) -> None:
        before = self.contents(folder)
        mistake(lambda: run(tiny(folder.parent)), str(folder), *words)
        assert self.contents(folder) == before

    @pytest.mark.parametrize("text", ["{", "[]", "7", '{"task": 1}', ""])
    def test_damaged_config(self, stopped, text):
        (stopped / "config.yaml").write_text(text)
        self.refused(stopped, "config.yaml", "damaged or of another configuration")

    def test_config_of_another_run(self, stopped):
        values = json.loads((stopped / "config.yaml").read_text())
        (stopped / "config.yaml").write_text(json.dumps({**values, "seed": 2}))
        self.refused(stopped, "config.yaml", "another configuration")

    def test_checkpoint_of_another_run(self, stopped, tmp_path):
        other = Path(run(tiny(tmp_path / "runs", "budget=0s", "seed=2"))["folder"])
        (stopped / CHECKPOINT).write_bytes((other / CHECKPOINT).read_bytes())
        self.refused(stopped, CHECKPOINT, "another configuration")

    @pytest.mark.parametrize(
        ("group", "name", "becomes", "says"),
        [
            ("worker", "feedback.memory", "feedback.residual", "no feedback.memory in its worker state"),
            ("server", None, "window", "an unknown window in its server state"),
            ("parameters", None, torch.zeros(3), "another shape of parameters"),
            ("ledger", None, torch.zeros(3), "another shape of ledger"),
        ],
    )
    def test_checkpoint_of_another_version(self, stopped, group, name, becomes, says):
        checkpoint = torch.load(stopped / CHECKPOINT, weights_only=True)
        state = checkpoint["trainer"]
        if isinstance(becomes, str):
            state[group][becomes] = state[group].pop(name) if name else torch.zeros(3)
        else:
            state[group] = becomes
        torch.save(checkpoint, stopped / CHECKPOINT)
        self.refused(stopped, CHECKPOINT, "another version of the suite", says)

    def test_held_by_another_process(self, stopped):
        with (stopped / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refused(stopped, "another process")

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"finished"'])
    def test_a_damaged_summary_is_no_result(self, stopped, text):
        (stopped / "summary.json").write_text(text)
        assert run(tiny(stopped.parent))["status"] == "finished"

    def test_runs_dir_is_a_file(self, tmp_path):
        (tmp_path / "runs").write_text("mine")
        mistake(lambda: run(tiny(tmp_path / "runs")), str(tmp_path / "runs"), "cannot be written", "runs_dir")
        assert (tmp_path / "runs").read_text() == "mine"

    def test_a_file_in_the_place_of_the_folder(self, stopped):
        for path in stopped.iterdir():
            path.unlink()
        stopped.rmdir()
        stopped.write_text("mine")
        mistake(lambda: run(tiny(stopped.parent)), str(stopped), "cannot be written")
        assert stopped.read_text() == "mine"


class TestConfigFile:
    def test_absent(self, tmp_path):
        mistake(lambda: load(tmp_path / "config.json"), str(tmp_path / "config.json"), "cannot be read")
        mistake(lambda: load(tmp_path), str(tmp_path), "cannot be read")

    @pytest.mark.parametrize(
        ("content", "word"),
        [
            (b"{", "not valid JSON"),
            (b"task: mnist", "not valid JSON"),
            (b"\xff\xfe\x00", "not valid JSON"),
            (b"", "not valid JSON"),
            (b"[1]", "one JSON object"),
            (b"{}", "missing task"),
        ],
    )
    def test_content(self, tmp_path, content, word):
        (tmp_path / "config.json").write_bytes(content)
        mistake(lambda: load(tmp_path / "config.json"), word)


def said_by_hydra_front(monkeypatch, capsys, *words: str) -> str:
    """What experiments/train.py says about these words, which must be one line on stderr, with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    monkeypatch.setattr(train, "_QUEUE", [])
    monkeypatch.setattr(train, "run_config", lambda config: pytest.fail("it ran"))
    assert telling_errors(train.main) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    return line.removeprefix("error: ")


TASKS = ", ".join(sorted(path.stem for path in (ROOT / "conf/task").glob("*.yaml")))
COMMANDS = [
    ("task", "task: not of the form key=value; see --help"),
    ("--seed=1", "unrecognized arguments: --seed=1; settings are given as key=value, see --help"),
    ("seeds=1", "seeds: unknown key; did you mean seed?"),
    ("workers=20", "workers: unknown key; did you mean cluster.workers?"),
    ("density=0.1", "density: unknown key; did you mean algorithm.compressor.density?"),
    ("lr=0.1", "lr: unknown key; see --help"),
    ("task=cifar", f"task=cifar: there is none in conf/task; did you mean cifar10 or cifar100? Choose one of {TASKS}"),
    ("task=", f"task=: there is none in conf/task; choose one of {TASKS}"),
    ("device=cud", "device=cud: did you mean cuda? Choose one of auto, cpu, cuda"),
    ("algorithm=sagsg", "algorithm=sagsg: there is none in conf/algorithm; did you mean sasg"),
    ("task=cfar10", "task=cfar10: there is none in conf/task; did you mean cifar10"),
    ("preset=published", "preset=published: there is none in conf/preset; choose one of paper, reference"),
    (
        "seed=1,2",
        "seed=1,2: add -m to run one after another, or give one value; "
        "a list is written seed=[1,2], a text 'seed=\"1,2\"'",
    ),
    (
        "runs_dir=my new runs seed=1",
        "new: not of the form key=value, or part of a value with spaces "
        """('runs_dir="my new runs"'); see --help""",
    ),
    ("algorithm=null", "Config group override must be a string or a list. Got NoneType"),
    ("model.hidden=${width}", "model.hidden: Interpolation key 'width' not found"),
    ("--cfg job -m", "Only one of --run, --multirun, --cfg, --info and --shell_completion can be specified"),
    ("+write=/nowhere/config.json", "write=/nowhere/config.json: cannot be written (No such file or directory)"),
    ("-m seed=1,-1", "seed=-1: must be between 0 and 2^63 - 1"),
    (
        "-m algorithm.compressor.density=0.1,2",
        "algorithm.compressor: density=2.0: must be in (0, 1]",
    ),
    ("seed=1,x -m", "seed='x': must be of type int"),
]


@pytest.mark.parametrize(("words", "says"), COMMANDS)
def test_what_a_newcomer_types(monkeypatch, capsys, words, says):
    assert said_by_hydra_front(monkeypatch, capsys, *words.split()) == says


@pytest.mark.parametrize(("budget", "num_runs"), [("budget=null", 1), ("budget=1m", 3)])
def test_a_signal_ends_a_sweep_and_a_budget_one_run(monkeypatch, budget, num_runs):
    ran = []
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=1,2,3", budget])
    monkeypatch.setattr(train, "_QUEUE", [])
    monkeypatch.setattr(train, "run_config", lambda config: ran.append(config) or EXIT_CODES["stopped"])
    assert telling_errors(train.main) == 3
    assert len(ran) == num_runs


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0\n"), 2, "9 GiB of memory"),
        (KeyboardInterrupt(), 3, "interrupted"),
    ],
)
def test_no_traceback(monkeypatch, capsys, error, code, says):
    def fail(config):
        raise error

    monkeypatch.setattr(training, "run", fail)
    assert telling_errors(lambda: run_config(config(*TINY))) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and says in line


VALUES = ["out/ünï", "a~b", "a#b", "it's", "a=b", "f(x)", "(x)", "x)", "a b#c", 'say "x"', "a;b", "a&b", "a!b", "=x"]
VALUES += ["日本", "a<b", "`x`", "'", '"', "a}b", "ü\\", 'a\\"b', "D:\\ü\\", "ü,b"]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("key", ["runs_dir", "+write", "data.root"])
def test_what_to_type_is_said_and_is_right(monkeypatch, capsys, key, value):
    """The words that a message shows, as the shell would split them, set the key to the value."""
    said = said_by_hydra_front(monkeypatch, capsys, f"{key}={value}")
    assert said.startswith(f"{key}={value}: ")
    (word,) = shlex.split(said.partition("; type ")[2].partition(" (with -m")[0])
    (override,) = OverridesParser.create().parse_overrides([word])
    assert (override.get_key_element(), override.value()) == (key, value)


def test_a_home_is_not_replaced_behind_an_equals_sign(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/Müller")
    assert said_by_hydra_front(monkeypatch, capsys, "runs_dir=~/x").endswith("""type 'runs_dir="/home/Müller/x"'""")
    monkeypatch.setenv("HOME", "/home/m")
    assert said_by_hydra_front(monkeypatch, capsys, "runs_dir=~/x").endswith("type runs_dir=/home/m/x")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("runs_dir = x", "runs_dir = x: a value with such characters needs quotes; type runs_dir=x"),
        ("ünï=1", "ünï=1: 'ünï' is no key; see --help"),
        ("runs_dir=a\nb", "runs_dir: the value has characters that cannot be typed (a line break?); leave them out"),
        ("model.hidden=[3", "model.hidden=[3: a bracket is not closed, or a text in it needs quotes"),
    ],
)
def test_other_words_that_cannot_be_read(monkeypatch, capsys, word, says):
    assert said_by_hydra_front(monkeypatch, capsys, word).startswith(says)


def test_several_values_that_need_quotes(monkeypatch, capsys):
    said = said_by_hydra_front(monkeypatch, capsys, "-m", "runs_dir=ü,b")
    assert said.endswith("""(with -m, for several: 'runs_dir="ü","b"')""")


@pytest.mark.parametrize(("value", "text"), [("7", "7"), ("null", "null"), ("true", "true"), ("1.5", "1.5")])
def test_a_text_that_looks_like_something_else(monkeypatch, capsys, value, text):
    said = said_by_hydra_front(monkeypatch, capsys, f"runs_dir={value}")
    assert "must be of type str" in said and said.endswith(f"""'runs_dir="{text}"'""")


@pytest.mark.parametrize("words", [(), ("-m",)])
@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"defaults:\n  - sgd\nname: mine\n\tx: 1\n", 4, "a tab, which YAML does not take; indent with spaces"),
        (b"name: mine\nkind: a.B\nname: other\n", 3, "found duplicate key name"),
        ("name: mine\n# für\n".encode("latin-1"), 2, "is not in UTF-8 (byte 0xfc); save it in UTF-8"),
        ("name: mine\n".encode("utf-16"), 1, "is not in UTF-8 (byte 0xff); save it in UTF-8"),
        (b"name: mine\nkind: [a\nx: 1\n", 3, "expected ',' or ']', but got ':'"),
        (b"name: mine\nkind: a\x07b\n", 2, r"the character '\x07' is not allowed in YAML"),
        (b"name: *mine\n", 1, "found undefined alias 'mine'"),
    ],
)
def test_a_yaml_file_that_cannot_be_read(monkeypatch, capsys, tmp_path, words, content, line, says):
    path = tmp_path / "algorithm" / "mine.yaml"
    path.parent.mkdir()
    path.write_bytes(content)
    monkeypatch.setenv("SASG_CONF", str(tmp_path))
    said = said_by_hydra_front(monkeypatch, capsys, "algorithm=mine", *words)
    assert said.startswith(f"{path}:{line}: ") and says in said


def test_an_unknown_method_is_answered_by_a_list(monkeypatch, capsys):
    said = said_by_hydra_front(monkeypatch, capsys, "algorithm=SASG")
    assert said.startswith("algorithm=SASG: there is none in conf/algorithm; did you mean sasg")
    assert {"lasg", "sasg", "sgd", "sparse"} <= set(said.rpartition("one of ")[2].split(", "))


def test_an_option_with_a_typing_mistake(monkeypatch, capsys):
    said = said_by_hydra_front(monkeypatch, capsys, "algorithm.compressor.denisty=0.1")
    assert said.startswith("algorithm.compressor.denisty: unknown key; did you mean algorithm.compressor.density")


def test_no_arguments_are_a_run_of_digits(monkeypatch):
    ran = []
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(train, "_QUEUE", [])
    monkeypatch.setattr(train, "run_config", lambda config: ran.append(config) or 0)
    assert telling_errors(train.main) == 0
    assert [(config.task.name, config.algorithm["name"], config.seed) for config in ran] == [("digits", "sasg", 1)]


def test_a_sweep_may_be_asked_for_anywhere(monkeypatch):
    ran = []
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=1,2", "algorithm=sgd,lasg", "-m"])
    monkeypatch.setattr(train, "_QUEUE", [])
    monkeypatch.setattr(train, "run_config", lambda config: ran.append(config) or 0)
    assert telling_errors(train.main) == 0
    assert len(ran) == 4


class TestCommandLines:
    """As a user starts them."""

    @staticmethod
    def said(tmp_path: Path, *words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        return line

    def test_train(self, tmp_path):
        script = str(ROOT / "experiments" / "train.py")
        assert self.said(tmp_path, script, "tsk=mnist") == "error: tsk: unknown key; did you mean task?"
        said = self.said(tmp_path, script, "task=mnist", "data.root=data", "data.download=false", "runs_dir=runs")
        assert said.startswith("error: dataset: mnist is not in data: put torchvision's files")
        assert list(tmp_path.iterdir()) == []

    def test_module(self, tmp_path):
        assert self.said(tmp_path, "-m", "sasg", "config.json").startswith("error: config.json: cannot be read")
        values = tiny(tmp_path / "runs", "cluster.workers=201").as_dict()
        (tmp_path / "config.json").write_text(json.dumps(values))
        said = self.said(tmp_path, "-m", "sasg", "config.json")
        assert said.startswith("error: shards: 201 workers cannot share 200 training samples")
        assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


class TestDivergence:
    def test_a_loss_that_is_not_finite_ends_the_run(self, tmp_path, capsys):
        options = ("algorithm=sgd", "task.step_size=1e30", "epochs=5", "max_iterations=50", "evaluate_every=1")
        cfg = tiny(tmp_path / "runs", *options)
        assert run_config(cfg) == 1
        output = capsys.readouterr()
        (folder,) = output.out.split()
        assert "diverged" in output.err and "not finite" in output.err
        rows = (Path(folder) / "metrics.csv").read_text().splitlines()[1:]
        summary = json.loads((Path(folder) / "summary.json").read_text())
        assert summary["status"] == "diverged"
        assert 0 < len(rows) == summary["num_rows"] < summary["iterations"] < 50
        assert all(np.isfinite(float(row.split(",")[2])) for row in rows)
        before = (Path(folder) / "metrics.csv").stat().st_mtime_ns
        assert run_config(cfg) == 1  # not run again
        assert (Path(folder) / "metrics.csv").stat().st_mtime_ns == before


def test_a_folder_is_only_held_by_one(tmp_path):
    """The lock is that of the process, also before a run's first file is there."""
    cfg = tiny(tmp_path / "runs")
    identity = cfg.identity("data", "cpu")
    folder = RunFolder(tmp_path / "runs" / cfg.run_name(identity), identity)
    with folder.held():
        assert RunFolder(folder.path, identity).is_held()
        mistake(RunFolder(folder.path, identity).held().__enter__, "another process", "wait for it or stop it")
    assert not folder.is_held()


def test_stopped_is_no_mistake(tmp_path):
    assert run(tiny(tmp_path / "runs", "budget=0"))["status"] == "stopped"
    assert training.run(tiny(tmp_path / "runs"))["status"] == "finished"
