"""Flower's simulation (Ray): a client receives the model, does one step and returns the model; the server averages.

One client at a time: Ray is told that there is one processor.
"""

import logging
import os

import job as jobs
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation


class Timed(FedAvg):
    """Notes when a round begins; does not evaluate."""

    def __init__(self, clock: jobs.Clock, num_workers: int):
        super().__init__(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=num_workers)
        self.clock = clock

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid):
        self.clock.tick()
        return super().configure_train(server_round, arrays, config, grid)


client = ClientApp()
server = ServerApp()
clock = jobs.Clock()
losses: list[float] = []


@client.train()
def train(message: Message, context: Context) -> Message:
    """One step of one worker."""
    job = jobs.load(os.environ["SASG_PEERS_JOB"])
    torch.set_num_threads(1)
    model = job.model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    number = message.content["config"]["server-round"] - 1
    x, y = job.batch(number, context.node_config["partition-id"])
    optimizer = torch.optim.SGD(model.parameters(), lr=job.num_workers * job.step_size)
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    metrics = MetricRecord({"loss": loss.item(), "num-examples": len(y)})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds."""
    job = jobs.load(os.environ["SASG_PEERS_JOB"])
    result = Timed(clock, job.num_workers).start(grid, ArrayRecord(job.model().state_dict()), job.num_rounds)
    clock.tick()
    losses.extend(result.train_metrics_clientapp[number]["loss"] for number in range(1, job.num_rounds + 1))


if __name__ == "__main__":
    found, _, out = jobs.start()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 1}}
    run_simulation(server, client, num_supernodes=found.num_workers, backend_config=resources)
    jobs.report(out, clock, found, losses, "flwr", "ray")
