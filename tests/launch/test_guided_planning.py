"""`--planner.value DIR` and `--planner.policy DIR`: what was learned goes on where plans end, and is a first guess."""

import dataclasses
import json
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import toy_guide
from trimtab import robots, sim
from trimtab.controllers import MPC
from trimtab.controllers.cem import CEM
from trimtab.launch.cli import main
from trimtab.launch.scenario import find, resolve
from trimtab.robots import plugins
from trimtab.sim import State

PLANNERS = ("random_shooting", "predictive_sampling", "cem", "mppi", "cmaes", "mcts")
SMALL = {"horizon": 6, "samples": 8, "iterations": 2, "knots": 2, "simulations": 16}
PETS = """
task = "cartpole-swingup"
duration = 0.4
[planner]
samples = 6
horizon = 4
knots = 2
[learner.pets]
period = "40ms"
particles = 2
network = {members = 2, elites = 2, hidden = [8], batch = 16, epochs = 4, updates = 4}
"""


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    """Folder of a run of PETS."""
    where = tmp_path_factory.mktemp("ensemble")
    (where / "swing.toml").write_text(PETS)
    asked = ["train", str(where / "swing.toml"), "--learner", "pets", "--steps", "80", "--out", str(where / "run")]
    assert main([*asked, "--json", str(where / "r.json")]) == 0
    return where / "run"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(plugins._table("guides"), "trained", EntryPoint("trained", "toy_guide:guide", "trimtab.guides"))
    (tmp_path / "learned").mkdir()
    return tmp_path


def small(planner):
    fields = plugins.find("planners", planner).__dataclass_fields__
    return [f"--planner.{name}={value}" for name, value in SMALL.items() if name in fields]


def result_of(capsys, *arguments):
    capsys.readouterr()
    assert main([*arguments, "--json", "-"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main([*arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


GIVEN = ["--planner.value", "learned", "--planner.policy", "learned"]


@pytest.mark.parametrize("planner", PLANNERS)
def test_every_planner_that_samples_or_grows_trees(planner, capsys):
    asked = ["run", "cartpole-swingup", "--duration", "0.1", "--planner", planner, *small(planner), "--record", "off"]
    found = result_of(capsys, *asked, *GIVEN)
    assert found["planner"] == planner
    assert found["fallbacks"] == 0
    assert found["return"] != result_of(capsys, *asked)["return"]


@pytest.mark.parametrize("planner", ["cem", "mcts"])
def test_the_kept_configuration_names_them(planner, capsys):
    asked = ["run", "cartpole-swingup", "--duration", "0.06", "--planner", planner, *small(planner)]
    found = result_of(capsys, *asked, *GIVEN, "--record", "kept")
    again = result_of(capsys, "run", "kept/scenario.toml", "--record", "off")
    assert again["return"] == found["return"]


def test_under_the_wall_clock(capsys):
    asked = ["run", "cartpole-swingup", "--duration", "0.1", "--clock", "wall", *small("cem"), "--record", "off"]
    assert result_of(capsys, *asked, *GIVEN)["clock"] == "wall"


def test_what_a_tree_searchs_policy_is_called_is_no_folder():
    scenario = find("maze-holes")
    assert scenario.settings["policy"] == "random"
    assert resolve(scenario, planner="cem").planner.policy == ""
    learned = dataclasses.replace(scenario, settings={**scenario.settings, "policy": "learned", "value": "learned"})
    assert resolve(learned, planner="cem").planner.guides == {"value": "learned", "policy": "learned"}
    again = dataclasses.replace(find("cartpole-swingup"), settings={"value": "learned", "execute": "mean"})
    there = resolve(again, planner="mcts").planner
    assert (there.value, there.policy, there.execute) == ("learned", "plan", "visits")


@pytest.mark.parametrize("planner", ["ilqr", "lqr", "nmpc"])
@pytest.mark.parametrize("setting", ["value", "policy"])
def test_planners_by_derivatives_have_no_use_for_them(planner, setting, capsys):
    said = refused(capsys, "run", "cartpole-swingup", "--planner", planner, f"--planner.{setting}", "learned")
    assert f"unknown setting '--planner.{setting}'" in said


@pytest.mark.parametrize("planner", ["cem", "mcts"])
def test_folders_that_are_none(planner, capsys, folder):
    for setting in ("value", "policy"):
        said = refused(capsys, "run", "cartpole-swingup", "--planner", planner, f"--planner.{setting}", "nowhere")
        own = planner == "mcts" and setting == "policy"  # trees have policies with names of their own
        assert ("unknown policy 'nowhere'. Known: hold, plan" if own else "no folder 'nowhere'") in said
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("planner", PLANNERS)
def test_on_an_ensemble(planner, ensemble, capsys):
    asked = ["run", "cartpole-swingup", "--duration", "0.12", "--planner", planner, *small(planner), "--record", "off"]
    found = result_of(
        capsys, *asked, "--dynamics", f"ensemble:{ensemble}", "--planner.value=learned", "--planner.policy=learned"
    )
    assert found["fallbacks"] == 0
    assert np.isfinite(found["return"])


@pytest.mark.parametrize("ends", [False, True])
def test_an_ensembles_own_costs_are_the_sum_over_its_predictions(ends, ensemble):
    plain = robots.load("cartpole-swingup").with_period(0.04)
    start = sim.make("mujoco", robots.load("cartpole-swingup")).reset(3)
    controls = np.random.default_rng(1).uniform(-1.0, 1.0, (7, 5, 1))

    def problem_of(task):
        guide = toy_guide.ToyGuide("learned", task)
        guide.dt = 0.01
        controller = MPC(CEM(horizon=5, knots=2), sim.dynamics(f"ensemble:{ensemble}", task), task, value=guide)
        return controller.problem(State(0.0, start.y), np.random.default_rng(0)), guide

    problem, guide = problem_of(plain)
    found, y = problem.cost(controls), problem.predicted(slice(None))
    task = plain
    if ends:  # half the predictions
        most = np.median(np.abs(y[:, :, 1:, 0]).max(axis=2))
        task = dataclasses.replace(plain, end=lambda y: abs(y.cart) > most)
        problem, guide = problem_of(task)
        found = problem.cost(controls)
        np.testing.assert_array_equal(problem.predicted(slice(None)), y)
    members = []
    for member in y:
        costs = []
        for n in range(7):
            total, weight, over = 0.0, 1.0, False
            for k in range(5):
                if not over:
                    total += weight * 4.0 * float(task.reward(member[n, k + 1], controls[n, k]))
                weight *= toy_guide.DISCOUNT
                over = over or bool(task.terminated(member[n, k + 1]))
            costs.append(-total - (0.0 if over else weight * float(guide.value(member[n, -1]))))
        members.append(costs)
    np.testing.assert_allclose(found, np.mean(members, axis=0), rtol=2e-3)
    if ends:
        assert 0 < task.terminated(y[:, :, 1:]).any(axis=2).sum() < 14
