"""Majority voting: against an independent naive loop in float64, its identities, its draws, and what it refuses."""

import copy
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from naive_vote import NaiveVoting, VoteSettings, mix, splitmix_uniform
from suite_config import config, iterate, without_ties

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.parts.draws import number_streams
from sasg.algorithms.parts.quantisers import LogUniformGroups
from sasg.algorithms.parts.votes import RandomVote
from sasg.cluster import Payload, Segment, SimulatedCluster, Uploads
from sasg.errors import UserError
from sasg.problem.building import build_model, load_dataset
from sasg.randomness import Purpose, bits, device_uniform
from sasg.training import trainer as trainer_module
from sasg.training.trainer import Trainer

WORKERS = 5
METHODS = {
    "topk": ("algorithm=majority_vote", "algorithm.density=0.05"),
    "random": ("algorithm=majority_vote_random", "algorithm.density=0.05"),
    "add_drop": (
        "algorithm=majority_vote_add_drop",
        "algorithm.density=0.05",
        "algorithm.vote.change_density=0.02",
    ),
}
QUANTISED = ("algorithm.quantiser={kind:log_uniform_groups}",)
MODELS = {
    "fc": ("model.hidden=[8]",),
    "batchnorm": ("model.kind=suite_config.small_batchnorm", "~model.hidden", "+model.width=4"),
}


def make(*overrides: str) -> Trainer:
    cfg = config("precision=fp64", f"cluster.workers={WORKERS}", "task.batch_size=20", *overrides)
    return Trainer(cfg, without_ties(load_dataset(cfg)), SimulatedCluster(WORKERS, torch.device("cpu")), torch.float64)


# Quantised only where no entry's gradient is zero: what two members of a group keep is equal up to rounding, a tie that
# no later gradient would break.
CASES = [
    *itertools.product(METHODS, [1, 2], [False], ["fc"]),
    *itertools.product(METHODS, [1, 2], [True], ["batchnorm"]),
    ("topk", 2, False, "batchnorm"),
]


@pytest.mark.parametrize("vote, local_steps, quantised, model", CASES)
def test_same_masks_and_parameters(vote, local_steps, quantised, model):
    """With a dense epoch, a rising step size, and one that decays; 14 mini-batches an epoch."""
    overrides = (
        *METHODS[vote],
        *MODELS[model],
        f"algorithm.local_steps={local_steps}",
        "task.step_size=0.05",
        "+task.warmup_epochs=1",
        "+task.warmup_factor=0.2",
        "+task.decay_epochs=[3]",
        *(QUANTISED if quantised else ()),
    )
    trainer = make(*overrides)
    cfg = config("precision=fp64", f"cluster.workers={WORKERS}", "task.batch_size=20", *overrides)
    step_sizes = [WORKERS * gamma for gamma in (0.01, 0.05, 0.05, 0.005)]
    groups = 8 if quantised else None
    settings = VoteSettings(vote, 0.05, 0.02, groups, local_steps, step_sizes, warmup_epochs=1, seed=1)
    net = build_model(cfg, load_dataset(cfg)).double().train()
    naive = NaiveVoting(net, settings, trainer.problem.parameters.clone(), WORKERS)
    masks = watch_masks(trainer)
    for k in range(4 * trainer.iterations_per_epoch):
        epoch, position = divmod(k, trainer.iterations_per_epoch)
        iterate(trainer, 1)
        batches = [trainer.problem.batches.batch(torch.tensor(position * local_steps + h)) for h in range(local_steps)]
        expected = naive.step(batches, epoch)
        assert (masks.pop() if masks else None) == expected, k
        torch.testing.assert_close(trainer.problem.parameters, naive.parameters, rtol=0, atol=1e-10)
        torch.testing.assert_close(trainer.algorithm.memory, torch.stack(naive.errors), rtol=0, atol=1e-10)
    if vote == "add_drop":
        limit = trainer.algorithm.vote.num_changes
        assert 0 < min(naive.num_changes) < max(naive.num_changes) == limit  # the limit is met, and not always
        assert [set(vote.tolist()) for vote in trainer.algorithm.vote.vote] == naive.votes


