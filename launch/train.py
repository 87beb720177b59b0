"""`trimtab train` and `trimtab eval`: learning from episodes, and how good what was learned is."""

import contextlib
import json
import math
import os
import shlex
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .. import __version__
from . import arguments as asked
from . import terminal
from .arguments import Wrong
from .terminal import DONE, FAILED

STEPS = 20_000
"""Control steps of a training run that does not say how many."""


@dataclass
class Train:
    """Train a learner on a scenario, and keep everything in runs/DATE-TIME-SCENARIO-LEARNER/.

    Any setting of the learner or of its planner may follow as --learner.FIELD VALUE and --planner.FIELD VALUE. Whatever
    ends a run, --resume goes on with it as if nothing had happened.
    """

    scenario: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SCENARIO")]
    """A shipped scenario, a .toml file, or a task; see trimtab list."""
    learner: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """What learns; see trimtab list learners."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Control steps of the plant, those before a --resume counted; by default 20000, or as many as were asked for."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """The run's folder, instead of runs/..."""
    resume: bool = False
    """Go on with the run in --out DIR."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """All randomness follows from it; by default 0, or that of the run that goes on."""
    planner: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Plan by this planner, where the learner plans."""
    simulator: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The plant."""
    json: Annotated[str | None, tyro.conf.arg(metavar="F|-")] = None
    """Write the result as JSON; -: to stdout, and nothing else there."""


@dataclass
class Eval:
    """Evaluate a trained run: episodes without exploration, on starts that training has not seen."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The folder of the run, or of one of its checkpoints."""
    episodes: Annotated[int, tyro.conf.arg(metavar="N")] = 10
    """How many; they begin at the same starts each time."""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="last|best")] = None
    """What to evaluate: where training is (the default), or was when it had its best return."""
    json: Annotated[str | None, tyro.conf.arg(metavar="F|-")] = None
    """Write the result as JSON; -: to stdout, and nothing else there."""


def train(arguments: list[str]) -> int:
    """Runs the command `trimtab train` and returns the exit code."""
    arguments, planner = asked.settings(arguments, "planner")
    arguments, learner = asked.settings(arguments, "learner")
    options = asked.parse(Train, arguments, lambda: f"trimtab train takes {asked.a_scenario()}")
    if options is None:
        return DONE
    with terminal.output(options.json) as out, terminal.ended_by_signals():
        result, code = _train(options, planner, learner, terminal.console(out))
    if options.json == "-" and result is not None:
        print(json.dumps(result))
    return code


def evaluate(arguments: list[str]) -> int:
    """Runs the command `trimtab eval` and returns the exit code."""
    options = asked.parse(Eval, arguments, lambda: "trimtab eval takes the folder of a trained run")
    if options is None:
        return DONE
    with terminal.output(options.json) as out, terminal.ended_by_signals():
        result, code = _evaluate(options, terminal.console(out))
    if options.json == "-":
        print(json.dumps(result))
    return code


def _train(
    options: Train, planner: Mapping[str, str], settings: Mapping[str, str], console: Any
) -> tuple[dict[str, Any] | None, int]:
    from ..learners.interface import TrainingError
    from ..learners.run_folder import About, RunFolder
    from . import outputs, scenario, trained

    trained.check_learner(options.learner)
    if options.seed is not None:
        asked.check_seed(options.seed)
    if options.steps is not None and options.steps < 1:
        raise Wrong(f"--steps is {options.steps}; it must be at least 1")
    setup = scenario.resolve(
        scenario.find(options.scenario),
        planner=options.planner,
        simulator=options.simulator,
        overrides=planner,
        learner=options.learner,
        learner_overrides=settings,
    )
    if setup.period > setup.duration:
        raise Wrong(
            f"period is {setup.period:g} s: no decision ends within an episode, which lasts {setup.duration:g} s"
        )
    folder = _held(options)
    if folder is not None:
        _check_same(folder, setup, options.seed)
    seed = options.seed if options.seed is not None else folder.about.seed if folder else 0
    steps = options.steps if options.steps is not None else folder.about.steps if folder else STEPS
    try:
        with terminal.getting_ready(console, setup.scenario):
            learner = setup.learner.start(trained.environment(setup), seed)
        with contextlib.closing(learner):
            _probe_json(options.json)
            if folder is not None:
                _tell_versions(folder, console)
            else:
                learner.check()
                name = str(setup.learner_name)
                about = About(setup.scenario, setup.task.name, name, seed, setup.period, steps)
                if options.out is None:
                    outputs.probe(Path("runs"))
                    path = outputs.claimed(outputs.own_folder(setup.scenario, name))
                else:
                    path = Path(options.out)
                    outputs.probe(path)
                head = f"# trimtab {__version__}: trimtab train scenario.toml --learner {name} --seed {seed}"
                folder = RunFolder.create(path, about, f"{head}\n\n{setup.toml()}")
            return _trained(learner, folder, steps, console, options.json)
    except TrainingError as error:
        return None, terminal.say(str(error), FAILED)


