"""Dynamics that a learner has trained, by the folder of its run: `ensemble:DIR`."""

import warnings
from pathlib import Path
from typing import Any

from ..robots.task import Task
from . import pets
from .device import usable_device
from .ensemble_dynamics import EnsembleDynamics
from .learned_model import LearnedModel
from .run_folder import About, RunFolder, first_usable


class TrainedEnsemble:
    """The plugin `ensemble`; DIR is a run's folder, whose last checkpoint is taken, or one of its checkpoints."""

    def trained(self, folder: str) -> About:
        """How what lies in `folder` was trained.

        Raises:
            ValueError: it is no run's folder.
        """
        return self._run(folder)[0].about

    def __call__(self, task: Task, folder: str) -> EnsembleDynamics:
        """What was learned, as a model of `task`, whose robot must be the one it was learned of.

        A RuntimeWarning says where the last checkpoint can not be used, and the one before it is.

        Raises:
            ValueError: it is no run's folder, there is no checkpoint in it yet, none that can be read, or of another
                robot or period.
        """
        run, checkpoints = self._run(folder)
        there = [checkpoint for checkpoint in checkpoints if checkpoint.is_dir()]
        if not there:
            raise ValueError(f"{folder!r} has no checkpoint yet")
        if not any((checkpoint / pets.MODEL).is_file() for checkpoint in there):
            raise ValueError(f"{folder!r} holds no learned model: {run.about.learner} has no {pets.MODEL} there")
        # Where one was cut short the one before it stands in, as it does where training goes on.
        (state, model), note = first_usable(there, _read)
        if note:
            warnings.warn(note, RuntimeWarning, stacklevel=2)
        learned = LearnedModel.from_state_dict(model, task.robot, _device(state), f"the model in {folder!r}")
        return EnsembleDynamics(task, learned, state["propagation"], state["particles"])

    def _run(self, folder: str) -> tuple[RunFolder, list[Path]]:
        """The run, and the checkpoints to take, the first that can be read."""
        path = Path(folder)
        if (path / pets.STATE).is_file():
            return RunFolder(path.resolve().parents[1]), [path]
        run = RunFolder(path)
        return run, [run.checkpoint("last"), run.checkpoint("previous")]


def _read(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a checkpoint says of how plans are made, and the state of its model."""
    state = pets.read_state(checkpoint)
    return state, LearnedModel.read(checkpoint / pets.MODEL, _device(state))


def _device(state: dict[str, Any]) -> str:
    try:
        usable_device(state["device"])
    except ValueError:  # trained on a machine with a GPU, used on one without
        return "cpu"
    return state["device"]


ensemble = TrainedEnsemble()
