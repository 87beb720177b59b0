"""Dynamics that a learner has trained, by the folder of its run: `ensemble:DIR`."""

from pathlib import Path

from ..robots.task import Task
from . import pets
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
        run, checkpoint = self._run(folder)
        if not checkpoint.is_dir():
            raise ValueError(f"{folder!r} has no checkpoint yet")
        if not (checkpoint / pets.MODEL).is_file():
            raise ValueError(f"{folder!r} holds no learned model: {run.about.learner} has no {pets.MODEL} there")
        state = pets.read_state(checkpoint)
        device = state["device"]
        try:
            pets.usable_device(device)
        except ValueError:  # trained on a machine with a GPU, used on one without
            device = "cpu"
        model = LearnedModel.load(checkpoint / pets.MODEL, task.robot, device)
        return EnsembleDynamics(task, model, state["propagation"], state["particles"])

    def _run(self, folder: str) -> tuple[RunFolder, Path]:
        """The run, and the checkpoint to take."""
        path = Path(folder)
        if (path / pets.STATE).is_file():
            return RunFolder(path.resolve().parents[1]), path
        run = RunFolder(path)
        last = run.checkpoint("last")
        return run, last if last.is_dir() else run.checkpoint("previous")


ensemble = TrainedEnsemble()