def watch_masks(trainer: Trainer) -> list[list[int]]:
    """A list that the masks which the server elects are appended to."""
    masks, vote = [], trainer.algorithm.vote
    elect = vote.elect

    def watched(arriving):
        mask = elect(arriving)
        masks.append(mask.tolist())
        return mask

    vote.elect = watched
    return masks


@pytest.mark.parametrize("vote", METHODS)
def test_everything_kept_is_dense_sgd(vote):
    ours = make(*METHODS[vote], "algorithm.density=1.0", *MODELS["fc"])
    sgd = make("algorithm=sgd", *MODELS["fc"])
    iterate(ours, 30)
    iterate(sgd, 30)
    torch.testing.assert_close(ours.problem.parameters, sgd.problem.parameters, rtol=0, atol=1e-12)
    assert not ours.algorithm.memory.any()


def test_warm_up_is_dense_sgd_whatever_the_number_of_local_steps():
    """The same parameters, and the same bits but for the votes' columns."""
    warm = ("+task.warmup_epochs=2", "+task.warmup_factor=0.5", *MODELS["fc"])
    ours = make(*METHODS["topk"], "algorithm.local_steps=2", *warm)
    sgd = make("algorithm=sgd", *warm)
    iterate(ours, 14)
    iterate(sgd, 28)
    torch.testing.assert_close(ours.problem.parameters, sgd.problem.parameters, rtol=0, atol=1e-12)
    found, expected = ours.cluster.ledger.totals(), sgd.cluster.ledger.totals()
    assert {name: found[name] for name in expected} == expected
    assert not any(found[name] for name in found.keys() - expected.keys())


@pytest.mark.parametrize("quantised", [False, True])
def test_sent_and_kept_make_the_given_vector(quantised):
    """Exactly without a quantiser; to rounding with one."""
    algorithm = make(*METHODS["topk"], *MODELS["fc"], *(QUANTISED if quantised else ())).algorithm
    given = torch.randn_like(algorithm.memory)
    algorithm.memory.copy_(given)
    mask = torch.tensor([0, 3, 100, 101])
    payload = algorithm._uploads(mask)
    sent = torch.zeros_like(given).index_copy_(1, mask, payload.values)
    if quantised:
        torch.testing.assert_close(sent + algorithm.memory, given, rtol=0, atol=1e-15)
        assert not torch.equal(sent[:, mask], given[:, mask])
    else:
        assert torch.equal(sent + algorithm.memory, given)
        assert not algorithm.memory[:, mask].any()


class TestQuantiser:
    def test_groups_by_hand(self):
        """From 1 to 256 the groups' bounds are the powers of two; a zero is a positive member of the lowest group."""
        row = torch.tensor([[1.0, -1.5, 0.0, 3.0, -100.0, 256.0, 200.0]], dtype=torch.float64)
        values, means = LogUniformGroups(8)(row)
        lowest = 2.5 / 3
        assert values.tolist() == [[lowest, -lowest, lowest, 3.0, -100.0, 228.0, 228.0]]
        assert means.tolist() == [[lowest, 3.0, 0, 0, 0, 0, 100.0, 228.0]]

    @pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [2.0, -2.0, 2.0], [0.0, -3.0, 0.0]])
    def test_rows_without_a_range(self, row):
        """All zero, or of one magnitude: one group."""
        values, means = LogUniformGroups(2)(torch.tensor([row]))
        mean = sum(map(abs, row)) / 3
        assert means.tolist() == [[pytest.approx(mean), 0.0]]
        assert values.tolist() == [[pytest.approx(-mean if v < 0 else mean) for v in row]]

    def test_values_survive_the_link(self):
        quantiser = LogUniformGroups(8)
        values, means = quantiser(torch.randn(3, 1001))
        for row, side in zip(values, means, strict=True):
            data = quantiser.code.encode(row, side)
            assert len(data) == 501  # 4 bits a value
            assert torch.equal(quantiser.code.decode(data, 1001, side, row.dtype), row)


