"""A checkpoint: one member's train state in two files, written atomically.

    state.safetensors   every tensor and array, under the path of its leaf ("params/policy.weight.0")
    state.json          everything else: schema, version, environments, the caller's data, and the digest of the tensors

It contains no code and no pickle. A folder of checkpoints keeps the last few and the best.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgzoo.errors import CheckpointError
from pgzoo.files import remove_folder, write_folder
from pgzoo.ops.members import concat_members, map_leaves
from pgzoo.types import Collector, Params, TrainState

__all__ = ["KEPT", "Checkpoint", "assemble", "latest", "load", "paths", "save", "step_of"]

SCHEMA = 1
TENSORS, DESCRIPTION = "state.safetensors", "state.json"
KEPT = 3
"""Number of latest checkpoints that a run keeps, besides the best one."""
FOLDER_NAME = "checkpoints"
FOLDER = re.compile(r"step-(\d{12})|\.step-(\d{12})\.old")
"""A checkpoint, or one that a crash left in the middle of being replaced (see `write_folder`)."""
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""The dtypes that numpy has too, by their names in a safetensors file."""
TREES = ("params", "buffers", "optimizer")
ARRAYS = ("active", "env_steps", "episodes", "updates", "progress", "recent")
RENAMED = {"collector/state": "collector/memory", "buffers/ppg.state": "buffers/ppg.memory"}
"""Old names of leaves in older checkpoints, and their current names."""


@dataclass(frozen=True)
class Checkpoint:
    """One member's state (S = 1), and the caller's data, `about`."""

    path: Path
    state: TrainState
    about: Mapping[str, Any]

    @property
    def env_steps(self) -> int:
        """Number of environment steps that the member has taken."""
        return int(self.state.env_steps[0])


def save(folder: Path, state: TrainState, about: Mapping[str, Any], *, score: float | None = None) -> Path:
    """Write one member's `state` (S = 1) as a new checkpoint in `folder`; return its path.

    `about` and the saved environments are plain JSON, except that numbers may be non-finite. The write is atomic. The
    last `KEPT` checkpoints and the one with the highest `score` are kept; others are deleted.

    Raises:
        OSError: the disk is full or can't be written; existing checkpoints are unchanged.
    """
    packed, digest = _pack({name: torch.as_tensor(leaf) for name, leaf in _leaves(state)}), hashlib.sha256()
    for piece in packed:
        digest.update(piece)
    description = {
        "schema": SCHEMA,
        "pgzoo": version("pgzoo"),
        "digest": digest.hexdigest(),
        "score": score,
        "order": [name for name, _ in _leaves(state)],
        "environments": None if state.environments is None else _encode_non_finite(state.environments[0]),
        "about": _encode_non_finite(dict(about)),
    }
    text = json.dumps(description, allow_nan=False).encode()
    target = folder / f"step-{int(state.env_steps[0]):012d}"
    write_folder(target, {TENSORS: packed, DESCRIPTION: text})
    _prune(folder)
    return target


