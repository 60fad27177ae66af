"""Parts within parts: random numbers of their own, lists and dicts of them, the iterates that lazy rules keep."""

import copy

import pytest
import torch
from suite_config import config
from torch import Tensor

from sasg.algorithms.algorithm import Part, Workspace, check_state
from sasg.algorithms.parts.compressors import Compressor
from sasg.algorithms.parts.draws import Draws, Stream, number_streams
from sasg.algorithms.parts.feedback import ErrorMemory
from sasg.algorithms.parts.qsgd import QSGD
from sasg.algorithms.parts.triggers import Lazy
from sasg.algorithms.parts.votes import RandomVote
from sasg.cluster import Payload, SimulatedCluster
from sasg.errors import UserError
from sasg.problem.building import load_dataset
from sasg.randomness import Purpose, bits
from sasg.training.trainer import Trainer

CPU = torch.device("cpu")
TINY = ("dataset.kind=tests.study_parts.tiny", "model.hidden=[8]", "task.batch_size=5", "precision=fp64")


def workspace(num_workers: int = 3, d: int = 50) -> Workspace:
    return Workspace(((d,),), SimulatedCluster(num_workers, CPU), CPU, torch.float64, seed=7)


def trainer(*overrides: str) -> Trainer:
    made = config(*TINY, "cluster.workers=4", *overrides)
    return Trainer(made, load_dataset(made), SimulatedCluster(4, CPU), torch.float64)


class Halving(Part):
    """A part with state, for lists of them."""

    def setup(self, workspace: Workspace) -> None:
        self.value = self.register_state("value", workspace.zeros() + 1, "shared")

    def begin_epoch(self, epoch, schedule) -> None:
        self.value.mul_(0.5)


class Stages(Compressor):
    """Two quantisers at random, one after the other, in a list; and parts in a dict, a tuple and a list of lists."""

    def __init__(self):
        self.stages = [QSGD(3), QSGD(3)]
        self.halving = {"first": Halving(), "a.b": (Halving(), [Halving()])}

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        scale = self.halving["first"].value + self.halving["a.b"][1][0].value
        for stage in self.stages:
            payload = stage(vectors * scale, sent)
            vectors = payload.values
        return payload


class TestStreams:
    def test_two_parts_that_draw_get_different_numbers(self):
        stages = Stages()
        number_streams(stages)
        stages.setup(workspace())
        first, second = (stage.quantise.draws for stage in stages.stages)
        for draw in (lambda draws: draws.per_worker(20), lambda draws: draws.shared(20)):
            one, other = draw(first), draw(second)
            assert not (one == other).any()

    def test_a_single_part_draws_as_ever(self):
        """The numbers of runs that are published: word 0 of the purpose's Philox stream."""
        for purpose, part in ((Purpose.COMPRESS, QSGD(3)), (Purpose.VOTE, RandomVote(0.1))):
            number_streams(part)
            part.setup(workspace())
            (stream,) = (part for _, part in part.descendants() if isinstance(part, Stream))
            assert stream.word == int(bits(7, purpose, count=1)[0])

    def test_votes_and_roundings_are_told_apart_too(self):
        parts = Part()
        parts.both = [RandomVote(0.1), RandomVote(0.1), QSGD(3)]
        number_streams(parts)
        parts.setup(workspace())
        words = {stream.word for _, stream in parts.descendants() if isinstance(stream, Stream)}
        assert len(words) == 3

    def test_a_part_that_is_held_twice_is_one(self):
        parts = Part()
        parts.one, parts.two = QSGD(3), QSGD(3)
        parts.two.quantise = parts.one.quantise
        number_streams(parts)
        assert parts.two.quantise.draws.number == 0

    @pytest.mark.parametrize("count", [0, 4095, 4097, 10_000])
    def test_in_pieces_they_are_what_they_are_at_once(self, count, monkeypatch):
        found = []
        for piece in (4096, 10**9):
            monkeypatch.setattr("sasg.algorithms.parts.draws._PIECE", piece)
            part = Part()
            part.draws = Draws()
            number_streams(part)
            part.setup(workspace())
            found.append((part.draws.per_worker(count), part.draws.shared(count)))
        for first, second in zip(*found, strict=True):
            assert torch.equal(first, second) and first.shape[-1] == count

    def test_draws_that_come_too_late_are_refused(self):
        with pytest.raises(UserError, match="make it in __init__"):
            Draws().setup(workspace())


