"""An iteration in parts: recorded pieces, and what the cluster does outside of them."""

import pytest
import torch
from ranks import run_ranks
from recorded import RecordedOperations

from sasg.cluster import Nothing, Payload, Segment, SimulatedCluster, Values
from sasg.cluster.factory import open_cluster
from sasg.cluster.stopwatch import PHASES, DeviceStopwatch
from sasg.config import ClusterConfig
from sasg.training.graph import WARM_UP, Captured
from sasg.training.run import _Run

CPU = torch.device("cpu")
SIZE, WORKERS, CALLS = 12, 4, WARM_UP + 5


class Toy:
    """A method with a request, an exchange with side effects at the server, a lazy one, and a reply of values."""

    def __init__(self, cluster):
        self.cluster = cluster
        held = torch.tensor(cluster.workers)
        self.parameters = torch.linspace(-1, 1, SIZE, dtype=torch.float64)
        self.memory = torch.zeros(len(held), SIZE, dtype=torch.float64)
        self.numbers = held.double().unsqueeze(1) + 1
        self.iteration = torch.zeros((), dtype=torch.int64)
        self.seen = torch.zeros((), dtype=torch.float64)  # at the server
        self.workers = held

    def step(self) -> None:
        everyone = torch.arange(WORKERS)
        asked = (everyone + self.iteration) % 3 != 0 if self.cluster.is_server else None
        self.sent = self.cluster.request(asked, self.parameters)
        gradients = self.numbers * self.parameters.sin() + self.iteration / 7
        self.memory.add_(gradients)
        crossing = gradients.square().sum(1)  # made in one part and used in the others
        values, indices = self.memory.topk(3)
        self.memory.scatter_(1, indices, 0)
        update = self.cluster.exchange(
            Payload(values, indices, (Segment(SIZE, 3),), in_range=True), self.sent, self.sum
        )
        self.parameters.sub_(update * 0.01)
        mean = self.cluster.exchange(Payload(crossing.unsqueeze(1)), None, self.mean, Values(1))
        self.parameters.mul_(1 + mean / 1e6 + crossing.mean() * 0)
        self.cluster.exchange(Payload(gradients), self.sent, self.note, Nothing())
        self.iteration.add_(1)

    def sum(self, arriving):
        total = torch.zeros(SIZE, dtype=torch.float64)
        for uploads in arriving:
            total.index_add_(0, uploads.payload.indices.flatten(), uploads.payload.uploaded(uploads.sent).flatten())
        return total

    def mean(self, arriving):
        return torch.cat([uploads.payload.values for uploads in arriving]).mean(0)

    def note(self, arriving):
        for uploads in arriving:
            self.seen.add_(uploads.payload.uploaded(uploads.sent).sum())


def run_toy(config: ClusterConfig, captures: bool) -> dict:
    with open_cluster(config, CPU) as cluster:
        toy, recorder, resumed = Toy(cluster), RecordedOperations(), []
        step = toy.step
        if captures:
            step = Captured(toy.step, cluster, lambda: resumed.append(True), recorder=recorder)
        for _ in range(CALLS):
            step()
        return {
            "tensors": [toy.parameters, toy.memory, toy.seen, toy.sent, toy.iteration],
            "ledger": cluster.ledger.totals(),
            "moved": dict(cluster.describe().get("server_received_bytes", {})),
            "graphs": recorder.num_graphs,
            "resumed": len(resumed),
        }


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_an_iteration_in_parts_does_what_it_does_as_a_whole(processes):
    """To the bit, in every process: state, decisions, what is counted and what is sent."""
    config = ClusterConfig("distributed", WORKERS, processes, timeout_s=3600)
    whole = run_ranks(processes, run_toy, config, False)
    in_parts = run_ranks(processes, run_toy, config, True)
    for found, expected in zip(in_parts, whole, strict=True):
        assert all(map(torch.equal, found.pop("tensors"), expected.pop("tensors")))
        assert (found.pop("graphs"), found.pop("resumed")) == (5, 4)  # four breaks
        expected = {key: value for key, value in expected.items() if key in found}
        assert found == expected


def test_a_simulated_iteration_is_one_part():
    found, expected = (run_toy(ClusterConfig(workers=WORKERS), captures) for captures in (True, False))
    assert all(map(torch.equal, found["tensors"], expected["tensors"]))
    for name in ("rounds", "value_bits", "flag_bits"):  # on the CPU others are counted past torch's dispatcher
        assert found["ledger"][name] == expected["ledger"][name]
    assert found["graphs"] == 1 and found["resumed"] == 0


def test_recorded_operations_have_no_effect_before_they_are_replayed():
    recorder, tensor = RecordedOperations(), torch.ones(3)
    recorder.begin()
    tensor.add_(1)
    double = tensor * 2
    replay = recorder.end()
    assert tensor.tolist() == [1, 1, 1]
    replay()
    assert (tensor.tolist(), double.tolist()) == ([2, 2, 2], [4, 4, 4])
    recorder.begin()
    with pytest.raises(AssertionError, match="a value is read"):
        tensor.sum().item()
    recorder.end()


