"""What was learned as dynamics, `ensemble:DIR`: on every planner, both clocks, recorded; and folders that are none."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from trimtab import robots, sim
from trimtab.launch.cli import main
from trimtab.launch.scenario import find, parse, resolve
from trimtab.learners import pets
from trimtab.learners.run_folder import RunFolder
from trimtab.robots import plugins
from trimtab.robots.plugins import Notice
from trimtab.sim import State

SCENARIO = """
task = "{task}"
simulator = "mujoco"
dynamics = "mujoco"
duration = 0.4

[planner]
name = "cem"
horizon = "0.4s"
samples = 6
iterations = 1
knots = 2
replan = 1

[learner.pets]
period = "40ms"
particles = 2
network = {{members = 2, elites = 2, hidden = [8], batch = 16, epochs = 4, updates = 4}}
"""
ROBOTS = ("cartpole-swingup", "pendulum-swingup")
PLANNERS = ("random_shooting", "predictive_sampling", "cem", "mppi", "cmaes", "ilqr", "mcts")
SMALL = {"horizon": 4, "samples": 6, "iterations": 2, "knots": 2, "simulations": 8, "depth": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of runs of two episodes, by task; to be read only."""
    where = tmp_path_factory.mktemp("trained")
    for task in ROBOTS:
        (where / f"{task}.toml").write_text(SCENARIO.format(task=task))
        steps = 80 if task == ROBOTS[0] else 40
        out = str(where / task)
        asked = ["train", str(where / f"{task}.toml"), "--learner", "pets", "--steps", str(steps), "--out", out]
        assert main([*asked, "--json", str(where / "r.json")]) == 0
    return where


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(planner):
    """Few and short candidates, where the planner has such settings."""
    kind = plugins.find("planners", planner)
    fields = getattr(kind, "__dataclass_fields__", {})
    return [f"--planner.{name}={value}" for name, value in SMALL.items() if name in fields]


