"""Runs mbrl-lib in its own environment and answers requests, one JSON object a line (see `benchmarks/ensembles.py`).

The networks are mbrl-lib's `GaussianMLP` in its `OneDTransitionRewardModel`, set as ours are: they predict changes of
the readings, from normalised inputs, the bounds of variances are learned, and all members are elites.
"""

import importlib.metadata
import json
import os
import sys
import time
from types import SimpleNamespace

import mbrl.models
import numpy as np
import torch
from mbrl.types import TransitionBatch
from mbrl.util.replay_buffer import BootstrapIterator, TransitionIterator


def transitions(data):
    """Steps as mbrl-lib stores them."""
    y, u, y_next = (np.array(data[name], dtype=np.float32) for name in ("y", "u", "y_next"))
    no = np.zeros(len(y), dtype=bool)
    return TransitionBatch(y, u, y_next, np.zeros(len(y), dtype=np.float32), no, no)


def ensemble(request, data):
    """The networks, their inputs normalised by `data`."""
    ny, nu = data.obs.shape[1], data.act.shape[1]
    network = mbrl.models.GaussianMLP(
        ny + nu,
        ny,
        "cpu",
        num_layers=len(request["hidden"]),
        ensemble_size=request["members"],
        hid_size=request["hidden"][0],
        propagation_method="fixed_model",
        learn_logvar_bounds=True,
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    model = mbrl.models.OneDTransitionRewardModel(network, normalize=True, learned_rewards=False)
    model.update_normalizer(data)
    return model


def train(request, clock):
    """Seconds of each epoch, the first left out: between two of the trainer's own calls back."""
    training, holdout = transitions(request["training"]), transitions(request["holdout"])
    model, batch, ended = ensemble(request, training), request["batch"], []
    rng = np.random.default_rng(0)
    mbrl.models.ModelTrainer(model, optim_lr=1e-3, weight_decay=5e-5).train(
        BootstrapIterator(training, batch, request["members"], shuffle_each_epoch=True, permute_indices=False, rng=rng),
        TransitionIterator(holdout, batch),
        num_epochs=request["epochs"] + 1,
        callback=lambda *_: ended.append(clock()),
        silent=True,
    )
    return np.diff(ended).tolist()


def plan(request, clock):
    """Seconds of each evaluation of the candidates, the first left out."""
    data = transitions(request["training"])
    controls = torch.tensor(request["controls"], dtype=torch.float32)

    def reward(u, y):
        return y[:, request["speed"], None] - 0.1 * (u * u).sum(dim=1, keepdim=True)

    def never(u, y):
        return torch.zeros(len(y), 1, dtype=torch.bool)

    spaces = SimpleNamespace(observation_space=None, action_space=None)
    env = mbrl.models.ModelEnv(spaces, ensemble(request, data), never, reward, torch.Generator())
    times = []
    for _ in range(request["evaluations"] + 1):
        begun = clock()
        env.evaluate_action_sequences(controls, data.obs[0], request["particles"])
        times.append(clock() - begun)
    return times[1:]


def answer(request):
    """What `train` or `plan` finds, as the request's `measure` says, bound to some cores."""
    os.sched_setaffinity(0, request["cores"])
    torch.set_num_threads(len(request["cores"]))
    clock = time.process_time if len(request["cores"]) == 1 else time.perf_counter
    times = {"train": train, "plan": plan}[request["measure"]](request, clock)
    return {"times": times, "version": importlib.metadata.version("mbrl")}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