def test_what_cannot_be_captured_is_run_as_it_is_and_told_once():
    """A value is read after an exchange: nothing was done before, so that the result is that of the plain step."""
    cluster = SimulatedCluster(1, CPU)
    before, told, results = cluster.outside, [], []
    for captures in (False, True):
        state = torch.ones(2, dtype=torch.float64)

        def step(state=state):
            state.mul_(2)
            state.add_(cluster.outside(lambda: state.sum()))
            state.mul_(state.max().item())

        done = Captured(step, cluster, tell=told.append, recorder=RecordedOperations()) if captures else step
        for _ in range(WARM_UP + 2):
            done()
        results.append(state)
    assert torch.equal(*results)
    (words,) = told
    assert words.startswith("iterations are not captured as CUDA graphs") and "a value is read" in words
    assert cluster.outside is before


def test_the_host_waits_for_messages_before_it_waits_for_the_device(monkeypatch):
    """Where graphs are captured and before an evaluation: a rank that is silent keeps the device waiting for ever."""
    cluster, recorder, told = SimulatedCluster(1, CPU), RecordedOperations(), []
    monkeypatch.setattr(cluster, "settle", lambda: told.append("messages"))
    monkeypatch.setattr(recorder, "begin", lambda begin=recorder.begin: (told.append("device"), begin()))
    step = Captured(lambda: None, cluster, recorder=recorder)
    assert told == ["messages"]
    for _ in range(WARM_UP + 2):
        step()
    assert told == ["messages", "messages", "device"]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: told.append("device"))
    run = object.__new__(_Run)
    run.cluster, run.device, run.trainer = cluster, torch.device("cuda"), None
    with pytest.raises(AttributeError, match="evaluate"):  # there is no trainer to go on with
        run._evaluate(False, 0.0)
    assert told[3:] == ["messages", "device"]


def test_an_error_outside_leaves_the_cluster_as_it_was():
    cluster = SimulatedCluster(1, CPU)
    before, works = cluster.outside, [lambda: None] * (WARM_UP + 1)

    def failing():
        raise RuntimeError("lost")

    step = Captured(lambda: cluster.outside(lambda: works.pop()()), cluster, recorder=RecordedOperations())
    for _ in range(WARM_UP + 1):
        step()
    works.append(failing)
    with pytest.raises(RuntimeError, match="lost"):
        step()
    assert cluster.outside is before


# -- phases ---------------------------------------------------------------------------------------


class Device:
    """A device with a clock of its own: it comes to an event when it is told to go on."""

    def __init__(self):
        self.queue, self.now, self.is_capturing, self.num_waits = [], 0.0, False, 0

    def event(self, is_captured: bool) -> "Event":
        event = Event(self)
        if not is_captured:
            self.queue.append(event)
        return event

    def work(self, milliseconds: float) -> None:
        self.queue.append(milliseconds)

    def go_on(self) -> None:
        for item in self.queue:
            if isinstance(item, Event):
                item.time = self.now
            else:
                self.now += item
        self.queue.clear()


class Event:
    def __init__(self, device: Device):
        self.device, self.time = device, None

    def query(self) -> bool:
        return self not in self.device.queue if self.time is None else True  # a graph's: as of the last replay

    def synchronize(self) -> None:
        self.device.num_waits += 1
        self.device.go_on()

    def elapsed_time(self, later: "Event") -> float:
        return later.time - self.time


@pytest.mark.parametrize("waits_in_between", [True, False])
def test_phases_are_those_of_the_device_in_every_replay(waits_in_between):
    device = Device()
    stopwatch = DeviceStopwatch(device.event, lambda: device.is_capturing)
    device.is_capturing = True
    for phase in ("other", "gradient", "selection"):
        stopwatch.enter(phase)
    head = stopwatch.captured()
    stopwatch.enter(None)
    tail = stopwatch.captured()
    device.is_capturing = False

    def graph(marks, *milliseconds):
        for (_, event), work in zip(marks, milliseconds, strict=True):
            device.queue += [event, work]

    for k in range(1, 4):
        stopwatch.replay(lambda k=k: graph(head, 1.0 * k, 10.0 * k, 2.0 * k), head)
        stopwatch.enter("upload")
        device.work(5.0 * k)
        if waits_in_between:
            device.go_on()  # as where the host waits for flags
        stopwatch.enter("download")
        device.work(3.0 * k)
        stopwatch.replay(lambda: graph(tail, 100.0), tail)
        device.work(1000.0)  # unmeasured
    assert device.num_waits == (0 if waits_in_between else 2)
    seconds = stopwatch.take()
    expected = dict.fromkeys(PHASES, 0.0) | {
        "other": 6.0,
        "gradient": 60.0,
        "selection": 12.0,
        "upload": 30.0,
        "download": 18.0,
    }
    assert seconds == pytest.approx({phase: ms / 1e3 for phase, ms in expected.items()})
    assert not any(stopwatch.take().values())
