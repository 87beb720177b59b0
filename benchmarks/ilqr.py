"""Our iLQR beside crocoddyl 3.2.1, one thread each: iterations per second, and the cost after each iteration.

The problems: an arm of seven joints (Panda) reaches a pose in 1 s, without and with limits of its torques, and a double
pendulum swings up; 100 steps of 10 ms. crocoddyl runs as it ships, all of it C++, in an environment of its own, in a
process that answers requests; both are measured in turn in one run, in the time that the processor spends on them.
Set-up and run:

    python benchmarks/peer.py crocoddyl
    python benchmarks/ilqr.py --peer .venv-crocoddyl/bin/python
"""

import argparse
import math
import time
from dataclasses import dataclass

import mujoco
import numpy as np
from peer import Peer
from rich.console import Console
from rich.table import Table
from trimtab import robots
from trimtab.controllers.ilqr import ILQR
from trimtab.controllers.plan import Plan
from trimtab.controllers.problem import Problem
from trimtab.robots import panda
from trimtab.robots.arrays import entry, namespace, vector
from trimtab.robots.task import quadratic
from trimtab.sim.pinocchio_dynamics import PinocchioDynamics

HORIZON, DT = 100, 0.01
HOME = np.array([0.0, -0.4, 0.0, -1.9, 0.0, 1.6, 0.8])
MOVE = np.array([0.1, 0.25, -0.2])  # from the gripper's place at HOME to the target [m]
TORQUE = 30.0  # limit of the arm's first joints [N m]; the others have 12

FREE = 1e6  # a limit that no torque comes near


@dataclass
class Case:
    """One problem: as crocoddyl is asked for it, and as a task of ours."""

    name: str
    request: dict
    task: robots.Task
    constant: float  # crocoddyl also counts the cost of the first state
    iterations: int
    asked: float
    hold: np.ndarray  # the controls to begin with


