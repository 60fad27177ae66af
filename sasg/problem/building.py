"""What a configuration names, made: its data set, what is minimised, and the model."""

from typing import Any

from torch import nn

from sasg.config import Config
from sasg.errors import UserError
from sasg.gradients.admission import admit, materialise
from sasg.parts import build, takes
from sasg.problem.datasets import Dataset
from sasg.problem.draws import Counter, Draws
from sasg.problem.objectives import CrossEntropy, Objective, SumObjective


def load_dataset(config: Config) -> Dataset:
    """The data set of a configuration; UserError if it is not there, damaged, or not the one named."""
    dataset = build("dataset", config.dataset, Dataset, **given_to_loader(config))
    if config.data_sha256 not in (None, dataset.sha256):
        raise UserError(
            f"data.root={config.data.root}: {dataset.name} differs from the data of this configuration "
            f"(SHA-256 {dataset.sha256[:12]}..., not {config.data_sha256[:12]}...); use the same files"
        )
    return dataset


def given_to_loader(config: Config) -> dict[str, Any]:
    """What a data set's loader is called with besides its options. UserError: a file, where it takes none."""
    data = config.data
    given = {"root": data.root, "download": data.download}
    if takes(config.dataset, "file"):
        return {**given, "file": data.file, "test_file": data.test_file}
    for key in ("file", "test_file"):
        if getattr(data, key) is not None:
            value = getattr(data, key)
            raise UserError(f"data.{key}={value}: is for dataset=npz, csv, folder or text; name one of them")
    return given


def given_to_model(config: Config) -> tuple[str, ...]:
    """The names of what a model's factory is called with besides its options; the data set gives the values."""
    return ("context", "num_characters") if build_objective(config).is_of_sequences else ("image_shape", "num_classes")


def build_objective(config: Config) -> Objective:
    """What is minimised. UserError: a part or option is wrong, or the baseline's metric is not one of its columns."""
    if config.objective is None:
        objective: Objective = CrossEntropy()
    else:
        objective = build("objective", config.objective, Objective)
    baseline = config.task.baseline
    if baseline is not None and baseline.metric not in objective.metrics:
        known, why = ", ".join(objective.metrics), ""
        if baseline.metric == "objective_error" and isinstance(objective, SumObjective):
            why = "is not convex, so that its minimum is not known; it "
        raise UserError(f"task.baseline.metric={baseline.metric}: {type(objective).__name__} {why}has {known}")
    if config.weight_decay and isinstance(objective, SumObjective):
        raise UserError(f"weight_decay={config.weight_decay}: is no part of the objective; use objective.l2")
    return objective


def build_model(config: Config, dataset: Dataset, draws: Draws | None = None) -> nn.Module:
    """The model with its starting parameters, which depend on the seed (and the draws: counters by default) alone.

    UserError if it cannot be trained.
    """
    objective = build_objective(config)
    num_outputs = objective.num_outputs(dataset.num_classes)
    output_shape = dataset.output_shape(num_outputs)
    if objective.is_of_sequences != (len(output_shape) > 1):
        kinds = "text, and needs" if len(output_shape) > 1 else "no text, which is needed for"
        raise UserError(f"objective: {dataset.name} is {kinds} objective=next_character")
    one = config.task.batch_size == 1  # which BatchNorm does not take
    inputs = dataset.random_inputs(2, 1 if one else 2)

    def make() -> nn.Module:
        model = build("model", config.model, nn.Module, **dataset.given_to_model(num_outputs))
        materialise(model, inputs[0])
        return model

    model = (draws or Counter(config.seed)).initialised(make)
    described = dataset.describe_inputs() + (", one at a time" if one else "")
    admit(model, inputs, output_shape, described, config.model)
    return model.train()
