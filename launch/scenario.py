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

    period = "20ms"               # how often plans decide anew; by default the robot's control period

    [learner.pets]                # any field of the learner, for `trimtab train --learner pets`
    period = "40ms"               # overrides of the above, also for runs on what it has learned
    [learner.pets.planner]
    horizon = "1s"
"""

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import tomli_w

from .. import robots
from ..controllers.plan import Planner
from ..controllers.safety import Safety
from ..robots import plugins
from ..robots.plugins import UnknownName
from ..robots.task import Task
from .settings import (
    ScenarioError,
    choices,
    coerce,
    construct,
    hints,
    merged,
    plain,
    read,
    rescaled,
    seconds,
    unknown,
    whole_steps,
)

CLOCKS = ("virtual", "wall")

KEYS = ("name", "task", "simulator", "dynamics", "planner", "duration", "period", "safety", "wall", "learner")
WALL_KEYS = ("planner",)

DEFAULT_PLANNER = "cem"
SMALL: Mapping[str, Any] = {"horizon": 20, "samples": 16, "iterations": 1, "knots": 5}
"""Planner settings for another library's task, whose candidates are stepped one by one."""


@dataclass(frozen=True)
class Scenario:
    """What a scenario file says, its names and types not yet checked against the plugins that they name.

    Attributes:
        name: of the shipped scenario, the file or the task.
        settings: of the planner.
        wall: of the planner, under the wall clock.
        safety: fields of `Safety`.
        learners: by name, settings of the learner, with what `period` and `planner` are under it.
        duration: [s]; None: the task's own.
        period: of decisions [s]; None: the robot's own control period.
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
    learners: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    duration: float | None = None
    period: float | None = None
    origin: str = "the command line"


@dataclass(frozen=True)
class Setup:
    """A scenario resolved: every name known, every setting of the right type and within its range.

    Attributes:
        scenario: its name.
        simulator, dynamics, planner_name: names of the plugins.
        duration: [s], a whole number of control steps.
        period: of decisions [s], a whole number of control steps.
        learner_name, learner: the learner's plugin and settings, where one was asked for.
    """

    scenario: str
    task: Task
    simulator: str
    dynamics: str
    planner_name: str
    planner: Planner
    safety: Safety
    duration: float
    period: float
    learner_name: str | None = None
    learner: Any = None

    @cached_property
    def planned(self) -> Task:
        """The task as plans see it, whose control period is `period`."""
        return self.task.with_period(self.period)

    @property
    def steps(self) -> int:
        """Number of control steps."""
        return round(self.duration / self.task.robot.dt)

    def toml(self) -> str:
        """A scenario file that says all of this, defaults included."""
        content = {
            "name": self.scenario,
            "task": self.task.name,
            "simulator": self.simulator,
            "dynamics": self.dynamics,
            "duration": self.duration,
            "period": self.period,
            "planner": {"name": self.planner_name, **plain(self.planner)},
            "safety": plain(self.safety),
        }
        if self.learner_name is not None:
            content["learner"] = {self.learner_name: plain(self.learner)}
        return tomli_w.dumps(content)


class Trained(Protocol):
    """What dynamics that were trained say of how: plugins of dynamics may have a method `trained(argument)`.

    Attributes:
        learner: its name, whose overrides in a scenario then apply.
        period: control period [s] of what they predict.
    """

    learner: str
    period: float


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
    learners = _table(table.get("learner", {}), f"{origin}: learner", "a table of learners' settings by name")
    duration, period = table.get("duration"), table.get("period")
    return Scenario(
        name=table.get("name", name),
        task=table["task"],
        simulator=table.get("simulator", library if colon else "mujoco"),
        dynamics=table.get("dynamics", library if colon else "mujoco"),
        planner=planner_name,
        settings=planner,
        wall=_table(wall.get("planner", {}), f"{origin}: wall.planner"),
        safety=_table(table.get("safety", {}), f"{origin}: safety"),
        learners={key: _table(value, f"{origin}: learner.{key}") for key, value in learners.items()},
        duration=None if duration is None else seconds(duration, f"{origin}: duration"),
        period=None if period is None else seconds(period, f"{origin}: period"),
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
    learner: str | None = None,
    learner_overrides: Mapping[str, Any] | None = None,
) -> Setup:
    """`scenario` with what the command line says in its place, checked; neither plant nor dynamics are built yet.

    Settings made for another planner go over to `planner` where it has them too, the rest is dropped. What a scenario
    says under a learner's name applies when that learner is asked for, and on dynamics that it has trained.

    Args:
        scenario: as read.
        clock: `virtual`, or `wall`, under which the scenario's own overrides for it apply.
        planner: name of one in place of the scenario's.
        dynamics: the same.
        simulator: the same.
        duration: [s].
        overrides: of the planner's settings; text is read as TOML where the setting is not text itself.
        learner: name of the one that is to train.
        learner_overrides: of its settings, as `overrides`.

    Raises:
        UnknownName: a name that no plugin has.
        ScenarioError: a setting of the wrong type or outside its range.
        PluginError: a plugin fails to import.
        ValueError: trained dynamics whose folder holds nothing of the kind.
    """
    task, origin = robots.load(scenario.task), scenario.origin
    simulator = _known_plugin("simulators", simulator or scenario.simulator)
    dynamics = _known_plugin("dynamics", dynamics or scenario.dynamics)
    trained = _trained(dynamics)
    own_period = _whole_period(task, scenario.period)
    under = learner or (trained.learner if trained else None)
    if learner:
        _known_keys(scenario.learners, plugins.names("learners"), f"{origin}: learner")
    own: Mapping[str, Any] = scenario.learners.get(under, {}) if under else {}
    place = f"{origin}: learner.{under}"
    learner_period = _whole_period(task, seconds(own["period"], f"{place}.period")) if "period" in own else own_period
    period = trained.period if trained else learner_period

    name, kind = scenario.planner, plugins.find("planners", scenario.planner)
    settings = read(kind, scenario.settings, f"{origin}: planner", own_period)
    wall = read(kind, scenario.wall, f"{origin}: wall.planner", own_period)
    if clock == "wall":
        settings |= wall
    settings = rescaled(settings, own_period, period)
    over = dict(_table(own.get("planner", {}), f"{place}.planner"))
    if (changed := coerce(over.pop("name", name), str, f"{place}.planner.name")) != name:
        name, kind, settings = changed, *_handed_over(changed, kind, settings)
    settings |= rescaled(read(kind, over, f"{place}.planner", learner_period), learner_period, period)
    if planner is not None and planner != name:
        name, kind, settings = planner, *_handed_over(planner, kind, settings)
    where = origin if name == scenario.planner and not overrides else f"planner {name}"
    settings |= read(kind, overrides or {}, "--planner", period, text=True)

    trainer, chosen = None, {k: v for k, v in own.items() if k not in ("period", "planner")}
    if learner is not None:
        trainer = plugins.find("learners", learner)
        given = read(trainer, learner_overrides or {}, "--learner", period, text=True)
        chosen = merged(read(trainer, chosen, place, period), given)
    checks = f"{origin}: safety"
    return Setup(
        scenario=scenario.name,
        task=task,
        simulator=simulator,
        dynamics=dynamics,
        planner_name=name,
        planner=construct(kind, settings, where),
        safety=construct(Safety, read(Safety, scenario.safety, checks, task.robot.dt), checks),
        duration=_whole_duration(task, duration if duration is not None else scenario.duration),
        period=period,
        learner_name=learner,
        learner=None if trainer is None else construct(trainer, chosen, f"learner {learner}"),
    )


def _handed_over(planner: str, before: Any, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The planner's class, and those of `settings`, made for the class `before`, that it has too.

    A choice that `before` offers by name, such as a default policy, is none of it unless it offers that as well.
    """
    kind = plugins.find("planners", planner)
    theirs, known = hints(before), hints(kind)

    def same(key: str, value: Any) -> bool:
        named = isinstance(value, str) and value in choices(theirs[key])
        return key in known and (not named or value in choices(known[key]))

    return kind, {key: value for key, value in settings.items() if same(key, value)}


