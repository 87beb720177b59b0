"""Settings read from files and from the command line, checked against the dataclasses whose fields they are."""

import dataclasses
import difflib
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

TIMES = ("horizon", "replan")
"""Planner settings that count control steps, and may be given as a time."""


class ScenarioError(ValueError):
    """A scenario that says something wrong; the message is one line that names the place and the valid choices."""


def coerce(value: Any, hint: Any, where: str) -> Any:
    """`value`, as TOML gives it, as the type `hint`: whole numbers serve as floats, lists as tuples and arrays.

    Raises:
        ScenarioError: it is of another type; the message begins with `where`.
    """
    for option in _options(hint):
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if option in (int, str, bool) and type(value) is option:
            return value
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        base = typing.get_origin(option) or option
        if base is tuple and isinstance(value, list):
            try:
                return tuple(coerce(entry, _entry(option), where) if _entry(option) else entry for entry in value)
            except ScenarioError:
                continue
        if base is np.ndarray and isinstance(value, list) and _numbers(value):
            return np.array(value, float)
        if isinstance(base, type) and issubclass(base, Mapping) and isinstance(value, Mapping):
            return dict(value)
    near = nearest(value, [c for option in _options(hint) for c in typing.get_args(option) if isinstance(c, str)])
    raise ScenarioError(f"{where} takes {describe(hint)}, not {value!r}{near}")


def read(kind: Any, given: Mapping[str, Any], where: str, dt: float, text: bool = False) -> dict[str, Any]:
    """`given` as fields of the dataclass `kind`, for `construct`.

    Fields that are dataclasses themselves become dictionaries of their own; times are turned into control steps.

    Args:
        kind: a dataclass, or anything else that then takes no settings.
        given: values by field; text of the command line may name a field of a field, `network.hidden`.
        where: what messages begin with.
        dt: control period [s].
        text: whether values are text, to be read as TOML where the field is not text itself.

    Raises:
        ScenarioError: an unknown field, or a value of another type.
    """
    fields = hints(kind)
    settings: dict[str, Any] = {}
    for key, value in given.items():
        key, dot, inner = key.partition(".") if text else (key, "", "")
        place = f"{where}.{key}"
        if key not in fields:
            raise ScenarioError(unknown(f"setting {place!r}", key, fields))
        if dataclasses.is_dataclass(fields[key]):
            if text and not dot:
                raise ScenarioError(f"{place} takes settings of its own: {', '.join(hints(fields[key]))}")
            nested = {inner: value} if text else coerce(value, Mapping, place)
            settings[key] = merged(settings.get(key, {}), read(fields[key], nested, place, dt, text))
            continue
        if dot:
            raise ScenarioError(unknown(f"setting {f'{place}.{inner}'!r}", f"{key}.{inner}", fields))
        typed = from_text(value) if text else value
        if key in TIMES and isinstance(typed, str) and (found := _TIME.fullmatch(typed)):
            settings[key] = whole_steps(_in_seconds(found), dt, place)
            continue
        try:
            settings[key] = coerce(typed, fields[key], place)
        except ScenarioError:
            if typed is value or str not in _options(fields[key]):
                raise
            settings[key] = value
    return settings


