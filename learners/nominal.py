"""Analytic models to whose predictions learned ones add: any that can be evaluated from readings.

A robot's readings determine its state entry by entry where each of its positions, velocities and activations is a
reading. Readings of what never moves (parameters, and the places of objects fixed to the world) are held at their
values; so are clocks, which `Encoding.advance` moves. Of a robot's parameters, those that the motion depends on must be
readings; what only marks a place, as a target does, need not.
"""

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import mujoco
import mujoco.rollout
import numpy as np

from ..robots.layout import Reading
from ..robots.plugins import UnknownName, find
from ..robots.suite import parameter_value
from ..robots.task import Parameter, Robot, Start, Task
from ..sim.casadi_dynamics import CasadiDynamics
from ..sim.closed_form import diverged
from ..sim.compiled import PHYSICS, Compiled
from ..sim.interface import available_cores

DYNAMICS = ("casadi", "mujoco", "pinocchio")
"""Those that can be evaluated from readings."""

EPSILON = 1e-6
"""Half of a central difference. A step of MuJoCo is smooth to about 1e-10, and its second derivatives of order one."""

_ROWS = 4096
"""Rows that MuJoCo steps at once."""

_PLACES = tuple(
    int(getattr(mujoco.mjtSensor, f"mjSENS_FRAME{of}")) for of in ("POS", "QUAT", "XAXIS", "YAXIS", "ZAXIS")
)
"""Sensors of where an object is, and of how it is turned."""

_JOINT_SENSORS: dict[int, str] = {
    int(mujoco.mjtSensor.mjSENS_JOINTPOS): "qpos",
    int(mujoco.mjtSensor.mjSENS_JOINTVEL): "qvel",
    int(mujoco.mjtSensor.mjSENS_BALLQUAT): "qpos",
    int(mujoco.mjtSensor.mjSENS_BALLANGVEL): "qvel",
}


