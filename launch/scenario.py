"""A scenario: a task, the simulator that is its plant, the dynamics and planner that control it, and their settings.

A scenario is a small TOML file:

    task = "cartpole-swingup"
    simulator = "mujoco"          # the plant
    dynamics = "mujoco"           # what the planner searches
    duration = 10.0               # [s]; by default the task's

    [planner]                     # or just: planner = "cem"
    name = "cem"
    horizon = "1s"                # control steps, or a time that is a whole number of them
    samples = 64                  # any field of the planner

    [safety]                      # any field of `Safety`
    fallback = "zero"

    [wall.planner]                # overrides under the wall clock
    samples = 32
"""

import dataclasses
import difflib
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tomli_w

from .. import robots
from ..controllers.plan import Planner
from ..controllers.safety import Safety
from ..robots import plugins
from ..robots.plugins import UnknownName
from ..robots.task import Task

CLOCKS = ("virtual", "wall")

KEYS = ("name", "task", "simulator", "dynamics", "planner", "duration", "safety", "wall")
WALL_KEYS = ("planner",)
TIMES = ("horizon", "replan")
"""Planner settings that count control steps, and may be given as a time."""

DEFAULT_PLANNER = "cem"
SMALL: Mapping[str, Any] = {"horizon": 20, "samples": 16, "iterations": 1, "knots": 5}
"""Planner settings for another library's task, whose candidates are stepped one by one."""


class ScenarioError(ValueError):
    """A scenario that says something wrong; the message is one line that names the place and the valid choices."""


@dataclass(frozen=True)
class Scenario:
    """What a scenario file says, its names and types not yet checked against the plugins that they name.

    Attributes:
        name: of the shipped scenario, the file or the task.
        settings: of the planner.
        wall: of the planner, under the wall clock.
        safety: fields of `Safety`.
        duration: [s]; None: the task's own.
        origin: where it was read, for messages.
    """

    name: str
    task: str
    simulator: str = "mujoco"
    dynamics: str = "mujoco"
    planner: str = DEFAULT_PLANNER
    settings: Mapping[str, Any] = field(default_factory=dict)
    wall: Mapping[str, Any] = field(default_factory=dict)
    safety: Mapping[str, Any] = field(default_factory=dict)
    duration: float | None = None
    origin: str = "the command line"


@dataclass(frozen=True)
class Setup:
    """A scenario resolved: every name known, every setting of the right type and within its range.

    Attributes:
        scenario: its name.
        simulator, dynamics, planner_name: names of the plugins.
        duration: [s], a whole number of control steps.
    """

    scenario: str
    task: Task
    simulator: str
    dynamics: str
    planner_name: str
    planner: Planner
    safety: Safety
    duration: float

    @property
    def steps(self) -> int:
        """Number of control steps."""
        return round(self.duration / self.task.robot.dt)

    def toml(self) -> str:
        """A scenario file that says all of this, defaults included."""
        planner = {"name": self.planner_name, **_plain(self.planner)}
        return tomli_w.dumps(
            {
                "name": self.scenario,
                "task": self.task.name,
                "simulator": self.simulator,
                "dynamics": self.dynamics,
                "duration": self.duration,
                "planner": planner,
                "safety": _plain(self.safety),
            }
        )


def names() -> list[str]:
    """Names of the shipped scenarios."""
    return sorted(path.name.removesuffix(".toml") for path in _shipped().iterdir() if path.name.endswith(".toml"))


def find(scenario: str) -> Scenario:
    """The scenario called `scenario`: a shipped one, else a .toml file, else any task with default settings.

    Raises:
        UnknownName: it is none of them; the message lists the shipped ones and the nearest.
        PluginError: it is a task of a robot whose plugin fails to import.
        ScenarioError: the file can not be read, is no TOML, or has unknown keys.
    """
    if scenario in names():
        return parse(_shipped().joinpath(f"{scenario}.toml").read_text("utf-8"), scenario, f"scenario {scenario!r}")
    path = Path(scenario)
    if path.suffix == ".toml" or path.is_file():
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            raise ScenarioError(f"no scenario file {scenario!r}; shipped scenarios: {', '.join(names())}") from None
        except OSError as error:
            raise ScenarioError(f"can not read scenario file {scenario!r}: {error.strerror}") from error
        except UnicodeDecodeError:
            raise ScenarioError(f"scenario file {scenario!r} is not text in UTF-8") from None
        return parse(text, path.stem, scenario)
    library, colon, _ = scenario.partition(":")
    if colon:
        robots.load(scenario)
        return Scenario(scenario, scenario, library, library, settings=SMALL)
    robot, known = scenario.partition("-")[0], names()
    if robot in plugins.names("robots"):
        plugins.find("robots", robot)  # whose own error matters more than that its tasks are unknown
    if scenario not in (tasks := robots.names()):
        raise UnknownName("scenario", scenario, {*known, *tasks})
    return Scenario(scenario, scenario)


