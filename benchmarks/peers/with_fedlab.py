"""FedLab's standalone pipeline: its serial trainer (one epoch of one batch) and its server, which averages the models.

Variants: dense; top_k, FedLab's compressor on each tensor of a worker's step, with an error memory, which it lacks.
"""

import job as jobs
import torch
import torch.nn.functional as F
from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
from fedlab.contrib.algorithm.basic_server import SyncServerHandler
from fedlab.contrib.compressor.topk import TopkCompressor
from fedlab.core.standalone import StandalonePipeline
from torch import Tensor


class Batches:
    """FedLab's data set: a worker's loader has one mini-batch, another one in each round."""

    def __init__(self, job: jobs.Job):
        self.job, self.num_asked = job, 0

    def get_dataloader(self, worker: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        number = self.num_asked // self.job.num_workers
        self.num_asked += 1
        return [self.job.batch(number, worker)]


class Noted:
    """Cross entropy that keeps its values."""

    def __init__(self):
        self.values: list[float] = []

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        loss = F.cross_entropy(output, target)
        self.values.append(loss.item())
        return loss


class Timed(StandalonePipeline):
    """Notes when a round ends, in place of an evaluation."""

    def run(self) -> jobs.Clock:
        self.clock = jobs.Clock()
        self.clock.tick()
        self.main()
        return self.clock

    def evaluate(self) -> None:
        self.clock.tick()


class TopKTrainer(SGDSerialClientTrainer):
    """Sends the largest entries of each tensor of a worker's step; the others are kept for its next one."""

    def setup_top_k(self, job: jobs.Job) -> None:
        sizes = [parameter.numel() for parameter in self.model.parameters()]
        # The compressor rounds up; these are the whole numbers of entries that the suite sends.
        ratios = [(max(1, int(job.density * size)) - 0.5) / size for size in sizes]
        self.compressors = [TopkCompressor(ratio) for ratio in ratios]
        self.memory = [[torch.zeros_like(p) for p in self.model.parameters()] for _ in range(job.num_workers)]
        self.worker = 0

    def train(self, model_parameters: Tensor, train_loader: list) -> list[Tensor]:
        self.set_model(model_parameters)
        self.model.zero_grad()
        ((data, target),) = train_loader
        self.criterion(self.model(data), target).backward()
        memory = self.memory[self.worker]
        self.worker = (self.worker + 1) % len(self.memory)
        package = []
        for place, (parameter, compressor) in enumerate(zip(self.model.parameters(), self.compressors, strict=True)):
            step = memory[place] + self.lr * parameter.grad
            values, indices = compressor.compress(step)
            memory[place] = step - compressor.decompress(values, indices, step.shape)
            package += [values, indices]
        return package


class TopKServer(SyncServerHandler):
    """Adds up what the workers send."""

    def global_update(self, buffer: list[list[Tensor]]) -> None:
        compressor = TopkCompressor(1.0)
        for package in buffer:
            for place, parameter in enumerate(self.model.parameters()):
                values, indices = package[2 * place : 2 * place + 2]
                parameter.data.sub_(compressor.decompress(values, indices, parameter.shape))


def main() -> None:
    job, variant, out = jobs.start()
    is_dense = variant == "dense"
    trainer = (SGDSerialClientTrainer if is_dense else TopKTrainer)(job.model(), job.num_workers)
    trainer.setup_dataset(Batches(job))
    trainer.setup_optim(1, job.y.shape[2], job.step_size * (job.num_workers if is_dense else 1))
    trainer.criterion = Noted()
    if not is_dense:
        trainer.setup_top_k(job)
    server = (SyncServerHandler if is_dense else TopKServer)(job.model(), job.num_rounds, 1.0)
    clock = Timed(server, trainer).run()
    losses = torch.tensor(trainer.criterion.values).view(job.num_rounds, job.num_workers).mean(dim=1).tolist()
    jobs.report(out, clock, job, losses, "fedlab")


if __name__ == "__main__":
    main()
