"""What is controlled: one file per robot, with its model, its readings, its limits and its tasks."""

import warnings

from . import external, plugins
from .layout import Layout, Reading, View
from .plugins import PluginError, UnknownName
from .task import Constraint, Parameter, Robot, Start, Task, Term

__all__ = [
    "Constraint",
    "Layout",
    "Parameter",
    "PluginError",
    "Reading",
    "Robot",
    "Start",
    "Task",
    "Term",
    "UnknownName",
    "View",
    "load",
    "names",
]


def names() -> list[str]:
    """Names of all tasks, `robot-task`; a robot whose plugin fails to import is left out, with a warning."""
    found: list[str] = []
    for robot in plugins.names("robots"):
        try:
            tasks = plugins.find("robots", robot)
        except PluginError as error:
            warnings.warn(str(error), plugins.Notice, stacklevel=2)
            continue
        found += [f"{robot}-{task}" for task in tasks]
    return found


def load(name: str) -> Task:
    """The task `name`, such as `cartpole-swingup`; or another library's, such as `dm_control:dog-run`.

    Raises:
        UnknownName: there is no such task; the message lists the known ones, and the nearest.
        PluginError: its robot's plugin fails to import.
    """
    if ":" in name:
        return external.load(name)
    robot, _, task = name.partition("-")
    if robot in plugins.names("robots"):
        tasks = plugins.find("robots", robot)
        if task in tasks:
            return tasks[task]()
    raise UnknownName("task", name, names())
