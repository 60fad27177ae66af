"""The language model task: windows of text, the loss of the next character, the GPT, and runs judged by a loss."""

import copy
import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks
from suite_config import config
from torch import nn

from experiments.study import load_study
from sasg.cluster import SimulatedCluster
from sasg.cluster.factory import open_cluster
from sasg.config import Baseline, Config, from_dict
from sasg.errors import UserError
from sasg.gradients.engines import make_engine
from sasg.problem import text
from sasg.problem.batches import Batches
from sasg.problem.building import build_model, load_dataset
from sasg.problem.datasets import held_out
from sasg.problem.draws import Counter
from sasg.problem.models import gpt
from sasg.problem.objectives import IGNORED, NextCharacter
from sasg.problem.shards import by_class, contiguous
from sasg.report.runs import entries_in
from sasg.report.tables import any_runs
from sasg.training.run import run
from sasg.training.schedule import StepSchedule
from sasg.training.trainer import Trainer

CPU = torch.device("cpu")
WITCH = "When shall we three: meet?"
SPEECHES = [("HAMLET", "To be, or not to be,\nthat is"), ("First Witch", WITCH), ("ALL", "Double!")]
PLAY = "\n\n".join(f"{name}:\n{words}" for name, words in SPEECHES * 40) + "\n"
CONTEXT = 8
METHODS = ("sgd", "sparse", "lasg", "sasg")
INPUT = Path(config().data.root) / text.FILE


