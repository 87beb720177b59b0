"""The replay store as a Minari data set, and Minari's data sets as a replay store (Younis et al., Minari, 2024).

Minari is Gymnasium's format for recorded episodes: other libraries learn from what our robots went through, and ours
from what others recorded. It is an extra: `pip install 'trimtab[data]'`. Data sets lie where Minari keeps them, in the
folder that the environment variable MINARI_DATASETS_PATH names, by default `~/.minari/datasets`.

An episode of T steps holds T+1 observations, our readings (ny,), and T each of actions, rewards, terminations and
truncations. What else a replay store must know to be read back exactly is in the data set's metadata, under `trimtab`.
"""

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from .. import __version__
from ..controllers.files import names_to_disk, tree_to_disk
from ..robots import load
from ..robots.external import make_gymnasium
from ..robots.plugins import UnknownName
from ..robots.task import Robot, Task
from .replay import Rejection, Replay, Signature, Transitions

_KEY = "trimtab"
_FORMAT = 1
_TASK_ENV = "trimtab.sim.gymnasium_env:TaskEnv"
_GYMNASIUM = "gymnasium:"

_Reader = Callable[[Any], tuple[np.ndarray, np.ndarray]]
"""An episode of Minari's -> readings (T+1, ny), controls (T, nu)."""


@dataclass(frozen=True)
class EpisodeRejection(Rejection):
    """A step that was not stored: `index` counts the steps of the data set's episode `episode`, from 0."""

    episode: int

    def __str__(self) -> str:
        return f"episode {self.episode}, {super().__str__()}"


def export_minari(
    replay: Replay,
    dataset_id: str,
    of: Robot | Task,
    *,
    author: str | None = None,
    author_email: str | None = None,
    algorithm_name: str | None = None,
    code_permalink: str | None = None,
    description: str | None = None,
) -> Path:
    """Writes the store as the new data set `dataset_id` in Minari's local folder; whole or not at all.

    Every segment becomes an episode. Where one ends although its last step neither terminated nor was truncated (a
    neighbour was rejected or replaced, or the run goes on), Minari is told that it was truncated, as its readers take
    every episode to end, and `import_minari` takes that back.

    Args:
        replay: the store.
        dataset_id: `NAME-vVERSION`, with `NAMESPACE/` before it or not, such as `pendulum/random-v0`.
        of: the robot whose data these are; of a task, Minari's `recover_environment` makes an environment, by its name.
        author: who recorded it, as Minari tells it of a data set.
        author_email: where to ask.
        algorithm_name: what controlled the robot.
        code_permalink: where the code is that did.
        description: in words.

    Returns:
        The data set's folder.

    Raises:
        ValueError: there is such a data set already, its name is malformed, the store is of another robot, or Minari
            is not installed.
        OSError: it could not be written.
    """
    robot = _robot(of)
    Signature.of(robot).refuse_other(replay.signature, "the replay store")
    root = _root()
    target = root / dataset_id
    namespace = _check_new(dataset_id, target)
    storages = importlib.import_module("minari.dataset.minari_storage")
    namespaces = importlib.import_module("minari.namespace")
    told = {
        "author": None if author is None else {author},
        "author_email": None if author_email is None else {author_email},
        "algorithm_name": algorithm_name,
        "code_permalink": code_permalink,
        "description": description,
    }
    observations, actions = _spaces(robot)
    # A hidden folder, which Minari does not list, should this process be killed.
    with tempfile.TemporaryDirectory(prefix=".", dir=root) as folder:
        whole = Path(folder) / "dataset"
        whole.mkdir()
        storage = storages.MinariStorage.new(
            whole / "data",
            observation_space=observations,
            action_space=actions,
            env_spec=_environment(of) if isinstance(of, Task) else None,
        )
        unended: list[int] = []
        storage.update_episodes(_episode(k, rows, unended) for k, rows in enumerate(replay.segments()))
        storage.update_metadata(
            {
                "dataset_id": dataset_id,
                "minari_version": _minari().__version__,
                _KEY: {
                    "format": _FORMAT,
                    "version": __version__,
                    "signature": replay.signature.to_json(),
                    "unended": unended,
                },
                **{name: value for name, value in told.items() if value is not None},
            }
        )
        tree_to_disk(whole)
        if namespace is not None and namespace not in namespaces.list_local_namespaces():
            namespaces.create_namespace(namespace)
        whole.rename(target)
    names_to_disk(target.parent)
    return target


