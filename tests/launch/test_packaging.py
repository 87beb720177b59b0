"""The package as a whole: imports run one way, importing is cheap, a wheel holds all that runs and nothing else."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("launch", "learners", "controllers", "sim", "robots")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_imports_run_one_way():
    graph = grimp.build_graph("trimtab", cache_dir=None)
    assert len(graph.modules) > 30
    broken = graph.find_illegal_dependencies_for_layers(layers=[f"trimtab.{room}" for room in ROOMS])
    assert not broken, [f"{route.importer} -> {route.imported}" for route in broken]


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import trimtab", "torch rerun casadi mujoco numpy gymnasium dm_control"),
        ("import trimtab.launch.cli", "torch rerun casadi mujoco numpy gymnasium dm_control"),
        ("from trimtab import robots; robots.load('cartpole-swingup')", "torch rerun casadi gymnasium"),
        ("from trimtab.launch.cli import main; main(['list'])", "torch rerun casadi gymnasium"),
        (
            "import trimtab.launch.train, trimtab.launch.curve, trimtab.launch.training_display",
            "torch tensorboard matplotlib rerun",
        ),
        ("import trimtab.controllers.loop, trimtab.controllers.cem, trimtab.sim", "torch rerun casadi gymnasium"),
    ],
)
def test_importing_brings_only_what_is_used(code, absent):
    told = f"{code}\nimport sys\nprint('heavy:', *(m for m in '{absent}'.split() if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy:"


def test_every_entry_point_of_ours_loads():
    for group, known in PYPROJECT["project"]["entry-points"].items():
        ours = {e.name: e for e in entry_points(group=group) if e.value.startswith("trimtab.")}
        assert set(ours) == set(known), "installed before pyproject.toml changed: run make test"
        for entry in ours.values():
            assert entry.load()


def test_constraints_name_every_dependency_exactly():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and "+" not in line for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    project = PYPROJECT["project"]
    for wanted in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        name = wanted.split(">")[0].split("<")[0].split("=")[0].strip().lower().replace("_", "-")
        assert name in pinned
    assert "torch==2.13.0" in lines


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Our wheel, built from a copy: a build leaves its own files beside the source."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    names = tracked.stdout.splitlines()
    if tracked.returncode:  # no clone, but an unpacked archive
        names = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file() and ".venv" not in p.parts]
    for name in names:
        if (ROOT / name).is_file():
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "source"]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name.removeprefix("trimtab/") for name in names if name.startswith("trimtab/")}
    expected = {p.relative_to(ROOT).as_posix() for room in ROOMS for p in (ROOT / room).rglob("*.py")} | {"__init__.py"}
    expected |= {f"launch/scenarios/{p.name}" for p in (ROOT / "launch" / "scenarios").glob("*.toml")}
    assert inside == expected
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"trimtab"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_runs_from_elsewhere(wheel, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True)
    # PYTHONPATH comes before the editable install's finder, so the wheel's files are the ones that run.
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    where = subprocess.run(
        [sys.executable, "-c", "import trimtab.launch.cli as c; print(c.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.strip() == str(site / "trimtab" / "launch" / "cli.py")
    command = [site / "bin" / "trimtab", "run", "pendulum-swingup", "--duration", "0.1", "--json", "-"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["steps"] == 5
    assert (tmp_path / result["recording"] / "episode.npz").is_file()


def test_the_manual_lists_every_scenario():
    manual = (ROOT / "docs" / "scenarios.md").read_text()
    for path in (ROOT / "launch" / "scenarios").glob("*.toml"):
        assert f"`{path.stem}`" in manual
