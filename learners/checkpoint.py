"""States of learners on disk: tensors as safetensors with the rest as JSON in its header; written whole, no pickle."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from ..controllers.files import replacing

_FORMAT = 1
_SEPARATOR = "/"


def save(path: str | os.PathLike, kind: str, state: Mapping[str, Any]) -> None:
    """Writes `state`, nested dictionaries of tensors and of JSON types, to `path`; whole or not at all.

    Args:
        path: of the file.
        kind: what the state is of, such as `ensemble`; `load` asks for the same.
        state: its keys are strings without a slash.

    Raises:
        OSError: it could not be written; an earlier file at `path` is left as it was.
        TypeError: something in it is neither a tensor nor of JSON's types.
    """
    tensors: dict[str, torch.Tensor] = {}
    rest = _split(state, "", tensors)
    header = {"trimtab": json.dumps({"format": _FORMAT, "kind": kind, "state": rest})}
    try:
        with replacing(Path(path)) as temporary:
            safetensors.torch.save_file(tensors, temporary, header)
    except (OSError, safetensors.SafetensorError) as error:
        number = getattr(error, "errno", None) or errno.EIO
        raise OSError(number, getattr(error, "strerror", None) or str(error), str(path)) from error


def load(path: str | os.PathLike, kind: str, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The state of a `kind` that was saved at `path`, its tensors on `device`.

    Raises:
        OSError: it can not be read.
        ValueError: it is no checkpoint, was cut short, or is of another kind or format.
    """
    try:
        with safetensors.safe_open(os.fspath(path), framework="pt", device=str(device)) as file:
            header = json.loads((file.metadata() or {}).get("trimtab", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no checkpoint, or not the whole of one: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} is no checkpoint of trimtab")
    if header.get("format") != _FORMAT:
        raise ValueError(f"{path} is a checkpoint of format {header.get('format')}; this version reads {_FORMAT}")
    if header.get("kind") != kind:
        raise ValueError(f"{path} is a checkpoint of kind {header.get('kind')!r}, not {kind!r}")
    state = header["state"]
    for name, tensor in tensors.items():
        *path_to, last = name.split(_SEPARATOR)
        place = state
        for key in path_to:
            place = place[key]
        place[last] = tensor
    return state


def save_numbers(path: Path, numbers: Mapping[str, Any]) -> None:
    """Writes `numbers`, of JSON's types, to `path`; whole or not at all.

    Raises:
        OSError: it could not be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(numbers), "utf-8")


def load_numbers(path: Path, kinds: Mapping[str, type], what: str) -> dict[str, Any]:
    """What `save_numbers` wrote to `path`.

    Args:
        path: of the file.
        kinds: of which type each entry must be, by its name.
        what: messages call it.

    Raises:
        OSError: it can not be read.
        ValueError: it was cut short, or says too little.
    """
    try:
        numbers = json.loads(path.read_text("utf-8"))
        whole = all(type(numbers[name]) is kind for name, kind in kinds.items())
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{path} is no {what}, or not the whole of one")
    return numbers


def rng_state(rng: np.random.Generator) -> dict[str, Any]:
    """Where a random stream is, as JSON types."""
    return _plain(rng.bit_generator.state)


def restore_rng(rng: np.random.Generator, state: dict[str, Any]) -> None:
    """Puts the stream where `rng_state` found one.

    Raises:
        ValueError: it is of another kind of generator, or no such state; the stream is where it was.
    """
    before = rng.bit_generator.state
    theirs, ours = state.get("bit_generator"), before["bit_generator"]
    if theirs != ours:
        raise ValueError(f"the random stream saved is of {theirs}, this one of {ours}")
    try:
        rng.bit_generator.state = state
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        rng.bit_generator.state = before
        raise ValueError(f"the state saved is none of a random stream: {error!r}") from error


def _split(state: Mapping[str, Any], prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What is no tensor in `state`; those go to `tensors` under their paths."""
    rest = {}
    for key, value in state.items():
        if isinstance(value, torch.Tensor):
            tensors[prefix + key] = value.detach().contiguous().clone()
        elif isinstance(value, Mapping):
            rest[key] = _split(value, prefix + key + _SEPARATOR, tensors)
        else:
            rest[key] = value
    return rest


def _plain(value: Any) -> Any:
    """Dictionaries, arrays and NumPy's numbers as JSON types."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