def _trained(learner: Any, folder: Any, steps: int, console: Any, file: str | None) -> tuple[dict[str, Any], int]:
    """Trains until there are `steps`, and says what came of it."""
    from ..learners import training
    from . import curve, outputs
    from .training_display import TrainingDisplay

    about = folder.about
    title = f"{about.learner} on {about.scenario}"
    console.print(f"{title}: training in {folder.path}", soft_wrap=True)
    observers: list[training.Observer] = [TrainingDisplay(console, title), curve.CurveFile(folder, title)]
    outcome = training.train(learner, folder, steps=steps, observers=observers)
    saved, row = outcome.saved, outcome.row
    result = {
        "scenario": about.scenario,
        "task": about.task,
        "learner": about.learner,
        "seed": about.seed,
        "steps": saved.steps,
        "pieces": saved.pieces,
        "return_last": _finite(row.get("return")),
        "return_best": saved.best,
        "folder": str(folder.path),
        "status": outcome.status,
        "wall_s": saved.wall_s,
        "metrics": {name: _finite(value) for name, value in row.items()},
    }
    said = []
    if outcome.status != "done":
        reason = outcome.reason if outcome.status == "interrupted" else f"training failed: {outcome.reason}"
        kept = f"checkpoint at {saved.steps} of {steps} steps" if saved.pieces else "before the first checkpoint"
        said.append(f"{reason} ({kept}; {_going_on(folder)} goes on)")
    writes: list[Callable[[], object]] = [lambda: curve.draw(folder, title)]
    if file not in (None, "-"):
        writes.append(lambda: outputs.write_text(Path(str(file)), json.dumps(result, indent=2) + "\n"))
    for write in writes:  # each, whatever became of the other
        try:
            with outputs.saving():
                write()
        except outputs.OutputError as error:
            said.append(str(error))
    if outcome.status == "done":
        console.print(f"{saved.steps} steps are done; trimtab eval {folder.path} says how good it is", soft_wrap=True)
    if outcome.trace and os.environ.get("TRIMTAB_TRACEBACK"):
        print(outcome.trace, file=sys.stderr)
    return result, terminal.say("; ".join(said), FAILED) if said else DONE


def _evaluate(options: Eval, console: Any) -> tuple[dict[str, Any], int]:
    from ..learners import evaluation
    from . import outputs, trained
    from .training_display import evaluation_table, progress_of

    if options.checkpoint not in (None, "last", "best"):
        raise asked.unknown("checkpoint", options.checkpoint, ("last", "best"))
    if options.episodes < 1:
        raise Wrong(f"--episodes is {options.episodes}; it must be at least 1")
    run = trained.Run(options.folder)
    folder, about = run.folder, run.folder.about
    if run.name and options.checkpoint not in (None, run.name):
        raise Wrong(f"{options.folder!r} is the checkpoint {run.name!r}; --checkpoint {options.checkpoint} is another")
    checkpoint = run.name or options.checkpoint or "last"
    with terminal.getting_ready(console, about.scenario):
        learner, saved, note = run.restore(checkpoint)
    with contextlib.closing(learner):
        if note:
            console.print(note, soft_wrap=True)
        _probe_json(options.json)
        outputs.probe(folder.path)
        with progress_of(console, "evaluating", options.episodes) as observe:
            found = evaluation.evaluate(
                learner.controller(), run.environment, episodes=options.episodes, seed=about.seed, observe=observe
            )
    summary = evaluation.summary(found.returns)
    result = {
        "scenario": about.scenario,
        "task": about.task,
        "learner": about.learner,
        "seed": about.seed,
        "checkpoint": checkpoint,
        "steps": saved.steps,
        "episodes": len(found.returns),
        "returns": [_finite(value) for value in found.returns.tolist()],
        "mean": _finite(summary.mean),
        "std": _finite(summary.std),
        "iqm": _finite(summary.iqm),
        "iqm_low": _finite(summary.low),
        "iqm_high": _finite(summary.high),
        "success": float(found.successes.mean()),
        "lengths": found.lengths.tolist(),
        "seeds": found.seeds.tolist(),
        "failed": len(found.failures),
        "folder": str(folder.path),
        "wall_s": found.wall_s,
    }
    console.print(evaluation_table(result))
    said = []
    if found.failures:
        said.append(f"{len(found.failures)} of {options.episodes} episodes failed: {found.failures[0]}")
    text = json.dumps(result, indent=2) + "\n"
    try:
        with outputs.saving():
            outputs.write_text(folder.path / "evaluation.json", text)
            if options.json not in (None, "-"):
                outputs.write_text(Path(str(options.json)), text)
    except outputs.OutputError as error:
        said.append(str(error))
    return result, terminal.say("; ".join(said), FAILED) if said else DONE