class TestNested:
    def test_names(self):
        names = [name for name, _ in Stages().children()]
        expected = ["stages[0]", "stages[1]", "halving[first]", "halving[a.b][0]", "halving[a.b][1][0]"]
        assert names == expected

    @pytest.mark.parametrize("half", [7, 14])
    def test_their_state_is_in_the_checkpoint(self, half):
        overrides = ("algorithm=composed", f"algorithm.compressor.kind={__name__}.Stages", "epochs=4")
        whole, begun, resumed = (trainer(*overrides) for _ in range(3))
        for _ in range(20):
            whole.run_iteration()
        for _ in range(half):
            begun.run_iteration()
        state = copy.deepcopy(begun.state())
        expected = {"compressor.halving[first].value", "compressor.stages[1].quantise.draws.iteration"}
        assert expected <= state["shared"].keys()
        assert resumed.misfit(state) is None
        resumed.load_state(state)
        while resumed.iteration < 20:
            resumed.run_iteration()
        assert torch.equal(resumed.problem.parameters, whole.problem.parameters)

    def test_a_state_without_one_of_them_does_not_fit(self):
        made = trainer("algorithm=composed", f"algorithm.compressor.kind={__name__}.Stages")
        state = made.state()
        state["shared"]["compressor.stages[2].iteration"] = state["shared"].pop("compressor.halving[a.b][0].value")
        assert made.misfit(state) == "no compressor.halving[a.b][0].value in its shared state"

    def test_every_set_up_reaches_nested_parts(self):
        """A part of one's own beside what the suite's parts set up."""

        class Memory(ErrorMemory):
            def __init__(self):
                self.halving = Halving()

        class Rule(Lazy):
            def __init__(self):
                super().__init__(max_delay=3, alpha=1.0)
                self.halving = Halving()

        for part in (Memory(), Rule()):
            part.setup(workspace())
            part.begin_epoch(0, lambda epoch: 1.0)
            assert part.halving.value == 0.5
            check_state(part, 3)


class TestIterates:
    def rule(self, num_workers: int, max_delay: int = 500, **options) -> Lazy:
        rule = Lazy(max_delay=max_delay, alpha=1.0, first_uploads="1", delay_counter="paper", **options)
        rule.setup(workspace(num_workers))
        return rule

    def follow(self, rule: Lazy, num_iterations: int, share: float, seed: int = 0) -> list[Tensor]:
        """Remember random decisions; the iterates at which each worker last uploaded, by a list of all iterates."""
        draw, num_workers = torch.Generator().manual_seed(seed), len(rule.staleness)
        latest = [torch.zeros(50, dtype=torch.float64)] * num_workers
        for k in range(num_iterations):
            point = torch.rand(50, generator=draw, dtype=torch.float64)
            wish = torch.rand(num_workers, generator=draw) < share
            rule.weight.fill_(1.0)
            rule.squared_updates.fill_(1.0)
            sent = rule.decide(torch.where(wish, torch.inf, 0.0), point)
            latest = [point if flag else old for flag, old in zip(sent.tolist(), latest, strict=True)]
            rule.observe(point)
            assert torch.equal(rule.compared, torch.stack(latest)), k
        return latest

    @pytest.mark.parametrize("num_workers", [1, 2, 7])
    @pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
    def test_each_worker_has_its_own_in_as_many_rows_as_workers(self, num_workers, share):
        rule = self.rule(num_workers)
        self.follow(rule, 200, share)
        assert len(rule.past) == num_workers

    def test_a_short_delay_needs_fewer_rows_than_workers(self):
        for counter in ("paper", "reference"):
            rule = Lazy(max_delay=3, alpha=1.0, delay_counter=counter)
            rule.setup(workspace(20))
            self.follow(rule, 100, 0.2)
            assert len(rule.past) <= 5

    def test_workers_that_uploaded_together_share_a_row_on_any_number_of_processes(self):
        rule = self.rule(6)
        latest = self.follow(rule, 60, 0.2)
        state = {name: tensor.clone() for name, tensor in rule.state("worker").items()}
        assert state["compared"].shape == (6, 50)
        for rows in (slice(0, 6), slice(1, 4)):
            other = self.rule(len(range(6)[rows]))
            other.load_state("worker", {name: tensor[rows] for name, tensor in state.items()})
            assert torch.equal(other.compared, torch.stack(latest[rows]))
            shared = rule.comparison[rows].unsqueeze(1) == rule.comparison[rows]
            assert torch.equal(other.comparison.unsqueeze(1) == other.comparison, shared)

    def test_a_long_delay_costs_no_memory(self):
        made = trainer("algorithm=sasg", "task.max_delay=500", "epochs=2")
        for _ in range(5):
            made.run_iteration()
        sizes = [tensor.numel() for tensor in vars(made.algorithm.trigger).values() if isinstance(tensor, Tensor)]
        assert max(sizes) <= 4 * made.problem.layout.size
        held = sum(tensor.numel() for tensor in made.state()["worker"].values())
        assert held < 3 * 4 * made.problem.layout.size

    def test_a_checkpoint_with_a_ring_is_told(self):
        made = trainer("algorithm=sasg")
        state = made.state()
        state["shared"]["trigger.past"] = torch.zeros(12, made.problem.layout.size)
        state["worker"]["trigger.comparison"] = state["worker"].pop("trigger.uploaded_at")
        del state["worker"]["trigger.compared"]
        assert made.misfit(state) == "an unknown trigger.past in its shared state"


@pytest.mark.parametrize("method", ["lasg", "sasg", "lasg_wk2", "lasg_ps", "lasg_pse"])
def test_rules_with_past_iterates_resume_exactly(method):
    overrides = (f"algorithm={method}", "task.max_delay=4", "task.alpha={default: 4.0}", "epochs=4")
    whole, begun, resumed = (trainer(*overrides) for _ in range(3))
    for made, number in ((whole, 30), (begun, 13)):
        for _ in range(number):
            made.run_iteration()
    resumed.load_state(copy.deepcopy(begun.state()))
    for _ in range(17):
        resumed.run_iteration()
    assert torch.equal(resumed.problem.parameters, whole.problem.parameters)
    assert torch.equal(resumed.records.take(resumed.cluster)["sent"], whole.records.take(whole.cluster)["sent"])