@pytest.fixture(scope="module")
def play(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "play.txt"
    path.write_text(PLAY)
    return path


def language(play: Path, method: str = "sgd", *overrides: str) -> Config:
    """The small task on windows of eight characters, in float64."""
    model = ("model.layers=1", "model.width=8", "model.heads=2")
    options = ("cluster.workers=3", "task.batches_per_epoch=10", "evaluate_every=10", "epochs=3", "precision=fp64")
    data = ("dataset=text", f"data.file={play}", f"dataset.context={CONTEXT}")
    return config("task=shakespeare_small", f"algorithm={method}", *data, *model, *options, *overrides)


def make_trainer(cfg: Config) -> Trainer:
    return Trainer(cfg, load_dataset(cfg), SimulatedCluster(cfg.cluster.workers, CPU), torch.float64)


# --- text as data ---


def test_windows_and_what_follows_them():
    data = text.from_text("play", PLAY.encode(), Path("play"), CONTEXT, stride=1)
    alphabet = sorted(set(PLAY))
    split = len(PLAY) * 9 // 10
    assert data.num_classes == len(alphabet) and len(data.train) == split - CONTEXT
    for place in (0, 17, len(data.train) - 1):
        x, y = data.train.raw(torch.tensor([place]))
        assert "".join(alphabet[i] for i in x[0]) == PLAY[place : place + CONTEXT]
        assert "".join(alphabet[i] for i in y[0]) == PLAY[place + 1 : place + CONTEXT + 1]
    sparse = text.from_text("play", PLAY.encode(), Path("play"), CONTEXT, stride=5)
    assert torch.equal(sparse.train.starts, torch.arange(0, split - CONTEXT, 5))


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_windows_that_are_held_out_share_nothing_with_those_that_are_trained_on(play, stride):
    of = {"kind": "text", "file": str(play), "test_file": None, "context": CONTEXT, "stride": stride}
    whole = text.text(play.parent, False, str(play), None, CONTEXT, stride)
    most = whole.train.most_held_out
    for number in (1, 5, most):
        held = held_out(play.parent, False, of, number)
        assert len(held.test) == number and len(held.train) >= 1 and held.sha256 == whole.sha256
        predicted = [
            {int(start) + n for start in windows.starts for n in range(1, CONTEXT + 1)}
            for windows in (held.train, held.test)
        ]
        assert not predicted[0] & predicted[1] and len(predicted[1]) == number * CONTEXT
        assert max(predicted[1]) == int(whole.train.starts[-1]) + CONTEXT
    with pytest.raises(UserError, match=f"number={most + 1}: must be between 1 and {most}, of the training samples"):
        held_out(play.parent, False, of, most + 1)


@pytest.mark.parametrize("cut", range(CONTEXT + 1))
def test_each_validation_character_is_predicted_once(cut):
    content = PLAY[: len(PLAY) - 10 * cut]
    data = text.from_text("play", content.encode(), Path("play"), CONTEXT, stride=1)
    _, y = data.test.raw(torch.arange(len(data.test)))
    alphabet, split = sorted(set(content)), len(content) * 9 // 10
    assert "".join(alphabet[i] for i in y[y != IGNORED]) == content[split + 1 :]


def test_who_speaks():
    numbers = text.speakers(PLAY)  # in alphabetical order: ALL, First Witch, HAMLET
    assert len(numbers) == len(PLAY)
    spoken = {0: "Double!", 1: WITCH, 2: "that is"}
    for speaker, words in spoken.items():
        place = PLAY.index(words)
        assert set(numbers[place : place + len(words)]) == {speaker}
    assert numbers[0] == 2 and numbers[PLAY.index("ALL:")] == 0


def test_shards_of_a_text():
    data = text.from_text("play", PLAY.encode(), Path("play"), CONTEXT, 1, text.speakers)
    labels, sources = data.train.labels.numpy(), data.train.sources.numpy()
    pieces = contiguous(labels, sources, 3, seed=1)
    assert np.array_equal(np.concatenate(pieces), np.arange(3 * (len(labels) // 3)))
    of_speakers = [set(labels[shard]) for shard in by_class(labels, sources, 3, seed=1)]
    assert all(len(found) <= 2 for found in of_speakers) and set.union(*of_speakers) == {0, 1, 2}


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (b"\xff\xfe", {}, "is not a text in UTF-8"),
        (b"short", {}, "its 5 characters are too few for windows of 8"),
        (PLAY.encode(), {"context": 0}, "context=0: must be at least 1"),
        (PLAY.encode(), {"stride": 0}, "stride=0: must be at least 1"),
    ],
)
def test_what_is_no_text_is_refused(content, options, says):
    with pytest.raises(UserError, match=says):
        text.from_text("play", content, Path("play"), **{"context": CONTEXT, "stride": 1, **options})


@pytest.mark.skipif(not INPUT.exists(), reason="needs tiny Shakespeare's input.txt in data.root")
def test_tiny_shakespeare():
    data = text.shakespeare(INPUT.parent, download=False, context=64)
    assert (len(data.train.characters) + 1, data.num_classes, data.sha256) == (1_003_854, 65, text.SHA256)
    _, y = data.test.raw(torch.arange(len(data.test)))
    assert int((y != IGNORED).sum()) == 111_540 - 1
    assert len(data.train.labels.unique()) > 200  # speakers


def test_a_download_is_verified(tmp_path, monkeypatch):
    source, path = tmp_path / "there", tmp_path / "input.txt"
    source.write_text(PLAY)
    with pytest.raises(UserError, match="is not tiny Shakespeare"):
        text.fetch(path, source.as_uri())
    assert list(tmp_path.iterdir()) == [source]  # nothing is left of it
    monkeypatch.setattr(text, "SHA256", hashlib.sha256(PLAY.encode()).hexdigest())
    text.fetch(path, source.as_uri())
    assert path.read_text() == PLAY and text.shakespeare(tmp_path, False, CONTEXT).sha256 == text.SHA256
    with pytest.raises(UserError, match=f"cannot be downloaded.*put the file at {path}"):
        text.fetch(path, (tmp_path / "nowhere").as_uri())
    with pytest.raises(UserError, match="there is no such folder"):
        text.fetch(tmp_path / "mistyped" / "input.txt", source.as_uri())


def test_a_missing_or_other_text_is_said(tmp_path):
    with pytest.raises(UserError, match=r"input.txt there, or set data.download=true"):
        text.shakespeare(tmp_path, False, CONTEXT)
    (tmp_path / "input.txt").write_text(PLAY)
    with pytest.raises(UserError, match=r"is not tiny Shakespeare.*dataset=text"):
        text.shakespeare(tmp_path, False, CONTEXT)


def test_an_epoch_of_some_mini_batches():
    data = text.from_text("play", PLAY.encode(), Path("play"), CONTEXT, stride=1)
    parts = contiguous(data.train.labels.numpy(), data.train.sources.numpy(), 2, seed=1)
    batches = Batches(data, parts, range(2), 4, seed=1, draws=Counter(1), per_epoch=5)
    assert batches.iterations_per_epoch == 5
    seen = []
    for epoch in range(2):
        batches.start_epoch(epoch)
        x, y = batches.batch(torch.tensor(4))
        assert x.shape == y.shape == (2, 4, CONTEXT) and torch.equal(x[..., 1:], y[..., :-1])
        seen.append(x)
    assert not torch.equal(*seen)
    with pytest.raises(UserError, match=r"task.batches_per_epoch=10000: must be at most"):
        Batches(data, parts, range(2), 4, seed=1, draws=Counter(1), per_epoch=10000)


# --- the model and its gradients ---


def test_sizes():
    with torch.device("meta"):
        small, large = gpt(64, 65), gpt(256, 65, layers=6, heads=6, width=384)
        untied = gpt(64, 65, tied=False)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (small, large, untied)]
    assert sizes == [804_096, 10_745_088, 804_096 + 65 * 128]
    with pytest.raises(UserError, match="heads=3: must divide width=128"):
        gpt(64, 65, heads=3)


def test_a_new_model_knows_nothing_and_looks_back_alone():
    torch.manual_seed(0)
    model = gpt(CONTEXT, 20, layers=2, width=16).double()
    x = torch.randint(20, (4, CONTEXT))
    losses = NextCharacter().losses(model(x), torch.randint(20, (4, CONTEXT)))
    assert losses.shape == (4,) and float(losses.detach().mean()) == pytest.approx(math.log(20), abs=0.05)
    other = x.clone()
    other[:, 5:] = torch.randint(20, (4, 3))
    assert torch.equal(model(x)[:, :5], model(other)[:, :5])
    assert torch.equal(model(x)[:, :5], model(x[:, :5]))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention has no batching rule on a CPU
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("own", [False, True])
def test_gradients_of_vmap_and_of_plain_pytorch(tied, own):
    torch.manual_seed(1)
    model = gpt(CONTEXT, 20, layers=2, heads=2, width=8, tied=tied).double()
    x, y = torch.randint(20, (2, 3, 4, CONTEXT))
    shared = nn.utils.parameters_to_vector(model.parameters()).detach()
    parameters = shared + 0.1 * torch.randn(3, len(shared)) if own else shared
    found = {}
    for name in ("loop", "vmap"):
        out = torch.empty(3, len(shared), dtype=torch.float64)
        engine = make_engine(name, model, NextCharacter().losses)
        found[name] = engine.per_worker(parameters, x, y, out, out.new_empty(3, 0)), out
    for of_loop, of_vmap in zip(*found.values(), strict=True):
        torch.testing.assert_close(of_vmap, of_loop, rtol=1e-10, atol=1e-13)
    for m in range(3):
        nn.utils.vector_to_parameters(parameters[m] if own else parameters, model.parameters())
        model.zero_grad()
        by_place = [F.cross_entropy(model(x[m])[:, t], y[m, :, t]) for t in range(CONTEXT)]
        (sum(by_place) / CONTEXT).backward()
        expected = nn.utils.parameters_to_vector(p.grad for p in model.parameters())
        torch.testing.assert_close(found["loop"][1][m], expected, rtol=1e-10, atol=1e-13)


class LooksAhead(nn.Module):
    """Tells at each place the character that comes next, and nothing at the last one."""

    def __init__(self, num_characters: int):
        super().__init__()
        self.output = nn.Embedding(num_characters, num_characters)

    def forward(self, x):
        return self.output(x.roll(-1, 1))


def looks_ahead(context: int, num_characters: int) -> nn.Module:
    return LooksAhead(num_characters)


def test_what_does_not_fit_a_text_is_refused(play):
    cfg = language(play)
    cfg = replace(cfg, task=replace(cfg.task, baseline=None))
    data = load_dataset(cfg)

    def refused(says: str, **changes) -> None:
        with pytest.raises(UserError, match=says):
            build_model(replace(cfg, **changes), data)

    refused("depend on characters that come later", model={"kind": "tests.test_language.looks_ahead"})
    refused("model.kind=fc: must take context", model={"kind": "fc"})
    refused("play is text, and needs objective=next_character", objective=None)
    digits = config("task=digits", "objective=next_character")
    with pytest.raises(UserError, match="digits is no text, which is needed for objective=next_character"):
        build_model(digits, load_dataset(digits))


# --- runs ---


def test_the_validation_loss_is_that_of_each_character(play):
    trainer = make_trainer(language(play))
    for _ in range(5):
        trainer.run_iteration()
    row, _ = trainer.evaluate()
    model, problem = trainer.problem.model, trainer.problem
    nn.utils.vector_to_parameters(problem.parameters, model.parameters())
    alphabet, rest = sorted(set(PLAY)), PLAY[len(PLAY) * 9 // 10 :]
    numbers = [alphabet.index(character) for character in rest]
    losses, hits = [], 0
    for place in range(1, len(numbers)):
        begin = (place - 1) // CONTEXT * CONTEXT
        scores = model(torch.tensor([numbers[begin:place]]))[0, -1].detach()
        losses.append(float(torch.logsumexp(scores, 0) - scores[numbers[place]]))
        hits += int(scores.argmax()) == numbers[place]
    assert row["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-12)
    assert row["top1"] == hits / len(losses)


def trained(cfg: Config, until: int, state: dict | None = None) -> dict:
    with open_cluster(cfg.cluster, CPU) as cluster:
        trainer = Trainer(cfg, load_dataset(cfg), cluster, torch.float64)
        if state is not None:
            trainer.load_state(state if cluster.is_server else None)
        while trainer.iteration < until:
            trainer.run_iteration()
        found = copy.deepcopy(trainer.state())
        row, sent = trainer.evaluate()
        return {"parameters": trainer.problem.parameters, "row": row, "sent": sent, "state": found}


LAZY = ("task.alpha.default=300.0", "task.max_delay=2")


def test_simulated_is_distributed_and_goes_on(play):
    """SASG, interrupted at iteration 4 and continued, in one process and in two."""
    cfg = language(play, "sasg", *LAZY)
    whole, begun = trained(cfg, 9), trained(cfg, 4)
    assert not whole["sent"].all() and whole["row"]["loss"] < math.log(len(set(PLAY)))
    two = replace(cfg, cluster=replace(cfg.cluster, kind="distributed", processes=2, timeout_s=3600))
    in_two, *_ = run_ranks(2, trained, two, 9, begun["state"])
    for found in (in_two, trained(cfg, 9, begun["state"])):
        torch.testing.assert_close(found["parameters"], whole["parameters"], rtol=0, atol=1e-12)
        assert torch.equal(found["sent"], whole["sent"])
        assert found["row"]["rounds"] == whole["row"]["rounds"]
        assert found["row"]["loss"] == pytest.approx(whole["row"]["loss"], rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_methods_learn_and_are_judged_by_their_loss(play, tmp_path, method):
    lazy = method in ("lasg", "sasg")
    options = ["task.step_size=0.1", *LAZY, f"runs_dir={tmp_path}", "tracker=none"]
    if method in ("sparse", "sasg"):
        options.append("algorithm.compressor.density=0.1")
    cfg = language(play, method, *options)
    cfg = replace(cfg, task=replace(cfg.task, baseline=Baseline("loss", target=3.1)))
    summary = run(cfg)
    final = summary["final"]
    assert summary["status"] == "finished" and summary["iterations"] == 30 and (summary["skipped_share"] > 0) == lazy
    assert final["loss"] < 3.1 and summary["crossing"]["iteration"] in (10, 20, 30)
    table = any_runs(entries_in([tmp_path]))
    assert table.caption == f"Rounds and bits to the target ({cfg.task.name} validation loss below 3.1)".replace(
        cfg.task.name, "Shakespeare, small model"
    )
    assert "up to the first evaluation below the baseline" in table.notes
    (row,) = table.rows
    cells = dict(zip(table.header, row.cells, strict=True))
    assert cells["Final loss"] == f"{final['loss']:.4f}"
    assert cells["Rounds"] == f"{summary['crossing']['rounds']:,.0f}"


def test_a_worker_alone_has_the_same_bits(play):
    cfg = replace(language(play), precision="fp32", task=replace(language(play).task, batch_size=3))
    data = load_dataset(cfg)
    model = build_model(cfg, data)
    engine = make_engine("loop", model, NextCharacter().losses)
    x, y = (t.view(5, 3, CONTEXT) for t in data.train.raw(torch.arange(15) * 20))
    shared = nn.utils.parameters_to_vector(model.parameters()).detach()
    together, alone = torch.empty(5, len(shared)), torch.empty(1, len(shared))
    losses = engine.per_worker(shared, x, y, together, together.new_empty(5, 0))
    for m in range(5):
        loss = engine.per_worker(shared, x[m : m + 1], y[m : m + 1], alone, alone.new_empty(1, 0))
        assert torch.equal(alone[0], together[m]) and torch.equal(loss[0], losses[m])
    assert type(make_trainer(language(play)).problem.oracle.engine).__name__ == "LoopEngine"


# --- schedules ---


def test_a_cosine_after_a_warm_up():
    schedule = StepSchedule(2.0, warmup_epochs=2, warmup_factor=0.5, cosine_factor=0.1, epochs=11)
    assert [schedule(epoch) for epoch in (0, 1, 2)] == [1.0, 1.5, 2.0]
    assert schedule(6) == pytest.approx(2.0 * 0.55) and schedule(10) == pytest.approx(0.2)
    assert all(schedule(epoch) > schedule(epoch + 1) for epoch in range(2, 10))


def test_a_schedule_of_a_task(play):
    trainer = make_trainer(
        language(play, "sgd", "task.warmup_epochs=1", "task.warmup_factor=0.5", "task.cosine_factor=0.2")
    )
    step = trainer.schedule.step_size
    assert [trainer.schedule(epoch) / step for epoch in range(3)] == pytest.approx([0.5, 1.0, 0.2])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cosine_factor": 0.0}, "task.cosine_factor=0.0: must be a positive number"),
        ({"cosine_factor": 0.1, "decay_epochs": [2]}, "is instead of task.decay_epochs"),
        ({"batches_per_epoch": 0}, "task.batches_per_epoch=0: must be at least 1"),
        ({"baseline": {"metric": "loss", "accuracy": 0.9}}, "loss needs `target`, and no `accuracy`"),
    ],
)
def test_bad_settings_of_a_task(changes, says):
    values = config("task=digits").as_dict()
    values["task"] |= changes
    with pytest.raises(UserError, match=says):
        from_dict(values)


# --- the study ---


def test_all_runs_of_the_study_have_as_many_mini_batches_and_are_judged_by_a_loss():
    study = load_study("language")
    configs = study.grid(study.tasks, study.methods, [1], ())
    steps = {cfg.algorithm["name"]: cfg.algorithm.get("local_steps", 1) for cfg in configs}
    assert len(steps) == len(study.methods) == 17 and set(steps.values()) == {1, 10, 30, 100} and len(study.seeds) == 3
    for cfg in configs:
        local_steps, length = steps[cfg.algorithm["name"]], cfg.task.batches_per_epoch
        assert cfg.epochs * length == 600 and length % local_steps == 0, cfg.algorithm["name"]
        assert cfg.evaluate_every * local_steps in (60, 100) and cfg.task.baseline.metric == "loss"