class TestDraws:
    def test_published_words(self):
        """SplitMix64 from the state 1234567, as in its reference implementation's test."""
        expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
        word = int(bits(3, Purpose.VOTE, count=1)[0])
        ours = device_uniform(word, torch.tensor(7), 1000)
        assert np.array_equal(ours.numpy(), splitmix_uniform(3, 7, 1000))
        found = mix(np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1234567))
        assert found.tolist() == expected

    def test_they_are_uniform_and_differ(self):
        draws = torch.stack([device_uniform(5, torch.tensor(k), 100_000) for k in range(3)])
        assert draws.min() > 0 and draws.max() < 1
        assert (draws.mean(1) - 0.5).abs().max() < 4 * (1 / 12 / 100_000) ** 0.5
        assert (torch.corrcoef(draws) - torch.eye(3)).abs().max() < 4 / 100_000**0.5

    def test_positions_are_drawn_one_after_the_other_in_proportion_to_their_votes(self):
        """Two of four entries with 0, 1, 2 and 5 of 8 votes: the chances of each pair."""
        cpu = torch.device("cpu")
        vote = RandomVote(density=0.5)
        number_streams(vote)
        vote.setup(Workspace(((4,),), SimulatedCluster(8, cpu), cpu, torch.float32, seed=2))
        votes = Payload(None, torch.tensor([1, 2, 2, 3, 3, 3, 3, 3]).unsqueeze(1), (Segment(4, 1),))
        found = Counter(tuple(vote.elect([Uploads(slice(0, 8), votes, None)]).tolist()) for _ in range(2000))
        assert set(found) == {(1, 2), (1, 3), (2, 3)}
        for (i, j), times in found.items():
            p, q = {1: 1 / 8, 2: 2 / 8, 3: 5 / 8}[i], {1: 1 / 8, 2: 2 / 8, 3: 5 / 8}[j]
            chance = p * q / (1 - p) + q * p / (1 - q)
            assert abs(times / 2000 - chance) < 4 * (chance * (1 - chance) / 2000) ** 0.5


@pytest.mark.parametrize("vote", METHODS)
def test_a_state_within_an_epoch_resumes(vote):
    overrides = (*METHODS[vote], *MODELS["fc"], *QUANTISED, "+task.decay_epochs=[1]", "algorithm.local_steps=2")
    whole, half, rest = (make(*overrides) for _ in range(3))
    iterate(whole, 20)
    iterate(half, 11)
    rest.load_state(copy.deepcopy(half.state()))
    iterate(rest, 9)
    for scope in ("worker", "shared", "server"):
        expected = whole.algorithm.state(scope)
        for name, found in rest.algorithm.state(scope).items():
            assert torch.equal(found, expected[name]), name
    assert torch.equal(rest.problem.parameters, whole.problem.parameters)


def test_an_iteration_is_captured_anew_where_the_phase_changes(monkeypatch):
    captured = []

    class Recorded:
        def __init__(self, function, *_):
            self.function = function
            captured.append(function.__self__.algorithm.phase)

        def __call__(self):
            self.function()

    monkeypatch.setattr(trainer_module, "Captured", Recorded)
    trainer = make(*METHODS["topk"], *MODELS["fc"], "+task.warmup_epochs=2")
    trainer._captures = True
    iterate(trainer, 4 * 14)
    assert captured == ["dense", "sparse"]


BAD = [
    ("algorithm.density=0", "density=0.0: must be in"),
    ("algorithm.density=1.5", "density=1.5: must be in"),
    ("algorithm.local_steps=0", "local_steps=0: must be at least 1"),
    ("algorithm.local_steps=15", "local_steps=15: an epoch has only 14 mini-batches"),
    ("algorithm.warmup_epochs=-1", "warmup_epochs=-1: must not be negative"),
    ("algorithm.quantiser.num_groups=1", "algorithm.quantiser: num_groups=1: must be a power of two, at least 2"),
    ("algorithm.quantiser.num_groups=6", "num_groups=6: must be a power of two"),
    ("algorithm.vote.change_density=0", "algorithm.vote: change_density=0.0: must be in"),
    ("algorithm.vote.change_density=0.02", r"change_density=0.02: must be in \(0, density=0.01\]"),
    ("cluster.workers=0", "cluster.workers=0: must be at least 1"),
    ("+task.warmup_epochs=-1", "task.warmup_epochs=-1: must be at least 0"),
    ("+task.warmup_factor=0", "task.warmup_factor=0.0: must be a positive number"),
]


@pytest.mark.parametrize("override, words", BAD)
def test_what_is_refused(override, words):
    with pytest.raises(UserError, match=words):
        make("algorithm=majority_vote_quantised", override)