def import_minari(
    dataset: str | os.PathLike, of: Robot | Task, *, capacity: int | None = None, download: bool = False
) -> tuple[Replay, list[EpisodeRejection]]:
    """A replay store of the data set's steps.

    A data set that tells its robot (`export_minari` and recordings of our tasks' Gymnasium environments do) must be of
    the same one. Others have to fit by their shapes, and must not come from an environment that is another. For a task
    `gymnasium:ID` they hold what that environment observed: flattened, with the step's reward and whether it terminated
    appended, that makes the task's readings, as its simulator reports them. What an environment was made with besides
    its id is not compared.

    Args:
        dataset: its name in Minari's local folder, or the path of its folder.
        of: the robot whose data are expected, or a task of it.
        capacity: of the store; the newest steps replace the oldest.
        download: whether to fetch a data set that is not there from Minari's server.

    Returns:
        The store, in which no two episodes are joined, and what was left out because it is not finite.

    Raises:
        UnknownName: (a ValueError) there is no such data set.
        ValueError: it is of another robot or environment, has observations or actions of another kind or shape, can not
            be read, or Minari is not installed.
        ImportError: Minari's client of its server is not installed (`pip install 'minari[hf]'`).
    """
    robot = _robot(of)
    data = _open(_locate(dataset, download), str(dataset))
    what = f"the data set {data.id}"
    about = data.storage.metadata.get(_KEY)
    signature, unended = _about(about, what) if about is not None else (_recorded(data.env_spec), set())
    if signature is not None:
        Signature.of(robot).refuse_other(signature, what)
        reader = _plain_reader(data, robot, what)
    elif robot.name.startswith(_GYMNASIUM):
        reader = _gymnasium_reader(data, robot, what)
    else:
        if data.env_spec is not None:
            raise ValueError(f"{what} is of another robot: Gymnasium's {data.env_spec.id}; expected: {robot.name}")
        reader = _plain_reader(data, robot, what)
    replay, rejections = Replay(robot, capacity), []
    for episode in _episodes(data, what):
        y, u, reward, terminated, truncated = _steps(episode, reader, robot, what)
        if int(episode.id) in unended:
            truncated[-1] = False
        replay.end()
        rejected = replay.extend(y[:-1], u, y[1:], reward, terminated, truncated)
        rejections += [EpisodeRejection(r.index, r.fields, int(episode.id)) for r in rejected]
    replay.end()
    return replay, rejections


def _robot(of: Robot | Task) -> Robot:
    return of.robot if isinstance(of, Task) else of


def _minari() -> Any:
    try:
        return importlib.import_module("minari")
    except ImportError as error:
        raise ValueError(
            f"data sets of Minari need the package minari: pip install 'trimtab[data]' ({error})"
        ) from error


def _root() -> Path:
    """The folder of Minari's local data sets."""
    _minari()
    return importlib.import_module("minari.storage").get_dataset_path()


# Writing


def _check_new(dataset_id: str, target: Path) -> str | None:
    """The namespace of a data set that is to be written."""
    parse = importlib.import_module("minari.dataset.minari_dataset").parse_dataset_id
    try:
        namespace, name, version = parse(dataset_id)
    except (ValueError, TypeError) as error:  # Minari 0.5 takes the int of a version that is not there
        raise ValueError(
            f"{dataset_id!r} does not name a Minari data set: NAME-vVERSION or NAMESPACE/NAME-vVERSION, "
            "of letters, digits, - and _"
        ) from error
    if target.exists():
        prefix = "" if namespace is None else f"{namespace}/"
        raise ValueError(
            f"there is a Minari data set {dataset_id} already, in {target}; it is not overwritten: "
            f"take another name, such as {prefix}{name}-v{version + 1}"
        )
    return namespace


def _spaces(robot: Robot) -> tuple[spaces.Box, spaces.Box]:
    """Those of readings and of controls."""
    low, high = robot.control_limits
    return spaces.Box(-np.inf, np.inf, (robot.layout.size,), np.float64), spaces.Box(low, high, dtype=np.float64)