def log6(turn, place):
    """The logarithm (6,) of a pose: `turn` as three columns, `place` [m]; linear part first.

    The formulas of the logarithm on SE(3) (Lynch and Park, Modern Robotics, 2017, chapter 3), as series near no turn.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = turn
    xp = namespace(xx)
    w = [0.5 * (yz - zy), 0.5 * (zx - xz), 0.5 * (xy - yx)]
    square = w[0] * w[0] + w[1] * w[1] + w[2] * w[2]
    small = square < 1e-8
    sine = xp.sqrt(xp.where(small, 1.0, square))
    angle = xp.arctan2(sine, 0.5 * (xx + yy + zz - 1.0))
    scale = xp.where(small, 1.0 + square / 6.0, angle / sine)
    w = [scale * part for part in w]
    squared = w[0] * w[0] + w[1] * w[1] + w[2] * w[2]
    half = 0.5 * angle * xp.sin(angle) / (1.0 - xp.cos(angle))
    first = xp.where(small, 1.0 - squared / 12.0, half)
    second = xp.where(small, 1.0 / 12.0 + squared / 720.0, (1.0 - half) / (angle * angle))
    along = w[0] * place[0] + w[1] * place[1] + w[2] * place[2]
    cross = [w[1] * place[2] - w[2] * place[1], w[2] * place[0] - w[0] * place[2], w[0] * place[1] - w[1] * place[0]]
    return [first * p - 0.5 * c + second * along * a for p, c, a in zip(place, cross, w)] + w


def reaching(limits: np.ndarray | None) -> Case:
    """The arm: pose, state and torque weighted 1, 0.1 and 0.001, at the end pose and state 1000 and 0.1."""
    spec = panda.reach().robot.spec()
    for joint in spec.joints:
        joint.damping = np.zeros((3, 1))
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_LIMIT  # crocoddyl knows no limits of joints
    for actuator in spec.actuators:
        most = FREE if limits is None else float(limits[spec.actuators.index(actuator)])
        actuator.ctrllimited, actuator.ctrlrange = True, [-most, most]
    model = spec.compile()
    data = mujoco.MjData(model)
    data.qpos[:] = HOME
    mujoco.mj_forward(model, data)
    axes = data.site("tip").xmat.reshape(3, 3).copy()
    goal, hold = data.site("tip").xpos + MOVE, data.qfrc_bias.copy()

    def pose(y, u, t):
        columns = [[entry(y.tip_x, i) for i in range(3)], None, [entry(y.tip_z, i) for i in range(3)]]
        (a, b, c), _, (d, e, f) = columns
        columns[1] = [e * c - f * b, f * a - d * c, d * b - e * a]
        inside = [[sum(float(axes[i, k]) * v[i] for i in range(3)) for k in range(3)] for v in columns]
        off = [entry(y.tip, i) - float(goal[i]) for i in range(3)]
        return vector(*log6(inside, [sum(float(axes[i, k]) * off[i] for i in range(3)) for k in range(3)]))

    weights, last = {"pose": 1.0, "state": 0.1, "control": 1e-3}, {"pose": 1e3, "state": 0.1}
    residuals = {
        "pose": pose,
        "state": lambda y, u, t: vector(
            *(entry(y.joints, i) - HOME[i] for i in range(7)), *(entry(y.joint_velocities, i) for i in range(7))
        ),
        "control": lambda y, u, t: u,
    }
    rest = [*HOME, *np.zeros(7)]
    request = {
        "robot": "panda",
        "locked": ["panda_finger_joint1", "panda_finger_joint2"],
        "frame": "panda_hand_tcp",
        "rotation": axes.tolist(),
        "position": goal.tolist(),
        "rest": rest,
        "spread": [1.0] * 14,
        "q": HOME.tolist(),
        "held": True,
        "limits": None if limits is None else limits.tolist(),
        "solver": "SolverDDP" if limits is None else "SolverBoxDDP",
        "weights": weights,
        "last": last,
    }
    robot = robots.Robot("panda", lambda: spec.copy(), panda.READINGS, DT)
    first = 0.5 * DT * float(MOVE @ MOVE)  # the pose's residual at the beginning: there is no turn
    name, iterations, asked = ("Panda", 10, 4.0) if limits is None else ("Panda, torque limits", 14, 3.0)
    return _case(name, robot, residuals, request, HOME, hold, first, iterations, asked)


def _case(name, robot, residuals, request, q, hold, constant, iterations, asked) -> Case:
    weights, last = request["weights"], request["last"]
    # The readings after a step count, before the first they do not; crocoddyl's do the other way round.
    terms = tuple(
        robots.Term(
            key,
            residual,
            quadratic,
            DT * weights[key],
            last[key] - DT * weights[key] if key in last else 0.0,
        )
        for key, residual in residuals.items()
    )
    start = robots.Start(q, np.zeros(len(q)))
    task = robots.Task(name, robot, lambda y, u: 0.0 * u[..., 0], terms, lambda seed: start, duration=1.0)
    request |= {"do": "problem", "horizon": HORIZON, "dt": DT}
    return Case(name, request, task, constant, iterations, asked, hold)


def swinging() -> Case:
    """A double pendulum, both joints driven: state and torque weighted 0.01 and 0.1, at the end the state 100."""
    from importlib.metadata import distribution

    folder = "cmeel.prefix/share/example-robot-data/robots/double_pendulum_description/urdf"
    text = distribution("example-robot-data").locate_file(f"{folder}/double_pendulum.urdf").read_text()
    spec = mujoco.MjSpec.from_string(_without_meshes(text))
    for joint in spec.joints:
        joint.damping = np.zeros((3, 1))
        motor = spec.add_actuator(name=joint.name, target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        motor.ctrllimited, motor.ctrlrange = True, [-FREE, FREE]
    for geom in spec.geoms:
        geom.contype = geom.conaffinity = 0
    spec.option.timestep = DT
    readings = (robots.Reading.qpos("angles", 0, 1), robots.Reading.qvel("velocities", 0, 1))
    begin = np.array([math.pi - 0.01, 0.0])
    residuals = {
        "state": lambda y, u, t: vector(
            *(entry(y.angles, i) for i in range(2)), *(math.sqrt(0.1) * entry(y.velocities, i) for i in range(2))
        ),
        "control": lambda y, u, t: u,
    }
    request = {
        "robot": "double_pendulum",
        "locked": [],
        "rest": [0.0] * 4,
        "spread": [1.0, 1.0, 0.1, 0.1],
        "q": begin.tolist(),
        "held": False,
        "limits": None,
        "solver": "SolverDDP",
        "weights": {"state": 0.01, "control": 0.1},
        "last": {"state": 100.0},
    }
    first = 0.01 * 0.5 * DT * float(begin @ begin)
    robot = robots.Robot("double_pendulum", lambda: spec.copy(), readings, DT)
    return _case("double pendulum", robot, residuals, request, begin, np.zeros(2), first, 10, 5.0)


def _without_meshes(urdf: str) -> str:
    """The URDF without what is only seen: its meshes are no matter of the motion."""
    from xml.etree import ElementTree

    root = ElementTree.fromstring(urdf)
    for link in root.iter("link"):
        for kind in ("visual", "collision"):
            for part in link.findall(kind):
                link.remove(part)
    return ElementTree.tostring(root, encoding="unicode")


class Ours:
    """A case solved by us."""

    def __init__(self, case: Case) -> None:
        self.dynamics = PinocchioDynamics(case.task, threads=1)
        start = case.task.start(0)
        self.state = self.dynamics.model.state(0.0, self.dynamics.model.begin(start))
        self.case, self.rng = case, np.random.default_rng(0)
        self.warm = Plan(time=0.0, dt=DT, controls=np.tile(case.hold, (HORIZON, 1)), cost=0.0)
        self.planners = {}

    def solve(self, iterations: int) -> float:
        """The cost after so many iterations."""
        if iterations not in self.planners:
            self.planners[iterations] = ILQR(horizon=HORIZON, iterations=iterations, tolerance=0.0)
        problem = Problem(self.dynamics, self.case.task, self.state, HORIZON, self.rng)
        return self.planners[iterations].plan(problem, self.warm, self.rng).cost + self.case.constant

    def times(self, count: int) -> list[float]:
        """Seconds of each solution that the processor worked on it."""
        found = []
        for _ in range(count):
            begun = time.thread_time()
            self.solve(self.case.iterations)
            found.append(time.thread_time() - begun)
        return found


def main() -> None:
    """Prints the table of costs and that of times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="the Python of crocoddyl's environment")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--solves", type=int, default=10, help="a round")
    args = parser.parse_args()
    limits = np.minimum(panda.TORQUES, TORQUE)
    peer, console = Peer(args.peer, "crocoddyl_peer.py"), Console()
    costs = Table(title="Cost after each iteration")
    for heading in ("problem", "iteration", "trimtab", "crocoddyl", "difference"):
        costs.add_column(heading, justify="left" if heading == "problem" else "right")
    speeds = Table(
        title="Microseconds of processor time per iteration (medians), and the ratio of iterations per second"
    )
    for heading in ("problem", "iterations", "trimtab", "crocoddyl", "ratio", "asked"):
        speeds.add_column(heading, justify="left" if heading == "problem" else "right")
    for case in (reaching(None), reaching(limits), swinging()):
        peer.ask(**case.request)
        ours, theirs = Ours(case), []
        for k, cost in enumerate(peer.ask(do="costs", iterations=case.iterations), 1):
            own = ours.solve(k)
            costs.add_row(case.name if k == 1 else "", str(k), f"{own:.9g}", f"{cost:.9g}", f"{own / cost - 1.0:.1e}")
        ours.times(3)
        mine = []
        for _ in range(args.rounds):
            mine += ours.times(args.solves)
            theirs += peer.ask(do="times", iterations=case.iterations, solves=args.solves)
        one, other = (1e6 * float(np.median(t)) / case.iterations for t in (mine, theirs))
        speeds.add_row(
            case.name, str(case.iterations), f"{one:.0f}", f"{other:.0f}", f"{other / one:.2f}", f"{case.asked:.0f}"
        )
        ours.dynamics.close()
    console.print(costs)
    console.print(speeds)


if __name__ == "__main__":
    main()
