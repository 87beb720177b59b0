"""Runs mctx inside its own environment and answers requests, one JSON object a line (see `benchmarks/mcts.py`).

The pendulum is written in JAX, with the numbers of trimtab's own; a node's value is its last reward, that goes on for a
while, as in trimtab's leaves without a rollout.
"""

import json
import os
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import mctx
import numpy as np


def search(request):
    """The jitted search of a batch of pendulums: (seed, q, v) -> visits of the root's controls."""
    p, actions = request["pendulum"], jnp.linspace(-1.0, 1.0, request["actions"])
    steps, discount = request["steps"], request["discount"]

    def move(x, u):
        q, v = x[..., 0], x[..., 1]
        torque = p["weight"] * jnp.sin(q) - p["damping"] * v + p["gear"] * u
        v = v + p["dt"] * torque / (p["inertia"] + p["dt"] * p["damping"])
        q = q + p["dt"] * v
        height = jnp.cos(q)
        cost = 1.0 - (height >= p["upright"]) + p["energy"] * jnp.abs(p["per_speed"] * v * v + height - 1.0)
        cost += p["height"] * (1.0 - height) + p["velocity"] * v * v * jnp.clip(height, 0.0, 1.0)
        return jnp.stack((q, v), -1), -cost

    def recurrent(params, key, action, x):
        x, reward = move(x, actions[action])
        uniform = jnp.zeros((len(reward), len(actions)))
        going = jnp.full_like(reward, discount)
        return mctx.RecurrentFnOutput(reward=reward, discount=going, prior_logits=uniform, value=reward * steps), x

    @jax.jit
    def run(key, x):
        root = mctx.RootFnOutput(prior_logits=jnp.zeros((len(x), len(actions))), value=jnp.zeros(len(x)), embedding=x)
        found = mctx.muzero_policy(
            params=(),
            rng_key=key,
            root=root,
            recurrent_fn=recurrent,
            num_simulations=request["simulations"],
            max_depth=steps,
            dirichlet_fraction=0.0,
        )
        return found.action_weights

    return run


def answer(request):
    """Seconds of each search, those of the first left out; visits and, to be checked, one step."""
    run, x = search(request), jnp.asarray(request["states"])
    key = jax.random.PRNGKey(0)
    weights = run(key, x).block_until_ready()
    times = []
    for _ in range(request["searches"]):
        begun = time.perf_counter()
        run(key, x).block_until_ready()
        times.append(time.perf_counter() - begun)
    return {"times": times, "weights": np.asarray(weights[0]).tolist(), "version": mctx.__version__}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
