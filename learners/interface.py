"""What learners promise to the training runtime, and what they are given to learn from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .. import sim
from ..controllers.episode import Episode
from ..controllers.interface import Controller
from ..controllers.plan import Planner
from ..controllers.safety import Safety
from ..robots.task import Task
from ..sim.interface import Simulator

Watch = Callable[[str, Mapping[str, float]], None]
"""Told while a piece of training goes on: what is being done, in a word or two, and numbers about it by name."""


class TrainingError(RuntimeError):
    """Training can not go on; the message is one line that says why."""


@dataclass(frozen=True)
class Environment:
    """Where a learner gathers experience.

    Attributes:
        task: what is to be learned; the plant is stepped, and scored, at its robot's control period.
        simulator: name of the plant's plugin.
        period: of decisions [s], a whole number of control periods: in between, a control is held.
        duration: of an episode [s].
        planner: of learners that plan.
        safety: between controller and plant.
    """

    task: Task
    simulator: str
    period: float
    duration: float
    planner: Planner
    safety: Safety = field(default_factory=Safety)

    @property
    def repeat(self) -> int:
        """Control steps of the plant for each decision."""
        return round(self.period / self.task.robot.dt)

    def make(self) -> Simulator:
        """A plant of its own for whoever asks; to be closed."""
        return sim.make(self.simulator, self.task)


@dataclass(frozen=True)
class Progress:
    """What a piece of training came to.

    Attributes:
        steps: control steps of the plant since training began.
        metrics: numbers by name, such as `return` or `model/holdout`; the same names in every piece.
        episode: the last one gathered in it, or None.
        score: what the best checkpoint is chosen by; by default the metric `return`. NaN: not to be compared, such as
            the return of random controls.
    """

    steps: int
    metrics: Mapping[str, float]
    episode: Episode | None = None
    score: float | None = None


class Learner(Protocol):
    """Training under way. A plugin is a dataclass of settings whose `start(environment, seed)` gives one.

    All that the numbers to come depend on is what `save` writes: a learner that is restored continues to the last bit
    as the one saved would have.

    Attributes:
        steps: control steps of the plant so far.
    """

    steps: int

    def check(self) -> None:
        """Looks whether all that training needs is there; called where it begins anew, before anything is written.

        Raises:
            ValueError: something is not, such as data to begin with.
        """
        ...

    def advance(self, watch: Watch) -> Progress:
        """Goes on by one piece: an episode and what is learned from it, or so many updates.

        Raises:
            TrainingError: it can not go on.
            KeyboardInterrupt: it was told to stop; what was saved before is good.
        """
        ...

    def controller(self) -> Controller:
        """Does what has been learned so far, without exploring: for evaluation and use."""
        ...

    def save(self, folder: Path) -> None:
        """Writes all of it to files in `folder`, which is there and empty.

        Raises:
            OSError: something could not be written.
        """
        ...

    def restore(self, folder: Path) -> None:
        """Takes over what was saved in `folder`.

        Raises:
            OSError: a file can not be read.
            ValueError: a file was cut short, or is of another robot, version or settings; nothing has changed then.
        """
        ...

    def restore_controller(self, folder: Path) -> None:
        """Takes over as much of what was saved in `folder` as `controller` needs; training can not go on from there.

        Raises:
            OSError, ValueError: as `restore`.
        """
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


class LearnerSettings(Protocol):
    """A learner's plugin: a frozen dataclass whose fields are its settings."""

    def start(self, environment: Environment, seed: int) -> Learner:
        """Training from the beginning; all randomness follows from `seed`.

        Raises:
            ValueError: it can not learn this task.
        """
        ...
