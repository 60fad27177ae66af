"""The contract: every method of conf/algorithm keeps it, and a broken promise of each kind is found."""

import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from every_feature import ALL_CODES, COLUMNS

from experiments import check as command
from experiments.composing import telling_errors
from sasg.checks import Finding, check
from sasg.checks.observe import observe
from sasg.cluster import SimulatedCluster
from sasg.cluster.accounting.ledger import columns
from sasg.config import Config
from sasg.gradients.vmap import VmapEngine
from sasg.problem.building import load_dataset
from sasg.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
PROMISES = 9
METHODS = {path.stem: (f"algorithm={path.stem}",) for path in sorted((ROOT / "conf" / "algorithm").glob("*.yaml"))}
_BATCHNORM = ("model.kind=suite_config.small_batchnorm", "~model.hidden", "+model.width=4")
OTHERS = {  # what else differs in kind: switches, local steps, BatchNorm, an exchange of every kind
    "sasg, paper": ("algorithm=sasg", "preset=paper", "gradients=vmap"),
    "sasg, BatchNorm": ("algorithm=sasg", *_BATCHNORM),
    "lasg_ps, L by worker": ("algorithm=lasg_ps", "algorithm.smoothness=[1.0,20.0,3.0,8.0,90.0]"),
    "cada1, c = 100": ("algorithm=cada1", "algorithm.trigger.scale=100.0"),
    "signs in both directions": ("algorithm=ef_sign", "+algorithm.downlink={kind:scaled_sign,scope:tensor}"),
    "majority_vote_quantised, H=2": ("algorithm=majority_vote_quantised", "algorithm.local_steps=2", *_BATCHNORM),
}


def configured(*words: str) -> Config:
    """What the command would check."""

    def set_up(config: Config) -> None:
        prepared = replace(config, device="cpu", precision="fp64")
        cluster = SimulatedCluster(config.cluster.workers, torch.device("cpu"))
        Trainer(prepared, load_dataset(prepared), cluster, torch.float64)

    return command.first_that_fits(words, set_up)[0]


def with_every_feature() -> Config:
    """A method that uses all that the contract offers; it is no composition, so it has no YAML."""
    every = {"name": "every", "kind": "every_feature.EveryFeature"}
    return replace(configured("algorithm=sgd"), algorithm=every, index_codes=ALL_CODES)


@pytest.fixture(scope="module")
def every_feature() -> dict:
    return observe(replace(with_every_feature(), device="cpu", precision="fp64", evaluate_every=30, max_iterations=30))


NAMES = [*METHODS, *OTHERS, "every feature"]
GROUPS = [NAMES[start : start + 8] for start in range(0, len(NAMES), 8)]
SKIPPING = {"lasg", "sasg", "lasg_wk1", "lasg_wk2", "lasg_ps", "lasg_pse", "sasg, paper", "every feature", "iag"} | {
    *("cada1, c = 100", "cada2", "csgd", "cmfl", "clag", "laq", "lag", "lazy_diloco"),
    *("lasg_fp16", "lasg_natural", "lasg_qsgd", "lasg_sign", "sasg_downlink", "sasg_momentum"),
}
"""Whose rules must skip and send in what is looked at: else it would say little that they are the same everywhere."""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("names", GROUPS, ids=[f"{group[0]} to {group[-1]}" for group in GROUPS])
def test_it_holds(names):
    """A group at a time, for which the processes are started once."""
    words = METHODS | OTHERS
    configs = [configured(*words[name]) if name in words else with_every_feature() for name in names]
    for name, findings in zip(names, check(configs), strict=True):
        assert len(findings) == PROMISES, name
        assert not [f"{finding.promise}: {finding.seen}" for finding in findings if not finding.holds], name
        if name in SKIPPING:
            skipped = re.match(r"(\d+) of (\d+)", findings[-1].seen)
            assert skipped and 0 < int(skipped[1]) < int(skipped[2]), name


def test_every_feature_is_used(every_feature):
    row, sent = every_feature["row"], every_feature["sent"]
    named = columns(ALL_CODES, COLUMNS)
    assert set(named) < set(row) and all(row[name] > 0 for name in named)
    assert (~sent.any(1)).any() and (sent.any(1) & ~sent.all(1)).any()
    assert row["rounds"] < 3 * sent.sum()  # of a worker that was asked, not every exchange has an upload


