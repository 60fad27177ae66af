"""Presets and tasks: every switch by its definition, every number of the paper's table of settings."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from suite_config import config
from torch import nn

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.parts.compressors import TopK
from sasg.algorithms.parts.triggers import Lazy
from sasg.cluster import SimulatedCluster
from sasg.config import Config
from sasg.gradients.engines import DenseGradients
from sasg.gradients.normalisation import RunningStatistics
from sasg.problem.building import build_model, load_dataset
from sasg.training.run import prepare_torch
from sasg.training.schedule import StepSchedule
from sasg.training.trainer import Trainer

CPU = torch.device("cpu")


def workspace(sizes: tuple[int, ...], num_workers: int) -> Workspace:
    return Workspace(tuple((n,) for n in sizes), SimulatedCluster(num_workers, CPU), CPU, torch.float64, seed=1)


def lazy(num_workers: int = 1, size: int = 1, schedule=lambda epoch: 1.0, **options) -> Lazy:
    """A trigger that is set up and in epoch 0; alpha = 1 unless given."""
    trigger = Lazy(**{"alpha": 1.0, **options})
    trigger.setup(workspace((size,), num_workers))
    trigger.begin_epoch(0, schedule)
    return trigger


def decide(trigger: Lazy, difference: float, update: float) -> bool:
    """One iteration of one worker with gradients that differ by sqrt(difference), and then this update."""
    gradients = DenseGradients(torch.tensor([[difference**0.5]], dtype=torch.float64))
    at_comparison_point = DenseGradients(torch.zeros(1, 1, dtype=torch.float64))
    oracle = SimpleNamespace(at=lambda past, rows: at_comparison_point)
    sent = trigger(gradients, torch.zeros(1, dtype=torch.float64), oracle)
    trigger.observe(torch.tensor([update], dtype=torch.float64))
    return bool(sent)


class TestSwitches:
    @pytest.mark.parametrize(("window", "added"), [("D-1", [0, 1, 5, 20, 80, 320]), ("D", [0, 1, 5, 21, 84, 336])])
    def test_window(self, window, added):
        """D = 3: the threshold adds up D - 1 = 2 or D = 3 squared updates, here of 1, 2, 4, ..."""
        trigger = lazy(max_delay=3, window=window)
        thresholds = []
        for k in range(6):
            decide(trigger, difference=0.0, update=2.0**k)
            thresholds.append(float(trigger.threshold))
        assert thresholds == added

    @pytest.mark.parametrize(("first_uploads", "sent"), [("D", [1, 1, 1, 0]), ("1", [1, 0, 0, 0])])
    def test_first_uploads(self, first_uploads, sent):
        """D = 3; nothing differs, so that only the first iterations upload."""
        trigger = lazy(max_delay=3, first_uploads=first_uploads)
        assert [decide(trigger, difference=0.0, update=1.0) for _ in range(4)] == sent

    @pytest.mark.parametrize(
        ("delay_counter", "sent", "staleness"),
        [
            # k < D = 2: uploads with the counter at 0; it counts 1, 2, 3, and 3 > D forces an upload, which sets 1
            ("reference", [1, 1, 0, 0, 0, 1, 0, 0, 1, 0], [0, 0, 1, 2, 3, 1, 2, 3, 1, 2]),
            # uploads set 1, also the first ones; a skip makes it 2 = D, which forces an upload
            ("paper", [1, 1, 0, 1, 0, 1, 0, 1, 0, 1], [1, 1, 2, 1, 2, 1, 2, 1, 2, 1]),
        ],
    )
    def test_delay_counter(self, delay_counter, sent, staleness):
        trigger = lazy(max_delay=2, delay_counter=delay_counter)
        seen = [(decide(trigger, difference=0.0, update=1.0), int(trigger.staleness)) for _ in range(10)]
        assert seen == list(zip(sent, staleness))

    @pytest.mark.parametrize(("which", "epochs"), [("late", [0, 0, 1, 2]), ("current", [0, 1, 2, 3])])
    def test_threshold_step_size(self, which, epochs):
        """alpha_d = alpha / gamma of this epoch or the one before; divided by M^2 = 16."""
        schedule = StepSchedule(0.1, (1, 3), 0.5)
        trigger = lazy(num_workers=4, max_delay=2, alpha=3.0, threshold_step_size=which, schedule=schedule)
        for epoch, taken in enumerate(epochs):
            trigger.begin_epoch(epoch, schedule)
            assert float(trigger.weight) == pytest.approx(3.0 / (0.1 * 0.5 ** sum(taken >= e for e in (1, 3))) / 16)

    def test_rule_is_strict(self):
        trigger = lazy(max_delay=1, window="D", first_uploads="1")
        decide(trigger, difference=0.0, update=2.0)
        assert not decide(trigger, difference=4.0, update=2.0)
        assert decide(trigger, difference=4.000001, update=2.0)

    @pytest.mark.parametrize(
        ("scope", "kept"),
        [
            # 3 of the first tensor's 10 entries (floor 0.34 * 10), 1 of the second's 2 (at least one)
            ("tensor", [5, 8, 9, 11]),
            # 4 of the 12 entries
            ("vector", [7, 8, 9, 11]),
        ],
    )
    def test_top_k_scope(self, scope, kept):
        compressor = TopK(0.34, scope)
        compressor.setup(workspace((10, 2), 1))
        vector = torch.tensor([[1, -1, 2, 0, 1, 7, 0, -6, 9, 8, 0.5, -20]], dtype=torch.float64)
        vector[0, 7] = -7 if scope == "vector" else -6  # in one vector, the tie of 5 and 7 goes to the lower index
        vector[0, 5] = 7 if scope == "tensor" else 6.5
        payload = compressor(vector, None)
        assert payload.indices.tolist() == [kept]
        assert torch.equal(payload.values, vector[:, kept])

    @pytest.mark.parametrize("update", ["sequential", "mean"])
    def test_batchnorm(self, update):
        """Three workers' statistics enter one after the other, or as their mean; momentum 0.1."""
        model = nn.Sequential(nn.BatchNorm2d(2))
        running = RunningStatistics(model, range(3), update, [range(3)])
        draws = torch.rand(2, 3, 4, dtype=torch.float64)  # iterations, workers, [means, variances]
        expected = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64)
        for batch in draws:
            running.update(batch)
            for statistics in batch if update == "sequential" else [batch.mean(0)]:
                expected = 0.9 * expected + 0.1 * statistics
        assert torch.allclose(running.share, expected, rtol=1e-12)

    @pytest.mark.parametrize("update", ["sequential", "mean"])
    def test_batchnorm_of_groups(self, update):
        """Each group's statistics are those that its workers would have alone, also where processes share them."""
        model = nn.Sequential(nn.BatchNorm2d(2))
        groups = [range(4), [1, 3], [0, 2]]
        parts = [RunningStatistics(model, held, update, groups) for held in (range(3), range(3, 4))]
        alone = [RunningStatistics(model, range(n), update, [range(n)]) for n in map(len, groups)]
        for batch in torch.rand(3, 4, 4, dtype=torch.float64):
            for part, held in zip(parts, (batch[:3], batch[3:])):
                part.update(held)
            for running, group in zip(alone, groups):
                running.update(batch[list(group)])
        found = parts[0].totals(lambda share: share + parts[1].share)
        for own, running in zip(found, alone, strict=True):
            torch.testing.assert_close(own, running.totals(lambda share: share)[0], rtol=1e-12, atol=0)
        assert not torch.allclose(found[1]["0.running_mean"], found[2]["0.running_mean"])

    @pytest.mark.parametrize("algorithm", ["sgd", "sasg"])
    def test_reduction(self, algorithm):
        """The server sums gamma-scaled updates, or averages M gamma-scaled ones: bit for bit the same with M = 8."""
        trained = {}
        for reduction in ("sum", "mean"):
            trained[reduction] = trainer(
                "dataset.kind=tests.study_parts.tiny",
                "task.batch_size=2",
                "model.hidden=[8]",
                "cluster.workers=8",
                f"algorithm={algorithm}",
                f"preset.reduction={reduction}",
            )
            for _ in range(12):
                trained[reduction].run_iteration()
        assert 8 * trained["sum"].algorithm.step_size == trained["mean"].algorithm.step_size
        assert torch.equal(*(t.problem.parameters for t in trained.values()))
        if algorithm == "sasg":
            summed, averaged = (t.algorithm.feedback.memory for t in trained.values())
            assert torch.equal(8 * summed, averaged) and bool(summed.any())


