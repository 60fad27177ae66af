"""draws=published: the suite beside a replay with torch's own loaders, and the reports that put runs beside others."""

import csv
import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import configuration, run_ranks
from suite_config import config
from test_distributed import train

from benchmarks.published_replay import COLUMNS, Replay, write_rows
from sasg.cluster import SimulatedCluster
from sasg.config import Config, digest
from sasg.errors import UserError
from sasg.problem.building import load_dataset
from sasg.problem.datasets import Dataset, Source, from_arrays
from sasg.report import published_draws
from sasg.report.epochs import epochs_of, read_log
from sasg.report.runs import Run, look_up
from sasg.training.run import run
from sasg.training.trainer import Trainer
from scripts import compare_log

METHODS = ["sgd", "sparse", "lasg", "sasg"]
ROOT = Path(__file__).parent.parent
MNIST = Path(os.environ.get("SASG_DATA", "data")) / "mnist.npz"

WORDS = ("dataset.kind=tests.test_published_draws.brightness", "draws=published", "precision=fp64", "seed=3")
WORDS += ("cluster.workers=5", "model.hidden=[8]", "task.batch_size=2", "epochs=2", "evaluate_every=60")
WORDS += ("task.max_delay=3", "task.alpha.default=4.0")


def brightness(
    root: Path, download: bool, mean: tuple[float, ...], std: tuple[float, ...], flip: bool = False
) -> Dataset:
    """Noise in which no two pixels are always equal, so that no two entries of a gradient tie; three classes."""
    draw = np.random.default_rng(0)
    arrays = {}
    for split, number in (("train", 1057), ("test", 100)):
        labels = np.arange(number) % 3
        arrays[f"x_{split}"] = (draw.integers(0, 160, (number, 6, 6)) + 45 * labels[:, None, None]).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    return from_arrays(Source("brightness", tuple(mean), tuple(std), flip=flip), 3, arrays, "made for tests")


def small(method: str, *words: str) -> Config:
    """105 iterations an epoch, and 1 of 211 samples in a shard left out; rules that skip, upload and force."""
    return config(f"algorithm={method}", *WORDS, *words)


def replay_of(cfg: Config) -> Replay:
    values = (cfg.algorithm["name"], cfg.seed, 5, 2, 8, cfg.task.step_size, 4.0, 3, torch.float64)
    return Replay(load_dataset(cfg), *values)


def trainer_of(cfg: Config) -> Trainer:
    return Trainer(cfg, load_dataset(cfg), SimulatedCluster(5, torch.device("cpu")), torch.float64)


def parameters(replay: Replay) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in replay.loop.model.parameters()])


@pytest.mark.parametrize("method", METHODS)
def test_suite_and_replay(method):
    """The same weights, samples and decisions, through two epochs with evaluations within and at the end of them."""
    cfg = small(method)
    trainer, replay = trainer_of(cfg), replay_of(cfg)
    assert torch.equal(trainer.problem.parameters, parameters(replay))
    uploads = []
    for _ in range(2):
        for position, (x, y, sent) in enumerate(replay.epoch()):
            trainer.run_iteration()
            ours_x, ours_y = trainer.problem.batches.batch(torch.tensor(position))
            assert torch.equal(ours_y, y) and torch.allclose(ours_x, x, rtol=0, atol=1e-12)
            ours = trainer.records.take(trainer.cluster)
            assert ours["sent"][0].tolist() == sent
            assert ours["loss"][0].tolist() == pytest.approx(replay.loop.losses, abs=1e-9)
            uploads += sent
        assert torch.allclose(trainer.problem.parameters, parameters(replay), rtol=0, atol=1e-9)
    assert trainer.iteration == replay.loop.iteration == 210
    share = sum(uploads) / len(uploads)
    assert 0.1 < share < 0.9 if method in ("lasg", "sasg") else share == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> list[Config]:
    """SGD and SASG."""
    configs = [small(method, f"runs_dir={tmp_path_factory.getbasetemp()}/published") for method in ("sgd", "sasg")]
    for cfg in configs:
        run(cfg)
    return configs


def replayed(cfg: Config) -> list[dict]:
    replay, rows = replay_of(cfg), []
    for epoch in (1, 2):
        for _ in replay.epoch():
            pass
        values = (cfg.algorithm["name"], cfg.seed, epoch, replay.num_skipped, replay.training_loss, replay.top1, None)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def finished_run(cfg: Config) -> Run:
    return look_up([cfg])[0].run


