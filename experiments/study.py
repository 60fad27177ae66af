"""What a study is, and what the command line asks of it."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from experiments.composing import composed, quiet_hydra
from experiments.messages import did_you_mean, refuse_twice
from sasg.config import Config
from sasg.errors import UserError
from sasg.parts import coerce, resolved, takes
from sasg.places import CONF, files, refuse_hidden

_SINGULAR = {"tasks": "task", "methods": "method", "algorithm": "method", "seeds": "seed"}
_LISTS = ("task", "method", "seed")
_FLAGS = ("force", "tuned")
_OWN = ("study", "jobs", "budget", *_FLAGS)
_OTHERS = "*"  # among a study's methods: all others of conf/algorithm


@dataclass
class Tuning:
    """How a study's step sizes are chosen: see experiments.tuning."""

    factors: list[float]  # of the task's step size
    held_out: int  # training samples
    epochs: int
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.factors or min(self.factors) <= 0:
            raise UserError(f"tuning.factors={self.factors}: give some factors of the step size, above 0")


@dataclass
class Study:
    """A file of conf/study: the grid of runs behind a table or figure, and the reports that are made of them."""

    tasks: list[str]
    methods: list[str]  # files of conf/algorithm, each followed by overrides of its own if any; "*": all others
    seeds: list[int]
    overrides: list[str] = field(default_factory=list)  # of every run
    without: list[str] = field(default_factory=list)  # methods that "*" leaves out
    count_batches: bool = False  # evaluate_every is in mini-batches, of methods with local steps too
    tuning: Tuning | None = None  # with tuned=true, runs at step sizes that are chosen so
    reference: str | None = None  # the method that others are compared with, in those parts of the report that do so
    report: list[dict[str, Any]] = field(default_factory=list)  # parts: see sasg.report.writing

    def grid(
        self, tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int], overrides: Sequence[str]
    ) -> list[Config]:
        """Checked configurations, as `compose_grid` orders them, with these overrides besides the study's own."""
        configs = compose_grid(tasks, methods, seeds, [*self.overrides, *overrides])
        return [_by_batches(config) for config in configs] if self.count_batches else configs


@dataclass(frozen=True)
class Command:
    """A command line."""

    study: str
    task: list[str] | None = None  # None: the study's
    method: list[str] | None = None
    seed: list[int] | None = None
    jobs: int | None = None  # 0: run nothing
    budget: str | None = None
    force: bool = False
    tuned: bool = False  # at step sizes that are chosen first
    overrides: tuple[str, ...] = ()  # passed on to every run


def parse(words: Iterable[str]) -> Command:
    """A command from key=value words; what is not the study's own is passed on to the runs. UserError."""
    own: dict[str, Any] = {}
    overrides = []
    words = list(words)
    if words and "=" not in words[0] and not words[0].startswith("~"):  # sasg study NAME
        words[0] = f"study={words[0]}"
    for word in words:
        key, equals, value = word.partition("=")
        key = _SINGULAR.get(key, key)
        if not equals and not word.startswith("~"):
            raise UserError(f"{word}: not of the form key=value; see --help")
        if key.partition(".")[0] == "link":
            raise UserError(f"{word}: a study's tables hold no times; sasg table and sasg plot take --link NAME")
        if key not in (*_LISTS, *_OWN):
            overrides.append(word)
        elif key in own:
            raise UserError(f"{key} is given twice; separate several with commas: {key}=a,b")
        else:
            own[key] = _value(key, value)
    refuse_twice(overrides)
    if "study" not in own:
        raise UserError(f"which study? Give study=..., one of {', '.join(sorted(files('study')))}")
    return Command(**own, overrides=tuple(overrides))


def load_study(name: str) -> Study:
    """A study by its name in conf/study, the suite's or a user's, or by its YAML file. UserError."""
    path = Path(name) if name.endswith(".yaml") else files("study").get(name)
    if path is None:
        known = sorted(files("study"))
        raise UserError(f"study={name}: there is none in conf/study; {did_you_mean(name, known)}")
    if not path.is_file():
        raise UserError(f"study={name}: there is no such file")
    study = _study(path)
    study.methods = _all_of(study.methods, study.without, path)
    if study.reference is not None:
        names = [_name_of(method) for method in study.methods]
        if study.reference not in names:
            hint = did_you_mean(study.reference, names)
            raise UserError(f"{path}: reference={study.reference}: is none of its methods; {hint}")
        study.report = [{"reference": study.reference, **p} if takes(p, "reference") else p for p in study.report]
    return study


