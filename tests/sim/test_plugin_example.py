"""The example of a third-party package: installed, found, conforming, and run by the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CONFORMANCE = """
from trimtab.sim.conformance import DynamicsConformance, SimulatorConformance

class TestPuck(SimulatorConformance):
    simulator, task = "puck", "puck-reach"

class TestPuckDynamics(DynamicsConformance):
    simulator, dynamics, task = "puck", "puck", "puck-reach"
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Environment variables of a process that finds the installed example."""
    folder = tmp_path_factory.mktemp("plugin")
    source = folder / "source"
    source.mkdir()  # a build leaves its own files beside the source
    for name in ("pyproject.toml", "README.md", "trimtab_puck.py"):
        (source / name).write_bytes((ROOT / "examples" / "plugin" / name).read_bytes())
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", target, source], check=True)
    return {**os.environ, "PYTHONPATH": str(target)}


def test_is_short():
    lines = [f.read_text().splitlines() for f in (ROOT / "examples" / "plugin").iterdir() if f.is_file()]
    assert sum(bool(line.strip()) for text in lines for line in text) < 100


def test_conforms(installed, tmp_path):
    test = tmp_path / "test_puck.py"
    test.write_text(CONFORMANCE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, test]
    done = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_runs_by_the_command_line(installed, tmp_path):
    names = ["--simulator", "puck", "--dynamics", "puck", "--planner", "cem"]
    done = subprocess.run(
        [Path(sys.executable).parent / "trimtab", "run", "puck-reach", *names, "--record", "off", "--json", "-"],
        cwd=tmp_path,
        env=installed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["task"], result["simulator"], result["dynamics"]) == ("puck-reach", "puck", "puck")
    assert result["steps"] == 100
    assert result["return"] > 60  # from a metre away; 100 is the most
    assert result["success"]


def test_is_listed(installed, tmp_path):
    command = [Path(sys.executable).parent / "trimtab", "list", "simulators", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True, check=True)
    assert "puck" in done.stdout