def test_epochs_of_a_run(finished):
    """Also where rows within an epoch are of different numbers of iterations: 60, 45, 15 and so on."""
    for cfg in finished:
        for ours, theirs in zip(epochs_of(finished_run(cfg)), replayed(cfg), strict=True):
            assert ours.num_skipped == theirs["skipped"] and ours.top1 == theirs["top1"]
            assert ours.training_loss == pytest.approx(theirs["training_loss"], abs=1e-9)


def test_epochs_without_their_ends_are_refused(tmp_path):
    cfg = small("sgd", f"runs_dir={tmp_path}", "evaluate_epochs=false")
    run(cfg)
    with pytest.raises(UserError, match="evaluate_epochs"):
        epochs_of(finished_run(cfg))


class TestDraws:
    def orders(self, trainer: Trainer, epoch: int) -> list[list[int]]:
        return [trainer.problem.batches.draws.order(worker, epoch, 211).tolist() for worker in range(5)]

    def test_of_any_epoch_and_worker_in_any_order(self):
        forwards, backwards = trainer_of(small("sasg")), trainer_of(small("sasg"))
        there = [self.orders(forwards, epoch) for epoch in range(4)]
        assert [self.orders(backwards, epoch) for epoch in reversed(range(4))] == there[::-1]
        every = [tuple(order) for orders in there for order in orders]
        assert len(set(every)) == 20 and all(sorted(order) == list(range(211)) for order in every)

    def test_a_second_model_changes_the_orders_alone(self):
        eager, lazy = trainer_of(small("sparse")), trainer_of(small("sasg"))
        assert torch.equal(eager.problem.parameters, lazy.problem.parameters)
        assert torch.equal(eager.problem.batches.train.labels, lazy.problem.batches.train.labels)
        assert self.orders(eager, 0) != self.orders(lazy, 0)

    def test_evaluations_change_nothing(self):
        trainers = trainer_of(small("sgd")), trainer_of(small("sgd", "evaluate_every=7", "evaluate_epochs=false"))
        assert self.orders(trainers[0], 3) == self.orders(trainers[1], 3)

    def test_global_generators_stay_as_they_are(self):
        random.seed(5), np.random.seed(6), torch.manual_seed(7)
        trainer_of(small("lasg")).run_iteration()
        after = random.random(), np.random.random(), torch.rand(()).item()
        random.seed(5), np.random.seed(6), torch.manual_seed(7)
        assert after == (random.random(), np.random.random(), torch.rand(()).item())

    @pytest.mark.parametrize("method", ["sgd", "sasg"])
    def test_a_run_goes_on_within_an_epoch(self, method):
        whole, first, second = (trainer_of(small(method, "evaluate_every=1000")) for _ in range(3))
        for trainer, count in ((whole, 160), (first, 130)):
            for _ in range(count):
                trainer.run_iteration()
        second.load_state(first.state())
        for _ in range(30):
            second.run_iteration()
        assert torch.equal(second.problem.parameters, whole.problem.parameters)

    def test_any_number_of_processes(self):
        alone = configuration("sasg", draws="published", evaluate_every=50)
        spread = replace(alone, cluster=replace(alone.cluster, kind="distributed", processes=2))
        simulated, ranks = train(alone), run_ranks(2, train, spread)
        server = next(rank for rank in ranks if rank["is_server"])
        assert torch.equal(server["sent"], simulated["sent"])
        assert torch.allclose(server["parameters"], simulated["parameters"], rtol=0, atol=1e-12)

    def test_default_leaves_names_of_runs_as_they_were(self):
        identity = config("algorithm=sasg").identity("data", "cpu")
        assert identity["draws"] == "counter"
        assert digest(identity) == digest({key: value for key, value in identity.items() if key != "draws"})
        assert digest(identity) != digest({**identity, "draws": "published"})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["algorithm=lasg_wk1"], "algorithm lasg_wk1 is none of SGD"),
        (["algorithm=local_sgd"], "algorithm local_sgd is none of SGD"),
        (["algorithm=sgd", "task.batch_size=full"], "mini-batches"),
        (["algorithm=sgd", "shards=by_class"], "shards.kind=by_class"),
        (["algorithm=sgd", f"seed={2**32}"], "seed=4294967296"),
        (["algorithm=sgd", "+dataset.flip=true"], "augmentation of brightness"),
    ],
)
def test_what_has_no_published_draws_is_refused(tmp_path, words, says):
    with pytest.raises(UserError, match=says) as caught:
        run(config(*WORDS, *words, f"runs_dir={tmp_path}"))
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_study(finished, tmp_path):
    entries = look_up([*finished, small("lasg", f"runs_dir={finished[0].runs_dir}")])
    write_rows(tmp_path / published_draws.REPLAY, "sgd", 3, replayed(finished[0]))
    table = published_draws.table(entries, tmp_path / published_draws.REPLAY)
    sgd, sasg, lasg = (list(cells) for cells in table.cells)
    assert sgd[6:] == ["2", "none", "0.0000", "0.00", "0"]
    assert sasg[6:] == ["not run"] * 5 and lasg[2:] == ["not run"] * 9
    rows = list(csv.DictReader(table.documents(tmp_path, "runs")["runs_epochs.csv"].splitlines()))
    assert [(row["method"], row["epoch"]) for row in rows] == [(m, e) for m in ("sgd", "sasg") for e in "12"]
    assert all(row["top1"] == row["replay_top1"] for row in rows[:2]) and not rows[2]["replay_top1"]