def _environment(task: Task) -> EnvSpec:
    """The task's environment, with a simulator that can move it."""
    library, colon, _ = task.name.partition(":")
    if colon:
        simulator = library
    elif task.robot.build is not None:
        simulator = "mujoco"
    else:
        simulator = "casadi" if task.robot.symbolic is not None else "finite"
    return EnvSpec(
        id=f"trimtab/{task.name}-v0",
        entry_point=_TASK_ENV,
        kwargs={"task": task.name, "simulator": simulator},
    )


def _episode(k: int, rows: Transitions, unended: list[int]) -> Any:
    """A segment as an episode, whose number is put among the `unended` if its last step ended nothing."""
    truncated = rows.truncated.copy()
    if not (rows.terminated[-1] or truncated[-1]):
        truncated[-1] = True
        unended.append(k)
    return importlib.import_module("minari.data_collector").EpisodeBuffer(
        observations=np.concatenate([rows.y, rows.y_next[-1:]]),
        actions=rows.u,
        rewards=rows.reward,
        terminations=rows.terminated,
        truncations=truncated,
        infos={},
    )


# Reading


def _locate(dataset: str | os.PathLike, download: bool) -> Path:
    """The folder of a data set's files."""
    root = _root()
    places = [Path(dataset)]
    if isinstance(dataset, str):
        places.insert(0, root / dataset)
    if (found := _files(places)) is not None:
        return found
    if not isinstance(dataset, str):
        raise ValueError(f"{os.fspath(dataset)} is not the folder of a Minari data set: no data/metadata.json in it")
    if download:
        _minari().download_dataset(dataset)
        if (found := _files(places)) is not None:
            return found
    ids = [path.parent.parent.relative_to(root).as_posix() for path in root.glob("**/data/metadata.json")]
    raise UnknownName("Minari data set", dataset, [name for name in ids if not name.startswith(".")])


def _files(places: list[Path]) -> Path | None:
    folders = [folder for place in places for folder in (place / "data", place)]
    return next((folder for folder in folders if (folder / "metadata.json").is_file()), None)


def _open(folder: Path, name: str) -> Any:
    try:
        return _minari().MinariDataset(folder)
    except Exception as error:  # Minari, h5py and what reads spaces raise errors of many kinds
        raise _unreadable(name, error) from error


def _episodes(data: Any, what: str) -> Iterator[Any]:
    episodes = iter(data.iterate_episodes())
    while True:
        try:
            episode = next(episodes, None)
        except Exception as error:  # of many kinds, as above
            raise _unreadable(what, error) from error
        if episode is None:
            return
        if len(episode):
            yield episode


def _unreadable(what: str, error: Exception) -> ValueError:
    return ValueError(f"{what} can not be read as a Minari data set: {type(error).__name__}: {error}")


