"""fluke: its own client (one epoch of one batch), channel and server, which averages the clients' models."""

import job as jobs
import torch
from fluke import DDict, FlukeENV
from fluke.algorithms import CentralizedFL
from fluke.client import Client
from fluke.config import OptimizerConfigurator
from fluke.server import Server
from fluke.utils import ClientObserver, FederationObserver


class Batches:
    """A worker's mini-batches: one in each epoch, as a client's local epoch goes through all there are."""

    def __init__(self, job: jobs.Job, worker: int):
        self.job, self.worker, self.number = job, worker, -1

    def __len__(self) -> int:
        return 1

    def __iter__(self):
        self.number += 1
        yield self.job.batch(self.number, self.worker)


class Watch(ClientObserver, FederationObserver):
    """When rounds begin, and the mean loss of each."""

    def __init__(self, job: jobs.Job):
        self.clock, self.losses, self.job = jobs.Clock(), [], job

    def start_round(self, round: int, global_model: torch.nn.Module) -> None:
        self.clock.tick()
        self.losses.append(0.0)

    def end_fit(self, round: int, client_id: int, model: torch.nn.Module, loss: float, **kwargs) -> None:
        self.losses[-1] += loss / self.job.num_workers

    def end_round(self, round: int) -> None:
        if round == self.job.num_rounds:
            self.clock.tick()


def main() -> None:
    job, _, out = jobs.start()
    FlukeENV().set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=False)
    step = OptimizerConfigurator(DDict(name="SGD", lr=job.num_workers * job.step_size))
    loss = torch.nn.CrossEntropyLoss()
    clients = [Client(m, Batches(job, m), None, step, loss, local_epochs=1) for m in range(job.num_workers)]
    server = Server(job.model(), None, clients)
    algorithm = CentralizedFL(job.num_workers, None, None, clients, server)
    watch = Watch(job)
    algorithm.set_callbacks(watch)
    algorithm.run(job.num_rounds, 1.0)
    jobs.report(out, watch.clock, job, watch.losses, "fluke-fl")


if __name__ == "__main__":
    main()
