"""What is minimised. Named by a task's `objective`; without one, the cross entropy of a classifier.

`NextCharacter` is the cross entropy of a language model.

The sum objectives are f = sum_m f_m over the M workers, with n samples (x_i, y_i) in each shard:

    f_m(w) = (1/n) sum_i loss(x_i . w, y_i) + (l2/2) ||w||^2 + l1 ||w||_1
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sasg.errors import UserError

IGNORED = -100
"""A target that is not asked for."""


class Objective(ABC):
    """A loss of each sample, and the columns that an evaluation gives."""

    metrics: ClassVar[tuple[str, ...]]
    is_of_sequences: ClassVar[bool] = False
    is_proximal: bool = False
    """Whether a part of it is not in the gradients, and `proximal_` follows each update."""
    penalty_gradient: Callable[[Tensor], Tensor] | None = None
    """What each worker adds to its gradient at w [..., d]."""

    def num_outputs(self, num_classes: int) -> int:
        """Of the model, for each prediction."""
        return num_classes

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """outputs [n, o] of the model, targets [n] -> losses [n]; of sequences, [n, T, o] and [n, T] -> [n]."""


class CrossEntropy(Objective):
    """Cross entropy of a classifier, which is judged by its accuracies on the test set."""

    metrics = ("top1", "top5")

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none")


class NextCharacter(Objective):
    """Cross entropy of the next character, in nats, at every place of a window; a window's loss is the mean over them.

    Judged by its mean over the validation text, `loss`, and by the share of its characters that are predicted, `top1`.
    """

    metrics = ("loss", "top1")
    is_of_sequences = True

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.of_characters(outputs, targets).mean(1)

    @staticmethod
    def of_characters(outputs: Tensor, targets: Tensor) -> Tensor:
        """outputs [n, T, o], targets [n, T] -> losses [n, T], zero where a target is IGNORED."""
        flat = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORED)
        return flat.view_as(targets)


class SumObjective(Objective):
    """f = sum_m f_m of a linear model x . w; see the head of this file.

    curvature: the largest |second derivative| of the loss by x . w, from which smoothness constants follow.
    Options: l2 and l1 are the weights of the penalties, of each worker.
    l1_step: how the penalty l1 ||w||_1 is minimised. "subgradient": workers add l1 sign(w) to their gradients (0 at 0).
    "proximal": they do not, and everybody who applies an update then applies the proximal operator, which shrinks all
    entries of w by step_size * M * l1 towards zero. It is the same everywhere, and nothing is sent for it.
    """

    metrics = ("objective", "objective_error", "gradient_norm")
    curvature: ClassVar[float]
    is_convex: ClassVar[bool] = True

    def __init__(self, l2: float = 0.0, l1: float = 0.0, l1_step: Literal["subgradient", "proximal"] = "subgradient"):
        for name, weight in (("l2", l2), ("l1", l1)):
            if not 0 <= weight < float("inf"):
                raise UserError(f"{name}={weight}: must be at least 0")
        self.l2, self.l1 = l2, l1
        self.is_proximal = l1_step == "proximal" and l1 > 0

    @abstractmethod
    def scalar_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """predictions x . w [n], targets [n] of the same type -> losses [n]."""

    def num_outputs(self, num_classes: int) -> int:
        return 1

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.scalar_losses(outputs.squeeze(1), targets.to(outputs.dtype))

    def check_targets(self, targets: Tensor) -> None:
        """UserError if there cannot be such targets [n]."""

    def penalty(self, parameters: Tensor) -> Tensor:
        """(l2/2) ||w||^2 + l1 ||w||_1 of w [d]."""
        return self.l2 / 2 * parameters.square().sum() + self.l1 * parameters.abs().sum()

    def penalty_gradient(self, parameters: Tensor) -> Tensor:
        """What each worker adds to its gradient at w [..., d]; 0 is the subgradient of |w_i| at 0."""
        gradient = self.l2 * parameters
        return gradient if self.is_proximal or not self.l1 else gradient.add_(parameters.sign(), alpha=self.l1)

    def proximal_(self, parameters: Tensor, step: Tensor) -> None:
        """w <- argmin_v step * l1 ||v||_1 + ||v - w||^2 / 2, in place; step: a scalar."""
        parameters.copy_(parameters.sign() * (parameters.abs() - step * self.l1).clamp_(min=0))

    def steepest(self, parameters: Tensor, smooth_gradient: Tensor, num_workers: int) -> Tensor:
        """The subgradient of f of smallest norm, [d]; smooth_gradient: of everything but the l1 penalties."""
        weight = self.l1 * num_workers
        at_zero = smooth_gradient.sign() * (smooth_gradient.abs() - weight).clamp(min=0)
        return torch.where(parameters == 0, at_zero, smooth_gradient + weight * parameters.sign())


class LinearRegression(SumObjective):
    """loss(z, y) = (z - y)^2 / 2; with l1 it is the lasso."""

    curvature = 1.0

    def scalar_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square() / 2


class LogisticRegression(SumObjective):
    """loss(z, y) = log(1 + exp(z)) - y z for y in {0, 1}; l2 > 0, so that there is a minimum."""

    curvature = 0.25

    def __init__(self, l2: float):
        if not l2 > 0:
            raise UserError(f"l2={l2}: must be positive: separable data have no minimum without it")
        super().__init__(l2)

    def check_targets(self, targets: Tensor) -> None:
        _check_binary(targets)

    def scalar_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return F.softplus(predictions) - targets * predictions


class NonlinearLeastSquares(SumObjective):
    """loss(z, y) = (sigmoid(z) - y)^2 / 2 for y in {0, 1}: smooth, not convex, so that its minimum is not known."""

    metrics = ("objective", "gradient_norm")
    # for y = 0 and s = sigmoid(z) the second derivative is s^2 (1 - s) (2 - 3 s), largest at s = (15 - sqrt(33)) / 24
    curvature = 0.07703
    is_convex = False

    def __init__(self, l2: float = 0.0):
        super().__init__(l2)

    def check_targets(self, targets: Tensor) -> None:
        _check_binary(targets)

    def scalar_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (torch.sigmoid(predictions) - targets).square() / 2


def _check_binary(targets: Tensor) -> None:
    if not ((targets == 0) | (targets == 1)).all():
        raise UserError("objective: needs targets 0 and 1; choose a data set of two classes")
