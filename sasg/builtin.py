"""What the suite's own parts are called in configurations (`kind: top_k`), and where they are.

A run's name depends on these names and not on the places: a file may move, a name may not change.
"""

BUILT_IN = {
    # algorithm
    "composed": "sasg.algorithms.methods.composed.Composed",
    "sgd": "sasg.algorithms.methods.sgd.SGD",
    "marina": "sasg.algorithms.methods.marina.Marina",
    "gd_sec": "sasg.algorithms.methods.gd_sec.GDSEC",
    "local_sgd": "sasg.algorithms.methods.local_sgd.LocalSGD",
    "majority_vote": "sasg.algorithms.methods.majority_vote.MajorityVote",
    "server_triggered": "sasg.algorithms.methods.server_triggered.ServerTriggered",
    "power_sgd": "sasg.algorithms.methods.power_sgd.PowerSGD",
    "scalecom": "sasg.algorithms.methods.scalecom.ScaleCom",
    # algorithm.trigger
    "always": "sasg.algorithms.parts.triggers.Always",
    "lazy": "sasg.algorithms.parts.triggers.Lazy",
    "wk1": "sasg.algorithms.parts.lasg.WK1",
    "wk2": "sasg.algorithms.parts.lasg.WK2",
    "lag": "sasg.algorithms.parts.lasg.LAG",
    "one_by_smoothness": "sasg.algorithms.parts.sampling.OneBySmoothness",
    # algorithm.compressor
    "identity": "sasg.algorithms.parts.compressors.Identity",
    "top_k": "sasg.algorithms.parts.compressors.TopK",
    "qsgd": "sasg.algorithms.parts.qsgd.QSGD",
    "random_k": "sasg.algorithms.parts.random_k.RandomK",
    "natural": "sasg.algorithms.parts.natural.Natural",
    "terngrad": "sasg.algorithms.parts.terngrad.TernGrad",
    "half_precision": "sasg.algorithms.parts.half.HalfPrecision",
    "sign": "sasg.algorithms.parts.signs.Sign",
    "scaled_sign": "sasg.algorithms.parts.signs.ScaledSign",
    # algorithm.feedback
    "no_feedback": "sasg.algorithms.parts.feedback.NoFeedback",
    "error_memory": "sasg.algorithms.parts.feedback.ErrorMemory",
    "gradient_estimate": "sasg.algorithms.parts.estimates.GradientEstimate",
    "worker_momentum": "sasg.algorithms.parts.worker_momentum.WorkerMomentum",
    # algorithm.aggregation
    "sum_of_uploads": "sasg.algorithms.parts.aggregation.SumOfUploads",
    "sum_of_latest": "sasg.algorithms.parts.aggregation.SumOfLatest",
    "sum_of_estimates": "sasg.algorithms.parts.estimates.SumOfEstimates",
    "majority_sign": "sasg.algorithms.parts.signs.MajoritySign",
    # algorithm.optimiser
    "momentum": "sasg.algorithms.parts.optimisers.Momentum",
    "added_momentum": "sasg.algorithms.parts.optimisers.AddedMomentum",
    "adam": "sasg.algorithms.parts.optimisers.Adam",
    # algorithm.vote, algorithm.quantiser
    "top_k_vote": "sasg.algorithms.parts.votes.TopKVote",
    "random_vote": "sasg.algorithms.parts.votes.RandomVote",
    "add_drop_vote": "sasg.algorithms.parts.votes.AddDropVote",
    "random_rounding": "sasg.algorithms.parts.qsgd.RandomRounding",
    "log_uniform_groups": "sasg.algorithms.parts.quantisers.LogUniformGroups",
    # dataset
    "digits": "sasg.problem.datasets.digits",
    "mnist": "sasg.problem.datasets.mnist",
    "cifar10": "sasg.problem.datasets.cifar10",
    "cifar100": "sasg.problem.datasets.cifar100",
    "mix": "sasg.problem.datasets.mix",
    "diabetes": "sasg.problem.tabular.diabetes",
    "breast_cancer": "sasg.problem.tabular.breast_cancer",
    "binary": "sasg.problem.tabular.binary",
    "npz": "sasg.problem.own_data.npz",
    "csv": "sasg.problem.own_data.csv",
    "folder": "sasg.problem.own_data.folder",
    "shakespeare": "sasg.problem.text.shakespeare",
    "text": "sasg.problem.text.text",
    # shards
    "iid": "sasg.problem.shards.iid",
    "by_class": "sasg.problem.shards.by_class",
    "by_source": "sasg.problem.shards.by_source",
    "dirichlet": "sasg.problem.shards.dirichlet",
    "contiguous": "sasg.problem.shards.contiguous",
    # model
    "fc": "sasg.problem.models.fc",
    "linear": "sasg.problem.models.linear",
    "resnet18": "sasg.problem.models.resnet18",
    "gpt": "sasg.problem.models.gpt",
    # objective
    "linear_regression": "sasg.problem.objectives.LinearRegression",
    "logistic_regression": "sasg.problem.objectives.LogisticRegression",
    "nonlinear_least_squares": "sasg.problem.objectives.NonlinearLeastSquares",
    "next_character": "sasg.problem.objectives.NextCharacter",
    # link, tracker
    "link": "sasg.cluster.accounting.links.Link",
    "wandb": "sasg.training.tracker.WandB",
    # report, of a study: tables
    "crossing": "sasg.report.tables.crossing",
    "cost": "sasg.report.tables.cost",
    "links": "sasg.report.tables.links",
    "totals": "sasg.report.tables.totals",
    "sources": "sasg.report.tables.sources",
    "any_runs": "sasg.report.tables.any_runs",
    "devices": "sasg.report.comparison.table",
    "objectives": "sasg.report.convex.table",
    "published_draws": "sasg.report.published_draws.table",
    "votes": "sasg.report.vote_table.table",
    "sensitivity": "sasg.report.sensitivity.table",
    # and figures
    "accuracy": "sasg.report.figures.accuracy",
    "accuracy_and_loss": "sasg.report.figures.accuracy_and_loss",
    "accuracy_by_cost": "sasg.report.figures.accuracy_by_cost",
    "accuracy_by_source": "sasg.report.figures.accuracy_by_source",
    "communication_time": "sasg.report.time_figures.communication_time",
    "densities": "sasg.report.figures.densities",
    "descent": "sasg.report.convex.descent",
    "lines": "sasg.report.figures.lines",
    "real_bits": "sasg.report.figures.real_bits",
    "sensitivity_figure": "sasg.report.sensitivity.figure",
    "thresholds": "sasg.report.figures.thresholds",
    "time_to_baseline": "sasg.report.time_figures.time_to_baseline",
    "uploads": "sasg.report.figures.uploads",
}
"""By name: module and callable. Parts of your own need no entry: their name is `package.module.Name`."""
