"""Runs Stable-Baselines3's or sbx's soft actor-critic in its environment and answers requests, one JSON object a line.

See `benchmarks/sac_updates.py`. What is timed is `train`, which draws from the replay buffer and updates, as the
library's own loop calls it. The process keeps to the cores that it was started on.
"""

import importlib.metadata
import json
import os
import sys
import time

CORES = len(os.sched_getaffinity(0))
if CORES == 1:  # before JAX is imported
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

import gymnasium  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402


class Noise(gymnasium.Env):
    """Observations that are random; nothing is to be learned."""

    def __init__(self, observations, actions):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (observations,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (actions,), np.float32)
        self.rng = np.random.default_rng(0)

    def observe(self):
        return self.rng.standard_normal(self.observation_space.shape, dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        return self.observe(), {}

    def step(self, action):
        return self.observe(), float(self.rng.standard_normal()), False, False, {}


def make(library, observations, actions, rows):
    """The library's learner with its usual settings, which are ours, after so many steps at random."""
    if library == "sbx":
        from sbx import SAC
    else:
        from stable_baselines3 import SAC
    torch.set_num_threads(CORES)
    kwargs = {"device": "cpu"} if library == "sb3" else {}
    model = SAC("MlpPolicy", Noise(observations, actions), buffer_size=rows, learning_starts=rows, seed=0, **kwargs)
    return model.learn(rows)


def train(model, batch, calls, each):
    """Seconds, and seconds of processor time, of so many calls of `each` updates."""
    begun = time.perf_counter(), time.process_time()
    for _ in range(calls):
        model.train(each, batch)
    if hasattr(model.policy, "qf_state"):
        import jax

        jax.block_until_ready((model.policy.qf_state.params, model.policy.actor_state.params))
    return time.perf_counter() - begun[0], time.process_time() - begun[1]


model = None
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "make":
        model = make(request["library"], request["observations"], request["actions"], request["rows"])
        name = {"sb3": "stable_baselines3", "sbx": "sbx-rl"}[request["library"]]
        answer = importlib.metadata.version(name)
    else:
        answer = train(model, request["batch"], request["calls"], request["each"])
    print(json.dumps(answer), flush=True)
