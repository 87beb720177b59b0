"""Viewers that freeze, die or are not there cost frames, never control; recordings survive."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from trimtab.launch.cli import main
from trimtab.launch.viewer import process, windows
from trimtab.launch.viewer.observer import LiveView, Recorder, partial
from trimtab.launch.viewer.remote import AHEAD, Remote

STEPS = 2000
PACE = 20e-3
"""Far more than a step of these runs takes [s], far less than anything that waits for a viewer."""


@pytest.fixture
def server():
    """Rerun's server, as a viewer that takes all that comes: (process, url)."""
    port = windows._free()
    running = windows._start(["--serve-grpc", "--bind", "127.0.0.1", "--port", str(port)])
    deadline = time.monotonic() + 60.0
    while not windows._listens(("127.0.0.1", port)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield running, f"rerun+http://127.0.0.1:{port}/proxy"
    running.kill()
    running.wait()


def once_it_is_shown(view, act):
    """A hook for runs: acts before step 40, as soon as `view` has shown something."""

    def hook(k):
        if k == 40:
            deadline = time.monotonic() + 60.0
            while not view.shown:
                assert time.monotonic() < deadline, "the viewer was never reached"
                time.sleep(0.01)
            act()

    return hook


def verified(path):
    rerun = Path(sys.executable).parent / "rerun"
    return subprocess.run([rerun, "rrd", "verify", path], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("fault", ["freeze", "kill", "freeze_process"])
def test_a_viewer_that_fails_costs_frames_only(fault, server, swing, read, tmp_path):
    viewer, url = server
    view, recorder = LiveView(url, "test"), Recorder(tmp_path / "r.rrd", "test")

    def act():
        if fault == "freeze":
            viewer.send_signal(signal.SIGSTOP)
        elif fault == "kill":
            viewer.kill()
        else:
            view._line._process.send_signal(signal.SIGSTOP)

    used = psutil.Process().memory_info().rss
    begun = time.monotonic()
    _, _, episode = swing("humanoid-walk", STEPS, [view, recorder], hook=once_it_is_shown(view, act))
    took = time.monotonic() - begun
    view.close()
    recorder.close()
    assert (episode.status, len(episode)) == ("done", STEPS)
    assert episode.wall_s < STEPS * PACE
    assert took - episode.wall_s < 5.0
    assert psutil.Process().memory_info().rss - used < 300e6
    # What was lost is counted and reported, of the recording nothing is.
    assert 0 < episode.dropped_frames["LiveView"] < STEPS
    assert episode.dropped_frames["LiveView"] == STEPS - view.shown
    assert view.trouble is not None
    assert any("LiveView" in note for note in episode.notes)
    assert episode.dropped_frames["Recorder"] == 0
    recorder.check()
    assert verified(tmp_path / "r.rrd")
    found = read(tmp_path / "r.rrd")
    times, rewards = found.column("/plots/reward", "Scalars:scalars")
    np.testing.assert_allclose(times, episode.time[1:], atol=1e-8)
    np.testing.assert_allclose(np.ravel(rewards), episode.reward)


def test_a_viewer_that_comes_back_shows_everything(server, swing):
    viewer, url = server
    view = LiveView(url, "test")
    wake = threading.Timer(1.0, viewer.send_signal, [signal.SIGCONT])

    def freeze():
        viewer.send_signal(signal.SIGSTOP)
        wake.start()

    _, _, episode = swing("reacher-easy", STEPS, [view], hook=once_it_is_shown(view, freeze))
    view.close()
    wake.join()
    assert (view.trouble, view.shown) == (None, STEPS)
    assert episode.dropped_frames == {"LiveView": 0}


def test_a_dead_port_is_given_up(swing):
    view = LiveView(f"rerun+http://127.0.0.1:{windows._free()}/proxy", "test")
    begun = time.monotonic()
    _, _, episode = swing("reacher-easy", 200, [view])
    view.close()
    assert time.monotonic() - begun - episode.wall_s < 5.0
    assert episode.wall_s < 200 * PACE
    assert episode.dropped_frames == {"LiveView": 200}
    assert "no viewer listens at" in view.trouble


def test_messages_ahead_are_bounded(tmp_path):
    from trimtab.launch.viewer.messages import Steps

    remote = Remote({"path": str(tmp_path / "r.rrd"), "name": "test"})
    remote._process.send_signal(signal.SIGSTOP)
    sent = []

    def flood():
        with contextlib.suppress(OSError):
            for k in range(100):
                remote.send(Steps(np.array([float(k)]), curves={"reward": np.zeros((1, 1))}), 1)
                sent.append(k)

    flooding = threading.Thread(target=flood)
    flooding.start()
    flooding.join(1.0)
    assert len(sent) == AHEAD
    remote.kill()
    flooding.join(10.0)
    assert not flooding.is_alive()
    assert remote.confirmed == 0


def test_a_full_disk_is_found_out(swing, tmp_path, monkeypatch):
    path = tmp_path / "r.rrd"
    partial(path).symlink_to("/dev/full")
    recorder = Recorder(path, "test")
    swing("reacher-easy", 20, [recorder])
    recorder.close()
    with pytest.raises(OSError, match=r"can not write .*r\.rrd"):
        recorder.check()
    assert not path.exists()


RUN = [sys.executable, "-m", "trimtab.launch.cli", "run", "cartpole-balance", "--clock", "wall", "--duration", "600"]


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGKILL])
def test_what_was_recorded_before_the_end_can_be_read(signal_, read, tmp_path):
    command = [*RUN, "--planner.samples", "8", "--planner.iterations", "1", "--record", "r.rrd"]
    running = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background commands, and what they start, ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    written = tmp_path / "r.partial.rrd"
    deadline = time.monotonic() + 120.0
    while not (written.exists() and written.stat().st_size > 300_000):
        assert time.monotonic() < deadline
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.1)
    asked = time.monotonic()
    running.send_signal(signal_)
    running.communicate(timeout=60)
    assert time.monotonic() - asked < 15.0
    kept = tmp_path / ("r.rrd" if signal_ == signal.SIGINT else "r.partial.rrd")
    while signal_ == signal.SIGKILL and drawing(tmp_path):  # it finishes what it was sent
        assert time.monotonic() - asked < 60.0
        time.sleep(0.1)
    assert [p.name for p in tmp_path.iterdir()] == [kept.name]
    assert verified(kept)
    found = read(kept)
    times, _ = found.column("/plots/reward", "Scalars:scalars")
    assert len(times) > 50
    np.testing.assert_allclose(np.diff(times), 0.01, atol=1e-6)


