"""A training run as it was: its settings, and its learner at one of its checkpoints."""

import dataclasses
import importlib.util
from typing import Any

from ..learners.interface import Environment, Learner
from ..learners.replay import Signature
from ..learners.run_folder import RunFolder, Saved
from ..robots import plugins
from ..robots.task import Task
from . import scenario
from .arguments import Wrong

PACKAGES = ("torch", "safetensors", "tensorboard", "matplotlib")
"""What training needs besides trimtab's own dependencies: the extra `learn`."""


class Run:
    """A training run, its settings read and checked, nothing built.

    Attributes:
        folder: of the run.
        setup: its settings.
        environment: that it trains in.
        name: of the checkpoint that the folder asked for is; empty: it is the run's.

    Raises:
        ValueError: it is no training run, or its learner or one of its settings is not known here.
    """

    def __init__(self, folder: str) -> None:
        self.named = folder
        self.folder, self.name = RunFolder.at(folder)
        learner = self.folder.about.learner
        check_learner(learner)
        self.setup = scenario.resolve(scenario.find(str(self.folder.configuration)), learner=learner)
        self.environment = environment(self.setup)

    def check_robot(self, task: Task) -> None:
        """Raises a ValueError that says in what the robot of `task` differs from the one that was trained on."""
        trained = Signature.of(self.setup.task.robot)
        Signature.of(task.robot).refuse_other(trained, f"what was trained in {self.named!r}")

    def restore(self, checkpoint: str = "last") -> tuple[Learner, Saved, str]:
        """The learner as its controller was at `checkpoint`, or at the one before it if that can not be used.

        Args:
            checkpoint: `last` or `best`; where the folder is a checkpoint's, it is that one.

        Returns:
            The learner, to be closed; how far it was; and what a person should be told, empty if all is well.

        Raises:
            ValueError: there is none, or none that can be used.
        """
        learner: Learner = _on_a_device_there_is(self.setup.learner).start(self.environment, self.folder.about.seed)
        try:
            saved, note = self.folder.restore(learner, self.name or checkpoint, whole=False)
            if not saved.pieces:
                raise Wrong(f"{self.named!r} has no checkpoint yet")
        except BaseException:
            learner.close()
            raise
        return learner, saved, note


def _on_a_device_there_is(settings: Any) -> Any:
    """The learner's settings, its networks on the processor where it was trained on a GPU that is not here."""
    from ..learners.device import device_there_is  # needs torch, which may be missing until a learner is asked for

    device = getattr(settings, "device", None)
    there = device and device_there_is(device)
    return settings if there == device else dataclasses.replace(settings, device=there)


def environment(setup: scenario.Setup) -> Environment:
    """Where the learner of `setup` gathers experience."""
    return Environment(
        task=setup.task,
        simulator=setup.simulator,
        period=setup.period,
        duration=setup.duration,
        planner=setup.planner,
        safety=setup.safety,
    )


def check_learner(name: str | None) -> None:
    """Raises `Wrong` or `UnknownName` where there is no such learner, or something that learners need is missing."""
    known = plugins.names("learners")
    if name is None:
        raise Wrong(f"trimtab train takes --learner NAME: one of {', '.join(sorted(known)) or 'none'}")
    if name not in known:
        raise plugins.UnknownName("learner", name, known)
    if missing := [package for package in PACKAGES if importlib.util.find_spec(package) is None]:
        raise Wrong(f"learners need {', '.join(missing)}: pip install 'trimtab[learn]'")