def merged(settings: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with those of `over` in their place, those of fields that are dataclasses one by one."""
    both = dict(settings)
    for key, value in over.items():
        both[key] = merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def rescaled(settings: Mapping[str, Any], before: float, after: float) -> dict[str, Any]:
    """`settings` that count control steps of `before` [s] as such of `after` [s], nearest to the same time.

    A spline keeps its knots as long as there are as many steps.
    """
    ratio = before / after
    new = {k: max(1, round(v * ratio)) if k in TIMES and type(v) is int else v for k, v in settings.items()}
    if ratio < 1.0 and "horizon" in new and type(new.get("knots")) is int:
        new["knots"] = min(new["knots"], new["horizon"])
    return new


def seconds(value: Any, where: str) -> float:
    """A time [s], given as a number or as text with its unit, such as `40ms`.

    Raises:
        ScenarioError: it is neither.
    """
    if isinstance(value, str) and (found := _TIME.fullmatch(value)):
        return _in_seconds(found)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ScenarioError(f'{where} takes a time, such as 0.04 or "40ms", not {value!r}')


def from_text(text: str) -> Any:
    """A value typed on the command line: what TOML reads it as, else the text itself."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if table.keys() == {"value"} else text


def construct(kind: Any, settings: Mapping[str, Any], where: str) -> Any:
    """A `kind` with `settings`, as `read` gives them, and its own for the rest.

    Raises:
        ScenarioError: one is outside its range.
    """
    given, types_of = dict(settings), hints(kind)
    for f in dataclasses.fields(kind) if types_of else ():
        if f.name in given and dataclasses.is_dataclass(types_of[f.name]):
            usual: Any = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            inner = {g.name: getattr(usual, g.name) for g in dataclasses.fields(usual) if g.init}
            given[f.name] = construct(types_of[f.name], inner | given[f.name], f"{where}.{f.name}")
    try:
        return kind(**given)
    except ValueError as error:
        raise ScenarioError(f"{where}: {error}") from error


def hints(kind: Any) -> dict[str, Any]:
    """Types of the fields of `kind`; none for a plugin that is not a dataclass and so takes no settings."""
    if not dataclasses.is_dataclass(kind):
        return {}
    known = typing.get_type_hints(kind)
    return {f.name: known[f.name] for f in dataclasses.fields(kind) if f.init}


def choices(hint: Any) -> tuple[Any, ...]:
    """The values that the type `hint` names one by one."""
    return tuple(
        value for option in _options(hint) if typing.get_origin(option) is Literal for value in option.__args__
    )


def whole_steps(time: float, dt: float, where: str) -> int:
    """How many control steps of `dt` [s] make up `time` [s].

    Raises:
        ScenarioError: no whole number does.
    """
    steps = round(time / dt)
    if steps < 1 or abs(steps * dt - time) > 1e-6 * dt + 1e-12 * time:
        raise ScenarioError(f"{where} is {time:g} s, which is not a whole number of control steps of {dt:g} s")
    return steps


_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|ms)")


def _in_seconds(found: re.Match[str]) -> float:
    return float(found[1]) * (1e-3 if found[2] == "ms" else 1.0)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message that `what`, which ends in `name`, is unknown, with what is known and the nearest of it."""
    known = list(known)
    return f"unknown {what}{nearest(name, known) or '.'} Known: {', '.join(known) or 'none'}"


def nearest(name: Any, known: Iterable[str]) -> str:
    """A question after the nearest of `known`, to follow a message; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4) if isinstance(name, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


def _options(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(option for part in typing.get_args(hint) for option in _options(part))
    return (hint,)


def _entry(hint: Any) -> Any:
    """The type of the entries of a tuple such as `tuple[int, ...]`; None where it does not say."""
    return next(iter(typing.get_args(hint)), None)


_LISTS = {int: "a list of whole numbers", float: "a list of numbers", str: "a list of texts"}


def describe(hint: Any) -> str:
    """What the type `hint` takes, in words."""
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    said = []
    for option in _options(hint):
        base = typing.get_origin(option) or option
        if option in words:
            said.append(words[option])
        elif base is Literal:
            said.append("one of " + ", ".join(map(str, typing.get_args(option))))
        elif base is tuple:
            said.append(_LISTS.get(_entry(option), "a list"))
        elif base is np.ndarray:
            said.append("a list of numbers")
        elif isinstance(base, type) and issubclass(base, Mapping):
            said.append("a table")
    return " or ".join(said) or "no value from a file"


def _numbers(value: list) -> bool:
    return all(isinstance(entry, int | float) and not isinstance(entry, bool) for entry in value)


def plain(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass as TOML takes them; None, which it has not, is left out."""
    if not dataclasses.is_dataclass(settings):
        return {}
    fields: dict[str, Any] = {}
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if value is not None and f.init:
            if dataclasses.is_dataclass(value):
                fields[f.name] = plain(value)
            else:
                fields[f.name] = value.tolist() if isinstance(value, np.ndarray) else value
    return fields
