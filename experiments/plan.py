"""From a study's configurations to what must still be run, where, and for how long."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace

from experiments.gpus import visible_gpus
from experiments.pool import Job, total_seconds
from experiments.several import duration
from sasg.cluster.factory import num_cores
from sasg.config import Config
from sasg.problem.building import load_dataset
from sasg.problem.datasets import Dataset
from sasg.report.runs import Entry
from sasg.training.estimate import Estimate, estimate
from sasg.training.run import prepare_torch
from sasg.training.run_folder import folder_of

LONGEST_SECONDS = 24 * 3600


def jobs_for(entries: Sequence[Entry]) -> list[Job]:
    """What is not finished, in the same order. Reads each data set once, and measures each method on each task.

    UserError: the data is not there, or not the data of the runs that are finished; a part refuses its options.
    """
    wanted = [(entry, _with_known_data(entry, entries)) for entry in entries if entry.run is None]
    devices = [prepare_torch(config)[0].type for _, config in wanted]  # told before data is read, if one is not there
    datasets: dict[str, Dataset] = {}
    for _, config in wanted:
        if (key := _data_key(config)) not in datasets:
            datasets[key] = load_dataset(config)
    if wanted:
        print("measuring a few iterations of each method ...", file=sys.stderr, flush=True)
    estimates: dict[tuple[str, str], Estimate] = {}
    jobs = []
    for (entry, config), device in zip(wanted, devices, strict=True):
        dataset = datasets[_data_key(config)]
        if (entry.task, entry.method) not in estimates:
            estimates[entry.task, entry.method] = estimate(config, dataset)
        folder = folder_of(config, dataset.sha256, device)
        config = replace(config, data_sha256=dataset.sha256)
        jobs.append(Job(config, folder, estimates[entry.task, entry.method]))
    return jobs


def num_slots(jobs: Sequence[Job]) -> int:
    """How many runs at a time: one per GPU, or one per core; one alone where runs have several processes each."""
    if _distributed(jobs):
        return 1
    if _on_gpu(jobs):
        return max(1, min(len(visible_gpus()), len(jobs)))
    threads = max((job.config.threads for job in jobs), default=1)
    return max(1, min(num_cores() // threads, len(jobs)))


def gpus_for(jobs: Sequence[Job], slots: int) -> list[str]:
    """The GPUs to spread runs over, as CUDA_VISIBLE_DEVICES names them; [] where each run is to see what there is."""
    apart = slots > 1 and not _distributed(jobs)  # the processes of one run use all GPUs together
    return visible_gpus() if apart and _on_gpu(jobs) else []


def _distributed(jobs: Sequence[Job]) -> bool:
    return any(job.config.cluster.kind == "distributed" for job in jobs)


def _on_gpu(jobs: Sequence[Job]) -> bool:
    return any(job.folder.identity["device"] == "cuda" for job in jobs)


def too_long(jobs: Sequence[Job], slots: int) -> str | None:
    """Where the jobs take more than a day: that they do, and what would take less."""
    if (total := total_seconds(jobs, slots)) <= LONGEST_SECONDS:
        return None
    tasks: dict[str, list[Job]] = {}
    for job in jobs:
        tasks.setdefault(job.config.task.name, []).append(job)
    seconds = {task: total_seconds(of_task, slots) for task, of_task in tasks.items()}
    fitting = [f"task={task} takes about {duration(s)}" for task, s in seconds.items() if s <= LONGEST_SECONDS]
    return (
        f"this would take about {total / 86400:.0f} days here, and stops at one; "
        f"{', '.join(fitting) or _shorter(tasks[min(seconds, key=seconds.__getitem__)], slots)}; "
        "or use a GPU, or force=true to start all the same"
    )


def _shorter(jobs: Sequence[Job], slots: int) -> str:
    """What of a task's jobs would take about an hour: one seed and fewer iterations."""
    seed = jobs[0].config.seed
    one_iteration = sum(job.estimate.seconds_per_iteration for job in jobs if job.config.seed == seed) / slots
    num_iterations = max(1, int(3600 / one_iteration))
    return f"task={jobs[0].config.task.name} seeds={seed} max_iterations={num_iterations} takes about an hour"


def _with_known_data(entry: Entry, entries: Sequence[Entry]) -> Config:
    """The configuration, which asks for the same data as this task's finished runs."""
    known = (other.run.identity["data_sha256"] for other in entries if other.run and other.task == entry.task)
    return replace(entry.config, data_sha256=entry.config.data_sha256 or next(known, None))


def _data_key(config: Config) -> str:
    return json.dumps([config.dataset, config.data_sha256], sort_keys=True)
