"""What there is to choose from, by kind; no plugin is imported but robots', which name their tasks."""

from rich.table import Table

from .. import robots
from ..robots import plugins
from . import scenario

KINDS = ("scenarios", "tasks", "planners", "dynamics", "simulators", "learners")


def names(kind: str) -> list[str]:
    """Names of all there is of `kind`, one of `KINDS`."""
    if kind == "scenarios":
        return scenario.names()
    if kind == "tasks":
        return robots.names()
    return plugins.names(kind)


def table(kind: str) -> Table:
    """The same for people, with a little about each."""
    shown = Table(title=kind, title_justify="left", box=None, pad_edge=False, title_style="bold")
    if kind == "scenarios":
        for column in ("name", "task", "simulator", "planner"):
            shown.add_column(column)
        for name in names(kind):
            known = scenario.find(name)
            shown.add_row(name, known.task, known.simulator, f"{known.planner} on {known.dynamics}")
    elif kind == "tasks":
        for column in ("name", "control period", "duration", "readings", "controls"):
            shown.add_column(column)
        for name in names(kind):
            task = robots.load(name)
            robot = task.robot
            shown.add_row(name, f"{1e3 * robot.dt:g} ms", f"{task.duration:g} s", str(robot.layout.size), str(robot.nu))
    else:
        for column in ("name", "where"):
            shown.add_column(column)
        for name in names(kind):
            shown.add_row(name, plugins.origin(kind, name))
    return shown