def parse(text: str, name: str, origin: str) -> Scenario:
    """The scenario that the TOML `text` says; `origin` names it in messages.

    Raises:
        ScenarioError: it is no TOML (the message has the line), a key is unknown, a value has the wrong type.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{origin} is no TOML: {error}") from None
    _known_keys(table, KEYS, origin)
    if "task" not in table:
        raise ScenarioError(f"{origin}: key 'task' is missing; known tasks: {', '.join(robots.names())}")
    for key in ("name", "task", "simulator", "dynamics"):
        if key in table:
            coerce(table[key], str, f"{origin}: {key}")
    planner = table.get("planner", {})
    if isinstance(planner, str):
        planner = {"name": planner}
    planner = dict(_table(planner, f"{origin}: planner", "a name or a table"))
    planner_name = coerce(planner.pop("name", DEFAULT_PLANNER), str, f"{origin}: planner.name")
    wall = _table(table.get("wall", {}), f"{origin}: wall")
    _known_keys(wall, WALL_KEYS, f"{origin}: wall")
    library, colon, _ = table["task"].partition(":")
    duration = table.get("duration")
    return Scenario(
        name=table.get("name", name),
        task=table["task"],
        simulator=table.get("simulator", library if colon else "mujoco"),
        dynamics=table.get("dynamics", library if colon else "mujoco"),
        planner=planner_name,
        settings=planner,
        wall=_table(wall.get("planner", {}), f"{origin}: wall.planner"),
        safety=_table(table.get("safety", {}), f"{origin}: safety"),
        duration=None if duration is None else coerce(duration, float, f"{origin}: duration"),
        origin=origin,
    )


def resolve(
    scenario: Scenario,
    *,
    clock: str = "virtual",
    planner: str | None = None,
    dynamics: str | None = None,
    simulator: str | None = None,
    duration: float | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Setup:
    """`scenario` with what the command line says in its place, checked; neither plant nor dynamics are built yet.

    Settings made for another planner go over to `planner` where it has them too, the rest is dropped.

    Args:
        scenario: as read.
        clock: `virtual`, or `wall`, under which the scenario's own overrides for it apply.
        planner: name of one in place of the scenario's.
        dynamics: the same.
        simulator: the same.
        duration: [s].
        overrides: of the planner's settings; text is read as TOML where the setting is not text itself.

    Raises:
        UnknownName: a name that no plugin has.
        ScenarioError: a setting of the wrong type or outside its range.
        PluginError: a plugin fails to import.
    """
    task = robots.load(scenario.task)
    simulator = _known_plugin("simulators", simulator or scenario.simulator)
    dynamics = _known_plugin("dynamics", dynamics or scenario.dynamics)
    own = plugins.find("planners", scenario.planner)
    dt = task.robot.dt
    settings = _settings(own, scenario.settings, f"{scenario.origin}: planner", dt)
    wall = _settings(own, scenario.wall, f"{scenario.origin}: wall.planner", dt)
    if clock == "wall":
        settings |= wall
    name = planner or scenario.planner
    kind = own
    if name != scenario.planner:
        kind = plugins.find("planners", name)
        hints = _hints(kind)
        settings = {key: value for key, value in settings.items() if key in hints}
    settings |= _settings(kind, overrides or {}, "--planner", dt, text=True)
    where = scenario.origin if name == scenario.planner and not overrides else f"planner {name}"
    chosen = duration if duration is not None else scenario.duration
    return Setup(
        scenario=scenario.name,
        task=task,
        simulator=simulator,
        dynamics=dynamics,
        planner_name=name,
        planner=_construct(kind, settings, where),
        safety=_construct(
            Safety, _settings(Safety, scenario.safety, f"{scenario.origin}: safety", dt), f"{scenario.origin}: safety"
        ),
        duration=_whole_duration(task, chosen),
    )


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
            return tuple(value)
        if base is np.ndarray and isinstance(value, list) and _numbers(value):
            return np.array(value, float)
        if isinstance(base, type) and issubclass(base, Mapping) and isinstance(value, Mapping):
            return dict(value)
    near = _nearest(value, [c for option in _options(hint) for c in typing.get_args(option) if isinstance(c, str)])
    raise ScenarioError(f"{where} takes {describe(hint)}, not {value!r}{near}")


def _settings(kind: Any, given: Mapping[str, Any], where: str, dt: float, text: bool = False) -> dict[str, Any]:
    """`given` as fields of the dataclass `kind`, times turned into control steps."""
    hints = _hints(kind)
    settings = {}
    for key, value in given.items():
        place = f"{where}.{key}"
        if key not in hints:
            raise ScenarioError(_unknown(f"setting {place!r}", key, hints))
        read = from_text(value) if text else value
        if key in TIMES and isinstance(read, str) and (found := _TIME.fullmatch(read)):
            settings[key] = _whole_steps(float(found[1]) * (1e-3 if found[2] == "ms" else 1.0), dt, place)
            continue
        try:
            settings[key] = coerce(read, hints[key], place)
        except ScenarioError:
            if read is value or str not in _options(hints[key]):
                raise
            settings[key] = value
    return settings


def from_text(text: str) -> Any:
    """A value typed on the command line: what TOML reads it as, else the text itself."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if table.keys() == {"value"} else text


