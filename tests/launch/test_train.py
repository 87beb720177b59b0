"""`trimtab train` and `trimtab eval` as a user meets them, with a learner that takes a second."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import toy_learner
from trimtab.launch import curve, outputs
from trimtab.launch.cli import main
from trimtab.learners import logs
from trimtab.learners.run_folder import RunFolder
from trimtab.robots import plugins

PROGRAM = """
import sys
from importlib.metadata import EntryPoint
from trimtab.robots import plugins
plugins._table("learners")["toy"] = EntryPoint("toy", "toy_learner:Toy", "trimtab.learners")
from trimtab.launch.cli import main
sys.exit(main(sys.argv[1:]))
"""
SCENARIO = """
task = "cartpole-balance"
duration = 0.2
[learner.toy]
candidates = 4
spread = 20.0
"""
TRAIN = ["train", "balance.toml", "--learner", "toy"]
GOING_ON = "train kept/scenario.toml --learner toy --resume --out kept"
PIECE = 80
KEYS = ["scenario", "task", "learner", "seed", "steps", "pieces", "return_last", "return_best", "folder", "status"]
KEYS += ["wall_s", "metrics"]
FOLDER = ["checkpoints", "curve.png", "episode.npz", "metrics.csv", "run.json", "scenario.toml"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(plugins._table("learners"), "toy", EntryPoint("toy", "toy_learner:Toy", "trimtab.learners"))
    (tmp_path / "balance.toml").write_text(SCENARIO)
    return tmp_path


def one_line(capsys) -> str:
    """What stands on stderr: exactly one line, no traceback; and stdout is empty."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def result_of(capsys, *arguments):
    assert main([*arguments, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_leaves_its_folder(capsys, folder):
    result = result_of(capsys, *TRAIN, "--steps", "200", "--seed", "4", "--learner.candidates", "5")
    assert list(result) == KEYS
    kept = folder / result["folder"]
    assert kept.parent == folder / "runs"
    assert kept.name.endswith("-balance-toy")
    there = sorted(path.name for path in kept.iterdir())
    assert [name for name in there if "tfevents" not in name] == FOLDER
    assert len(there) == len(FOLDER) + 1
    rows = logs.read(kept / "metrics.csv")
    assert (result["steps"], result["pieces"], result["status"]) == (200, 2, "done")
    assert result["return_last"] == rows[-1]["return"] == result["metrics"]["return"]
    assert result["return_best"] == max(row["return"] for row in rows)
    assert result["metrics"]["nothing"] is None
    about = RunFolder(kept).about
    assert (about.scenario, about.task, about.learner, about.seed) == ("balance", "cartpole-balance", "toy", 4)
    assert (about.period, about.steps) == (0.01, 200)
    told = tomllib.loads((kept / "scenario.toml").read_text())
    assert told["learner"]["toy"] == {"candidates": 5, "spread": 20.0, "fails_at": 0, "network": {"units": 4}}
    assert (kept / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_shown(capsys):
    assert main([*TRAIN, "--steps", "160", "--out", "kept", "--json", "r.json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    begun, columns, *pieces, done = out.splitlines()
    assert begun == "toy on balance: training in kept"
    assert columns.split() == ["piece", "steps", "time", "return", "best", "nothing", "spread"]
    assert [line.split()[:2] for line in pieces] == [["1", "80"], ["2", "160"]]
    assert "trimtab eval kept" in done
    assert json.loads(Path("r.json").read_text())["folder"] == "kept"


def test_what_a_run_needs_is_looked_for_where_it_begins_only(capsys, folder, monkeypatch):
    assert main([*TRAIN, "--steps", "80", "--out", "one", "--json", "r.json"]) == 0

    def lacking(self):
        raise ValueError("no data to begin with")

    monkeypatch.setattr(toy_learner.ToyLearner, "check", lacking)
    capsys.readouterr()
    assert main([*TRAIN, "--steps", "80", "--out", "two", "--json", "-"]) == 2
    assert capsys.readouterr().err.endswith("trimtab: no data to begin with\n")
    assert not (folder / "two").exists()
    assert main([*TRAIN, "--steps", "160", "--out", "one", "--resume", "--json", "r.json"]) == 0


def test_the_kept_configuration_repeats_the_run(capsys):
    one = result_of(capsys, *TRAIN, "--steps", "160", "--seed", "7", "--out", "one", "--learner.spread", "9")
    two = result_of(
        capsys, "train", "one/scenario.toml", "--learner", "toy", "--steps", "160", "--seed", "7", "--out", "two"
    )
    assert one["return_last"] == two["return_last"]
    other = result_of(capsys, *TRAIN, "--steps", "160", "--seed", "8", "--out", "other", "--learner.spread", "9")
    assert one["return_last"] != other["return_last"]


def test_resume(capsys):
    once = result_of(capsys, *TRAIN, "--steps", "320", "--seed", "5", "--out", "once")
    result_of(capsys, *TRAIN, "--steps", "160", "--seed", "5", "--out", "twice")
    twice = result_of(capsys, *TRAIN, "--steps", "320", "--out", "twice", "--resume")
    for each in (once, twice):
        del each["folder"], each["wall_s"], each["metrics"]["wall_s"]
    assert once == twice
    assert RunFolder("twice").about.steps == 320
    again = result_of(capsys, "train", "twice/scenario.toml", "--learner", "toy", "--out", "twice", "--resume")
    assert (again["status"], again["steps"], again["return_last"]) == ("done", 320, once["return_last"])


def test_resume_with_other_versions(capsys):
    result_of(capsys, *TRAIN, "--steps", "80", "--out", "kept")
    path = Path("kept") / "run.json"
    about = json.loads(path.read_text())
    about["versions"]["numpy"] = "1.0"
    path.write_text(json.dumps(about))
    assert main([*TRAIN, "--steps", "160", "--out", "kept", "--resume"]) == 0
    assert f"begun with numpy 1.0, now {np.__version__}: numbers may differ" in capsys.readouterr().out
    assert RunFolder("kept").about.versions["numpy"] == "1.0"


def test_a_setting_that_there_was_not_yet_has_its_default(capsys):
    result_of(capsys, *TRAIN, "--steps", "80", "--out", "kept")
    path = Path("kept") / "scenario.toml"
    lines = path.read_text().splitlines()
    assert "fails_at = 0" in lines
    path.write_text("\n".join(line for line in lines if line != "fails_at = 0") + "\n")
    assert main([*TRAIN, "--steps", "160", "--out", "kept", "--resume"]) == 0
    assert main([*TRAIN, "--steps", "240", "--out", "kept", "--resume", "--learner.fails_at", "9"]) == 2
    assert "these differ: learner.toy.fails_at (was 0, now 9)" in capsys.readouterr().err


def test_wrong_resumes(capsys, folder):
    result_of(capsys, *TRAIN, "--steps", "80", "--out", "kept")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("mine")
    cases = [
        (["--out", "kept"], "--out 'kept' holds a training run already; --resume goes on with it"),
        (["--out", "full"], "holds something already, but no training run"),
        (["--out", "balance.toml"], "holds something already, but no training run"),
        (["--out", ""], "--out takes a folder"),
        (["--resume"], "--resume takes --out DIR"),
        (["--resume", "--out", "none"], "no folder 'none'"),
        (["--resume", "--out", "full"], "holds no training run: run.json is missing"),
        (["--resume", "--out", "kept", "--seed", "1"], "these differ: seed (was 0, now 1)"),
        (
            ["--resume", "--out", "kept", "--learner.spread", "3", "--planner.samples", "9", "--simulator", "casadi"],
            "these differ: learner.toy.spread (was 20.0, now 3.0), planner.samples (was 64, now 9), "
            f"simulator (was 'mujoco', now 'casadi'); trimtab {GOING_ON} takes them",
        ),
    ]
    for arguments, said in cases:
        assert main([*TRAIN, *arguments]) == 2
        assert said in one_line(capsys)
    text = (folder / "kept" / "run.json").read_text()
    for broken, said in ((text[:40], "not the whole of it"), (text.replace('"format": 1', '"format": 9'), "format 9")):
        (folder / "kept" / "run.json").write_text(broken)
        assert main([*TRAIN, "--resume", "--out", "kept"]) == 2
        assert said in one_line(capsys)
        assert main(["eval", "kept"]) == 2
        assert said in one_line(capsys)
    (folder / "kept" / "run.json").write_text(text)
    (folder / "kept" / "scenario.toml").write_text("task =")
    assert main([*TRAIN, "--resume", "--out", "kept"]) == 2
    assert "kept/scenario.toml is no TOML" in one_line(capsys)
    changed = {path for path, content in before.items() if path.read_bytes() != content}
    assert changed == {folder / "kept" / "scenario.toml"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train"], "trimtab train takes a SCENARIO: one of acrobot-swingup,"),
        (["train", "balance.toml"], "trimtab train takes --learner NAME: one of"),
        (["train", "balance.toml", "--learner", "tpy"], "unknown learner 'tpy'; did you mean 'toy'?"),
        (["train", "cartpole-blance", "--learner", "toy"], "did you mean 'cartpole-balance'"),
        ([*TRAIN, "--learner.candidtes", "3"], "unknown setting '--learner.candidtes'; did you mean 'candidates'?"),
        ([*TRAIN, "--learner.candidates", "x"], "--learner.candidates takes a whole number, not 'x'"),
        ([*TRAIN, "--learner.candidates", "1"], "learner toy: candidates is 1; it must be at least 2"),
        ([*TRAIN, "--learner.candidates"], "--learner.candidates takes a value"),
        ([*TRAIN, "--learner.network.unit", "1"], "did you mean 'units'"),
        ([*TRAIN, "--learner.network", "1"], "takes settings of its own: units"),
        ([*TRAIN, "--planner.sampels", "3"], "did you mean 'samples'"),
        ([*TRAIN, "--planner", "cme"], "unknown planner 'cme'"),
        ([*TRAIN, "--simulator", "mujco"], "did you mean 'mujoco'"),
        ([*TRAIN, "--steps", "0"], "--steps is 0; it must be at least 1"),
        ([*TRAIN, "--steps", "many"], "--steps takes a whole number, not 'many'"),
        ([*TRAIN, "--seed=-1"], "below 2^32"),
        ([*TRAIN, "--step", "3"], "did you mean '--steps'"),
        ([*TRAIN, "--json", "."], "folder"),
        ([*TRAIN, "--out", "/proc/none"], "can not write in folder '/proc/none'"),
        (["eval"], "trimtab eval takes the folder of a trained run"),
        (["eval", "none"], "no folder 'none'"),
        (["eval", "."], "holds no training run"),
        (["eval", ".", "--episodes", "0"], "--episodes is 0"),
        (["eval", ".", "--checkpoint", "lst"], "did you mean 'last'"),
    ],
)
def test_wrong_requests(arguments, said, capsys, folder):
    assert main(arguments) == 2
    assert said in one_line(capsys)
    assert [path.name for path in folder.iterdir()] == ["balance.toml"]


@pytest.mark.parametrize("package", ["torch", "tensorboard", "matplotlib"])
def test_without_the_extra(package, capsys, monkeypatch, folder):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(TRAIN) == 2
    assert one_line(capsys) == f"trimtab: learners need {package}: pip install 'trimtab[learn]'\n"
    assert [path.name for path in folder.iterdir()] == ["balance.toml"]


def test_a_learner_that_refuses_the_task_leaves_nothing(capsys, monkeypatch, folder):
    def start(self, environment, seed):
        raise ValueError(f"{environment.task.name} can not be learned")

    monkeypatch.setattr(toy_learner.Toy, "start", start)
    assert main(TRAIN) == 2
    assert one_line(capsys) == "trimtab: cartpole-balance can not be learned\n"
    assert [path.name for path in folder.iterdir()] == ["balance.toml"]


def test_decisions_longer_than_an_episode(capsys, folder):
    (folder / "long.toml").write_text(SCENARIO + 'period = "300ms"\n')
    assert main(["train", "long.toml", "--learner", "toy"]) == 2
    assert "period is 0.3 s: no decision ends within an episode, which lasts 0.2 s" in one_line(capsys)
    assert not (folder / "runs").exists()


def test_training_that_can_not_go_on(capsys, folder):
    assert main([*TRAIN, "--learner.fails_at", "3", "--out", "kept", "--json", "r.json"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "training failed: the robot ran away (checkpoint at " in err
    found = re.search(r"of 20000 steps; trimtab (train .*) goes on\)", err)
    assert found
    assert main([*found[1].split(), "--steps", "1"]) == 0  # all as it was begun, the learner's setting too
    result = json.loads((folder / "r.json").read_text())
    assert result["status"] == "failed"
    assert result["steps"] == RunFolder("kept").saved().steps > 0
    assert (folder / "kept" / "curve.png").exists()


def test_a_bug_in_a_learner(capsys, monkeypatch):
    def control(self, state):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(toy_learner.ToyLearner, "advance", control)
    assert main([*TRAIN, "--out", "kept"]) == 1
    err = capsys.readouterr().err
    reason = "training failed: ZeroDivisionError: a bug"
    assert err == f"trimtab: {reason} (before the first checkpoint; trimtab {GOING_ON} goes on)\n"
    monkeypatch.setenv("TRIMTAB_TRACEBACK", "1")
    assert main([*TRAIN, "--out", "other"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_full_disk_at_the_end(capsys, monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    assert main([*TRAIN, "--steps", "80", "--out", "kept", "--json", "/dev/full"]) == 1
    assert capsys.readouterr().err == "trimtab: can not write '/dev/full': No space left on device\n"
    assert RunFolder("kept").saved().steps == 80


def test_evaluation(capsys, folder):
    trained = result_of(capsys, *TRAIN, "--steps", "400", "--out", "kept")
    found = result_of(capsys, "eval", "kept", "--episodes", "4")
    assert found["steps"] == trained["steps"] == 400
    assert found["episodes"] == len(found["returns"]) == 4
    assert found["lengths"] == [20] * 4
    assert found["mean"] == pytest.approx(np.mean(found["returns"]))
    assert found["iqm"] == pytest.approx(np.sort(found["returns"])[1:3].mean())
    assert found["iqm_low"] <= found["iqm"] <= found["iqm_high"]
    assert 0.0 <= found["success"] <= 1.0
    assert json.loads((folder / "kept" / "evaluation.json").read_text()) == found
    again = result_of(capsys, "eval", "kept", "--episodes", "2", "--checkpoint", "best")
    assert again["steps"] == RunFolder("kept").saved("best").steps
    assert again["seeds"] == found["seeds"][:2]
    assert main(["eval", "kept", "--episodes", "1"]) == 0
    out, err = capsys.readouterr()
    assert "toy on balance, after 400 steps" in out
    assert "interquartile mean" in out
    assert err == ""


def test_evaluation_before_the_first_checkpoint(capsys):
    assert main([*TRAIN, "--learner.fails_at", "1", "--out", "kept"]) == 1
    capsys.readouterr()
    assert main(["eval", "kept"]) == 2
    assert "'kept' has no checkpoint yet" in one_line(capsys)


def test_evaluation_of_a_controller_that_fails(capsys, monkeypatch):
    result_of(capsys, *TRAIN, "--steps", "80", "--out", "kept")

    def control(self, state):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(toy_learner.Linear, "control", control)
    assert main(["eval", "kept", "--episodes", "2", "--json", "-"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["failed"] == 2
    assert err.splitlines()[-1].startswith("trimtab: 2 of 2 episodes failed: ")


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(toy_learner.__file__).parent), "OMP_NUM_THREADS": "1"}


def interruptible():
    """Undoes what a shell does for commands in the background: they, and what they start, ignore interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_that_can_go_on(number, capsys, folder):
    command = [sys.executable, "-c", PROGRAM, *TRAIN, "--steps", "1000000", "--out", "kept", "--json", "-"]
    program = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=interruptible
    )
    while not (folder / "kept" / "checkpoints" / "previous").exists():
        assert program.poll() is None
        time.sleep(0.05)
    program.send_signal(number)
    out, err = program.communicate(timeout=60)
    assert program.returncode == 1
    assert "interrupted (checkpoint at" in err.splitlines()[-1]
    assert "Traceback" not in err
    result = json.loads(out)
    assert result["status"] == "interrupted"
    steps = RunFolder("kept").saved().steps
    assert result["steps"] == steps > 0
    gone_on = result_of(capsys, *TRAIN, "--steps", str(steps + PIECE), "--out", "kept", "--resume")
    once = result_of(capsys, *TRAIN, "--steps", str(steps + PIECE), "--out", "once")
    assert gone_on["return_last"] == once["return_last"]
    assert gone_on["return_best"] == once["return_best"]


def test_on_a_terminal_there_is_a_bar(folder):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", PROGRAM, *TRAIN, "--steps", "400", "--out", "kept"]
    settings = {**environment(), "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    program = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=settings)
    os.close(theirs)
    shown = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # Linux: whoever had the terminal is gone
            break
        if not more:
            break
        shown += more
    os.close(ours)
    assert program.wait() == 0
    assert program.stderr.read() == b""
    program.stderr.close()
    text = shown.decode()
    assert "400/400" in text
    assert "training in kept" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is shown again


def test_the_curve(tmp_path):
    rows = [
        {
            "piece": k,
            "steps": 100.0 * k,
            "wall_s": 50.0 * k**1.5,
            "return": k,
            "model/holdout": -k,
            "model/coverage90": 0.9,
        }
        for k in range(1, 41)
    ]
    shape = curve.figure(rows, "a title")
    main_panel, *panels = shape.axes
    np.testing.assert_array_equal(main_panel.lines[0].get_xydata(), [[row["steps"], row["return"]] for row in rows])
    np.testing.assert_allclose(main_panel.lines[1].get_ydata()[3:], np.arange(4, 41) - 1.5)  # a mean of 4
    assert [panel.get_title(loc="left") for panel in panels] == ["holdout", "coverage90"]
    assert main_panel.child_axes[0].get_xlabel() == "minutes"
    forward, backward = main_panel.child_axes[0]._functions
    assert forward(rows[20]["steps"]) == pytest.approx(rows[20]["wall_s"] / 60.0)
    assert backward(rows[20]["wall_s"] / 60.0) == pytest.approx(rows[20]["steps"])
    single = curve.figure(rows[:1], "a title")
    assert len(single.axes[0].lines) == 1
    np.testing.assert_allclose(curve.running_mean([1.0, 2.0, 6.0, 1.0], 3), [1.0, 1.5, 3.0, 3.0])


def test_help(capsys):
    for command, options in (
        ("train", ("learner", "steps", "out", "resume", "seed", "planner", "simulator", "json")),
        ("eval", ("episodes", "checkpoint", "json")),
    ):
        assert main([command, "--help"]) == 0
        out, err = capsys.readouterr()
        assert all(f"--{option}" in out for option in options)
        assert err == ""
    assert main(["list", "learners"]) == 0
    assert "toy_learner:Toy" in capsys.readouterr().out


def test_folders_of_runs_have_names_that_every_system_allows():
    assert outputs.own_folder("dm_control:dog-run", "toy").name.endswith("-dm_control_dog-run-toy")
