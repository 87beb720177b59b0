"""What moves: the simulator plugins, and the analytic dynamics that predict."""

from ..robots import plugins
from ..robots.task import Task
from .interface import Dynamics, Rollout, Scene, SimulationError, Simulator, State

__all__ = ["Dynamics", "Rollout", "Scene", "SimulationError", "Simulator", "State", "dynamics", "make"]


def make(name: str, task: Task) -> Simulator:
    """The simulator plugin `name` (`mujoco`, `dm_control`, `gymnasium`, ...) as the plant of `task`.

    Raises:
        UnknownName: there is no such simulator.
        PluginError: it fails to import.
        ValueError: it can not simulate this task.
    """
    return plugins.find("simulators", name)(task)


def dynamics(name: str, task: Task) -> Dynamics:
    """The dynamics `name` (`mujoco`, ...) as a model of `task`.

    Raises:
        UnknownName: there are no such dynamics.
        PluginError: they fail to import.
        ValueError: they can not model this task.
    """
    return plugins.find("dynamics", name)(task)
