"""Parts named in a configuration: `kind: top_k`, or `kind: package.module.Name`, and the options it is called with.

The suite's own have the short names of sasg/builtin.py. Any other callable that Python can import is a part too,
with nothing to register: a new method, data set or model is one file and one YAML.
"""

import contextlib
import difflib
import importlib
import inspect
import json
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sasg.builtin import BUILT_IN
from sasg.errors import CodeError, UserError
from sasg.origins import fault_of_user, is_users, place_of, shortened


def build(where: str, spec: Mapping[str, Any], expected: type | tuple[type, ...] = object, /, **given: Any) -> Any:
    """Call the part that `spec` names with its options and the arguments that the program gives.

    where: the configuration key, for messages. UserError: the part cannot be imported, an option is
    unknown, missing or of another type, the part itself refuses a value, or it gives something else than `expected`.
    """
    part, options = resolve(where, spec, given)
    try:
        built = part(**given, **options)
    except CodeError:
        raise
    except UserError as error:
        message = str(error)
        raise type(error)(message if message.startswith(where) else f"{where}: {message}") from None
    if not isinstance(built, expected):
        wanted = " or a ".join(kind.__name__ for kind in (expected if isinstance(expected, tuple) else (expected,)))
        kinds = f"gives a {type(built).__name__}, but must give a {wanted}"
        raise UserError(f"{where}.kind={spec['kind']}: {kinds}")
    return built


def takes(spec: Mapping[str, Any], argument: str) -> bool:
    """Whether the part that `spec` names has this argument, and `spec` leaves it to the program.

    False where there is no such part, which `build` tells.
    """
    try:
        part = _import("", spec["kind"])
    except (UserError, KeyError, TypeError):
        return False
    return argument not in spec and argument in inspect.signature(part).parameters


def resolve(where: str, spec: Mapping[str, Any], given: Collection[str]) -> tuple[Callable, dict[str, Any]]:
    """The callable that `spec` names and its checked options; `given` are the names of the program's own arguments."""
    if not isinstance(spec, Mapping) or "kind" not in spec:
        raise UserError(f"{where}: needs a mapping with a `kind`, the name of a Python class or function")
    options = {key: value for key, value in spec.items() if key != "kind"}
    part = _import(where, spec["kind"])
    if inspect.isabstract(part):
        lacking = ", ".join(sorted(part.__abstractmethods__))
        raise CodeError(f"{place_of(part)}: {part.__name__} lacks {lacking} ({where}.kind={spec['kind']})")
    parameters = inspect.signature(part).parameters
    hints = _hints(where, spec["kind"], _called(part))
    free = [name for name in parameters if name not in given]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        if unasked := [name for name in given if name not in parameters]:
            lacking = f"must take {', '.join(given)}, but lacks {', '.join(unasked)}"
            raise UserError(f"{where}.kind={spec['kind']}: {lacking}")
        for key in options:
            if key not in free:
                known = ", ".join(free) or "none"
                raise UserError(f"{where}: unknown option {key!r} of {spec['kind']}; it takes {known}")
    for key in free:
        p = parameters[key]
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and key not in options:
            raise UserError(f"{where}: {spec['kind']} needs the option {key!r}")
    return part, {key: coerce(f"{where}.{key}", value, hints.get(key, Any)) for key, value in options.items()}


def resolved(spec: Any, given: Collection[str] = ()) -> Any:
    """A part's mapping with all its options, those at their default too, and as their types say; parts in it as well.

    given: the names of the program's own arguments, which are no options. A default that is no plain data is left
    out. What cannot be imported or read stays as it is: `build` tells what is wrong with it.
    """
    if isinstance(spec, (tuple, list)):
        return [resolved(item, given) for item in spec]
    if (part := _part_of(spec)) is None:
        return spec
    parameters, hints = part
    options = {**spec, **{k: v for k, v in _defaults(parameters).items() if k not in spec and k not in given}}
    return {
        key: resolved(_coerced(value, hints.get(key, Any)), {*given, *parameters}) for key, value in options.items()
    }


def without_defaults(spec: Any) -> Any:
    """A resolved part's mapping without the options that are at their default; parts in it as well."""
    if isinstance(spec, (tuple, list)):
        return [without_defaults(item) for item in spec]
    if (part := _part_of(spec)) is None:
        return spec
    defaults = {key: without_defaults(value) for key, value in _defaults(part[0]).items()}
    options = {key: without_defaults(value) for key, value in spec.items()}
    return {key: value for key, value in options.items() if key not in defaults or value != defaults[key]}


def _part_of(spec: Any) -> tuple[Mapping[str, inspect.Parameter], dict[str, Any]] | None:
    """Parameters and type hints of the part that `spec` names; None where there is none that can be read."""
    if not isinstance(spec, Mapping) or "kind" not in spec:
        return None
    try:
        part = _import("", spec["kind"])
        return inspect.signature(part).parameters, _hints("", spec["kind"], _called(part))
    except (UserError, TypeError, ValueError):
        return None