def trainer(*overrides: str) -> Trainer:
    """As a run sets it up."""
    cfg = config(*overrides)
    device, dtype = prepare_torch(cfg)
    return Trainer(cfg, load_dataset(cfg), SimulatedCluster(cfg.cluster.workers, device), dtype)


SWITCHES = {
    "reference": ("sum", "D-1", "D", "reference", "late", "tensor", "sequential"),
    "paper": ("mean", "D", "1", "paper", "current", "vector", "mean"),
}


class TestPresets:
    @staticmethod
    def switches(composed: Config) -> tuple:
        algorithm, trigger = composed.algorithm, composed.algorithm["trigger"]
        names = ("window", "first_uploads", "delay_counter", "threshold_step_size")
        scope = algorithm["compressor"]["scope"]
        return (algorithm["reduction"], *(trigger[name] for name in names), scope, composed.batchnorm)

    @pytest.mark.parametrize("preset", SWITCHES)
    def test_its_switches_are_options_of_the_parts(self, preset):
        composed = config(f"preset={preset}", "algorithm=sasg")
        assert self.switches(composed) == SWITCHES[preset] and composed.preset == preset

    @pytest.mark.parametrize("number", range(7))
    def test_each_can_be_set(self, number):
        names = ("reduction", "window", "first_uploads", "delay_counter", "threshold_step_size", "top_k_scope")
        value = SWITCHES["paper"][number]
        word = f"preset.{(*names, 'batchnorm')[number]}={value}"
        expected = list(SWITCHES["reference"])
        expected[number] = value
        assert list(map(str, self.switches(config(word, "algorithm=sasg")))) == expected


