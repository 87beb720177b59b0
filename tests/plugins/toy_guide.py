"""Something learned that is written by hand: a value and a policy linear in the readings, of the folder's name."""

from pathlib import Path

import numpy as np

DISCOUNT = 0.9


class ToyGuide:
    discount = DISCOUNT

    def __init__(self, folder, task):
        if not Path(folder).is_dir():
            raise ValueError(f"no folder {folder!r}")
        self.task, self.period, self.dt = task, task.robot.dt, task.robot.dt
        self.low, self.high = task.robot.bounded_limits
        self.asked = 0

    def value(self, y):
        self.asked += 1
        return 5.0 * np.cos(y[..., 0])

    def action(self, y):
        half = 0.5 * (self.high - self.low)
        return self.low + half + 0.5 * half * np.sin(y[..., :1] + np.arange(len(half)))


def guide(folder, task):
    return ToyGuide(folder, task)