def paths(folder: Path) -> list[Path]:
    """Return the paths of the checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    by_step = {step_of(path): path for path in sorted(folder.iterdir()) if FOLDER.fullmatch(path.name)}
    return [by_step[step] for step in sorted(by_step)]


def step_of(path: Path) -> int:
    """Return the environment step of a checkpoint, from the name of its folder."""
    found = FOLDER.fullmatch(path.name)
    if not found:
        raise ValueError(f"{path} isn't a checkpoint")
    return int(found[1] or found[2])


def latest(folder: Path) -> Checkpoint:
    """Load the newest checkpoint in a folder.

    Raises:
        CheckpointError: there is none, or it is damaged; the message names the previous one.
    """
    found = paths(folder)
    if not found:
        raise CheckpointError(f"There is no checkpoint in {folder}.")
    try:
        return load(found[-1])
    except CheckpointError as error:
        if len(found) < 2:
            raise CheckpointError(f"{error} There is no other checkpoint. To start over: --from-step 0") from error
        raise CheckpointError(f"{error} To use the previous checkpoint: --from-step {step_of(found[-2])}") from error


def load(path: Path) -> Checkpoint:
    """Load a checkpoint; nothing in it is executed.

    Raises:
        CheckpointError: it is missing, damaged, not a checkpoint, or of a newer schema.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as unpack

    try:
        description = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
        packed = (path / TENSORS).read_bytes()
        if description["schema"] > SCHEMA:
            raise CheckpointError(
                f"{path} was written by pgzoo {description['pgzoo']}, in a newer format than this version can read. "
                "Upgrade: pip install -U pgzoo"
            )
        if hashlib.sha256(packed).hexdigest() != description["digest"]:
            raise CheckpointError(
                f"The checkpoint {path} is damaged: the digest of {TENSORS} doesn't match {DESCRIPTION}."
            )
        found = unpack(packed)
        if set(description["order"]) != found.keys():
            raise CheckpointError(
                f"The checkpoint {path} is damaged: {DESCRIPTION} names other tensors than {TENSORS} contains."
            )
        tensors = {RENAMED.get(name, name): found[name] for name in description["order"]}
        state = _state(tensors, _decode_non_finite(description["environments"]))
        return Checkpoint(path, state, _decode_non_finite(description["about"]))
    except OSError as error:
        raise CheckpointError(f"No checkpoint in {path}: {error.strerror}: {error.filename}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"The checkpoint {path} is damaged: {type(error).__name__}: {error}.") from error


def assemble(states: Sequence[TrainState]) -> TrainState:
    """Join the states of members that were loaded from separate checkpoints.

    Some may lack a collector, because they haven't collected yet, and some may lack saved environments.
    """
    states = [state._replace(optimizer=_widened(state.optimizer, states)) for state in states]
    shown = next((state.collector for state in states if state.collector is not None), None)
    if shown is None:
        return concat_members(states)
    blank = map_leaves(np.zeros_like, shown)
    return concat_members(
        [s._replace(collector=s.collector or blank, environments=s.environments or (None,)) for s in states]
    )


def _widened(optimizer: Params, states: Sequence[TrainState]) -> Params:
    """Return the optimizer's state in which each leaf is as wide as the widest of `states`.

    Numbers that all parameters share are `[S, 1]` until a step on only some of the parameters, and then `[S, P]`.
    """
    shapes = {name: max(state.optimizer[name].shape[1:] for state in states) for name in optimizer}
    return {name: leaf.expand(len(leaf), *shapes[name]).contiguous() for name, leaf in optimizer.items()}


def _pack(tensors: Mapping[str, torch.Tensor]) -> list[bytes | memoryview]:
    """Return the content of a safetensors file in pieces that share the memory of the tensors.

    `safetensors.torch.save` would copy them twice. The format is a length, a JSON header, and the numbers of all
    tensors, which are aligned if those with the largest numbers come first.
    """
    if any(leaf.dtype not in DTYPES for leaf in tensors.values()):
        from safetensors.torch import save as pack

        return [pack({name: leaf.contiguous() for name, leaf in tensors.items()})]
    header, pieces, end = {}, list[bytes | memoryview](), 0
    for name, leaf in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        array = leaf.contiguous().numpy()
        data = array.data.cast("B") if array.size else b""
        start, end = end, end + array.nbytes
        header[name] = {"dtype": DTYPES[leaf.dtype], "shape": list(leaf.shape), "data_offsets": [start, end]}
        pieces.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *pieces]


def _encode_non_finite(value: Any) -> Any:
    """Replace numbers that JSON doesn't have, NaN and the infinities, by mappings such as `{"float": "nan"}`."""
    if isinstance(value, Mapping):
        return {key: _encode_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode_non_finite(item) for item in value]
    return {"float": str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _decode_non_finite(value: Any) -> Any:
    """Invert `_encode_non_finite`."""
    if isinstance(value, list):
        return [_decode_non_finite(item) for item in value]
    if not isinstance(value, dict):
        return value
    text = value.get("float")
    if len(value) == 1 and text in ("nan", "inf", "-inf"):
        return float(text)
    return {key: _decode_non_finite(item) for key, item in value.items()}


def _leaves(state: TrainState) -> Iterator[tuple[str, Any]]:
    for tree in TREES:
        yield from ((f"{tree}/{name}", leaf.detach()) for name, leaf in getattr(state, tree).items())
    yield from ((name, getattr(state, name)) for name in ARRAYS)
    if state.collector is not None:
        kept = state.collector._asdict().items()
        yield from ((f"collector/{name}", np.ascontiguousarray(leaf)) for name, leaf in kept if leaf is not None)


def _state(tensors: Mapping[str, torch.Tensor], environments: Any) -> TrainState:
    def under(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): leaf for name, leaf in tensors.items() if name.startswith(prefix)}

    collector = {name: leaf.numpy() for name, leaf in under("collector/").items()}
    leaves: dict[str, Any] = {tree: under(f"{tree}/") for tree in TREES}
    leaves |= {name: tensors[name].numpy() for name in ARRAYS}
    return TrainState(
        **leaves,
        collector=Collector(**collector) if collector else None,
        environments=None if environments is None else (environments,),
    )


def _prune(folder: Path) -> None:
    found = paths(folder)
    scores = {path: score for path in found if (score := _score(path)) is not None}
    best = max(scores, key=lambda path: (scores[path], path.name), default=None)
    for path in found[:-KEPT]:
        if path != best:
            remove_folder(path)


def _score(path: Path) -> float | None:
    try:
        score = json.loads((path / DESCRIPTION).read_text(encoding="utf-8")).get("score")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return score if isinstance(score, float) else None