def settings(composed: Config) -> dict:
    task = composed.task
    schedule = StepSchedule(task.step_size, task.decay_epochs, task.decay_factor)
    return {
        "workers": composed.cluster.workers,
        "batch": task.batch_size,
        "epochs": composed.epochs,
        "step_sizes": [pytest.approx(schedule(epoch)) for epoch in range(composed.epochs)],
        "max_delay": composed.algorithm["trigger"]["max_delay"],
        "baseline": task.baseline and (task.baseline.metric, task.baseline.accuracy),
        "model": composed.model["kind"],
        "evaluate_every": composed.evaluate_every,
        "weight_decay": composed.weight_decay,
    }


COMMON = {"workers": 10, "batch": 10, "max_delay": 10, "evaluate_every": 100, "weight_decay": 0.0}


class TestTasks:
    """The table of settings of the paper and its published code."""

    @pytest.mark.parametrize(
        ("task", "expected"),
        [
            ("mnist", {"model": "fc", "epochs": 20, "step_sizes": [0.005] * 20, "baseline": ("top1", 0.98)}),
            (
                "cifar10",
                {
                    "model": "resnet18",
                    "epochs": 30,
                    "step_sizes": [0.01] * 20 + [0.001] * 10,
                    "baseline": ("top1", 0.92),
                },
            ),
            (
                "cifar100",
                {
                    "model": "resnet18",
                    "epochs": 50,
                    "step_sizes": [0.01] * 30 + [0.001] * 20,
                    "baseline": ("top5", 0.92),
                },
            ),
            (
                "heterogeneous",
                {"model": "resnet18", "epochs": 15, "step_sizes": [0.01] * 10 + [0.001] * 5, "baseline": None},
            ),
        ],
    )
    def test_settings(self, task, expected):
        assert settings(config(f"task={task}")) == {**COMMON, **expected}

    @pytest.mark.parametrize(
        ("task", "lasg", "sasg"),
        [("mnist", 0.5, 0.5), ("cifar10", 1.0, 1.0), ("cifar100", 5.0, 1.25), ("heterogeneous", 1.0, 1.0)],
    )
    def test_alpha_times_gamma(self, task, lasg, sasg):
        for method, alpha in (("lasg", lasg), ("sasg", sasg)):
            assert config(f"task={task}", f"algorithm={method}").algorithm["trigger"]["alpha"] == alpha

    @pytest.mark.parametrize("method", ["sparse", "sasg"])
    def test_one_per_cent(self, method):
        assert config(f"algorithm={method}").algorithm["compressor"]["density"] == 0.01

    def test_training_transforms(self):
        expected = {
            "mnist": SimpleNamespace(mean=[0.1307], std=[0.3081]),
            "cifar10": SimpleNamespace(mean=[0.4914, 0.4822, 0.4465], std=[0.2023, 0.1994, 0.2010], crop=4, flip=True),
            "cifar100": SimpleNamespace(
                mean=[0.5071, 0.4865, 0.4409], std=[0.5071, 0.4865, 0.4409], crop=4, flip=True, rotation=15
            ),
        }
        for task, transforms in expected.items():
            assert {k: v for k, v in config(f"task={task}").dataset.items() if k != "kind"} == vars(transforms)
        parts = config("task=heterogeneous").dataset["parts"]
        assert [{k: v for k, v in part.items() if k != "kind"} for part in parts] == [
            vars(expected["cifar10"]),
            vars(expected["mnist"]),
        ]

    @pytest.mark.parametrize(("task", "iterations"), [("mnist", 600), ("cifar10", 500), ("cifar100", 500)])
    def test_iterations_per_epoch(self, task, iterations):
        """60,000 or 50,000 images, cut into 10 shards, 10 images at a time."""
        composed = config(f"task={task}")
        images = {"mnist": 60_000}.get(task, 50_000)
        assert images // composed.cluster.workers // composed.task.batch_size == iterations


