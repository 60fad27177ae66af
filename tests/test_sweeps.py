"""Sweeps through Hydra's launchers: joblib on this machine; submitit as far as its job script."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import submitit
from hydra import compose, initialize_config_dir
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from omegaconf import OmegaConf

import experiments.composing  # noqa: F401 -- it sets what conf/train.yaml refers to

ROOT = Path(__file__).resolve().parent.parent
TINY = (
    "dataset.kind=tests.study_parts.tiny",
    "model.hidden=[8]",
    "task.batch_size=2",
    "max_iterations=20",
    "evaluate_every=10",
    "device=cpu",
)


def train(*words: str) -> subprocess.CompletedProcess:
    others = [word for word in TINY if word.partition("=")[0] not in {word.partition("=")[0] for word in words}]
    command = [sys.executable, "experiments/train.py", "-m", *others, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_joblib_runs_the_sweep(tmp_path):
    words = ["algorithm=sgd,sasg", f"runs_dir={tmp_path}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = train(*words)
    assert done.returncode == 0, done.stderr
    assert "[1/2] digits-sgd-s1\n" in done.stderr and "[2/2] digits-sasg-s1\n" in done.stderr
    summaries = [json.loads(path.read_text()) for path in tmp_path.glob("*/summary.json")]
    assert sorted((s["method"], s["status"]) for s in summaries) == [("sasg", "finished"), ("sgd", "finished")]


def test_joblib_stopped_runs_give_their_exit_code(tmp_path):
    done = train("algorithm=sgd", f"runs_dir={tmp_path}", "hydra/launcher=joblib", "budget=0s")
    assert done.returncode == 3 and "stopped after 0 iterations" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sweep_of_distributed_runs(tmp_path):
    """Each starts processes of its own; what is finished is not run again, on whatever cluster."""
    words = ["algorithm=sgd,sasg", f"runs_dir={tmp_path}", "++cluster.processes=2"]
    done = train(*words, "cluster=distributed")
    assert done.returncode == 0, done.stderr
    first = {path: path.read_text() for path in tmp_path.glob("*/summary.json")}
    summaries = [json.loads(text) for text in first.values()]
    assert sorted((s["method"], s["status"]) for s in summaries) == [("sasg", "finished"), ("sgd", "finished")]
    assert [s["cluster"]["processes"] for s in summaries] == [2, 2]
    again = train(*words, "cluster=distributed,simulated")
    assert again.returncode == 0 and sorted(set(again.stdout.split())) == sorted(str(path.parent) for path in first)
    assert again.stderr.count("finished already") == 4
    assert {path: path.read_text() for path in tmp_path.glob("*/summary.json")} == first


def test_the_budget_stops_a_distributed_run_which_another_cluster_ends(tmp_path):
    words = ["algorithm=sasg", f"runs_dir={tmp_path}"]
    done = train(*words, "cluster=distributed", "cluster.processes=2", "budget=0s")
    assert done.returncode == 3 and "stopped after 0 iterations" in done.stderr and "Traceback" not in done.stderr
    (path,) = tmp_path.glob("*/checkpoint.pt")
    assert train(*words).returncode == 0 and not path.exists()


def test_nothing_starts_where_one_run_of_the_sweep_is_wrong(tmp_path):
    done = train("task.batch_size=2,0", f"runs_dir={tmp_path}", "hydra/launcher=joblib")
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert done.stderr == "error: task.batch_size=0: must be at least 1\n"


def test_slurm_needs_slurm(tmp_path):
    if shutil.which("srun") is None:
        done = train("seed=1,2", f"runs_dir={tmp_path}", "hydra/launcher=slurm")
        assert done.returncode == 2 and not list(tmp_path.iterdir())
        assert done.stderr.startswith("error: hydra/launcher=slurm: there is no SLURM") and done.stderr.count("\n") == 1


def test_slurm_job_script(tmp_path, monkeypatch):
    """What submitit makes of conf/hydra/launcher/slurm.yaml, with an srun that does nothing."""
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    words = ["hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1"]
    words += ["hydra.job.name=train"]
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        composed = compose("train", words, return_hydra_config=True)
    params = OmegaConf.to_container(composed.hydra.launcher, resolve=True)
    assert params.pop("_target_").endswith("SlurmLauncher")
    assert params.pop("submitit_folder") == "results/slurm/%j"
    executor = submitit.AutoExecutor(tmp_path, cluster="slurm", slurm_max_num_timeout=params.pop("max_num_timeout"))
    shared = OmegaConf.structured(BaseQueueConf).keys()
    executor.update_parameters(**{k if k in shared else f"slurm_{k}": v for k, v in params.items()})
    script = executor._executor._make_submission_file_text("python -m sasg", "id")
    for line in ("--time=1440", "--partition=gpu", "--gpus-per-node=1", "--cpus-per-task=1", "--mem=8GB"):
        assert f"#SBATCH {line}\n" in script
