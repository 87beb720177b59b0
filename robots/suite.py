"""What the robots from dm_control's suite share: their shipped models and their start states."""

import ctypes
import functools
import importlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import mujoco
import numpy as np

from .layout import Reading
from .task import Parameter, Start


def control_suite() -> Any:
    """The module `dm_control.suite`, imported without an OpenGL context (which fails where there is no display)."""
    if (loaded := sys.modules.get("dm_control.suite")) is not None:
        return loaded
    before = os.environ.get("MUJOCO_GL")
    if before is None:
        os.environ["MUJOCO_GL"] = "disable"
    try:
        return importlib.import_module("dm_control.suite")
    finally:
        ignore_warnings()
        if before is None:
            del os.environ["MUJOCO_GL"]


def ignore_warnings() -> None:
    """Has MuJoCo's warnings go nowhere: of deprecated words in models, and of divergence, which plants tell themselves.

    Else MuJoCo writes them to a file in the current folder, or dm_control, once it is loaded, logs them in Python: from
    every thread in which a candidate diverges, and a Ctrl-C that comes meanwhile is lost.
    """
    # A function in C that minds neither its argument nor who holds the interpreter's lock.
    mujoco.set_mju_user_warning(ctypes.pythonapi.Py_IsInitialized)


def suite_module(domain: str) -> Any:
    """The module `dm_control.suite.<domain>`, for the models that `suite_spec` does not give."""
    control_suite()
    return importlib.import_module(f"dm_control.suite.{domain}")


def suite_spec(domain: str) -> mujoco.MjSpec:
    """dm_control's model of `domain` (its `get_model_and_assets`) as an editable spec."""
    return spec_from(*suite_module(domain).get_model_and_assets())


def spec_from(xml: str | bytes, assets: Mapping[str, bytes]) -> mujoco.MjSpec:
    """A spec of `xml`, whose includes and meshes are read from `assets`."""
    text = xml.decode() if isinstance(xml, bytes) else xml
    return mujoco.MjSpec.from_string(text, include=dict(assets))


def suite_start(domain: str, task: str, parameters: tuple[Parameter, ...] = ()) -> Callable[[int], Start]:
    """Start states of dm_control's `domain`-`task`, drawn by dm_control's own `initialize_episode`.

    Seed n is the first episode of `suite.load(domain, task, task_kwargs={"random": n})`.
    """

    def start(seed: int) -> Start:
        with _lock:
            env = environment(domain, task)
            env.task._random = np.random.RandomState(seed)
            env.reset()
            model, data = env.physics.model.ptr, env.physics.data.ptr
            values = tuple(parameter_value(model, p).copy() for p in parameters)
            return Start(data.qpos.copy(), data.qvel.copy(), values)

    return start


def parameter_value(model: mujoco.MjModel, parameter: Parameter | Reading) -> np.ndarray:
    """The row of `model` that `parameter`, or a reading of one, names: a view."""
    kind, _ = parameter.array.split("_", 1)
    row = getattr(model, kind)(parameter.object).id
    return getattr(model, parameter.array)[row : row + 1].reshape(-1)


_lock = threading.Lock()


@functools.cache
def environment(domain: str, task: str) -> Any:
    """dm_control's environment `domain`-`task`, one that all share for drawing starts."""
    return load_environment(domain, task)


def load_environment(domain: str, task: str, **task_kwargs: Any) -> Any:
    """A fresh environment of dm_control's suite; what a task draws when its model is built is drawn the same each time.

    It has no OpenGL context, which `quadruped-escape` would otherwise make in every reset.
    """
    env = control_suite().load(domain, task, task_kwargs={"random": 0, **task_kwargs})
    kind = type(env.physics)
    env.physics.__class__ = type(kind.__name__, (kind,), {"contexts": None})
    return env
