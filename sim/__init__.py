"""What moves: the simulator plugins, and the analytic dynamics that predict."""

from ..robots import plugins
from ..robots.task import Task
from .copies import Copies, copies
from .interface import Dynamics, Rollout, Scene, SimulationError, Simulator, State

__all__ = [
    "Copies",
    "Dynamics",
    "Rollout",
    "Scene",
    "SimulationError",
    "Simulator",
    "State",
    "copies",
    "dynamics",
    "make",
]


def make(name: str, task: Task) -> Simulator:
    """The simulator plugin `name` (`mujoco`, `dm_control`, `gymnasium`, ...) as the plant of `task`.

    Raises:
        UnknownName: there is no such simulator.
        PluginError: it fails to import.
        ValueError: it can not simulate this task.
    """
    return plugins.find("simulators", name)(task)


def dynamics(name: str, task: Task) -> Dynamics:
    """The dynamics `name` (`mujoco`, ...) as a model of `task`; what follows a colon, as in `ensemble:DIR`, is theirs.

    Raises:
        UnknownName: there are no such dynamics.
        PluginError: they fail to import.
        ValueError: they can not model this task, or take nothing after a colon, or something.
    """
    kind, colon, argument = name.partition(":")
    plugin = plugins.find("dynamics", kind)
    takes = hasattr(plugin, "trained")
    if takes and not argument:
        raise ValueError(f"dynamics {kind!r} take the folder of a trained run: {kind}:DIR")
    if colon and not takes:
        raise ValueError(f"dynamics {kind!r} take nothing after a colon, not {argument!r}")
    return plugin(task, argument) if takes else plugin(task)