def _trained(dynamics: str) -> Trained | None:
    """What dynamics such as `ensemble:DIR` say of their training; None for others, and where DIR is missing."""
    name, _, argument = dynamics.partition(":")
    if not argument:
        return None
    about = getattr(plugins.find("dynamics", name), "trained", None)
    if about is None:
        raise ScenarioError(f"dynamics {name!r} take nothing after a colon, not {argument!r}")
    return about(argument)


def _known_plugin(group: str, name: str) -> str:
    # What is behind a colon is the plugin's own business, as in `ensemble:DIR`.
    if name.partition(":")[0] not in (known := plugins.names(group)):
        raise UnknownName(group.removesuffix("s") if group != "dynamics" else group, name, known)
    return name


def _whole_period(task: Task, period: float | None) -> float:
    dt = task.robot.dt
    if period is None:
        return dt
    if not (math.isfinite(period) and period > 0.0):
        raise ScenarioError(f"period is {period:g} s; it must be above 0 and finite")
    return whole_steps(period, dt, "period") * dt


def _whole_duration(task: Task, duration: float | None) -> float:
    if duration is None:
        duration = task.duration
    if not (math.isfinite(duration) and duration > 0.0):
        raise ScenarioError(f"duration is {duration:g} s; it must be above 0 and finite")
    return whole_steps(duration, task.robot.dt, "duration") * task.robot.dt


def _table(value: Any, where: str, wanted: str = "a table") -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ScenarioError(f"{where} takes {wanted}, not {value!r}")
    return value


def _known_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise ScenarioError(unknown(f"key {key!r} in {where}", key, known))


def _shipped() -> Any:
    return resources.files(__package__).joinpath("scenarios")