def result_of(capsys, *arguments):
    capsys.readouterr()
    assert main([*arguments, "--json", "-"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    """What is said about a command that asks for something wrong: one line."""
    capsys.readouterr()
    assert main(["run", *arguments, "--record", "off"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def copied(trained, task="cartpole-swingup"):
    return Path(shutil.copytree(trained / task, "copy"))


@pytest.mark.parametrize("planner", PLANNERS)
def test_every_planner_plans_on_it(capsys, trained, planner):
    dynamics = f"ensemble:{trained / 'cartpole-swingup'}"
    asked = ["run", str(trained / "cartpole-swingup.toml"), "--dynamics", dynamics, "--planner", planner]
    result = result_of(capsys, *asked, *small(planner), "--duration", "0.16", "--record", "off")
    assert (result["steps"], result["fallbacks"], result["planner"]) == (16, 0, planner)
    assert result["dynamics"] == dynamics
    assert np.isfinite(result["cost"])


def test_lqr_plans_near_an_equilibrium(capsys, trained):
    Path("balance.toml").write_text(SCENARIO.format(task="cartpole-balance") + 'nominal = "casadi"\n')
    result_of(capsys, "train", "balance.toml", "--learner", "pets", "--steps", "40", "--out", "run")
    asked = ["run", "balance.toml", "--dynamics", "ensemble:run", "--planner", "lqr", "--planner.horizon", "10"]
    result = result_of(capsys, *asked, "--duration", "0.16", "--record", "off")
    assert (result["steps"], result["fallbacks"]) == (16, 0)
    assert result["return"] > 15.0


def test_a_planner_that_needs_expressions_says_so(capsys, trained):
    dynamics = f"ensemble:{trained / 'cartpole-swingup'}"
    said = refused(capsys, str(trained / "cartpole-swingup.toml"), "--dynamics", dynamics, "--planner", "nmpc")
    assert "nmpc" in said


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_it_is_recorded_and_runs_in_real_time(capsys, trained, clock):
    dynamics = f"ensemble:{trained / 'pendulum-swingup'}"
    asked = ["run", str(trained / "pendulum-swingup.toml"), "--dynamics", dynamics, "--clock", clock]
    result = result_of(capsys, *asked, "--duration", "0.4", "--record", "kept.rrd")
    assert (result["steps"], result["clock"]) == (20, clock)
    assert Path("kept.rrd").stat().st_size > 1000
    assert not list(Path().glob("*.partial*"))


def test_a_run_repeats_to_the_last_bit(capsys, trained):
    dynamics = f"ensemble:{trained / 'pendulum-swingup'}"
    asked = ["run", str(trained / "pendulum-swingup.toml"), "--dynamics", dynamics, "--record", "off", "--seed", "4"]
    one, two = (result_of(capsys, *asked)["cost"] for _ in range(2))
    assert one == two
    last = f"ensemble:{trained / 'pendulum-swingup' / 'checkpoints' / 'last'}"
    assert result_of(capsys, *asked[:3], last, *asked[4:])["cost"] == one
    assert result_of(capsys, *asked[:-1], "5")["cost"] != one


def test_it_predicts_what_the_learner_predicts(trained):
    run = RunFolder(trained / "pendulum-swingup")
    setup = resolve(find(str(run.configuration)), learner="pets")
    dynamics = sim.dynamics(f"ensemble:{run.path}", setup.planned)
    model = pets.LearnedModel.load(run.checkpoint("last") / pets.MODEL, setup.planned.robot)
    y, u = np.array([0.4, -1.0]), np.array([[0.3], [-0.2]])
    after = dynamics.advance(State(0.0, y), u)
    np.testing.assert_array_equal(after.y, model.expected(model.expected(y[None], u[:1]), u[1:])[0])
    assert after.time == pytest.approx(0.08)
    rollout = dynamics.rollout(State(0.0, y), u[None], np.random.default_rng(0))
    assert rollout.y.shape == (2, 1, 3, 2)  # as many particles as it was trained with


def test_its_period_and_its_learners_settings_apply(trained):
    text = (trained / "pendulum-swingup.toml").read_text() + '[learner.pets.planner]\nhorizon = "0.8s"\nsamples = 7\n'
    scenario = parse(text, "mine", "mine.toml")
    own = resolve(scenario)
    assert (own.period, own.planner.horizon, own.planner.samples) == (0.02, 20, 6)
    on_it = resolve(scenario, dynamics=f"ensemble:{trained / 'pendulum-swingup'}")
    assert (on_it.period, on_it.planner.horizon, on_it.planner.samples) == (0.04, 20, 7)
    assert on_it.planned.robot.dt == 0.04
    assert on_it.task.robot.dt == 0.02


def test_another_task_of_the_robot(capsys, trained):
    dynamics = f"ensemble:{trained / 'cartpole-swingup'}"
    asked = ["run", "cartpole-balance", "--dynamics", dynamics, "--planner", "cem", *small("cem")]
    result = result_of(capsys, *asked, "--duration", "0.2", "--record", "off")
    assert (result["task"], result["steps"], result["fallbacks"]) == ("cartpole-balance", 20, 0)


def test_it_is_evaluated(capsys, trained):
    path = copied(trained, "pendulum-swingup")
    result = result_of(capsys, "eval", str(path), "--episodes", "2")
    assert (result["episodes"], result["failed"], result["lengths"]) == (2, 0, [20, 20])
    again = result_of(capsys, "eval", str(path), "--episodes", "2")
    assert again["returns"] == result["returns"]


def test_another_robots(capsys, trained):
    said = refused(capsys, "cartpole-swingup", "--dynamics", f"ensemble:{trained / 'pendulum-swingup'}")
    assert said.count("is of another robot: pendulum; expected: cartpole") == 1


def test_a_period_that_does_not_fit_the_robot(capsys, trained):
    path = copied(trained, "pendulum-swingup")
    about = json.loads((path / "run.json").read_text())
    for period, expected in ((0.05, "no whole number"), (0.02, "another control period: 0.04 s; expected: 0.02 s")):
        (path / "run.json").write_text(json.dumps(about | {"period": period}))
        assert expected in refused(capsys, "pendulum-swingup", "--dynamics", f"ensemble:{path}")


def test_folders_that_are_none(capsys, trained, tmp_path):
    def said(where):
        return refused(capsys, "cartpole-swingup", "--dynamics", where)

    assert "no folder 'nowhere'" in said("ensemble:nowhere")
    (tmp_path / "empty").mkdir()
    assert "folder 'empty' holds no training run" in said("ensemble:empty")
    Path("file").write_text("x")
    assert "no folder 'file'" in said("ensemble:file")
    for without in ("ensemble", "ensemble:"):
        assert "ensemble:DIR" in said(without)
    assert "dynamics 'mujoco' take nothing after a colon, not 'foo'" in said("mujoco:foo")
    assert "unknown dynamics 'ensembel:x'; did you mean 'ensemble'?" in said("ensembel:x")


def test_folders_with_parts_missing(capsys, trained):
    path = copied(trained)
    shutil.rmtree(path / "checkpoints" / "previous", ignore_errors=True)

    def said():
        return refused(capsys, "cartpole-swingup", "--dynamics", f"ensemble:{path}")

    model = path / "checkpoints" / "last" / pets.MODEL
    data = model.read_bytes()
    model.write_bytes(data[: len(data) // 2])
    assert "is no checkpoint, or not the whole of one" in said()
    model.write_bytes(data)
    state = path / "checkpoints" / "last" / pets.STATE
    text = state.read_text()
    state.write_text(text[:9])
    assert "is no state of PETS, or not the whole of one" in said()
    state.write_text(text)
    model.unlink()
    assert f"holds no learned model: pets has no {pets.MODEL} there" in said()
    for name in ("last", "best", "previous"):
        shutil.rmtree(path / "checkpoints" / name, ignore_errors=True)
    assert "has no checkpoint yet" in said()


def test_the_checkpoint_before_stands_in_for_one_that_was_cut_short(trained):
    path = copied(trained)
    checkpoints = path / "checkpoints"
    shutil.rmtree(checkpoints / "previous", ignore_errors=True)
    shutil.copytree(checkpoints / "last", checkpoints / "previous")
    model = checkpoints / "last" / pets.MODEL
    model.write_bytes(model.read_bytes()[:99])
    task = robots.load("cartpole-swingup").with_period(0.04)
    with pytest.warns(Notice, match=r"^checkpoint 'last' of .* not the whole .*; the one before it is used$"):
        assert sim.dynamics(f"ensemble:{path}", task).particles
    (checkpoints / "previous" / pets.STATE).write_text("{")
    with pytest.raises(ValueError, match=r"checkpoint 'last' of .*; checkpoint 'previous' of .* is no state of PETS"):
        sim.dynamics(f"ensemble:{path}", task)


def test_while_a_checkpoint_gets_its_name_the_one_before_is_taken(trained):
    path = copied(trained)
    checkpoints = path / "checkpoints"
    shutil.rmtree(checkpoints / "previous", ignore_errors=True)
    (checkpoints / "last").rename(checkpoints / "previous")
    task = robots.load("cartpole-swingup").with_period(0.04)
    dynamics = sim.dynamics(f"ensemble:{path}", task)
    y = np.zeros(task.robot.layout.size)
    assert np.isfinite(dynamics.advance(State(0.0, y), np.ones((2, 1))).y).all()
