"""What methods, tasks and metrics are called in tables and figures."""

from sasg.report.appearance import appearances

METHODS = {
    "sgd": "SGD",
    "sparse": "Sparse",
    "lasg": "LASG",
    "sasg": "SASG",
    "majority_vote": "Majority vote",
    "majority_vote_random": "Majority vote, random",
    "majority_vote_add_drop": "Majority vote, add-drop",
    "majority_vote_quantised": "Majority vote, add-drop, quantised",
    "lag": "LAG",
    "lasg_wk1": "LASG-WK1",
    "lasg_wk2": "LASG-WK2",
    "lasg_ps": "LASG-PS",
    "lasg_pse": "LASG-PSE",
    "local_sgd": "local SGD",
    "gd": "GD",
    "qgd": "Quantised GD",
    "top_j": "Top-j",
    "iag": "NoUnif-IAG",
    "gd_sec": "GD-SEC",
    "gd_soec": "GD-SOEC",
    "gd_sec_coordinate": "GD-SEC, xi / L_i",
    "gd_sec_scheduled": "GD-SEC, scheduled",
    "qgd_sec": "Quantised GD-SEC",
    "sgd_sec": "SGD-SEC",
    "qsgd_sec": "QSGD-SEC",
}
TASKS = {
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "cifar10_voting": "CIFAR-10 (voting)",
    "cifar10_voting_short": "CIFAR-10 (voting, 30 epochs)",
    "cifar100": "CIFAR-100",
    "digits": "Digits",
    "heterogeneous": "Heterogeneous",
    "mnist_by_class": "MNIST by class, 10 workers",
    "mnist_by_class_20": "MNIST by class, 20 workers",
    "linear_regression": "Linear regression",
    "logistic_regression": "Logistic regression",
    "lasso": "Lasso",
    "nonlinear_least_squares": "Non-linear least squares",
    "logistic_mnist": "Logistic regression, MNIST",
    "shakespeare": "Shakespeare",
    "shakespeare_small": "Shakespeare, small model",
    "shakespeare_large": "Shakespeare, large model",
}
METRICS = {
    "top1": "top-1",
    "top5": "top-5",
    "loss": "validation loss",
    "objective": "f(w)",
    "objective_error": "f(w) - f*",
    "gradient_norm": "norm of the gradient",
}
TRIGGER_COLUMNS = ("threshold", "difference_min", "difference_mean", "difference_max")
"""The columns of the metrics that a trigger fills."""


def metric_label(metric: str) -> str:
    """What an axis of a metric says; a column's own name where it has no other."""
    return f"{METRICS[metric]} test accuracy" if metric in ("top1", "top5") else METRICS.get(metric, metric)


def percent(share: float, digits: int = 2) -> str:
    """A share for readers: 0.9216 is "92.16 %"."""
    return f"{share:.{digits}%}".replace("%", " %")


def metric_text(metric: str, value: float) -> str:
    """A metric's value for readers: accuracies in percent."""
    if metric == "loss":
        return f"{value:.4f}"
    return percent(value) if metric.startswith("top") else f"{value:.1e}"


def method_name(method: str) -> str:
    """A method's name for readers: "SASG", or "SASG 5 %" for the variant sasg_0.05; its own where it has no other."""
    base = family(method)
    name = _said(base) or METHODS.get(base, base)
    if base == method:
        return name
    suffix = method.removeprefix(f"{base}_")
    try:
        return f"{name} {100 * float(suffix):g} %"
    except ValueError:
        return f"{name} {suffix}"


def task_name(task: str) -> str:
    """A task's name for readers; its own where it has no other."""
    return TASKS.get(task, task)


def family(method: str) -> str:
    """The method that a variant such as sasg_0.05 belongs to; the method itself otherwise."""
    base = method.rsplit("_", 1)[0]
    return base if not _is_known(method) and _is_known(base) else method


def _said(method: str) -> str | None:
    """What the YAML of a method calls it."""
    return appearances()[method].label if method in appearances() else None


def _is_known(method: str) -> bool:
    return method in METHODS or method in appearances()
