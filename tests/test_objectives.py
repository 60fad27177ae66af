"""Sum objectives: values, gradients, smoothness constants, the proximal step, and minima that are proved."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from suite_config import config

from sasg.cluster import SimulatedCluster
from sasg.errors import UserError
from sasg.problem import tabular
from sasg.problem.building import load_dataset
from sasg.problem.minimum import minimum
from sasg.problem.objectives import LinearRegression, LogisticRegression, NonlinearLeastSquares
from sasg.training.run import crossing, run
from sasg.training.trainer import Trainer, check_parts

TASKS = ("linear_regression", "logistic_regression", "lasso", "nonlinear_least_squares")


def trainer_of(*overrides: str) -> Trainer:
    cfg = config("algorithm=sgd", *overrides)
    return Trainer(cfg, load_dataset(cfg), SimulatedCluster(cfg.cluster.workers, torch.device("cpu")), torch.float64)


def by_hand(task: str, trainer: Trainer, w: np.ndarray) -> float:
    """f(w) from the formulas alone, sample by sample."""
    x, y = (part.numpy() for part in trainer.problem.batches.whole_shards())
    l2, l1 = trainer.problem.objective.l2, trainer.problem.objective.l1
    total = 0.0
    for x_m, y_m in zip(x.reshape(*y.shape, -1), y):
        losses = []
        for x_i, y_i in zip(x_m, y_m):
            z = float(x_i @ w)
            if task == "logistic_regression":
                losses.append(np.log(1 + np.exp(z)) - y_i * z)
            elif task == "nonlinear_least_squares":
                losses.append((1 / (1 + np.exp(-z)) - y_i) ** 2 / 2)
            else:
                losses.append((z - y_i) ** 2 / 2)
        total += sum(losses) / len(losses) + l2 / 2 * float(w @ w) + l1 * np.abs(w).sum()
    return total


@pytest.mark.parametrize("task", TASKS)
def test_values_and_gradients(task):
    trainer = trainer_of(f"task={task}", "objective.l1_step=subgradient" if task == "lasso" else "seed=1")
    problem = trainer.problem
    w = 0.1 * np.sin(np.arange(1, problem.layout.size + 1))
    problem.parameters.copy_(torch.from_numpy(w))
    row = problem.evaluate(trainer.cluster.add_shares)
    assert row["objective"] == pytest.approx(by_hand(task, trainer, w), rel=1e-12)
    problem.oracle.begin()
    gradient = problem.oracle(problem.parameters).dense().sum(0).numpy()
    assert row["gradient_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-12)
    for i in (0, len(w) - 1):
        step = np.eye(len(w))[i] * 1e-5
        slope = (by_hand(task, trainer, w + step) - by_hand(task, trainer, w - step)) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-5, abs=1e-8)
    problem.oracle.begin()
    total = problem.oracle.total(problem.parameters)
    np.testing.assert_allclose(total.numpy(), gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_smoothness_constants_bound_the_change_of_gradients(task):
    problem = trainer_of(f"task={task}").problem
    smoothness, l1 = problem.smoothness, problem.objective.l1
    problem.oracle.begin()
    problem.objective.l1 = 0.0
    generator = torch.Generator().manual_seed(0)
    tightest = 0.0
    for scale in (1e-3, 0.1, 1.0):
        one, other = scale * torch.randn(2, problem.layout.size, generator=generator, dtype=torch.float64)
        first = problem.oracle(one).dense().clone()
        change, distance = first - problem.oracle(other).dense(), (one - other).norm()
        assert change.sum(0).norm() <= smoothness.total * distance * (1 + 1e-9)
        assert (change.norm(dim=1).numpy() <= smoothness.workers * float(distance) * (1 + 1e-9)).all()
        i = torch.randint(problem.layout.size, (), generator=generator)
        moved = one.clone()
        moved[i] += scale
        along = (problem.oracle(moved).dense() - first).sum(0)[i].abs()
        assert along <= smoothness.coordinates[i] * scale * (1 + 1e-9)
        tightest = max(tightest, float(along / (smoothness.coordinates[i] * scale)))
    assert tightest > 0.2, (tightest, l1)


def test_the_bound_of_the_second_derivative_of_the_sigmoid_loss_is_tight():
    z = torch.linspace(-8, 8, 200_001, dtype=torch.float64, requires_grad=True)
    for target in (0.0, 1.0):
        loss = NonlinearLeastSquares().scalar_losses(z, torch.full_like(z, target)).sum()
        (first,) = torch.autograd.grad(loss, z, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), z)
        assert second.abs().max() == pytest.approx(NonlinearLeastSquares.curvature, rel=1e-4)
        assert second.abs().max() <= NonlinearLeastSquares.curvature


def problem_data(num: int = 60, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.Generator(np.random.Philox(5))
    x = draw.normal(size=(num, d))
    return x, x @ draw.normal(size=d) + draw.normal(size=num)


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_the_minimum_of_least_squares_is_scikit_learns(l2):
    from sklearn.linear_model import Lasso, Ridge
    from sklearn.linear_model import LinearRegression as OLS

    x, y = problem_data()
    model = Ridge(alpha=len(x) * l2, fit_intercept=False) if l2 else OLS(fit_intercept=False)
    w = model.fit(x, y).coef_
    value = ((x @ w - y) ** 2).mean() / 2 + l2 / 2 * w @ w
    assert minimum(LinearRegression(l2=l2), x, y) == pytest.approx(value, rel=1e-12)
    if not l2:
        w = Lasso(alpha=0.4, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x, y).coef_
        assert 0 < (w == 0).sum() < len(w)
        value = ((x @ w - y) ** 2).mean() / 2 + 0.4 * np.abs(w).sum()
        assert minimum(LinearRegression(l1=0.4), x, y) == pytest.approx(value, rel=1e-12)


def test_the_minimum_of_logistic_regression_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression as Logistic

    x, y = problem_data()
    labels = (y > 0).astype(float)
    model = Logistic(C=1 / (0.05 * len(x)), fit_intercept=False, tol=1e-12, solver="newton-cholesky", max_iter=1000)
    w = model.fit(x, labels).coef_[0]
    value = np.mean(np.logaddexp(0, x @ w) - labels * (x @ w)) + 0.05 / 2 * w @ w
    assert minimum(LogisticRegression(l2=0.05), x, labels) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("task", TASKS[:3])
def test_gradient_descent_goes_down_to_the_minimum_and_no_further(task):
    trainer = trainer_of(f"task={task}", "objective.l2=0.1" if task != "lasso" else "objective.l1=0.1")
    errors = []
    for _ in range(20):
        for _ in range(20):
            trainer.run_iteration()
        errors.append(trainer.evaluate()[0]["objective_error"])
    assert all(later <= earlier + 1e-14 for earlier, later in pairwise(errors))
    assert -1e-14 < errors[-1] < 1e-12 < errors[0]


def test_the_subgradient_of_the_lasso_stops_short_of_what_the_proximal_step_reaches():
    errors = {}
    for step in ("subgradient", "proximal"):
        trainer = trainer_of("task=lasso", f"objective.l1_step={step}")
        for _ in range(30):
            for _ in range(20):
                trainer.run_iteration()
            row = trainer.evaluate()[0]
        errors[step] = row["objective_error"]
        zeros = int((trainer.problem.parameters == 0).sum())
        assert (zeros > 5) == (step == "proximal"), (step, zeros)
    assert errors["proximal"] < 1e-8 < 1e-5 < errors["subgradient"]


def test_lazy_rules_compare_with_what_the_proximal_step_left_of_an_update():
    trainer = trainer_of("task=lasso", "algorithm=lag")
    for _ in range(35):
        for _ in range(20):
            trainer.run_iteration()
        row = trainer.evaluate()[0]
    assert row["objective_error"] < 1e-10  # updates do not vanish at the minimum: compared with them, nobody uploads
    assert row["rounds"] < 0.2 * trainer.iteration * trainer.cluster.num_workers


def test_a_run_crosses_its_target_from_above(tmp_path):
    cfg = config("task=linear_regression", "algorithm=sgd", "max_iterations=100", "task.baseline.target=1e-3")
    summary = run(replace(cfg, runs_dir=str(tmp_path)))
    assert summary["status"] == "finished" and summary["num_rows"] == 5
    assert summary["crossing"]["iteration"] in (40, 60, 80, 100)
    assert summary["final"]["objective_error"] < 1e-3
    rows = [{"iteration": k, "epoch": k, "objective_error": e} for k, e in ((20, 2e-3), (40, 1e-3), (60, 9e-4))]
    assert crossing(rows, cfg, ())["iteration"] == 60  # strictly below


def test_mini_batches_and_full_ones_have_the_same_objective():
    full, small = trainer_of("task=lasso"), trainer_of("task=lasso", "task.batch_size=8")
    assert small.iterations_per_epoch == 11
    for trainer in (full, small):
        trainer.problem.parameters.fill_(0.01)
    one, other = (trainer.problem.evaluate(trainer.cluster.add_shares) for trainer in (full, small))
    assert one == pytest.approx(other, rel=1e-12)


def test_data_sets(tmp_path):
    for degree, features in ((1, 11), (2, 65)):
        data = tabular.diabetes(tmp_path, False, degree)
        assert data.train.images.shape == (442, 1, 1, features) and data.num_classes == 1
        x = data.train.images.flatten(1)
        assert x[:, :-1].mean(0).abs().max() < 1e-12 and (x[:, -1] == 1).all()
        assert (x[:, :-1].std(0, correction=0) - 1).abs().max() < 1e-12
        assert torch.linalg.matrix_rank(x) == features
    digits = {"kind": "digits", "mean": [0.0], "std": [1.0]}
    data = tabular.binary(tmp_path, False, digits, positive=(0, 1), limit=100)
    assert data.train.images.shape == (100, 1, 1, 65) and set(data.train.labels.tolist()) == {0, 1}
    for options, words in (({"positive": (11,)}, "one class"), ({"limit": 0}, "limit=0"), ({"limit": 9999}, "1437")):
        with pytest.raises(UserError, match=words):
            tabular.binary(tmp_path, False, digits, **options)


WRONG = [
    (("algorithm=gd_sec", "algorithm.xi=-1"), "algorithm: xi=-1.0: must be at least 0"),
    (("algorithm=gd_sec", "algorithm.beta=0"), "algorithm: beta=0.0: must be in (0, 1]"),
    (("algorithm=gd_sec", "algorithm.beta=1.1"), "algorithm: beta=1.1: must be in (0, 1]"),
    (("algorithm=gd_sec_scheduled", "algorithm.share=0"), "algorithm: share=0.0: must be in (0, 1]"),
    (("algorithm=gd_sec_scheduled", "algorithm.share=2"), "algorithm: share=2.0: must be in (0, 1]"),
    (("algorithm=qsgd_sec", "algorithm.num_levels=0"), "algorithm: num_levels=0: must be at least 1"),
    (("algorithm=qgd", "algorithm.compressor.num_levels=0"), "algorithm.compressor: num_levels=0: must be at least 1"),
    (("objective.l2=-1",), "objective: l2=-1.0: must be at least 0"),
    (("task.batch_size=100",), "task.batch_size=100: must be between 1 and 88"),
    (("weight_decay=0.1",), "weight_decay=0.1: is no part of the objective"),
    (("model=fc",), "objective: needs a model of one weight per feature"),
    (("objective=logistic_regression",), "objective: needs targets 0 and 1"),
    (("task=logistic_regression", "objective.l2=0"), "objective: l2=0.0: must be positive"),
    (
        ("task=nonlinear_least_squares", "task.baseline.metric=objective_error"),
        "task.baseline.metric=objective_error: NonlinearLeastSquares is not convex, so that its minimum is not known; "
        "it has objective, gradient_norm",
    ),
    (("task.baseline.metric=top1",), "task.baseline: top1 needs `accuracy`, and no `target`"),
    (("task=digits", "task.step_size=1/L"), "cross entropy of a network has no known smoothness constant"),
    (("task=digits", "algorithm=iag"), "cross entropy of a network has no known smoothness constant"),
    (("task.step_size=L",), "task.step_size=L: must be positive: a number, or one over L such as 1/L"),
    (("task=digits", "dataset=diabetes"), "dataset: diabetes has no test set for accuracies"),
]


@pytest.mark.parametrize(("words", "says"), WRONG)
def test_mistakes_are_one_line(words, says):
    words = words if any(word.startswith("task=") for word in words) else ("task=linear_regression", *words)
    with pytest.raises(UserError) as caught:
        cfg = config(*words)
        check_parts(cfg)
        Trainer(cfg, load_dataset(cfg), SimulatedCluster(cfg.cluster.workers, torch.device("cpu")), torch.float64)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_the_minimum_of_what_is_not_convex_is_refused():
    with pytest.raises(UserError, match="not convex"):
        minimum(NonlinearLeastSquares(), *problem_data())
