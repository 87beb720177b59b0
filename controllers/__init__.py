"""What decides: planners, model-predictive control, the control loop, safety."""

from .episode import Episode, Event
from .interface import Controller, Observer, PlanningController, Timing
from .loop import run
from .mpc import MPC
from .plan import Plan, Planner
from .problem import Problem
from .realtime import Wall
from .safety import Safety

__all__ = [
    "MPC",
    "Controller",
    "Episode",
    "Event",
    "Observer",
    "Plan",
    "Planner",
    "PlanningController",
    "Problem",
    "Safety",
    "Timing",
    "Wall",
    "run",
]
