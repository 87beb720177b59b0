"""`trimtab run SCENARIO --controller DIR`: what was trained drives, in the loop that plans are driven by."""

import json
import shlex
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import toy_learner
from trimtab.controllers.episode import Episode
from trimtab.launch.cli import main
from trimtab.learners.run_folder import RunFolder
from trimtab.robots import plugins

SCENARIO = """
task = "{task}"
duration = 0.2
[planner]
samples = 6
horizon = 4
knots = 2
[learner.toy]
candidates = 3
spread = 20.0
[learner.pets]
period = "40ms"
particles = 2
random_episodes = 1
network = {{members = 2, elites = 2, hidden = [8], batch = 16, epochs = 4, updates = 4}}
"""
TASKS = {"cartpole": "cartpole-balance", "pendulum": "pendulum-swingup"}
RUN = ["run", "cartpole.toml"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of runs, by robot and learner; to be read only."""
    where = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(plugins._table("learners"), "toy", EntryPoint("toy", "toy_learner:Toy", "trimtab.learners"))
        for robot, task in TASKS.items():
            (where / f"{robot}.toml").write_text(SCENARIO.format(task=task))
        for robot, learner, steps in (("cartpole", "toy", 180), ("pendulum", "toy", 30), ("cartpole", "pets", 40)):
            asked = ["train", str(where / f"{robot}.toml"), "--learner", learner, "--steps", str(steps)]
            assert main([*asked, "--out", str(where / f"{robot}-{learner}"), "--json", str(where / "r.json")]) == 0
    return where


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, trained):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(plugins._table("learners"), "toy", EntryPoint("toy", "toy_learner:Toy", "trimtab.learners"))
    for robot in TASKS:
        shutil.copy(trained / f"{robot}.toml", tmp_path)
    shutil.copytree(trained / "cartpole-toy", tmp_path / "toy")
    return tmp_path


def result_of(capsys, *arguments):
    capsys.readouterr()
    assert main([*arguments, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def refused(capsys, *arguments):
    """What is said about a command that asks for something wrong: one line."""
    capsys.readouterr()
    assert main([*arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def policy_of(path):
    with np.load(path / "gains.npz") as gains:
        return gains["mean"]


def episode_of(result):
    recording = Path(result["recording"])
    return Episode.load(recording / "episode.npz" if recording.is_dir() else recording)


@pytest.mark.parametrize("checkpoint", ["", "checkpoints/last", "checkpoints/best", "checkpoints/previous"])
def test_what_was_trained_drives(checkpoint, capsys):
    result, err = result_of(capsys, *RUN, "--controller", f"toy/{checkpoint}", "--seed", "3")
    assert (result["controller"], result["planner"], result["dynamics"]) == (f"toy/{checkpoint}", None, None)
    assert result["plan_ms"] == {"p50": None, "p99": None}
    assert "stand" not in err
    episode = episode_of(result)
    gains = policy_of(Path("toy") / (checkpoint or "checkpoints/last"))
    np.testing.assert_allclose(episode.u, np.clip(episode.y[:-1] @ gains.T, -1.0, 1.0), atol=1e-12)
    assert np.ptp(episode.u) > 0.1


def test_a_run_is_evaluations_episode(capsys):
    found, _ = result_of(capsys, "eval", "toy", "--episodes", "1")
    result, _ = result_of(capsys, *RUN, "--controller", "toy", "--seed", str(found["seeds"][0]))
    assert result["return"] == found["returns"][0]


def test_what_is_shown_and_the_kept_configuration_repeats_the_run(capsys):
    assert main([*RUN, "--controller", "toy", "--record", "kept", "--json", "one.json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    (row,) = (line for line in out.splitlines() if "controller" in line)
    assert "toy" in row
    assert "planner" not in out
    head = Path("kept/scenario.toml").read_text().splitlines()[0]
    _, _, command = head.partition("trimtab ")
    _, _, command = command.partition("trimtab ")
    asked = [word.replace("scenario.toml", "kept/scenario.toml") for word in shlex.split(command)]
    again, _ = result_of(capsys, *asked, "--record", "off")
    assert again["return"] == json.loads(Path("one.json").read_text())["return"]


def test_under_the_wall_clock_and_recorded(capsys, folder):
    result, _ = result_of(capsys, *RUN, "--controller", "toy", "--clock", "wall", "--record", "run.rrd")
    assert (result["clock"], result["steps"], result["planner"]) == ("wall", 20, None)
    assert (folder / "run.rrd").stat().st_size > 1000


def test_planning_on_what_was_learned(trained, capsys):
    where = str(trained / "cartpole-pets")
    result, _ = result_of(capsys, *RUN, "--controller", where, "--seed", "1")
    assert result["planner"] is None
    assert result["plan_ms"]["p50"] > 0.0
    found, _ = result_of(capsys, "eval", where, "--episodes", "1")
    result, _ = result_of(capsys, *RUN, "--controller", where, "--seed", str(found["seeds"][0]))
    assert result["return"] == found["returns"][0]
    held = episode_of(result).u.reshape(-1, 4)
    np.testing.assert_array_equal(held, held[:, :1].repeat(4, axis=1))
    result, _ = result_of(capsys, *RUN, "--controller", where, "--clock", "wall")
    assert result["steps"] == 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--planner", "cem"], "with --controller nothing is planned: --planner can not be given with it"),
        (["--dynamics", "mujoco"], "nothing is planned: --dynamics can not"),
        (
            ["--planner.samples", "8", "--dynamics", "mujoco"],
            "--dynamics, --planner.samples can not be given with it",
        ),
    ],
)
def test_planners_are_refused_beside_it(options, said, capsys, folder):
    assert said in refused(capsys, *RUN, "--controller", "toy", *options)
    assert not (folder / "runs").exists()


def test_folders_that_hold_nothing_to_drive_with(capsys, folder):
    assert "no folder 'nowhere'" in refused(capsys, *RUN, "--controller", "nowhere")
    (folder / "empty").mkdir()
    assert "folder 'empty' holds no training run: run.json is missing" in refused(capsys, *RUN, "--controller", "empty")
    assert "no folder 'cartpole.toml'" in refused(capsys, *RUN, "--controller", "cartpole.toml")
    assert "run.json is missing" in refused(capsys, *RUN, "--controller", "")
    shutil.copytree("toy", "fresh")
    shutil.rmtree("fresh/checkpoints")
    assert "'fresh' has no checkpoint yet" in refused(capsys, *RUN, "--controller", "fresh")
    shutil.copytree("toy", "none")
    Path("none/run.json").write_text('{"format": 1, "scenario"')
    assert "is no JSON, or not the whole of it" in refused(capsys, *RUN, "--controller", "none")
    assert not (folder / "runs").exists()


def test_a_learner_that_is_not_installed(capsys, monkeypatch):
    monkeypatch.delitem(plugins._table("learners"), "toy")
    assert "unknown learner 'toy'" in refused(capsys, *RUN, "--controller", "toy")


@pytest.mark.parametrize("asked", ["toy", "toy/checkpoints/last"])
@pytest.mark.parametrize("broken", ["gains.npz", "progress.json"])
def test_of_a_checkpoint_cut_short_the_one_before_is_used_and_said(asked, broken, capsys):
    path = Path("toy/checkpoints/last") / broken
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result, err = result_of(capsys, *RUN, "--controller", asked, "--seed", "3")
    steps = RunFolder("toy").saved("previous").steps
    assert f"the one before it is used, of {steps} steps" in " ".join(err.split())
    episode = episode_of(result)
    gains = policy_of(Path("toy/checkpoints/previous"))
    np.testing.assert_allclose(episode.u, np.clip(episode.y[:-1] @ gains.T, -1.0, 1.0), atol=1e-12)
    path = Path("toy/checkpoints/previous") / broken
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "checkpoint 'last' of 'toy' can not be used" in refused(capsys, *RUN, "--controller", "toy")


def test_another_robots_policy(trained, capsys, folder):
    said = refused(capsys, *RUN, "--controller", str(trained / "pendulum-toy"))
    assert "is of another robot: pendulum; expected: cartpole" in said
    assert str(trained / "pendulum-toy") in said
    assert not (folder / "runs").exists()


def test_a_policy_that_raises_fails_the_run(capsys, monkeypatch):
    def control(self, state):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(toy_learner.Linear, "control", control)
    assert main([*RUN, "--controller", "toy", "--json", "-"]) == 1
    assert "the controller raised ZeroDivisionError: a bug" in capsys.readouterr().err
