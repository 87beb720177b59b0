"""`trimtab list` and `trimtab run` as a user meets them: exit codes, stdout and stderr, what is left behind."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import mujoco
import numpy as np
import pytest
from trimtab import robots
from trimtab.controllers import cem
from trimtab.controllers.episode import Episode
from trimtab.launch import outputs, terminal
from trimtab.launch.cli import main
from trimtab.robots import plugins

TRIMTAB = [sys.executable, "-m", "trimtab.launch.cli"]
KEYS = [
    *("scenario", "task", "controller", "planner", "dynamics", "simulator", "seed", "clock"),
    *("steps", "return", "cost", "success"),
    *("plan_ms", "deadline_misses", "dropped_frames", "fallbacks", "recording", "wall_s"),
]
QUICK = ["--planner.samples", "8", "--planner.iterations", "1", "--planner.horizon", "10", "--planner.knots", "3"]
SHORT = ["run", "pendulum-swingup", "--duration", "0.1", *QUICK]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_line(capsys) -> str:
    """What stands on stderr: exactly one line, no traceback; and stdout is empty."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_a_run_leaves_its_folder(capsys, folder):
    assert main([*SHORT, "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result) == KEYS
    assert list(result["plan_ms"]) == ["p50", "p99"]
    assert result["steps"] == 5
    assert result["planner"] == "cem"
    kept = folder / result["recording"]
    assert kept.parent == folder / "runs"
    assert sorted(p.name for p in kept.iterdir()) == ["episode.npz", "result.json", "run.rrd", "scenario.toml"]
    assert json.loads((kept / "result.json").read_text()) == result
    episode = Episode.load(kept / "episode.npz")
    assert episode.return_ == pytest.approx(result["return"], abs=1e-12)


def test_the_kept_configuration_repeats_the_run(capsys, folder):
    assert main([*SHORT, "--seed", "3", "--json", "-"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["run", f"{first['recording']}/scenario.toml", "--seed", "3", "--json", "-"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["scenario"] == "pendulum-swingup"
    a, b = (Episode.load(folder / r["recording"] / "episode.npz") for r in (first, second))
    np.testing.assert_array_equal(a.u, b.u)
    np.testing.assert_array_equal(a.x, b.x)


def test_seeds_differ(capsys):
    costs = []
    for seed in ("0", "1"):
        assert main([*SHORT, "--seed", seed, "--record", "off", "--json", "-"]) == 0
        costs.append(json.loads(capsys.readouterr().out)["cost"])
    assert costs[0] != costs[1]


def test_record_off_leaves_nothing(capsys, folder):
    assert main([*SHORT, "--record", "off"]) == 0
    assert list(folder.iterdir()) == []
    out, err = capsys.readouterr()
    assert "return" in out
    assert err == ""


def test_runs_begun_in_one_second_have_folders_of_their_own(folder):
    wished = outputs.Outputs.named("pendulum-swingup", None, None, None)
    one, other = wished.prepare(), wished.prepare()
    assert one == wished
    assert one.folder != other.folder
    one.discard()
    assert sorted(folder.glob("runs/*")) == [folder / other.folder]
    other.discard()
    assert list(folder.iterdir()) == []


def test_a_folder_that_was_there_stays(capsys, folder):
    (folder / "mine").mkdir()
    assert main([*SHORT, "--record", "mine", "--latency", "0.03"]) == 2
    assert (folder / "mine").is_dir()


def test_record_and_json_to_files(capsys, folder):
    assert main([*SHORT, "--record", "deep/er/e.npz", "--json", "r.json"]) == 0
    assert len(Episode.load(folder / "deep/er/e.npz")) == 5
    assert json.loads((folder / "r.json").read_text())["recording"] == "deep/er/e.npz"
    assert sorted(p.name for p in folder.iterdir()) == ["deep", "r.json"]


def test_wall_clock(capsys):
    assert main([*SHORT, "--clock", "wall", "--record", "off", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["clock"] == "wall"


def test_what_libraries_print_stays_off_stdout(capfd, monkeypatch):
    plan = cem.CEM.plan

    def chatty(self, *args):
        print("chatter")
        os.write(1, b"chatter from C\n")
        return plan(self, *args)

    monkeypatch.setattr(cem.CEM, "plan", chatty)
    assert main([*SHORT, "--record", "off", "--json", "-"]) == 0
    out, err = capfd.readouterr()
    assert list(json.loads(out)) == KEYS
    assert "chatter from C" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runn"], "did you mean 'run'"),
        (["tarin", "x"], "Known: --help, --version, eval, list, run, train, view"),
        (["--vers"], "did you mean '--version'"),
        (["list", "taks"], "did you mean 'tasks'"),
        (["list", "--jsn"], "did you mean '--json'"),
        (["list", "tasks", "more"], "unexpected: more"),
        (["run"], "takes a SCENARIO: one of acrobot-swingup,"),
        (["run", "cartpole-swingp"], "did you mean 'cartpole-swingup'"),
        (["run", "dm_control:dog-rn"], "did you mean 'dm_control:dog-run'"),
        (["run", "dm_controll:dog-run"], "did you mean 'dm_control'"),
        (["run", "nowhere.toml"], "no scenario file 'nowhere.toml'"),
        ([*SHORT, "more"], "unexpected: more"),
        ([*SHORT, "--sed", "1"], "did you mean '--seed'"),
        ([*SHORT, "-x"], "unknown option '-x'"),
        ([*SHORT, "--seed"], "--seed"),
        ([*SHORT, "--seed", "one"], "--seed takes a whole number, not 'one'"),
        ([*SHORT, "--seed=-1"], "below 2^32"),
        ([*SHORT, "--duration", "soon"], "--duration takes a number, not 'soon'"),
        ([*SHORT, "--duration", "0"], "above 0"),
        ([*SHORT, "--duration", "nan"], "above 0 and finite"),
        ([*SHORT, "--duration", "0.03"], "0.03 s, which is not a whole number of control steps of 0.02 s"),
        ([*SHORT, "--latency", "0.03"], "whole number of steps of 0.02 s"),
        ([*SHORT, "--clock", "wal"], "did you mean 'wall'"),
        ([*SHORT, "--planner", "cme"], "unknown planner 'cme'"),
        ([*SHORT, "--dynamics", "mujco"], "did you mean 'mujoco'"),
        ([*SHORT, "--simulator", "dmcontrol"], "did you mean 'dm_control'"),
        (
            ["run", "pendulum-swingup", "--planner", "ilqr", "--dynamics", "dm_control"],
            "choose among casadi, mujoco, pinocchio",
        ),
        (
            ["run", "pendulum-swingup", "--planner", "lqr", "--dynamics", "dm_control"],
            "choose among casadi, mujoco, pinocchio",
        ),
        (
            ["run", "pendulum-swingup", "--planner", "nmpc", "--dynamics", "mujoco"],
            "use the dynamics casadi or pinocchio",
        ),
        (["run", "gymnasium:Pendulum-v1", "--planner", "ilqr"], "GymnasiumDynamics has none"),
        (["run", "walker-walk-ilqr", "--planner.second_order", "true"], "which MujocoDynamics does not give"),
        (
            ["run", "walker-walk-ilqr", "--dynamics", "pinocchio"],
            "contacts (of floor with torso). For walker-walk, use",
        ),
        (
            ["run", "manipulator-bring_ball", "--dynamics", "pinocchio"],
            "equality constraints (coupling); body_pos drawn anew for each episode",
        ),
        (
            ["run", "cheetah-run", "--dynamics", "casadi"],
            "robot 'cheetah' has no closed form; these have one: acrobot,",
        ),
        (["run", "reacher-hard", "--planner", "nmpc", "--dynamics", "pinocchio"], "parts of its model anew; ilqr and"),
        (["run", "car-parking", "--dynamics", "mujoco"], "no MuJoCo model; it is in closed form: use casadi"),
        (["run", "car-parking", "--planner.solver", "ipop"], "did you mean 'ipopt'"),
        (["run", "car-parking-ilqr", "--planner.feasibility", "0"], "feasibility is 0"),
        ([*SHORT, "--simulator", "gymnasium"], "gymnasium"),
        ([*SHORT, "--planner.sampels", "3"], "did you mean 'samples'"),
        ([*SHORT, "--planner.samples", "some"], "takes a whole number, not 'some'"),
        ([*SHORT, "--planner.samples", "2.5"], "takes a whole number, not 2.5"),
        ([*SHORT, "--planner.samples", "true"], "takes a whole number, not True"),
        ([*SHORT, "--planner.samples=-3"], "samples is -3; it must be at least"),
        ([*SHORT, "--planner.samples"], "takes a value"),
        ([*SHORT, "--planner.spline", "cubi"], "did you mean 'cubic'"),
        ([*SHORT, "--planner.horizon", "0.05s"], "0.05 s, which is not a whole number of control steps of 0.02 s"),
        ([*SHORT, "--planner.knots", "99"], "knots is 99"),
        ([*SHORT, "--record", "film.mov"], ".rrd or .npz"),
        ([*SHORT, "--record", ""], "--record takes off, a folder"),
        ([*SHORT, "--video", "film.mov"], ".mp4"),
        ([*SHORT, "--json", "."], "folder"),
        ([*SHORT, "--record", "/proc/none/e.npz"], "can not write in folder '/proc/none'"),
    ],
)
def test_wrong_requests(arguments, said, capsys, folder):
    assert main(arguments) == 2
    assert said in one_line(capsys)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "command", [["frobnicate"], ["run", "no-such-task"], ["run", "cartpole-swingup", "--seed", "x"]]
)
def test_wrong_requests_of_the_program(command):
    done = subprocess.run([*TRIMTAB, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


DIVERGING = """
import sys
from trimtab.launch.cli import main
from trimtab.sim.mujoco_simulator import MujocoSimulator as Plant
step = Plant.step
Plant.step = lambda plant, u: (setattr(plant._compiled.data, "qvel", 1e12), step(plant, u))[1]
sys.exit(main(sys.argv[1:]))
"""


def test_diverging_plant_fails_the_run(folder):
    # A program of its own: what else is said, by MuJoCo through dm_control, goes past pytest.
    command = [sys.executable, "-c", DIVERGING, *SHORT, "--simulator", "mujoco"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "the simulation diverged: a velocity is not finite or too large" in done.stderr
    assert "failed" in done.stdout
    assert [p.name for p in folder.iterdir()] == ["runs"]


def test_raising_planner_fails_the_run_and_leaves_its_traceback(capsys, monkeypatch, folder):
    def plan(self, *args):
        raise ZeroDivisionError("a bug in a planner")

    monkeypatch.setattr(cem.CEM, "plan", plan)
    assert main([*SHORT, "--record", "kept"]) == 1
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "a bug in a planner" in err
    assert "Traceback" not in err
    assert "Traceback" in (folder / "kept" / "notes.txt").read_text()
    assert json.loads((folder / "kept" / "result.json").read_text())["steps"] == 0
    monkeypatch.setenv("TRIMTAB_TRACEBACK", "1")
    assert main([*SHORT, "--record", "off"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_plugin_that_fails_to_import(capsys, monkeypatch, folder):
    entry = plugins.EntryPoint("broken", "trimtab.no_such_module:Planner", "trimtab.planners")
    monkeypatch.setitem(plugins._table("planners"), "broken", entry)
    assert main([*SHORT, "--planner", "broken"]) == 1
    assert "planner plugin 'broken' (trimtab.no_such_module:Planner) fails to import: ModuleNotFoundError" in one_line(
        capsys
    )


def test_a_notice_is_one_line_and_a_library_s_warning_says_where():
    said = terminal.warning(plugins.Notice("this\n and that"), plugins.Notice, "some.py", 3)
    assert said == "trimtab: this and that\n"
    assert "some.py:3: UserWarning: else" in terminal.warning(UserWarning("else"), UserWarning, "some.py", 3)


def test_a_broken_robot_plugin_leaves_the_others(capsys, monkeypatch):
    entry = plugins.EntryPoint("broken", "trimtab.no_such_module:TASKS", "trimtab.robots")
    monkeypatch.setitem(plugins._table("robots"), "broken", entry)
    with pytest.warns(plugins.Notice, match="robot plugin 'broken' .* fails to import: ModuleNotFoundError"):
        assert main(["list", "tasks", "--json"]) == 0
    assert "cartpole-swingup" in json.loads(capsys.readouterr().out)["tasks"]
    with pytest.warns(plugins.Notice, match="fails to import"):
        assert main(["run", "cartpole-swingp"]) == 2
    assert "did you mean 'cartpole-swingup'" in one_line(capsys)
    assert main(["run", "broken-task"]) == 1
    assert "robot plugin 'broken' (trimtab.no_such_module:TASKS) fails to import" in one_line(capsys)


def test_model_that_does_not_load(capsys, monkeypatch):
    task = robots.load("pendulum-swingup")
    broken = type(task.robot)(
        "broken", lambda: robots.suite.spec_from("<mujoco><worldbody", {}), task.robot.readings, 0.02
    )
    monkeypatch.setattr(robots, "load", lambda name: type(task)("t", broken, task.score, task.terms, task.start, 1.0))
    assert main([*SHORT, "--simulator", "mujoco"]) == 2
    assert "the model of robot 'broken' does not load: XML" in one_line(capsys)


@pytest.mark.parametrize("dynamics", ["casadi", "pinocchio"])
def test_readings_that_the_model_does_not_give(dynamics, capsys, monkeypatch):
    task = robots.load("pendulum-swingup")
    kinds = mujoco.mjtSensor.mjSENS_SUBTREEANGMOM, mujoco.mjtObj.mjOBJ_BODY
    spin = robots.Reading.sensed("momentum", 3, *kinds, "pole")
    robot = dataclasses.replace(task.robot, readings=(*task.robot.readings, spin))
    monkeypatch.setattr(robots, "load", lambda name: dataclasses.replace(task, robot=robot))
    request = ["run", "pendulum-swingup", "--simulator", "mujoco", "--dynamics", dynamics, "--planner", "ilqr"]
    assert main(request) == 2
    assert "does not give these readings: momentum; use the mujoco" in one_line(capsys)


@pytest.mark.parametrize("planner", ["ilqr", "nmpc", "cem"])
def test_a_cost_that_is_not_finite_is_no_number(planner, capsys, monkeypatch):
    task = robots.load("pendulum-swingup")
    root = robots.Term("root", lambda y, u, t: (0.0 * u - 1.0) ** 0.5)
    monkeypatch.setattr(robots, "load", lambda name: dataclasses.replace(task, terms=(root,)))
    request = ["run", "pendulum-swingup", "--simulator", "mujoco", "--dynamics", "casadi", "--planner", planner]
    assert main([*request, "--duration", "0.1", "--record", "off", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["cost"] is None


def test_full_disk_at_the_end(capsys, folder):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    assert main([*SHORT, "--record", "off", "--json", "/dev/full"]) == 1
    out, err = capsys.readouterr()
    assert err == "trimtab: can not write '/dev/full': No space left on device\n"
    assert "return" in out  # the result is not lost with the file


def test_closed_pipe():
    program = subprocess.Popen([*TRIMTAB, "list", "tasks"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    program.stdout.close()
    assert program.stderr.read() == b""
    assert program.wait() == 0


def interruptible():
    """Undoes what a shell does for commands in the background: they, and what they start, ignore interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_keep_what_there_is(number, folder):
    command = [*TRIMTAB, "run", "pendulum-swingup", "--record", "kept", "--clock", "wall"]
    program = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible
    )
    # The folder appears just before the run begins; a wall run of 20 s is then sure to be under way a little later.
    while not (folder / "kept").exists():
        assert program.poll() is None
        time.sleep(0.05)
    time.sleep(2.0)
    program.send_signal(number)
    _, err = program.communicate(timeout=60)
    assert program.returncode == 1
    assert "interrupted after" in err.splitlines()[-1]
    assert "Traceback" not in err
    episode = Episode.load(folder / "kept" / "episode.npz")
    assert episode.status == "interrupted"
    assert len(episode) < 1000  # none at all where the machine was too busy to begin


@pytest.mark.parametrize("kind", ["scenarios", "tasks", "planners", "dynamics", "simulators", "learners"])
def test_list(kind, capsys):
    assert main(["list", kind, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert list(listed) == [kind]
    assert main(["list", kind]) == 0
    table = capsys.readouterr().out
    assert all(any(line.startswith(name) for line in table.splitlines()) for name in listed[kind])
    known = {"scenarios": "cartpole-swingup", "tasks": "humanoid-run", "planners": "cem", "dynamics": "mujoco"}
    known |= {"simulators": "dm_control"}
    assert kind == "learners" or known[kind] in listed[kind]


def test_list_all(capsys):
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert list(listed) == ["scenarios", "tasks", "planners", "dynamics", "simulators", "learners"]


def test_help_and_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("trimtab ")
    for arguments in (["--help"], [], ["run", "--help"], ["list", "-h"]):
        assert main(arguments) == 0
        out, err = capsys.readouterr()
        assert "trimtab" in out
        assert err == ""


def test_every_shown_option_is_there(capsys):
    assert main(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("planner", "dynamics", "simulator", "seed", "duration", "clock", "record", "video", "json"):
        assert f"--{option}" in shown


def test_configuration_is_toml_with_every_setting(capsys, folder):
    assert main([*SHORT, "--record", "kept"]) == 0
    told = tomllib.loads((Path("kept") / "scenario.toml").read_text())
    assert told["planner"]["samples"] == 8
    assert told["planner"]["risk"] == "mean"
    assert told["duration"] == pytest.approx(0.1)


def test_a_library_that_does_not_load_fails_the_run():
    # In a program of its own, in which nothing of ours is loaded yet.
    program = "import sys; sys.modules['mujoco'] = None; from trimtab.launch.cli import main; sys.exit(main(['list']))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "mujoco" in ran.stderr
    assert ran.stderr.count("\n") == 1
