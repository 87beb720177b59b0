"""Runs judo-rai inside its own environment and answers requests, one JSON object a line (see `benchmarks/judo.py`)."""

import json
import sys
import time

import mujoco
import numpy as np
from judo import MODEL_PATH

# judo downloads meshes on import unless this folder exists; the two models used here have none.
(MODEL_PATH / "meshes").mkdir(exist_ok=True)

from judo.controller.controller import make_controller  # noqa: E402


def controller(task: str, planner: str, rollouts: int):
    """Judo's controller as it ships, with so many rollouts."""
    made = make_controller(task, planner)
    made.controller_cfg.set_override(task)
    made.optimizer_cfg.num_rollouts = rollouts
    made.reset()
    return made


def start_at(made, qpos, qvel):
    """Puts judo's model at a state, its plan reset."""
    made.reset()
    data = made.task.data
    mujoco.mj_resetData(made.model, data)
    data.qpos[:], data.qvel[:] = qpos, qvel
    mujoco.mj_forward(made.model, data)
    made.current_state = np.concatenate([data.qpos, data.qvel])
    made.time = 0.0


def time_plans(made, request):
    """Seconds of each plan from one state."""
    start_at(made, request["qpos"], request["qvel"])
    times = []
    for _ in range(request["plans"]):
        begun = time.perf_counter()
        made.update_action()
        times.append(time.perf_counter() - begun)
    return times


def closed_loop(made, request):
    """Cost summed over an episode, a plan every `replan` steps."""
    np.random.seed(request["seed"])  # noqa: NPY002 - judo draws from the global state
    start_at(made, request["qpos"], request["qvel"])
    data, cost = made.task.data, 0.0
    for step in range(request["steps"]):
        made.current_state = np.concatenate([data.qpos, data.qvel])
        made.time = data.time
        if step % request["replan"] == 0:
            made.update_action()
        u = np.clip(made.action(data.time), *made.task.actuator_ctrlrange.T)
        data.ctrl[:] = u
        mujoco.mj_step(made.model, data)
        state = np.concatenate([data.qpos, data.qvel])[None, None]
        cost -= float(made.task.reward(state, data.sensordata[None, None], u[None, None])[0])
    return cost


def main() -> None:
    """Answers until standard input ends."""
    made, key = None, None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "models":
            answer = str(MODEL_PATH / "xml")
        else:
            wanted = (request["task"], request["planner"], request["rollouts"])
            if wanted != key:
                made, key = controller(*wanted), wanted
            answer = {"plans": time_plans, "closed_loop": closed_loop}[request["do"]](made, request)
        print(json.dumps(answer), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    sys.stdout = sys.stderr
    main()
