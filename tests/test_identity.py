"""What a run is called: a hash of what its configuration says, however that is spelled, and of no key that is idle."""

import contextlib
import dataclasses
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from suite_config import config

from sasg.__main__ import run_config
from sasg.builtin import BUILT_IN
from sasg.cluster import launch
from sasg.config import LABELS, Baseline, ClusterConfig, Config, Data, Task, digest, from_dict
from sasg.errors import UserError
from sasg.parts import resolved, without_defaults
from sasg.training.run import run
from sasg.training.run_folder import RunFolder
from sasg.training.trainer import check_parts
from tests.ranks import run_ranks

ROOT = Path(__file__).resolve().parent.parent
TINY = ("dataset.kind=tests.study_parts.tiny", "model.hidden=[8]", "task.batch_size=5", "max_iterations=2")


def hashed(*overrides: str) -> str:
    return digest(config(*overrides).identity("data", "cpu"))


NO_DATA = object()


class Own:
    """A part outside the suite, with a part in it that it gives an argument to, and defaults of many kinds."""

    def __init__(self, share: float, part: dict, *, levels: int = 3, scales=(1.0, 2.0), mark=NO_DATA, **more):
        pass


def inner(share: float = 0.5, depth: int = 1) -> None:
    """The part in it."""


def small(image_shape, num_classes, width=8) -> None:
    """A model whose default is of its own choice."""


OWN = {"kind": "tests.test_identity.Own", "share": 1, "part": {"kind": "tests.test_identity.inner"}}


class TestSpelling:
    @pytest.mark.parametrize(
        "words",
        [
            ("algorithm.reduction=sum",),
            ("+dataset.crop=0", "+dataset.flip=false"),
            ("task.step_size=0.020", "+task.decay_factor=0.1"),
            ("batchnorm=sequential", "preset.batchnorm=mean"),
        ],
    )
    def test_an_explicit_default_is_no_other_run(self, words):
        assert hashed(*words) == hashed()

    def test_an_option_left_out_is_its_default(self):
        assert hashed("~algorithm.trigger.window", "~algorithm.compressor.scope") == hashed()
        votes = ("algorithm=majority_vote_add_drop", "~algorithm.vote.change_density", "~algorithm.local_steps")
        assert hashed(*votes) == hashed("algorithm=majority_vote_add_drop")

    def test_a_whole_number_is_the_float_that_the_part_gets(self):
        assert hashed("task.alpha.default=1") == hashed("algorithm.trigger.alpha=1.0")

    def test_parts_of_ones_own(self):
        whole = {**OWN, "share": 1.0, "part": {"kind": "tests.test_identity.inner", "depth": 1}}
        whole |= {"levels": 3, "scales": [1.0, 2.0]}
        assert resolved(OWN) == whole  # `share` of the inner part is the outer one's to give, `mark` no plain data
        assert without_defaults(whole) == OWN
        assert resolved(OWN, given=("levels",)) == {key: value for key, value in whole.items() if key != "levels"}
        unknown = {"kind": "nowhere.Part", "levels": 3}
        assert resolved(unknown) == without_defaults(unknown) == unknown

    def test_what_is_written_says_every_option_and_is_the_same_run(self):
        composed = config("algorithm=sasg", "~algorithm.compressor.scope")
        written = composed.identity("data", "cpu")
        assert written["algorithm"]["compressor"] == {"kind": "top_k", "density": 0.01, "scope": "tensor"}
        again = from_dict(written)
        assert again.identity("data", "cpu") == written and again.run_name(written) == composed.run_name(written)

    def test_a_default_that_changes_is_not_the_run_of_before(self, tmp_path, monkeypatch):
        composed = config("model.kind=tests.test_identity.small", "~model.hidden")
        before = composed.identity("data", "cpu")
        with RunFolder(tmp_path, before).held():
            pass
        monkeypatch.setattr(sys.modules["tests.test_identity"].small, "__defaults__", (9,))
        after = composed.identity("data", "cpu")
        assert (before["model"]["width"], after["model"]["width"]) == (8, 9) and digest(before) != digest(after)
        with pytest.raises(UserError, match="of another configuration"), RunFolder(tmp_path, after).held():
            pass


