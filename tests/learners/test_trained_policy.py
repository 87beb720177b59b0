"""What soft actor-critic has learned, used: a policy that drives, a value and a policy for planners; by folder."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from trimtab import robots
from trimtab.controllers import guide
from trimtab.controllers.guide import Guide
from trimtab.launch.cli import main
from trimtab.learners.sac import POLICY
from trimtab.robots.plugins import Notice

SCENARIO = """
task = "{task}"
simulator = "mujoco"
dynamics = "mujoco"
duration = 0.4

[planner]
name = "cem"
horizon = "0.2s"
samples = 6
iterations = 1
knots = 2
replan = 1

[learner.sac]
period = "40ms"
batch = 8
network = {{hidden = [8]}}
schedule = {{random_steps = 20, round = 4, piece = 40, evaluate_every = 40, episodes = 1}}
"""
SMALL = {"horizon": 4, "samples": 6, "iterations": 2, "knots": 2, "simulations": 8, "depth": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of short runs, by task; to be read only."""
    where = tmp_path_factory.mktemp("trained")
    for task in ("pendulum-swingup", "cartpole-swingup"):
        (where / f"{task}.toml").write_text(SCENARIO.format(task=task))
        asked = ["train", str(where / f"{task}.toml"), "--learner", "sac", "--steps", "80", "--out", str(where / task)]
        assert main([*asked, "--json", str(where / "r.json")]) == 0
        assert json.loads((where / "r.json").read_text())["return_last"] is not None
    return where


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(*arguments):
    """The JSON of a run that must succeed."""
    assert main(["run", *arguments, "--json", "ran.json", "--view", "off"]) == 0
    with open("ran.json") as file:
        return json.load(file)


def test_a_run_s_folder_holds_all(runs, folder):
    run = shutil.copytree(runs / "pendulum-swingup", folder / "run")
    there = {path.name for path in run.iterdir()}
    assert {"scenario.toml", "run.json", "metrics.csv", "curve.png", "episode.npz", "checkpoints"} <= there
    assert "evaluation.json" not in there
    assert main(["eval", "run", "--episodes", "2"]) == 0
    assert len(json.loads((run / "evaluation.json").read_text())["returns"]) == 2


def test_a_policy_drives(runs):
    found = ran(str(runs / "pendulum-swingup.toml"), "--controller", str(runs / "pendulum-swingup"), "--seed", "3")
    assert found["steps"] == 20
    again = ran(str(runs / "pendulum-swingup.toml"), "--controller", str(runs / "pendulum-swingup"), "--seed", "3")
    assert found["return"] == again["return"]


def test_another_robots_policy_is_refused(runs, capsys):
    asked = ["run", str(runs / "pendulum-swingup.toml"), "--view", "off"]
    for option in ("--controller", "--planner.value", "--planner.policy"):
        assert main([*asked, option, str(runs / "cartpole-swingup")]) == 2
        said = capsys.readouterr().err.strip()
        assert "of another robot: cartpole; expected: pendulum" in said
        assert len(said.splitlines()) == 1


@pytest.mark.parametrize("planner", ["random_shooting", "predictive_sampling", "cem", "mppi", "cmaes", "mcts"])
def test_planners_are_guided(runs, planner):
    from trimtab.launch.settings import hints
    from trimtab.robots import plugins

    fields = hints(plugins.find("planners", planner))
    settings = [part for name, value in SMALL.items() if name in fields for part in (f"--planner.{name}", str(value))]
    asked = [str(runs / "pendulum-swingup.toml"), "--planner", planner, *settings]
    plain = ran(*asked)
    learned = str(runs / "pendulum-swingup")
    valued = ran(*asked, "--planner.value", learned)
    both = ran(*asked, "--planner.value", learned, "--planner.policy", learned)
    assert plain["steps"] == valued["steps"] == both["steps"] == 20
    assert plain["cost"] != valued["cost"]


def test_a_guide_is_what_was_learned(runs):
    task = robots.load("pendulum-swingup").with_period(0.04)
    found = guide.load(str(runs / "pendulum-swingup"), task)
    assert isinstance(found, Guide)
    assert (found.period, found.dt, found.discount) == (0.04, 0.02, 0.99)
    y = np.random.default_rng(0).normal(size=(3, 5, 2))
    low, high = task.robot.control_limits
    action = found.action(y)
    assert found.value(y).shape == (3, 5)
    assert action.shape == (3, 5, 1)
    assert ((action >= low) & (action <= high)).all()
    np.testing.assert_allclose(found.value(y)[1, 2], found.value(y[1, 2]), rtol=1e-5)


@pytest.mark.parametrize("option", ["--controller", "--planner.value"])
def test_a_checkpoint_cut_short_is_stood_in_for(runs, folder, option):
    shutil.copytree(runs / "pendulum-swingup", folder / "run")
    last = folder / "run" / "checkpoints" / "last" / POLICY
    content = last.read_bytes()
    last.unlink()  # it may share its place on the disk with the one before
    last.write_bytes(content[: len(content) // 2])
    asked = ["run", str(runs / "pendulum-swingup.toml"), "--view", "off", option, "run"]
    done = subprocess.run([sys.executable, "-m", "trimtab.launch.cli", *asked], capture_output=True, text=True)
    assert done.returncode == 0
    assert "the one before it is used" in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) <= 1
    assert "warn" not in done.stderr.lower()


def test_values_of_another_task_are_warned_of(runs, folder):
    task = dataclasses.replace(robots.load("pendulum-swingup"), name="pendulum-spin")
    with pytest.warns(Notice, match="was learned of pendulum-swingup: its values are not of pendulum-spin's"):
        guide.load(str(runs / "pendulum-swingup"), task)


def test_a_run_from_a_gpu_is_used_without_one(runs, folder):
    shutil.copytree(runs / "pendulum-swingup", folder / "run")
    path = folder / "run" / "scenario.toml"
    path.write_text(path.read_text().replace('device = "cpu"', 'device = "cuda:7"'))
    assert main(["eval", "run", "--episodes", "1"]) == 0
    assert main(["run", str(runs / "pendulum-swingup.toml"), "--view", "off", "--controller", "run"]) == 0


def test_an_evaluation_says_which_checkpoint_it_is_of(runs, folder, capsys):
    shutil.copytree(runs / "pendulum-swingup", folder / "run")
    for name in ("last", "best"):
        assert main(["eval", f"run/checkpoints/{name}", "--episodes", "1"]) == 0
        assert json.loads((folder / "run" / "evaluation.json").read_text())["checkpoint"] == name
    assert main(["eval", "run/checkpoints/last", "--checkpoint", "best"]) == 2
    assert "is the checkpoint 'last'" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--controller", "--planner.value"])
def test_what_is_no_run_is_refused(runs, folder, capsys, option):
    (folder / "empty").mkdir()
    for name, said in (("nowhere", "no folder 'nowhere'"), ("empty", "run.json is missing")):
        assert main(["run", str(runs / "pendulum-swingup.toml"), "--view", "off", option, name]) == 2
        message = capsys.readouterr().err.strip()
        assert said in message
        assert len(message.splitlines()) == 1