class TestHeterogeneous:
    @pytest.fixture(scope="class")
    def root(self, tmp_path_factory):
        """80 + 20 images each in Keras's layout: CIFAR-10's are bright, MNIST's dark."""
        folder = tmp_path_factory.mktemp("data")
        draw = np.random.default_rng(0)
        for name, shape, low in (("cifar10", (32, 32, 3), 200), ("mnist", (28, 28), 0)):
            arrays = {}
            for split, number in (("train", 80), ("test", 20)):
                arrays[f"x_{split}"] = draw.integers(low, low + 50, (number, *shape), dtype=np.uint8)
                arrays[f"y_{split}"] = np.arange(number, dtype=np.uint8) % 10
            np.savez(folder / f"{name}.npz", **arrays)
        return folder

    def test_even_workers_hold_cifar10_and_accuracies_are_by_source(self, root):
        trained = trainer("task=heterogeneous", f"data.root={root}", "model.width=4", "task.batch_size=4")
        batches = trained.problem.batches
        sources = batches.train.sources.view(10, -1)  # by worker
        assert torch.equal(sources, torch.arange(10).remainder(2).unsqueeze(1).expand(10, 16))
        images = batches.train.images.view(10, 16, 3, 32, 32)
        assert bool((images[0::2] >= 200).all()) and bool((images[1::2] < 50).all())
        assert bool((images[1::2, :, :, :2] == 0).all())  # zero padding
        assert torch.equal(images[1::2, :, 0], images[1::2, :, 1])  # repeated to three channels
        assert trained.iterations_per_epoch == 4
        trained.run_iteration()
        row, _ = trained.evaluate()
        assert row["top1"] == pytest.approx((row["top1_cifar10"] + row["top1_mnist"]) / 2)
        assert {"top1_cifar10", "top1_mnist", "top5"} <= row.keys()

    def test_accuracies_with_the_running_statistics_of_each_source(self, root):
        """They are what torch's own BatchNorm gives that has seen the batches of these workers alone."""
        overrides = [f"data.root={root}", "model.width=4", "task.batch_size=4", "task.step_size=1e-9"]
        trained = trainer("task=heterogeneous", *overrides)
        cfg = config("task=heterogeneous", *overrides)
        nets = [build_model(cfg, trained.problem.dataset) for _ in range(2)]
        for _ in range(4):  # an epoch, in which next to nothing is learnt
            trained.run_iteration()
        for iteration in range(4):
            x, _ = trained.problem.batches.batch(torch.tensor(iteration))
            for worker in range(10):
                nets[worker % 2].train()(x[worker])
        row, _ = trained.evaluate()
        for source, net in zip(("cifar10", "mnist"), nets):
            hits = []
            for x, y, sources in trained.problem.batches.evaluation(50):
                chosen = sources == (source == "mnist")
                hits.append(net.eval()(x[chosen]).argmax(1) == y[chosen])
            assert row[f"top1_{source}_own_statistics"] == pytest.approx(float(torch.cat(hits).double().mean()))
        assert row["top1_own_statistics"] != row["top1"]

    @pytest.mark.parametrize("case", [("model=fc",), ("shards=iid", "model.width=4")])
    def test_no_statistics_of_sources_without_batchnorm_or_where_workers_have_several(self, root, case):
        trained = trainer("task=heterogeneous", *case, f"data.root={root}", "task.batch_size=4")
        trained.run_iteration()
        assert not any("own_statistics" in name for name in trained.evaluate()[0])

    @pytest.mark.parametrize("case", [("task=cifar10", "model=fc"), ("task=mnist", "model=resnet18", "model.width=4")])
    def test_any_model_on_any_data(self, root, case):
        trained = trainer(*case, f"data.root={root}", "task.batch_size=2")
        before = trained.problem.parameters.clone()
        for _ in range(3):
            trained.run_iteration()
        row, sent = trained.evaluate()
        assert row["iteration"] == 3 and row["rounds"] == 30 and bool(sent.all())
        assert np.isfinite(row["training_loss"]) and not torch.equal(trained.problem.parameters, before)