class TestPlaces:
    def test_a_part_whose_file_moves_keeps_its_runs_names(self, monkeypatch):
        before = hashed("algorithm=sasg")
        module, _, name = BUILT_IN["top_k"].rpartition(".")
        moved = types.ModuleType("moved")
        setattr(moved, name, getattr(sys.modules[module], name))
        monkeypatch.setitem(sys.modules, "moved", moved)
        monkeypatch.setitem(BUILT_IN, "top_k", f"moved.{name}")
        assert hashed("algorithm=sasg") == before
        check_parts(config("algorithm=sasg"))

    def test_the_table_names_each_part_once_and_where_it_is(self):
        assert len(set(BUILT_IN.values())) == len(BUILT_IN)
        for name, path in BUILT_IN.items():
            module, _, callable_name = path.rpartition(".")
            __import__(module)
            assert callable(getattr(sys.modules[module], callable_name)), name

    def test_the_files_of_conf_name_parts_by_the_table(self):
        found = []
        for path in sorted((ROOT / "conf").rglob("*.yaml")):
            kinds = {"kind"} if "cluster" not in path.parts else set()
            found += [(path, kind) for kind in _values(yaml.safe_load(path.read_text()), kinds)]
        assert len(found) > 80
        assert [(str(path), kind) for path, kind in found if kind not in {*BUILT_IN, "none"}] == []


def _values(tree, keys: set[str]) -> list[str]:
    if isinstance(tree, list):
        return [value for item in tree for value in _values(item, keys)]
    if not isinstance(tree, dict):
        return []
    here = [value for key, value in tree.items() if key in keys]
    return here + [value for item in tree.values() for value in _values(item, keys)]


class TestWhatDoesNothing:
    @pytest.mark.parametrize("word", ["task.max_delay=3", "task.alpha.default=3.0", "preset.window=D", "+task.xi=3"])
    def test_a_switch_that_the_method_does_not_take_is_no_other_run(self, word):
        assert hashed("algorithm=sgd", word) == hashed("algorithm=sgd")

    @pytest.mark.parametrize(
        ("where", "key"),
        [("task", "max_delay"), ("task", "alpha"), ("task", "xi"), ("", "window"), ("cluster", "worker")],
    )
    def test_a_key_that_does_nothing_cannot_be_written(self, where, key):
        values = config().as_dict()
        (values[where] if where else values)[key] = 1
        with pytest.raises(UserError, match=f"^{where + '.' if where else ''}{key}: unknown key"):
            from_dict(values)

    @pytest.mark.parametrize("part", ["dataset", "shards", "model", "algorithm.trigger", "algorithm"])
    def test_nor_an_option_that_does_nothing(self, part):
        with pytest.raises(UserError, match=f"^{part}: unknown option 'nothing'"):
            check_parts(config(f"+{part}.nothing=1"))

    def test_a_label_is_written_but_is_no_other_run(self):
        paper = dataclasses.replace(config(), preset="paper").identity("data", "cpu")
        assert paper["preset"] == "paper" and digest(paper) == hashed()

    def test_every_key_is_read_by_a_run(self, tmp_path, monkeypatch):
        one = config(*TINY, "evaluate_every=1", f"runs_dir={tmp_path}", "link=gigabit")
        convex = ("task=linear_regression", "max_iterations=2", "evaluate_every=1", f"runs_dir={tmp_path}")
        spread = config(*convex, "cluster=distributed", "cluster.processes=1")
        read = _record(monkeypatch.setattr)
        assert run_config(one) == 0
        with contextlib.suppress(FileNotFoundError):  # the summary of the processes that are not started
            monkeypatch.setattr(launch, "elastic_launch", lambda *_: lambda *_: None)
            run(spread)
        (of_rank,) = run_ranks(1, _read_by_rank, spread)
        fields = {(kind.__name__, f.name) for kind in KINDS for f in dataclasses.fields(kind)}
        assert fields - read - of_rank == {("Config", label) for label in LABELS}


KINDS = (Config, Task, Baseline, ClusterConfig, Data)


def _record(setattr_: Callable) -> set[tuple[str, str]]:
    """Fields that are read from now on, but by checks and copies of a configuration as a whole."""
    found = set()
    whole = {"__post_init__", "identity", "as_dict", "shared"}

    def read(self, name):
        code = sys._getframe(1).f_code
        if code.co_filename != dataclasses.__file__ and code.co_name not in whole:
            found.add((type(self).__name__, name))
        return object.__getattribute__(self, name)

    for kind in KINDS:
        setattr_(kind, "__getattribute__", read)
    return found


def _read_by_rank(composed: Config) -> set[tuple[str, str]]:
    found = _record(setattr)  # the process ends with this run
    run(composed)
    return found