def study_name(name: str) -> str:
    """What the folder of a study's tables is called, for a study that is named or given as a YAML file."""
    return Path(name).stem if name.endswith(".yaml") else name


def _study(path: Path) -> Study:
    """The study that a YAML file holds; what stands twice in a list counts once. UserError: it holds none."""
    values = _coerced(f"{path}: ", OmegaConf.to_container(OmegaConf.load(path), resolve=True), Study)
    if values.get("tuning") is not None:
        tuning = _coerced(f"{path}: tuning.", values["tuning"], Tuning)
        if lacking := [f.name for f in fields(Tuning) if f.default is MISSING and f.name not in tuning]:
            raise UserError(f"{path}: tuning: has no {', '.join(lacking)}")
        values["tuning"] = Tuning(**tuning)
    for key in ("tasks", "methods", "seeds"):
        if not values.get(key):
            raise UserError(f"{path}: {key}: names none; give a list of one or several")
        values[key] = list(dict.fromkeys(values[key]))
    return Study(**values)


def _coerced(where: str, values: Any, kind: type) -> dict[str, Any]:
    """Values for a dataclass, as its annotations say; what is a dataclass itself is left. UserError."""
    hints = get_type_hints(kind)
    if not isinstance(values, dict):
        raise UserError(f"{where.rstrip(' .')}: has the keys {', '.join(hints)}")
    for key in values:
        if key not in hints:
            raise UserError(f"{where}{key}: unknown key; {did_you_mean(str(key), list(hints))}")
    plain = {key: value for key, value in values.items() if hints[key] != Tuning | None}
    return {**values, **{key: coerce(f"{where}{key}", value, hints[key]) for key, value in plain.items()}}


def _all_of(methods: Sequence[str], without: Sequence[str], path: Path) -> list[str]:
    """A study's methods, those for which "*" stands by name. UserError: one that is left out is not there."""
    known = files("algorithm")
    for name in without:
        if name not in known:
            raise UserError(f"{path}: without: {name}: is no method; {did_you_mean(name, list(known))}")
    named = {method.split()[0] for method in methods} | set(without)
    others = [name for name in known if name not in named]
    return [name for method in methods for name in (others if method == _OTHERS else [method])]


def different(configs: Iterable[Config]) -> list[Config]:
    """Without repetitions of a run, of which the last one stays."""
    return list({config.settings: config for config in configs}.values())


def _by_batches(config: Config) -> Config:
    local_steps = resolved(config.algorithm).get("local_steps", 1)
    return replace(config, evaluate_every=max(1, config.evaluate_every // local_steps))


def _name_of(method: str) -> str:
    """algorithm.name of a study's method."""
    name, *own = method.split()
    return next((word.partition("=")[2] for word in reversed(own) if word.startswith("algorithm.name=")), name)


def study_configs(name: str, runs_dir: str) -> list[Config]:
    """The configurations of all runs of a study at the tasks' step sizes."""
    study = load_study(name)
    return study.grid(study.tasks, study.methods, study.seeds, [f"runs_dir={runs_dir}"])


def compose_grid(
    tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int], overrides: Sequence[str] = ()
) -> list[Config]:
    """Checked configurations by task, then seed, then method: a study that is cut short has comparable runs."""
    configs = []
    for task in tasks:
        of_methods = [_values(task, method, tuple(overrides)) for method in methods]
        for seed in seeds:
            for values in of_methods:
                values.seed = seed
                configs.append(composed(values)[0])
    return configs


@functools.cache
def _values(task: str, method: str, overrides: tuple[str, ...]) -> DictConfig:
    refuse_hidden()
    with quiet_hydra(), initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        name, *own = method.split()
        return compose("train", [f"task={task}", f"algorithm={name}", *overrides, *own])


def _value(key: str, text: str) -> Any:
    if key in _LISTS:
        items = list(dict.fromkeys(item.strip() for item in text.strip("[]").split(",")))
        if not all(items):
            raise UserError(f"{key}={text}: give one or several, separated by commas")
        return [_whole(key, item) for item in items] if key == "seed" else items
    if key == "jobs":
        return _whole(key, text)
    if key in _FLAGS:
        if text not in ("true", "false"):
            raise UserError(f"{key}={text}: give true or false")
        return text == "true"
    return text


def _whole(key: str, text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{key}={text}: must be a whole number, at least 0")
    return int(text)