BROKEN = {
    "GlobalRandom": ({"compressor": "GlobalRandom"}, "the same again", "a second run has other parameters"),
    "HiddenState": ({"compressor": "HiddenState"}, "exact resume", "goes on from iteration 12 has other parameters"),
    "ByRow": ({"compressor": "ByRow"}, "simulated = 2 processes", "has other parameters"),
    "OwnMean": ({"trigger": "OwnMean"}, "simulated = 2 processes", "shared state trigger.mean of rank 1 (workers 2-4)"),
    "Wide": ({"compressor": "Wide"}, "bytes = ledger", "bits that rank 1 uploaded"),
    "Secretive": ({"algorithm": "Secretive"}, "silent when it says so", "in iteration 0 a worker uploads although"),
    "NotOfAll": ({"compressor": "NotOfAll"}, "a state moves between them", ""),
}


def broken(kinds: dict[str, str]) -> Config:
    config = configured("algorithm=composed")
    algorithm = dict(config.algorithm)
    for part, name in kinds.items():
        if part == "algorithm":
            algorithm["kind"] = f"broken_methods.{name}"
        else:
            algorithm[part] = {"kind": f"broken_methods.{name}"}
    return replace(config, algorithm=algorithm, max_iterations=30)


@pytest.fixture(scope="module")
def found_broken() -> dict[str, list[Finding]]:
    return dict(zip(BROKEN, check([broken(kinds) for kinds, *_ in BROKEN.values()], worlds=(2,)), strict=True))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_found(found_broken, name):
    _, promise, words = BROKEN[name]
    findings = {finding.promise: finding for finding in found_broken[name]}
    assert not findings[promise].holds and words in findings[promise].seen, findings[promise].seen
    assert findings["right gradients"].holds


def test_wrong_gradients_are_found(monkeypatch):
    original = VmapEngine.per_worker

    def off(self, parameters, x, y, out, statistics):
        loss = original(self, parameters, x, y, out, statistics)
        out[-1].mul_(1 + 1e-6)  # of the last worker alone
        return loss

    monkeypatch.setattr(VmapEngine, "per_worker", off)
    (findings,) = check([configured("algorithm=sgd", "gradients=vmap", "max_iterations=2")], worlds=(1,))
    assert not findings[0].holds and findings[0].seen.startswith("VmapEngine is off by")
    assert findings[1].holds


class TestCommand:
    @pytest.fixture
    def said(self, monkeypatch, capsys, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(Path(__file__).parent)

        def run(*words: str) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "argv", ["check.py", *words])
            code = telling_errors(command.main)
            return code, *capsys.readouterr()

        return run

    def test_a_file_that_holds_and_one_that_does_not(self, said, tmp_path):
        text = "defaults:\n  - composed\nname: mine\ncompressor:\n  kind: {}\n"
        (tmp_path / "good.yaml").write_text(text.format("identity"))
        (tmp_path / "bad.yaml").write_text(text.format("broken_methods.HiddenState"))
        small = ("max_iterations=4", "cluster.workers=2")
        code, out, _ = said("good.yaml", *small)
        assert code == 0 and out.splitlines()[0] == "mine on digits, 2 workers:" and "NO" not in out
        code, out, _ = said("bad.yaml", *small)
        assert code == 1
        assert "  NO  exact resume" in out and "  yes right gradients" in out

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("name: mine\nkind: nowhere.Mine\n", "algorithm.kind=nowhere.Mine: cannot be imported"),
            ("name: mine\nkind: [a\n", "mine.yaml:3: "),
            (
                "defaults:\n  - composed\nname: mine\ncompressor:\n  kind: mine_method.Mine\n",
                "mine_method.py:5: Mine lacks __call__",
            ),
        ],
    )
    def test_what_is_to_be_mended_first(self, said, tmp_path, content, says):
        (tmp_path / "mine.yaml").write_text(content)
        (tmp_path / "mine_method.py").write_text(
            "from sasg.algorithms.parts.compressors import Compressor\n\n\n\nclass Mine(Compressor):\n    pass\n"
        )
        code, out, err = said("mine.yaml")
        (line,) = err.splitlines()
        assert (code, out) == (2, "") and says in line

    def test_no_file(self, said):
        assert said("nowhere.yaml")[::2] == (2, "error: nowhere.yaml: there is no such file\n")

    def test_help(self, said):
        code, out, _ = said("--help")
        assert code == 0 and "sasg check my_method.yaml" in out


def test_the_script_runs_by_itself():
    assert runpy.run_path(str(ROOT / "experiments" / "check.py"))["TASKS"] == command.TASKS
