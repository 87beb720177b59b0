"""Runs crocoddyl inside its own environment and answers requests, one JSON object a line (see `benchmarks/ilqr.py`)."""

import json
import sys
import time

import crocoddyl
import example_robot_data
import numpy as np
import pinocchio

SOLVERS = {"SolverDDP": crocoddyl.SolverDDP, "SolverFDDP": crocoddyl.SolverFDDP, "SolverBoxDDP": crocoddyl.SolverBoxDDP}


class Solved:
    """A problem as the request describes it, and its solver.

    Running costs are weighted with the step; all are half the squared residual's length.
    """

    def __init__(self, request):
        self.model = example_robot_data.load(request["robot"]).model
        q = np.array(request["q"])
        if request["locked"]:
            joints = [self.model.getJointId(name) for name in request["locked"]]
            whole = pinocchio.neutral(self.model)
            whole[: len(q)] = q
            self.model = pinocchio.buildReducedModel(self.model, joints, whole)
        self.state = crocoddyl.StateMultibody(self.model)
        self.actuation = crocoddyl.ActuationModelFull(self.state)
        self.request, self.begin = request, np.concatenate((q, np.zeros(self.model.nv)))
        dt, horizon = request["dt"], request["horizon"]
        running = [self._step(request["weights"], dt)] * horizon
        self.problem = crocoddyl.ShootingProblem(self.begin, running, self._step(request["last"], 0.0))
        self.problem.nthreads = 1  # it takes no heed of OMP_NUM_THREADS
        self.solver = SOLVERS[request["solver"]](self.problem)
        self.solver.th_stop = 1e-30  # as many iterations as asked for
        self.solver.reg_min = 1e-20  # its least regularisation, 1e-9, shows in the costs' sixth digit
        hold = pinocchio.rnea(self.model, self.model.createData(), q, np.zeros(len(q)), np.zeros(len(q)))
        self.controls = [hold if request["held"] else np.zeros(len(q))] * horizon

    def _step(self, weights, dt):
        costs, state = crocoddyl.CostModelSum(self.state), self.state
        if "pose" in weights:
            frame = self.model.getFrameId(self.request["frame"])
            goal = pinocchio.SE3(np.array(self.request["rotation"]), np.array(self.request["position"]))
            residual = crocoddyl.ResidualModelFramePlacement(state, frame, goal)
            costs.addCost("pose", crocoddyl.CostModelResidual(state, residual), weights["pose"])
        residual = crocoddyl.ResidualModelState(state, np.array(self.request["rest"]))
        activation = crocoddyl.ActivationModelWeightedQuad(np.array(self.request["spread"]))
        costs.addCost("state", crocoddyl.CostModelResidual(state, activation, residual), weights["state"])
        if weights.get("control"):
            residual = crocoddyl.ResidualModelControl(state)
            costs.addCost("control", crocoddyl.CostModelResidual(state, residual), weights["control"])
        motion = crocoddyl.DifferentialActionModelFreeFwdDynamics(state, self.actuation, costs)
        step = crocoddyl.IntegratedActionModelEuler(motion, dt)
        if self.request["limits"] is not None and dt:
            step.u_lb, step.u_ub = (sign * np.array(self.request["limits"]) for sign in (-1.0, 1.0))
        return step

    def solve(self, iterations):
        """Its cost after so many iterations."""
        states = [self.begin] * (self.request["horizon"] + 1)
        self.solver.solve(states, self.controls, iterations, True, 1e-15)
        return self.solver.cost


def main():
    """Answers until there are no more requests."""
    solved = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "problem":
            solved = Solved(request)
            answer = None
        elif request["do"] == "costs":
            answer = [solved.solve(k) for k in range(1, request["iterations"] + 1)]
        else:
            answer = []
            for _ in range(request["solves"]):
                begun = time.thread_time()
                solved.solve(request["iterations"])
                answer.append(time.thread_time() - begun)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
