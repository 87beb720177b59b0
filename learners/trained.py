"""What a learner has trained, by the folder of its run: dynamics, `ensemble:DIR`, and what guides planners.

DIR is a run's folder, whose last checkpoint is taken, or one of its checkpoints. Where a checkpoint was cut short the
one before it stands in, as it does where training goes on, and a `Notice` says so.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..robots.plugins import Notice
from ..robots.task import Task
from . import pets, sac
from .device import device_there_is
from .ensemble_dynamics import EnsembleDynamics
from .learned_model import LearnedModel
from .learned_policy import LearnedPolicy
from .run_folder import About, RunFolder, first_usable

Kind = TypeVar("Kind")


class TrainedEnsemble:
    """The plugin `ensemble` of dynamics."""

    def trained(self, folder: str) -> About:
        """How what lies in `folder` was trained.

        Raises:
            ValueError: it is no run's folder.
        """
        return _run(folder)[0].about

    def __call__(self, task: Task, folder: str) -> EnsembleDynamics:
        """What was learned, as a model of `task`, whose robot must be the one it was learned of.

        Raises:
            ValueError: it is no run's folder, there is no checkpoint in it yet, none that can be read, or of another
                robot or period.
        """
        state, model = _taken(folder, pets.MODEL, "learned model", _read)
        learned = LearnedModel.from_state_dict(
            model, task.robot, device_there_is(state["device"]), f"the model in {folder!r}"
        )
        return EnsembleDynamics(task, learned, state["propagation"], state["particles"])


def guide(folder: str, task: Task) -> LearnedPolicy:
    """The policy and values that were learned, for planning `task`; the plugin `trained` of guides.

    A `Notice` says where they were learned of another task with the same robot, whose rewards the values sum up.

    Raises:
        ValueError: it is no run's folder, there is no checkpoint in it yet, none that can be read, or of another robot.
    """
    content = _taken(folder, sac.POLICY, "policy and values", lambda place: LearnedPolicy.read(place / sac.POLICY))
    policy = LearnedPolicy.from_state_dict(content, task, "cpu", f"the policy in {folder!r}")
    other = content["task"]
    if other != task.name:
        note = f"what is in {folder!r} was learned of {other}: its values are not of {task.name}'s rewards"
        warnings.warn(note, Notice, stacklevel=2)
    return policy


def _taken(folder: str, file: str, what: str, take: Callable[[Path], Kind]) -> Kind:
    """What `take` reads of the first checkpoint that can be read.

    Args:
        folder: asked for.
        file: that a checkpoint holds if what is asked for is in it.
        what: that is.
        take: reads a checkpoint's folder.

    Raises:
        ValueError: there is none.
    """
    run, checkpoints = _run(folder)
    there = [checkpoint for checkpoint in checkpoints if checkpoint.is_dir()]
    if not there:
        raise ValueError(f"{folder!r} has no checkpoint yet")
    if not any((checkpoint / file).is_file() for checkpoint in there):
        raise ValueError(f"{folder!r} holds no {what}: {run.about.learner} has no {file} there")
    found, note = first_usable(there, take)
    if note:
        warnings.warn(note, Notice, stacklevel=3)
    return found


def _run(folder: str) -> tuple[RunFolder, list[Path]]:
    """The run, and the checkpoints to take, the first that can be read."""
    run, name = RunFolder.at(folder)
    return run, [run.checkpoint(kept) for kept in ([name] if name else ["last", "previous"])]


def _read(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a checkpoint says of how plans are made, and the state of its model."""
    state = pets.read_state(checkpoint)
    return state, LearnedModel.read(checkpoint / pets.MODEL, device_there_is(state["device"]))


ensemble = TrainedEnsemble()