def drawing(folder):
    """Whether a process still draws to a file in `folder`."""
    for other in psutil.process_iter(["cmdline"]):
        if any(process.__name__ in part for part in other.info["cmdline"] or []) and str(folder) in str(other.cwd()):
            return True
    return False


def test_view_without_a_display_says_so_and_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    quick = ["run", "pendulum-swingup", "--duration", "0.1", "--planner.samples", "8", "--record", "off"]
    assert main([*quick, "--view"]) == 0
    assert "not viewing: neither DISPLAY nor WAYLAND_DISPLAY is set; --view web" in capsys.readouterr().out
    assert main([*quick, "--view", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 5
    assert main([*quick, "--view", "native"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "--view native needs a display" in err
    assert main([*quick, "--view", "nativ"]) == 2
    assert "native" in capsys.readouterr().err


def test_record_option(tmp_path, monkeypatch, read):
    monkeypatch.chdir(tmp_path)
    quick = ["--duration", "0.1", "--planner.samples", "8", "--planner.iterations", "1"]
    assert main(["run", "pendulum-swingup", *quick, "--record", "p.rrd"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["p.rrd"]
    assert len(read("p.rrd").column("/plots/reward", "Scalars:scalars")[0]) == 5


def test_replay_finds_recordings(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shown = []
    done = subprocess.Popen([sys.executable, "-c", ""])
    monkeypatch.setattr(windows, "web", lambda *files: shown.append(files) or windows.Window("", "http://x", done))
    quick = ["--duration", "0.1", "--planner.samples", "8", "--planner.iterations", "1"]
    assert main(["run", "pendulum-swingup", *quick, "--record", "kept"]) == 0
    assert main(["view", "kept", "--view", "web"]) == 0
    assert main(["view", "kept/run.rrd", "--view", "web"]) == 0
    os.rename("kept/run.rrd", "kept/run.partial.rrd")
    assert main(["view", "kept", "--view", "web"]) == 0
    assert [str(path) for (path,) in shown] == ["kept/run.rrd", "kept/run.rrd", "kept/run.partial.rrd"]
    capsys.readouterr()
    Path("empty").mkdir()
    Path("trained/checkpoints/best").mkdir(parents=True)  # by `trimtab train`, of which nothing was recorded
    Path("trained/run.json").write_text("{}")
    Path("not.rrd").write_text("nothing of the kind")
    for wrong, why in (
        (["view", "empty"], "holds no recording"),
        (["view", "trained"], "trimtab run trained/scenario.toml --controller trained --view"),
        (["view", "gone.rrd"], "there is no 'gone.rrd'"),
        (["view", "not.rrd"], "no recording that rerun can read"),
        (["view"], "takes a recording"),
        (["view", "kept", "--view", "off"], "web"),
    ):
        assert main([*wrong, *([] if "--view" in wrong else ["--view", "web"])]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert why in err
