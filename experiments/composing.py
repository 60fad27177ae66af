"""From Hydra's composition to the suite's plain configuration, and from exceptions to one line."""

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any

import omegaconf
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.listing import names_by_group
from experiments.messages import one_line
from experiments.yaml_errors import about_yaml
from sasg.__main__ import telling_user_errors
from sasg.config import Config, from_dict
from sasg.errors import UserError
from sasg.report.appearance import APPEARANCE

os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing, and we say what is wrong in one line
os.environ.setdefault("SASG_CONF", os.path.join(os.getcwd(), "conf"))  # for conf/train.yaml


_CONSTANTS = ("max_delay", "alpha", "xi")
"""Keys of a task that the files of conf/algorithm take their methods' options from, as they do from a preset."""


class RunNotFinished(Exception):
    """A run in another process ended with this exit code, and has told why."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


def _for_method(by_method: Any, name: str) -> Any:
    """The entry of `by_method` for a method, else its `default`."""
    return by_method.get(name, by_method["default"])


OmegaConf.register_new_resolver("for_method", _for_method, replace=True)
OmegaConf.register_new_resolver("suite_groups", names_by_group, replace=True)  # for --help


def composed(values: omegaconf.DictConfig) -> tuple[Config, str | None]:
    """The checked configuration, and where to write it instead of running (+write=...)."""
    plain = OmegaConf.to_container(values, resolve=True, throw_on_missing=True)
    write = plain.pop("write", None)
    if plain["tracker"].get("kind") == "none":
        plain["tracker"] = None
    for key in APPEARANCE:  # no part of a run: the files of conf/algorithm say it to those who draw
        plain["algorithm"].pop(key, None)
    for key in _CONSTANTS:  # nor these: what a method took from them is among its options
        plain["task"].pop(key, None)
    plain["preset"] = plain["preset"]["name"]
    return from_dict(plain), write


def telling_errors(main: Callable[[], int]) -> int:
    """The exit code of `main`; a mistake of the user's is one line on stderr and exit code 2."""

    def without_hydra_errors() -> int:
        try:
            return main()
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(one_line(error)) from None
        except (YAMLError, UnicodeDecodeError) as error:
            if told := about_yaml(error):
                raise UserError(told) from None
            raise

    return telling_user_errors(without_hydra_errors)


@contextlib.contextmanager
def quiet_hydra():
    """Keep from stderr what Hydra prints ahead of an exception that is told anyway."""
    with contextlib.redirect_stderr(io.StringIO()) as kept:
        try:
            yield
        except (HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError, UserError, RunNotFinished):
            raise
        except ValueError as error:  # Hydra's own, about combinations of its options
            raise UserError(" ".join(str(error).split())) from None
        except SystemExit as error:  # argparse has printed its usage
            if not error.code:
                raise
            reason = kept.getvalue().rpartition("error: ")[2].strip()
            raise UserError(f"{reason}; settings are given as key=value, see --help") from None
        except BaseException:
            sys.__stderr__.write(kept.getvalue())
            raise
