"""Dynamics that a learner has trained, by the folder of its run: `ensemble:DIR`."""

from pathlib import Path

from ..robots.task import Task
from . import pets
from .device import usable_device
from .ensemble_dynamics import EnsembleDynamics
from .learned_model import LearnedModel
from .run_folder import About, RunFolder


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

        Raises:
            ValueError: it is no run's folder, there is no checkpoint in it yet, or of another robot or period.
            OSError: a file can not be read.
        """
        run, checkpoints = self._run(folder)
        there = [checkpoint for checkpoint in checkpoints if checkpoint.is_dir()]
        if not there:
            raise ValueError(f"{folder!r} has no checkpoint yet")
        if not any((checkpoint / pets.MODEL).is_file() for checkpoint in there):
            raise ValueError(f"{folder!r} holds no learned model: {run.about.learner} has no {pets.MODEL} there")
        for checkpoint in there[:-1]:
            try:
                return _load(task, checkpoint)
            except (ValueError, OSError):
                continue  # cut short: the one before it stands in, as it does where training goes on
        return _load(task, there[-1])

    def _run(self, folder: str) -> tuple[RunFolder, list[Path]]:
        """The run, and the checkpoints to take, the first that can be read."""
        path = Path(folder)
        if (path / pets.STATE).is_file():
            return RunFolder(path.resolve().parents[1]), [path]
        run = RunFolder(path)
        return run, [run.checkpoint("last"), run.checkpoint("previous")]


def _load(task: Task, checkpoint: Path) -> EnsembleDynamics:
    state = pets.read_state(checkpoint)
    device = state["device"]
    try:
        usable_device(device)
    except ValueError:  # trained on a machine with a GPU, used on one without
        device = "cpu"
    model = LearnedModel.load(checkpoint / pets.MODEL, task.robot, device)
    return EnsembleDynamics(task, model, state["propagation"], state["particles"])


ensemble = TrainedEnsemble()