def _held(options: Train) -> Any:
    """The folder of the run that is to go on; None for a new one."""
    from ..learners.run_folder import RunFolder

    if options.out == "":
        raise Wrong("--out takes a folder, not ''")
    if options.resume:
        if options.out is None:
            raise Wrong("--resume takes --out DIR, the folder of the run that is to go on")
        return RunFolder(options.out)
    path = None if options.out is None else Path(options.out)
    if path is None or not path.exists():
        return None
    if (path / "run.json").exists():
        raise Wrong(f"--out {options.out!r} holds a training run already; --resume goes on with it")
    if not path.is_dir() or any(path.iterdir()):
        raise Wrong(f"--out {options.out!r} holds something already, but no training run; name a new folder")
    return None


def _check_same(folder: Any, setup: Any, seed: int | None) -> None:
    """Raises `Wrong` where the run in `folder` was begun with other settings than `setup`; it names them."""
    from . import scenario

    # Resolved anew: settings that there were not yet when it was begun have their defaults.
    begun = scenario.resolve(scenario.find(str(folder.configuration)), learner=folder.about.learner)
    saved = _flat(tomllib.loads(begun.toml())) | {"seed": folder.about.seed}
    now = _flat(tomllib.loads(setup.toml())) | {"seed": folder.about.seed if seed is None else seed}
    names = sorted(name for name in saved.keys() | now.keys() if not name.endswith(".device"))
    other = [name for name in names if saved.get(name) != now.get(name)]
    if other:
        told = ", ".join(f"{name} (was {saved.get(name)!r}, now {now.get(name)!r})" for name in other)
        raise Wrong(
            f"a run goes on with the settings that it was begun with, which are in {folder.configuration}; "
            f"these differ: {told}; {_going_on(folder)} takes them from there"
        )


def _going_on(folder: Any) -> str:
    """The command that goes on with the run in `folder`, whatever settings it was begun with."""
    parts = [str(folder.configuration), "--learner", folder.about.learner, "--resume", "--out", str(folder.path)]
    return f"trimtab train {shlex.join(parts)}"


def _tell_versions(folder: Any, console: Any) -> None:
    """Says which packages are not those that the run in `folder` was begun with."""
    from ..learners.run_folder import About

    begun = folder.about
    now = About(begun.scenario, begun.task, begun.learner, begun.seed, begun.period, begun.steps)
    then, here = ({"trimtab": about.trimtab, **about.versions} for about in (begun, now))
    if other := [f"{name} {was}, now {here.get(name)}" for name, was in then.items() if here.get(name) != was]:
        console.print(f"begun with {'; '.join(other)}: numbers may differ from a run not stopped", soft_wrap=True)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested tables by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _probe_json(file: str | None) -> None:
    from . import outputs

    if file not in (None, "-"):
        outputs.probe_file(Path(str(file)))


def _finite(value: float | None) -> float | None:
    # JSON has no NaN and no infinity.
    return value if value is not None and math.isfinite(value) else None