def test_replay_rows_of_a_run_replace_its_older_ones(tmp_path):
    path = tmp_path / "replay.csv"

    def row(method: str, seed: int, epoch: int, loss: float) -> dict:
        return dict(zip(COLUMNS, (method, seed, epoch, 0, loss, 0.5, None), strict=True))

    write_rows(path, "sasg", 1, [row("sasg", 1, 1, 0.1)])
    write_rows(path, "sgd", 1, [row("sgd", 1, 1, 0.2), row("sgd", 1, 2, 0.3)])
    write_rows(path, "sasg", 1, [row("sasg", 1, 1, 0.4)])
    with path.open(newline="") as file:
        found = [(r["method"], r["epoch"], r["training_loss"]) for r in csv.DictReader(file)]
    assert found == [("sgd", "1", "0.2"), ("sgd", "2", "0.3"), ("sasg", "1", "0.4")]


LOG = """loading
SGD  lr:0.02--h:0.01--epoch:2--worker:5--seed:9
epoch 1, skip_num 0, loss 9.0000, train acc 50.000%, test acc 50.000%
{title}  lr:0.02--h:0.01--epoch:2--worker:5--seed:3
epoch 1, skip_num {skipped}, loss {loss:.4f}, train acc 50.000%, test acc {accuracy:.3f}%
"""


def test_compare_log(finished, tmp_path, monkeypatch, capsys):
    """The log has one epoch of a run and another run that there is not."""
    ours = epochs_of(finished_run(finished[1]))[0]
    values = {"skipped": ours.num_skipped + 7, "loss": ours.training_loss - 0.5, "accuracy": 100 * ours.top1 + 1}
    log = tmp_path / "log.txt"
    log.write_text(LOG.format(title="SASG", **values))
    assert [(one.method, one.seed, len(one.epochs)) for one in read_log(log)] == [("sgd", 9, 1), ("sasg", 3, 1)]
    monkeypatch.setattr("sys.argv", ["compare_log.py", str(log), finished[0].runs_dir])
    assert compare_log.main() == 0
    tables = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(tables) == 4
    row = [cell.strip() for cell in tables[1]]
    assert row[:2] == [finished_run(finished[1]).path.name, "1"]
    assert row[3:5] == [f"{ours.num_skipped:,}", "-7"] and row[7] == "+0.5000" and row[10] == "-1.00"
    assert [cell.strip() for cell in tables[3]] == ["SASG", "3", "1", "7", "0.5000", "1.00 points"]


@pytest.mark.parametrize(
    ("text", "says"),
    [("nothing\n", "no line of an epoch"), (LOG, "sgd seed 9, other seed 3"), (None, "cannot be read")],
)
def test_logs_that_cannot_be_compared(finished, tmp_path, monkeypatch, text, says):
    log = tmp_path / "log.txt"
    if text is not None:
        log.write_text(text.format(title="Other", skipped=0, loss=1, accuracy=50))
    monkeypatch.setattr("sys.argv", ["compare_log.py", str(log), finished[0].runs_dir])
    with pytest.raises(UserError, match=says) as caught:
        compare_log.main()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.exists(), reason="needs MNIST in SASG_DATA")
def test_mnist_as_committed(tmp_path):
    """The first epoch of SGD with seed 1 has the loss that the replay had, to 0.0001."""
    with (ROOT / "results/published_draws/replay.csv").open(newline="") as file:
        known = next(row for row in csv.DictReader(file) if (row["method"], row["seed"]) == ("sgd", "1"))
    cfg = config("task=mnist", "algorithm=sgd", "draws=published", "max_iterations=600", f"runs_dir={tmp_path}")
    run(cfg)
    ours = epochs_of(finished_run(cfg))[0]
    assert ours.training_loss == pytest.approx(float(known["training_loss"]), abs=1e-4)
    assert ours.top1 == pytest.approx(float(known["top1"]), abs=1e-3)