def _about(about: Any, what: str) -> tuple[Signature, set[int]]:
    """What `export_minari` wrote down: whose data these are, and which episodes' ends are no truncation."""
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise ValueError(f"{what} was exported in another format than {_FORMAT}")
    try:
        return Signature.from_json(about["signature"]), {int(k) for k in about["unended"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{what} does not tell whose data it holds: {error}") from error


def _recorded(spec: EnvSpec | None) -> Signature | None:
    """Whose data a recording of one of our tasks' environments holds."""
    if spec is None or spec.entry_point != _TASK_ENV or not isinstance(spec.kwargs.get("task"), str):
        return None
    return Signature.of(load(spec.kwargs["task"]).robot)


def _plain_reader(data: Any, robot: Robot, what: str) -> _Reader:
    """For observations that are readings."""
    observations, actions = _spaces(robot)
    _refuse_other(data.observation_space, observations, f"{what} has observations that are")
    _refuse_other(data.action_space, actions, f"{what} has actions that are")
    _refuse_scaled(data.action_space, robot, what)
    return lambda episode: (np.asarray(episode.observations, float), np.asarray(episode.actions, float))


def _gymnasium_reader(data: Any, robot: Robot, what: str) -> _Reader:
    """For observations of the environment that the robot is: its flattened observation, reward and `terminated`."""
    env = make_gymnasium(robot.name.removeprefix(_GYMNASIUM))
    try:
        space, actions, name = env.observation_space, env.action_space, env.spec.id
    finally:
        env.close()
    if data.env_spec is not None and data.env_spec.id != name:
        raise ValueError(f"{what} is of another environment: {data.env_spec.id}; expected: {name}")
    _refuse_other(data.observation_space, space, f"{what} has observations that are")
    _refuse_other(data.action_space, actions, f"{what} has actions that are")
    _refuse_scaled(data.action_space, robot, what)

    def read(episode: Any) -> tuple[np.ndarray, np.ndarray]:
        # At the start of an episode there is no step yet that was scored or terminated.
        reported = [np.append(0.0, np.ravel(values)) for values in (episode.rewards, episode.terminations)]
        y = np.column_stack([_flat(space, episode.observations), *reported])
        return y, np.asarray(episode.actions, float).reshape(len(episode), -1)

    return read


def _flat(space: spaces.Space, values: Any) -> np.ndarray:
    """What `spaces.flatten` makes of each of a stack of observations, (k, ...) -> (k, n)."""
    if isinstance(space, spaces.Dict):
        return np.concatenate([_flat(part, values[key]) for key, part in space.spaces.items()], axis=1)
    if isinstance(space, spaces.Tuple):
        return np.concatenate([_flat(part, value) for part, value in zip(space.spaces, values)], axis=1)
    if isinstance(space, spaces.Box):
        return np.asarray(values, float).reshape(len(values), -1)
    return np.array([spaces.flatten(space, value) for value in values], float)


def _refuse_other(given: spaces.Space, expected: spaces.Space, what: str) -> None:
    if not _alike(given, expected):
        raise ValueError(f"{what} {_described(given)}; expected: {_described(expected)}")


def _alike(one: spaces.Space, other: spaces.Space) -> bool:
    """Whether both hold the same kind of values, of the same shapes; bounds and precision aside."""
    if isinstance(one, spaces.Box) and isinstance(other, spaces.Box):
        return one.shape == other.shape
    if isinstance(one, spaces.Dict) and isinstance(other, spaces.Dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, spaces.Tuple) and isinstance(other, spaces.Tuple):
        return len(one) == len(other) and all(_alike(a, b) for a, b in zip(one, other))
    return one == other


def _described(space: spaces.Space) -> str:
    if isinstance(space, spaces.Box):
        return f"a Box of shape {space.shape}"
    if isinstance(space, spaces.Dict):
        return f"a Dict of {', '.join(f'{key} ({_described(part)})' for key, part in space.items())}"
    return str(space)


def _refuse_scaled(space: spaces.Space, robot: Robot, what: str) -> None:
    """Raises a ValueError if actions are bounded otherwise than controls: they would mean something else."""
    if not isinstance(space, spaces.Box):
        return
    theirs, ours = np.array([space.low.ravel(), space.high.ravel()], float), robot.control_limits
    bounded = np.isfinite(theirs) & np.isfinite(ours)
    if not np.allclose(theirs[bounded], ours[bounded], rtol=1e-6):
        raise ValueError(
            f"{what} has actions from {theirs[0].tolist()} to {theirs[1].tolist()}; "
            f"expected: from {ours[0].tolist()} to {ours[1].tolist()}"
        )


def _steps(episode: Any, reader: _Reader, robot: Robot, what: str) -> tuple[np.ndarray, ...]:
    """Readings (T+1, ny), controls (T, nu), and reward, terminated and truncated (T,) of an episode.

    Raises:
        ValueError: they have other shapes.
    """
    count = len(episode)
    try:
        y, u = reader(episode)
        reward, *flags = (np.ravel(v) for v in (episode.rewards, episode.terminations, episode.truncations))
        terminated, truncated = (flag.astype(bool) for flag in flags)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{what}, episode {episode.id}, does not hold what its spaces say: {error}") from error
    expected = {
        "observations": (y, (count + 1, robot.layout.size)),
        "actions": (u, (count, robot.nu)),
        "rewards": (reward, (count,)),
        "terminations": (terminated, (count,)),
        "truncations": (truncated, (count,)),
    }
    for name, (values, shape) in expected.items():
        if values.shape != shape:
            raise ValueError(f"{what}, episode {episode.id}: {name} make up an array {values.shape}, not {shape}")
    return y, u, reward.astype(float), terminated, truncated