class AnalyticNominal:
    """A `Nominal`: one control period of analytic dynamics, from readings alone.

    Args:
        robot: which moves, as its own file describes it.
        dynamics: `casadi` or `pinocchio`, compiled, with exact derivatives; or `mujoco`, with finite differences.

    Raises:
        UnknownName: no such dynamics, or others than these.
        ValueError: the readings do not determine the state, what is missing named; or the dynamics can not model this
            robot.
    """

    def __init__(self, robot: Robot, dynamics: str) -> None:
        if dynamics not in DYNAMICS:
            raise UnknownName("nominal dynamics", dynamics, DYNAMICS)
        self.dynamics = dynamics
        self._steps = _Physics(robot) if dynamics == "mujoco" else _ClosedForm(robot, dynamics)

    def __call__(self, y: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Readings (n, ny) one control period after `y` (n, ny) under `u` (n, nu); NaN where the model diverged."""
        return self._steps.after(np.asarray(y, float), np.asarray(u, float))

    def jacobian(self, y: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Its derivatives (n, ny, ny) by readings and (n, ny, nu) by controls.

        Only readings that are the state's entries move others; those held move themselves. Of four that are a unit
        quaternion, what changes their length may count or not. Beyond the controls' limits it is those at the limits.
        """
        return self._steps.slopes(np.asarray(y, float), np.asarray(u, float))

    def to_json(self) -> dict[str, Any]:
        """What it takes to make it again, of the same robot."""
        return {"dynamics": self.dynamics}

    @classmethod
    def from_json(cls, content: dict[str, Any], robot: Robot) -> "AnalyticNominal":
        """The nominal model of `robot` that `to_json` told of.

        Raises:
            ValueError: as for the class.
        """
        return cls(robot, str(content.get("dynamics")))


class _ClosedForm:
    """Steps by the compiled kernels of a closed form."""

    def __init__(self, robot: Robot, dynamics: str) -> None:
        made: CasadiDynamics = find("dynamics", dynamics)(_bare(robot), threads=1)
        made.close()
        self.model = model = made.model
        symbolic = model.symbolic
        homes = _homes(robot)
        order = [("qpos", i) for i in range(symbolic.nq)] + [("qvel", i) for i in range(symbolic.nv)]
        _refuse_missing(robot, dynamics, [part for part in order if part not in homes])
        self.homes = np.array([homes[part] for part in order])
        self.still = [*model.constant, *model.clocks]

    def after(self, y: np.ndarray, u: np.ndarray) -> np.ndarray:
        model, found = self.model, self.model.moves(y[:, self.homes], u)
        x, *derived = found if isinstance(found, tuple) else (found,)
        slots = np.empty((len(y), model.slots))
        slots[:, model.homes] = x
        if derived:
            slots[:, model.derived] = derived[0]
        end = slots[:, : y.shape[1]]
        end[:, self.still] = y[:, self.still]
        end[diverged(x)] = np.nan
        return end

    def slopes(self, y: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        model, low, high = self.model, *self.model.robot.control_limits
        u = np.clip(u, low, high)
        x = y[:, self.homes]
        found = model.moves(x, u)
        end = found[0] if isinstance(found, tuple) else found
        a, b = model.linear(x, u)
        (c,) = model.observes(end)
        A, B = np.zeros((len(y), y.shape[1], y.shape[1])), c @ b
        A[:, :, self.homes] = c @ a @ self._tangents(x)
        A[:, self.still, self.still] = 1.0
        return A, B

    def _tangents(self, x: np.ndarray) -> np.ndarray:
        """What changes of states `x` (m, nx) are as tangent vectors, (m, n, nx); of quaternions, without their length.

        With q d/2 the change of a quaternion q under the rotation vector d, d is twice the vector part of q* dq.
        """
        s = self.model.symbolic
        into = np.zeros((len(x), s.tangent, s.nx))
        at = row = 0
        while at < s.nx:
            if at not in s.quaternions:
                into[:, row, at] = 1.0
                at, row = at + 1, row + 1
                continue
            a, b, c, d = x[:, at : at + 4].T
            parts = ((-b, a, d, -c), (-c, -d, a, b), (-d, c, -b, a))
            into[:, row : row + 3, at : at + 4] = 2.0 * np.moveaxis(np.array(parts), -1, 0)
            at, row = at + 4, row + 3
        return into


class _Physics:
    """Steps by `mujoco.rollout`, whose constraint solver begins each from nothing."""

    def __init__(self, robot: Robot) -> None:
        self.compiled = c = Compiled(robot)
        self.limits = np.array(robot.control_limits, float)
        model, homes = c.model, _homes(robot)
        sizes = {"qpos": model.nq, "qvel": model.nv, "act": model.na}
        order = [(kind, i) for kind, size in sizes.items() for i in range(size)]
        missing: list[Any] = [part for part in order if part not in homes]
        self.size = mujoco.mj_stateSize(model, PHYSICS)
        if self.size != 1 + len(order):
            missing.append("the states of plugins, or delayed sensors and controls")
        idle = [p for p in robot.parameters if _idle(model, p)]
        self.told = {p: _told(robot, p) for p in robot.parameters if p not in idle}
        missing += [f"{p.array} of {p.object}" for p, entries in self.told.items() if not entries]
        _refuse_missing(robot, "mujoco", missing)
        self.homes = np.array([homes[part] for part in order])
        layout = robot.layout
        self.still = [
            entry
            for r in robot.readings
            if r.source == "parameter" or r.sensor == mujoco.mjtSensor.mjSENS_CLOCK or _stands(model, r)
            for entry in range(layout[r.name].start, layout[r.name].stop)
        ]
        threads = available_cores()
        self.pool = mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0)
        self.datas = [mujoco.MjData(model) for _ in range(threads)]
        self.begin = np.zeros(self.size)
        self.lock = threading.Lock()  # rollouts are cut into pieces for threads, and this has its own
        self.begin[0] = 1.0  # the time [s], which MuJoCo, where a simulation diverges, sets to 0

    def after(self, y: np.ndarray, u: np.ndarray) -> np.ndarray:
        end = np.empty_like(y)
        with self.lock:
            for rows in self._alike(y):
                for part in np.array_split(rows, -(-len(rows) // _ROWS)):
                    end[part] = self._step(y[part], u[part])
        return end

    def _alike(self, y: np.ndarray) -> Iterator[np.ndarray]:
        """Rows of the same parameters, these written into the model."""
        entries = [entry for told in self.told.values() for entry in told.values()]
        values, which = np.unique(y[:, entries], axis=0, return_inverse=True)
        for k, value in enumerate(values):
            numbers = iter(value)
            for parameter, told in self.told.items():
                row = parameter_value(self.compiled.model, parameter)
                for i in told:
                    row[i] = next(numbers)
            yield np.flatnonzero(which.ravel() == k)

    def _step(self, y: np.ndarray, u: np.ndarray) -> np.ndarray:
        c, n = self.compiled, len(y)
        last = c.substeps
        # A sensor is evaluated at the state before its step: the last readings take one physics step more.
        total = last + int(c.nsensed > 0)
        controls = np.repeat(u[:, None], total, axis=1)
        begin = np.tile(self.begin, (n, 1))
        begin[:, 1:] = y[:, self.homes]
        state, sensors = np.empty((n, total, self.size)), np.empty((n, total, c.nsensed))
        self.pool.rollout(
            [c.model] * n, self.datas, begin, controls, initial_warmstart=np.zeros((n, c.model.nv)), state=state,
            sensordata=sensors, skip_checks=True, nstep=total, chunk_size=max(1, n // (4 * len(self.datas))),
        )  # fmt: skip
        end = np.empty_like(y)
        for target, source in c.state_runs:
            end[:, target] = state[:, last - 1, source]
        for target, source in c.sensor_runs:
            end[:, target] = sensors[:, -1, source]
        end[:, self.still] = y[:, self.still]
        lasted = state[:, -1, 0] > self.begin[0] + (total - 0.5) * c.model.opt.timestep
        end[~lasted] = np.nan
        return end

    def slopes(self, y: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (n, ny), nu = y.shape, u.shape[1]
        A, B = np.zeros((n, ny, ny)), np.empty((n, ny, nu))
        A[:, self.still, self.still] = 1.0
        low, high = self.limits
        u = np.clip(u, low, high)
        # All rows with one entry moved down, then with it moved up.
        for entry in self.homes:
            moved = np.concatenate((y, y))
            moved[:, entry] += np.repeat((-EPSILON, EPSILON), n)
            before, after = self.after(moved, np.concatenate((u, u))).reshape(2, n, ny)
            A[:, :, entry] = (after - before) / (moved[n:, entry] - moved[:n, entry])[:, None]
        for i in range(nu):
            moved = np.concatenate((u, u))
            moved[:, i] = np.clip(moved[:, i] + np.repeat((-EPSILON, EPSILON), n), low[i], high[i])
            before, after = self.after(np.concatenate((y, y)), moved).reshape(2, n, ny)
            B[:, :, i] = (after - before) / (moved[n:, i] - moved[:n, i])[:, None]
        return A, B


def _bare(robot: Robot) -> Task:
    """A task of nothing: dynamics are of a task's robot."""
    still = Start(np.zeros(0), np.zeros(0))
    return Task(robot.name, robot, lambda view, u: 0.0 * u[..., 0], (), lambda seed: still, 0.0)


def _homes(robot: Robot) -> dict[tuple[str, int], int]:
    """Which entry of the readings each entry of the state is: of `qpos`, `qvel` or `act`."""
    homes: dict[tuple[str, int], int] = {}
    for reading in robot.readings:
        kind, index = str(reading.source), list(reading.index)
        if reading.source == "sensor" and reading.sensor is not None and int(reading.sensor) in _JOINT_SENSORS:
            kind, joint = _JOINT_SENSORS[int(reading.sensor)], robot.model.joint(reading.object)
            first = int((joint.qposadr if kind == "qpos" else joint.dofadr)[0])
            index = list(range(first, first + reading.size))
        if kind in ("qpos", "qvel", "act"):
            for k, i in enumerate(index):
                homes.setdefault((kind, i), robot.layout[reading.name].start + k)
    return homes


def _told(robot: Robot, parameter: Parameter) -> dict[int, int]:
    """Of each of the parameter's numbers the entry of the readings that it is; nothing unless all are read."""
    entries: dict[int, int] = {}
    for r in robot.readings:
        if r.source == "parameter" and (r.array, r.object) == (parameter.array, parameter.object):
            entries.update(zip(r.index, itertools.count(robot.layout[r.name].start)))
    return entries if len(entries) == parameter_value(robot.model, parameter).size else {}


def _idle(model: mujoco.MjModel, parameter: Parameter) -> bool:
    """Whether it places what is fixed to the world, and what nothing touches or pulls at: no motion depends on it."""
    obj = mujoco.mjtObj
    kind = _kind(parameter)
    if kind not in (obj.mjOBJ_BODY, obj.mjOBJ_GEOM, obj.mjOBJ_SITE):
        return kind in (obj.mjOBJ_CAMERA, obj.mjOBJ_LIGHT)
    place = mujoco.mj_name2id(model, kind, parameter.object)
    bodies = {_body(model, kind, place)}
    if kind == obj.mjOBJ_BODY:
        for body in range(place + 1, model.nbody):
            bodies |= {body} if int(model.body_parentid[body]) in bodies else set()
    geoms, sites = (
        {place} if kind == own else {k for k in range(count) if kind == obj.mjOBJ_BODY and int(of[k]) in bodies}
        for own, count, of in (
            (obj.mjOBJ_GEOM, model.ngeom, model.geom_bodyid),
            (obj.mjOBJ_SITE, model.nsite, model.site_bodyid),
        )
    )
    off = mujoco.mjtDisableBit
    contacts = not model.opt.disableflags & (off.mjDSBL_CONTACT | off.mjDSBL_CONSTRAINT)
    touched = contacts and (model.geom_contype[[*geoms]].any() or model.geom_conaffinity[[*geoms]].any())
    pulled = _pulled(model, obj.mjOBJ_GEOM) & geoms or _pulled(model, obj.mjOBJ_SITE) & sites
    return bool((model.body_weldid[[*bodies]] == 0).all()) and not touched and not pulled


def _stands(model: mujoco.MjModel, reading: Reading) -> bool:
    """Whether it tells the place of something that is fixed to the world."""
    if reading.sensor is None or int(reading.sensor) not in _PLACES:
        return False
    body = _body(model, reading.objtype, mujoco.mj_name2id(model, reading.objtype, reading.object))
    return int(model.body_weldid[body]) == 0


def _body(model: mujoco.MjModel, kind: mujoco.mjtObj, place: int) -> int:
    """The body that a geom or a site is part of; other objects are bodies."""
    of = {mujoco.mjtObj.mjOBJ_GEOM: model.geom_bodyid, mujoco.mjtObj.mjOBJ_SITE: model.site_bodyid}.get(kind)
    return place if of is None else int(of[place])


def _pulled(model: mujoco.MjModel, kind: mujoco.mjtObj) -> set[int]:
    """Geoms or sites that tendons run by, or that actuators pull at."""
    wrap = mujoco.mjtWrap
    if kind == mujoco.mjtObj.mjOBJ_GEOM:
        around = (int(wrap.mjWRAP_SPHERE), int(wrap.mjWRAP_CYLINDER))
        return {int(i) for i, by in zip(model.wrap_objid, model.wrap_type) if by in around}
    sited = (int(mujoco.mjtTrn.mjTRN_SITE), int(mujoco.mjtTrn.mjTRN_SLIDERCRANK))
    driven = {int(i) for by, ids in zip(model.actuator_trntype, model.actuator_trnid) if by in sited for i in ids}
    return driven | {int(i) for i, by in zip(model.wrap_objid, model.wrap_type) if by == int(wrap.mjWRAP_SITE)}


def _kind(parameter: Parameter) -> mujoco.mjtObj | None:
    """The kind of object that the parameter's array is of."""
    kinds = {k: getattr(mujoco.mjtObj, f"mjOBJ_{k.upper()}") for k in ("body", "geom", "site", "light")}
    return (kinds | {"cam": mujoco.mjtObj.mjOBJ_CAMERA}).get(parameter.array.split("_")[0])


def _refuse_missing(robot: Robot, dynamics: str, missing: list[Any]) -> None:
    if missing:
        names = ", ".join(part if isinstance(part, str) else _name(robot, *part) for part in missing)
        raise ValueError(
            f"the readings of {robot.name} do not tell the {dynamics} dynamics its state; missing: {names}"
        )


def _name(robot: Robot, kind: str, index: int) -> str:
    """An entry of the state, and the joint or actuator that it is of."""
    label = f"{kind}[{index}]"
    if robot.build is None:
        return label
    model = robot.model
    if kind == "act":
        begins = np.where(model.actuator_actnum > 0, model.actuator_actadr, model.na)
        return f"{label} of {model.actuator(int(np.flatnonzero(begins <= index)[-1])).name}"
    begins = model.jnt_qposadr if kind == "qpos" else model.jnt_dofadr
    return f"{label} of {model.joint(int(np.flatnonzero(begins <= index)[-1])).name}"
