"""scripts/carry_over.py: old folders get new names, and nothing else changes in them."""

import json
import shutil
from pathlib import Path

import pytest

from sasg.config import digest, from_dict
from sasg.report.runs import entries_in
from scripts import carry_over

RUNS = Path(__file__).resolve().parent.parent / "results" / "runs"
NAMES = dict(carry_over._renamed(RUNS))
PRESET = {
    **{"name": "reference", "reduction": "sum", "window": "D-1", "first_uploads": "D", "delay_counter": "reference"},
    **{"threshold_step_size": "late", "top_k_scope": "tensor", "batchnorm": "sequential"},
}
PART = "sasg.algorithms."
MNIST = {
    "task": {
        **{"name": "mnist", "batch_size": 10, "step_size": 0.005, "decay_epochs": [], "decay_factor": 0.1},
        **{"warmup_epochs": 0, "warmup_factor": 1.0},
        "baseline": {"metric": "top1", "accuracy": 0.98, "target": None},
        **{"max_delay": 10, "alpha": {"default": 0.5}, "xi": None},
    },
    "preset": PRESET,
    "dataset": {"kind": "sasg.problem.datasets.mnist", "mean": [0.1307], "std": [0.3081]},
    "shards": {"kind": "sasg.problem.shards.iid"},
    "model": {"kind": "sasg.problem.models.fc", "hidden": [512]},
    "algorithm": {
        "name": "sasg",
        "kind": PART + "composed.Composed",
        "trigger": {
            **{"kind": PART + "triggers.Lazy", "max_delay": 10, "alpha": 0.5, "window": "D-1", "first_uploads": "D"},
            **{"delay_counter": "reference", "threshold_step_size": "late"},
        },
        "compressor": {"kind": PART + "compressors.TopK", "density": 0.01, "scope": "tensor"},
        "feedback": {"kind": PART + "feedback.ErrorMemory"},
        "aggregation": {"kind": PART + "aggregation.SumOfLatest"},
        "reduction": "sum",
    },
    **{"epochs": 20, "objective": None, "seed": 1, "precision": "tf32", "max_iterations": None},
    **{"evaluate_every": 100, "evaluate_epochs": True, "weight_decay": 0.0, "index_codes": None},
    "cluster": {"workers": 10},
    **{"device": "cpu", "data_sha256": "c868f4cc70f1ec2961bd3b26437ea3a5d0e93cba4d95b336c6d475dd9dabb021"},
}
LASSO = {
    "task": {
        **{"name": "lasso", "batch_size": "full", "step_size": "1/L", "decay_epochs": [], "decay_factor": 0.1},
        **{"warmup_epochs": 0, "warmup_factor": 1.0},
        "baseline": {"metric": "objective_error", "accuracy": None, "target": 1e-08},
        **{"max_delay": 10, "alpha": {"default": 1.0}, "xi": {"default": 800, "gd_soec": 100}},
    },
    "preset": PRESET,
    "dataset": {"kind": "sasg.problem.tabular.diabetes", "degree": 2},
    "shards": {"kind": "sasg.problem.shards.iid"},
    "model": {"kind": "sasg.problem.models.linear"},
    "algorithm": {"name": "gd_sec", "kind": PART + "gd_sec.GDSEC", "xi": 800, "beta": 0.05, "error_correction": True},
    "epochs": 700,
    "objective": {"kind": "sasg.problem.objectives.LinearRegression", "l1": 0.01, "l1_step": "proximal"},
    **{"seed": 1, "draws": "counter", "precision": "fp64", "max_iterations": 700, "evaluate_every": 20},
    **{"evaluate_epochs": False, "weight_decay": 0.0, "index_codes": ["none", "int32", "log2", "bitmask", "delta"]},
    "cluster": {"workers": 5},
    **{"device": "cpu", "data_sha256": "1adc9a9e34073fffbd6a07ddf7557fbabb79922148e15ef78222a45f1653aace"},
}
LASSO["task"]["xi"]["gd_sec_coordinate"] = 4000
CASES = {"mnist-sasg-s1-5028ab9c": MNIST, "lasso-gd_sec-s1-1ab528f3": LASSO}


@pytest.fixture
def old(tmp_path) -> Path:
    """Two committed runs as they were before."""
    for name, values in CASES.items():
        folder = Path(shutil.copytree(RUNS / NAMES[name], tmp_path / name))
        (folder / "config.json").unlink()
        (folder / "config.yaml").write_text(json.dumps(values, indent=2) + "\n")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def told(folder: Path) -> dict[str, bytes | str]:
    """Contents; of the configuration what names the run, as options that came later may be left to their defaults."""
    configuration = folder / "config.json"
    return {**contents(folder), configuration.name: digest(json.loads(configuration.read_bytes()))}


def test_only_names_change(old):
    assert carry_over.carry_over_all(old) == []
    for name in CASES:
        assert not (old / name).exists()
        assert told(old / NAMES[name]) == told(RUNS / NAMES[name])
    assert dict(carry_over._renamed(old)) == {name: NAMES[name] for name in CASES}
    assert sorted(entry.method for entry in entries_in([old])) == ["gd_sec", "sasg"]
    assert carry_over.carry_over_all(old) == []  # nothing is left to do


def test_names_in_texts_are_replaced_also_later(old, tmp_path):
    carry_over.carry_over_all(old)
    text = tmp_path / "text.md"
    text.write_text("[1](runs/mnist-sasg-s1-5028ab9c), mnist-sasg-s1-5028ab9d\n")
    assert carry_over.replace_names(text, dict(carry_over._renamed(old))) == 1
    assert text.read_text() == f"[1](runs/{NAMES['mnist-sasg-s1-5028ab9c']}), mnist-sasg-s1-5028ab9d\n"


def _change(folder: Path, key: str, value) -> None:
    values = json.loads((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(json.dumps({**values, key: value}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: _change(folder, "epochs", 21), "its name does not fit"),
        (lambda folder: (folder / "config.yaml").write_text("{"), "damaged"),
        (lambda folder: (folder / "checkpoint.pt").touch(), "not finished"),
        (lambda folder: shutil.copytree(folder, folder.parent / NAMES[folder.name]), "there already"),
    ],
)
def test_what_cannot_be_carried_over_stays(old, spoil, says):
    folder = old / "mnist-sasg-s1-5028ab9c"
    spoil(folder)
    before = contents(folder)
    (line,) = [line for line in carry_over.carry_over_all(old) if line.startswith(f"{folder}: ")]
    assert line.startswith(f"{folder}: left as it was: ") and says in line
    assert contents(folder) == before


def test_a_part_of_ones_own_stays_as_it_is():
    values = json.loads(json.dumps(MNIST))
    values["model"] = {"kind": "nowhere.model", "width": 3}
    identity, _ = carry_over.translated(values)
    assert identity["model"] == values["model"]


def test_committed_runs_are_called_by_what_they_are():
    for path in RUNS.glob("*/config.json"):
        identity = json.loads(path.read_text())
        config = from_dict(identity)
        assert path.parent.name == config.run_name(identity)
        assert digest(config.identity(identity["data_sha256"], identity["device"])) == digest(identity)
