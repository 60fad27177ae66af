"""A bug in somebody's own method file is one line with its file and line, before training where it can be known."""

import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from suite_config import config

from experiments.composing import telling_errors
from sasg.__main__ import TRACEBACK, run_config
from sasg.errors import lack_of_memory

TINY = ("dataset.kind=tests.study_parts.tiny", "model.hidden=[8]", "task.batch_size=5", "max_iterations=3")
PART = """
import torch
from sasg.algorithms.parts.compressors import Compressor
from sasg.cluster import Payload, Segment


class Mine(Compressor):
    {head}

    def setup(self, workspace):
        super().setup(workspace)
        self.size, self.held = workspace.num_parameters, workspace.num_held
        self.iteration = workspace.zeros(dtype=torch.int64)
        {setup}

    def __call__(self, vectors, sent):
        indices = torch.zeros(len(vectors), 3, dtype=torch.int64) + torch.arange(3)
        {call}
        return Payload(vectors.gather(1, indices), indices, (Segment(self.size, 3),))
"""
_COUNT = iter(range(1000))


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """The line about a method whose compressor is the class Mine of a file, and that file."""

    def line(
        source: str, *overrides: str, kind: str = "algorithm.compressor.kind", name: str = "Mine"
    ) -> tuple[str, Path]:
        path = tmp_path / f"mine_{next(_COUNT)}.py"
        path.write_text(source.lstrip())
        monkeypatch.syspath_prepend(tmp_path)
        made = config(*TINY, "algorithm=composed", f"{kind}={path.stem}.{name}", *overrides)
        made = type(made)(**{**vars(made), "runs_dir": str(tmp_path / "runs")})
        assert telling_errors(partial(run_config, made)) == 2
        (told,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error: ")]
        return told.removeprefix("error: "), path

    return line


def source(head: str = '"""Nothing."""', setup: str = "pass", call: str = "pass") -> str:
    return PART.format(head=head, setup=setup, call=call)


def line_with(path: Path, text: str) -> str:
    (number,) = [i for i, line in enumerate(path.read_text().splitlines(), 1) if line.strip().startswith(text)]
    return f"{path}:{number}: "


# what is wrong in the file, the line that is named, words of the message
IN_ITERATIONS = [
    ("return Payload(vectors[:, :3], indices + self.size, (Segment(self.size, 3),))", "has index"),
    ("return Payload(vectors[:, :3], indices - 1, (Segment(self.size, 3),))", "has index -1, outside 0.."),
    ("return Payload(vectors[:, :2], indices, (Segment(self.size, 3),))", "values are of shape [10, 2], its indices"),
    ("return Payload(vectors[:, :3], indices.float(), (Segment(self.size, 3),))", "must be int64, not float32"),
    ("return Payload(vectors[:, :3], indices)", "needs the segments"),
    ("return Payload(vectors[:, :3], indices, (Segment(self.size, 2),))", "3 entries a row, its segments keep at most"),
    ("return Payload(vectors[0])", "two axes"),
    ("vectors[:, self.size]", "IndexError: index"),
    ("self.itteration.add_(1)", "has no attribute 'itteration'"),
]


@pytest.mark.parametrize(("call", "words"), IN_ITERATIONS)
def test_in_an_iteration(said, call, words):
    told, path = said(source(call=call))
    assert told.startswith(line_with(path, call)) and words in told and f"{TRACEBACK}=1" in told


# what the file gives to the suite's own code, which finds it out: the class is named
GIVEN = [
    ("return Payload(vectors[1:])", "is of shape [9, ", "there are 10 workers here"),
    ("return Payload(vectors[:, :1])", "the update is of shape [1], the parameters ["),
    ("return vectors", "an upload is a Tensor, not a Payload"),
    ("return Payload(vectors, side=vectors[:, :1])", "extra_columns must name what is sent: side_bits"),
]


@pytest.mark.parametrize(("call", "words"), [(call, words) for call, *words in GIVEN])
@pytest.mark.parametrize("feedback", ["no_feedback", "error_memory"])
def test_what_it_gave_cannot_be_worked_with(said, call, words, feedback):
    told, path = said(source(call=call), f"algorithm.feedback.kind={feedback}")
    assert told.startswith(line_with(path, "class Mine").removesuffix(": "))
    if feedback == "no_feedback":
        assert all(word in told for word in words), told


STATE = [
    ("self.register_state('total', workspace.zeros(), 'servre')", "'total' is of scope 'servre'; choose one of"),
    ("self.register_state('size', self.size, 'shared')", "the state 'size' is a int and not a tensor"),
    ("self.declare_state('memroy', 'worker')", "'memroy' is declared, but there is no such attribute"),
    ("self.declare_state('iteration', 'worker')", "of shape [], but the first axis must be W=10"),
]


@pytest.mark.parametrize(("setup", "words"), STATE)
def test_state_is_checked_right_after_set_up(said, tmp_path, setup, words):
    told, path = said(source(setup=setup))
    place = "def setup" if "first axis" in words else setup
    assert told.startswith(line_with(path, place)) and words in told
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("wrong", ["workspace.num_heldd", "self.memory = workspace.zeros('many')", "1 / 0"])
def test_in_set_up(said, tmp_path, wrong):
    told, path = said(source(setup=wrong))
    assert told.startswith(line_with(path, wrong))
    assert not (tmp_path / "runs").exists()


def test_a_part_without_call(said, tmp_path):
    told, path = said(source().split("    def __call__")[0])
    assert told == f"{line_with(path, 'class Mine')}Mine lacks __call__ (algorithm.compressor.kind={path.stem}.Mine)"
    assert not (tmp_path / "runs").exists()


def test_a_method_without_step(said):
    text = "from sasg.algorithms.algorithm import Algorithm\n\n\nclass Mine(Algorithm):\n    pass\n"
    told, path = said(text, kind="algorithm.kind")
    assert told.startswith(f"{path}:4: Mine lacks step")


IN_THE_FILE = [
    ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    ("from sasg.algorithms.parts.compressors import Kompressor", "ImportError: cannot import name 'Kompressor'"),
    ("undefined", "NameError"),
    ("def broken(:", "SyntaxError"),
]


@pytest.mark.parametrize(("first", "words"), IN_THE_FILE)
def test_errors_while_the_file_is_imported(said, first, words):
    told, path = said(f"{first}\n{source()}")
    assert told.startswith(f"{path}:1: {words}") and "PYTHONPATH" not in told


def test_a_file_that_its_file_imports(said, tmp_path):
    (tmp_path / "beside_it.py").write_text("\n\n1 / 0\n")
    told, _ = said(f"import beside_it\n{source()}")
    assert told.startswith(f"{tmp_path / 'beside_it.py'}:3: ZeroDivisionError")
    sys.modules.pop("beside_it", None)


def test_another_name_than_the_file_has(said):
    told, path = said(source(), name="Mein")
    assert f"{path} has no 'Mein'; did you mean Mine?" in told


def test_type_hints_that_cannot_be_read(said):
    text = source("def __init__(self, a: 'Nothing' = 1): ...")
    told, _ = said(text)
    assert "type hints cannot be read (name 'Nothing' is not defined)" in told


def test_a_method_of_its_own_that_counts_its_mini_batches_wrong(said):
    text = """
from sasg.algorithms.methods.local_sgd import LocalSGD


class Mine(LocalSGD):
    def __init__(self, **options):
        super().__init__(1)

    def step(self, oracle, parameters):
        oracle.advance()
        super().step(oracle, parameters)
"""
    told, path = said(text, kind="algorithm.kind")
    assert told.startswith(f"{path}:4 (Mine)") and "used 2 mini-batches, but local_steps is 1" in told


def test_the_traceback_can_be_asked_for(said, monkeypatch):
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(ZeroDivisionError):
        said(source(call="1 / 0"))


def test_the_suites_own_errors_keep_their_traceback(monkeypatch):
    def fail():
        from sasg.kernels.rows import copy_rows_

        copy_rows_(None, None, None)

    fail.__code__ = fail.__code__.replace(co_filename=torch.__file__)  # not of somebody's own file
    with pytest.raises(AttributeError):
        telling_errors(fail)


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        (lambda: torch.zeros(10**15), r"4,000,000,000,000,000 bytes of memory .* fewer cluster.workers"),
        (lambda: torch.zeros(2**62, 4), r"more memory than can be addressed"),
        (lambda: __import__("numpy").zeros(10**14), r"728 TiB of memory"),
        (lambda: bytearray(10**15), r"there is not enough memory"),
    ],
)
def test_memory_that_cannot_be_had_is_one_line(capsys, fails, says):
    assert telling_errors(fails) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: {says}", line)


def test_other_errors_are_not_about_memory():
    assert lack_of_memory(RuntimeError("size mismatch")) is None


def test_memory_that_a_model_cannot_have(said):
    made = "hidden=[8]"
    assert made in "".join(TINY)
    told, _ = said(source(), "model.hidden=[1000000000000]")
    assert "bytes of memory in one piece are more than is left to this machine" in told