def _defaults(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Those that are plain data, as JSON has them."""
    found = {}
    for key, p in parameters.items():
        with contextlib.suppress(TypeError, ValueError):  # of json.dumps
            found[key] = json.loads(json.dumps(p.default))
    return found


def _coerced(value: Any, hint: Any) -> Any:
    try:
        return coerce("", value, hint)
    except UserError:
        return value


def _import(where: str, kind: Any) -> Callable:
    path = BUILT_IN.get(kind) or _outside(where, str(kind))
    module, _, name = path.rpartition(".")
    part = getattr(_module(f"{where}.kind={kind}", module), name, None)
    if part is None:
        raise UserError(f"{where}.kind={kind}: cannot be imported ({_without(module, name)})")
    if not callable(part):
        raise UserError(f"{where}.kind={kind}: not a class or function")
    return part


def _outside(where: str, kind: str) -> str:
    """The dotted path of a part that is not the suite's own. UserError: it is none, or of the suite."""
    module, _, last = kind.rpartition(".")
    if module and module.partition(".")[0] != "sasg":
        return kind
    same = [name for name, path in BUILT_IN.items() if path.rpartition(".")[2] == last]
    alike = same or difflib.get_close_matches(last.lower(), BUILT_IN, 2)
    hint = f"did you mean {' or '.join(alike)}? " if alike else ""
    raise UserError(
        f"{where}.kind={kind}: no part of the suite is called so; {hint}"
        "A part of your own is named by its dotted path (package.module.Name)"
    )


def _called(part: Callable) -> Any:
    """What of a part has its parameters' annotations."""
    return part if inspect.isfunction(part) else part.__init__ if inspect.isclass(part) else part.__call__


def _module(where: str, module: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the file does
        is_absent = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        if is_absent:  # the file itself, not one that it imports
            raise UserError(f"{where}: cannot be imported ({error}); is its folder on PYTHONPATH?") from None
        if told := fault_of_user(error):
            raise CodeError(f"{told} ({where})") from None
        if isinstance(error, ImportError):
            raise UserError(f"{where}: cannot be imported ({error})") from None
        raise


def _without(module: str, name: str) -> str:
    """That a module lacks a name, and which it has that are alike."""
    found = sys.modules[module]
    path = getattr(found, "__file__", None)
    file = shortened(path) if is_users(path) else module
    alike = difflib.get_close_matches(name, [other for other in vars(found) if not other.startswith("_")], 2)
    return f"{file} has no {name!r}" + (f"; did you mean {' or '.join(alike)}?" if alike else "")


def _hints(where: str, path: str, called: Callable) -> dict[str, Any]:
    try:
        return typing.get_type_hints(called)
    except Exception as error:  # annotations are evaluated: they may do anything
        raise UserError(f"{where}.kind={path}: its type hints cannot be read ({error})") from None


def coerce(where: str, value: Any, hint: Any) -> Any:
    """`value` as the annotated type: whole numbers pass as floats, lists as tuples; all else is refused."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(where, value, arguments)
    if origin is typing.Literal:
        chosen = [argument for argument in arguments if argument == value or str(argument) == str(value)]
        if not chosen:  # YAML reads 1 as a number, also where "1" is meant
            names = [str(argument) for argument in arguments]
            alike = [
                name for name in difflib.get_close_matches(str(value), names, 1) if _digits(name) == _digits(value)
            ]
            hint = f"did you mean {alike[0]}? C" if alike else "c"
            raise UserError(f"{where}={value}: {hint}hoose one of {', '.join(names)}")
        return chosen[0]
    if origin in (tuple, list):
        if not isinstance(value, (tuple, list)):
            raise UserError(f"{where}={value!r}: must be a list")
        return origin(coerce(f"{where}[{i}]", item, arguments[0]) for i, item in enumerate(value))
    plain = origin or hint
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(plain, type) or (isinstance(value, plain) and not (plain is int and isinstance(value, bool))):
        return value
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    quotes = f"; a text is given in quotes, '{where}=\"{text}\"'" if plain is str else ""
    raise UserError(f"{where}={value!r}: must be of type {plain.__name__}{quotes}")


def _digits(value: Any) -> str:
    """A number in a name is no slip of the finger: fp64 is not what fp16 meant."""
    return "".join(filter(str.isdigit, str(value)))


def _coerce_union(where: str, value: Any, arguments: tuple) -> Any:
    if value is None and type(None) in arguments:
        return None
    for argument in arguments:
        if argument is type(None):
            continue
        try:
            return coerce(where, value, argument)
        except UserError as error:
            last = error
    raise last