def _construct(kind: Any, settings: Mapping[str, Any], where: str) -> Any:
    try:
        return kind(**settings)
    except ValueError as error:
        raise ScenarioError(f"{where}: {error}") from error


def _hints(kind: Any) -> dict[str, Any]:
    """Types of the fields of `kind`; none for a plugin that is not a dataclass and so takes no settings."""
    if not dataclasses.is_dataclass(kind):
        return {}
    known = typing.get_type_hints(kind)
    return {f.name: known[f.name] for f in dataclasses.fields(kind) if f.init}


def _known_plugin(group: str, name: str) -> str:
    # What is behind a colon is the plugin's own business, as in `ensemble:DIR`.
    if name.partition(":")[0] not in (known := plugins.names(group)):
        raise UnknownName(group.removesuffix("s") if group != "dynamics" else group, name, known)
    return name


def _whole_duration(task: Task, duration: float | None) -> float:
    if duration is None:
        duration = task.duration
    if not (math.isfinite(duration) and duration > 0.0):
        raise ScenarioError(f"duration is {duration:g} s; it must be above 0 and finite")
    return _whole_steps(duration, task.robot.dt, "duration") * task.robot.dt


def _whole_steps(time: float, dt: float, where: str) -> int:
    steps = round(time / dt)
    if steps < 1 or abs(steps * dt - time) > 1e-6 * dt + 1e-12 * time:
        raise ScenarioError(f"{where} is {time:g} s, which is not a whole number of control steps of {dt:g} s")
    return steps


_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|ms)")


def _table(value: Any, where: str, wanted: str = "a table") -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ScenarioError(f"{where} takes {wanted}, not {value!r}")
    return value


def _known_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise ScenarioError(_unknown(f"key {key!r} in {where}", key, known))


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    return f"unknown {what}{_nearest(name, known) or '.'} Known: {', '.join(known) or 'none'}"


def _nearest(name: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4) if isinstance(name, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


def _options(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(option for part in typing.get_args(hint) for option in _options(part))
    return (hint,)


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
        elif base in (tuple, np.ndarray):
            said.append("a list of numbers")
        elif isinstance(base, type) and issubclass(base, Mapping):
            said.append("a table")
    return " or ".join(said) or "no value from a file"


def _numbers(value: list) -> bool:
    return all(isinstance(entry, int | float) and not isinstance(entry, bool) for entry in value)


def _plain(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass as TOML takes them; None, which it has not, is left out."""
    if not dataclasses.is_dataclass(settings):
        return {}
    plain: dict[str, Any] = {}
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if value is not None and f.init:
            plain[f.name] = value.tolist() if isinstance(value, np.ndarray) else value
    return plain


def _shipped() -> Any:
    return resources.files(__package__).joinpath("scenarios")
