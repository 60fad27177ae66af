"""Every model of the zoo is trained right, or refused in one line; `loop` is held to PyTorch without the suite."""

import copy
from functools import cache

import pytest
import torch
import zoo
from ranks import configuration
from suite_config import without_ties
from torch import nn

from sasg.cluster import SimulatedCluster
from sasg.errors import UserError
from sasg.gradients.loop import LoopEngine
from sasg.problem.building import build_model, load_dataset
from sasg.problem.datasets import Dataset
from sasg.training.run import prepare_torch
from sasg.training.trainer import Trainer

METHODS = ("sgd", "sparse", "lasg", "sasg")
WORKERS, SAMPLES, ITERATIONS = 3, 4, 3
TRAINED = [name for name, case in zoo.CASES.items() if case.refused is None]
REFUSED = [name for name, case in zoo.CASES.items() if case.refused is not None]


def config(name: str, method: str, gradients: str, precision: str):
    return configuration(
        method,
        model={"kind": "zoo.build", "case": name},
        gradients=gradients,
        precision=precision,
        task={"name": "digits", "batch_size": SAMPLES, "step_size": 0.02},
        cluster={"workers": WORKERS},
    )


@cache
def digits() -> Dataset:
    return without_ties(load_dataset(config("one_layer", "sgd", "auto", "fp64")))


def make_trainer(name: str, method: str, gradients: str, precision: str) -> Trainer:
    of_run = config(name, method, gradients, precision)
    device, dtype = prepare_torch(of_run)
    return Trainer(of_run, digits(), SimulatedCluster(WORKERS, device), dtype)


def num_iterations(name: str) -> int:
    return 1 if zoo.CASES[name].heavy else ITERATIONS


def trained(name: str, method: str, gradients: str, precision: str) -> Trainer:
    trainer = make_trainer(name, method, gradients, precision)
    for _ in range(num_iterations(name)):
        trainer.run_iteration()
    return trainer


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name):
    with pytest.raises(UserError, match=zoo.CASES[name].refused) as raised:
        make_trainer(name, "sgd", "auto", "fp32")
    message = str(raised.value)
    assert message.startswith("model: ") and "\n" not in message and len(message) < 250


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
@pytest.mark.parametrize("name", TRAINED)
def test_every_engine_that_is_used_gives_what_the_loop_gives(name, precision):
    case = zoo.CASES[name]
    if case.refused_in_float64 and precision == "fp64":
        with pytest.raises(UserError, match=case.refused_in_float64):
            make_trainer(name, "sgd", "auto", precision)
        return
    of_auto = make_trainer(name, "sgd", "auto", precision).problem.choice
    if not case.batched:
        assert type(of_auto.engine) is LoopEngine
    assert accepts(name, "batched", precision) == case.batched
    if case.heavy and precision == "fp32":
        return
    for method in METHODS[:1] if case.heavy else METHODS:
        loop = trained(name, method, "loop", precision)
        assert loop.problem.parameters.isfinite().all()
        engines = ["batched"] if case.batched else []
        if method == "sasg" and not case.heavy and accepts(name, "vmap", precision):
            engines.append("vmap")
        for engine in engines:
            other = trained(name, method, engine, precision)
            off = (other.problem.parameters - loop.problem.parameters).norm() / loop.problem.parameters.norm()
            assert off < (1e-10 if precision == "fp64" else 1e-3), (method, engine)
            if precision == "fp64":
                assert other.cluster.ledger.totals()["rounds"] == loop.cluster.ledger.totals()["rounds"]
                torch.testing.assert_close(other.problem.running.share, loop.problem.running.share)


def accepts(name: str, engine: str, precision: str) -> bool:
    try:
        make_trainer(name, "sgd", engine, precision)
    except UserError as error:
        message = str(error)
        assert message.startswith(f"gradients={engine}: ") and "use gradients=" in message and "\n" not in message
        return False
    return True


@pytest.mark.parametrize("name", TRAINED)
def test_the_loop_is_plain_pytorch(name):
    """M copies of the model, loss.backward(), SGD; running statistics pass from worker to worker."""
    if zoo.CASES[name].refused_in_float64:
        return
    trainer = make_trainer(name, "sgd", "loop", "fp64")
    model = build_model(config(name, "sgd", "loop", "fp64"), digits()).double()
    step = trainer.schedule(0)
    for k in range(num_iterations(name)):
        trainer.run_iteration()
        x, y = trainer.problem.batches.batch(torch.tensor(k))
        copies = [copy.deepcopy(model) for _ in range(WORKERS)]
        for m, worker in enumerate(copies):
            for own, before in zip(worker.buffers(), model.buffers() if m == 0 else copies[m - 1].buffers()):
                own.copy_(before)
            nn.functional.cross_entropy(worker.train()(x[m]), y[m]).backward()
        with torch.no_grad():
            for parameter, *own in zip(model.parameters(), *(worker.parameters() for worker in copies)):
                for gradient in (p.grad for p in own):
                    if gradient is not None:
                        parameter -= step * gradient
            for buffer, last in zip(model.buffers(), copies[-1].buffers()):
                buffer.copy_(last)
    plain = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(trainer.problem.parameters, plain, rtol=1e-9, atol=1e-11)
    right = total = 0
    with torch.no_grad():
        for x, y, _ in trainer.problem.batches.evaluation(1000):
            logits = model.eval()(x)
            highest, own = logits.amax(1), logits.gather(1, y.unsqueeze(1)).squeeze(1)
            right += int(((own == highest) & ((logits == highest.unsqueeze(1)).sum(1) == 1)).sum())
            total += len(y)
    assert trainer.evaluate()[0]["top1"] == right / total
