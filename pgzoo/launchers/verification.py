"""Compare seeds that were trained twice, by two workers."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgzoo import tracking
from pgzoo.errors import CheckpointError
from pgzoo.tracking.points import points
from pgzoo.training import checkpoint

__all__ = ["Verification", "choose_shards", "compare_runs"]


@dataclass(frozen=True)
class Verification:
    """The comparison of a seed that two workers have trained.

    Attributes:
        run_key: the run.
        seed: its seed.
        outcome: "equal", "different", or "incomplete" if one of the workers didn't finish the seed.
        compared: the number of values that were compared.
        detail: the first difference, or why the comparison is incomplete; "" if all values are equal.
    """

    run_key: str
    seed: int
    outcome: str
    compared: int
    detail: str = ""


def choose_shards(count: int, share: float, group: str) -> list[int]:
    """Return the indices of the shards to verify: `share` of `count`, rounded up, chosen at random for each group."""
    return sorted(random.Random(group).sample(range(count), math.ceil(share * count)))


def compare_runs(home: tracking.Home, again: tracking.Home, run_key: str, seed: int) -> Verification:
    """Compare a run in `home` with its repetition in the temporary home `again`.

    All metrics except times, the returns of all episodes and evaluations, and the last parameters have to be equal bit
    for bit. Values that only one of the runs has are differences, too.
    """
    one, other = _values(home.runs / run_key), _values(again.runs / run_key)
    differing = [place for place in one.keys() | other.keys() if one.get(place) != other.get(place)]
    if differing:
        place = step, name, mode = min(differing)
        values = (repr(values[place]) if place in values else "nothing" for values in (one, other))
        what = f"{name} ({mode})" if mode else name
        detail = f"for seed {seed} at step {step:,}, {what}: {next(values)}, and {next(values)} in the second training"
        return Verification(run_key, seed, "different", len(one), detail)
    try:
        saved = [checkpoint.latest(folder.runs / run_key / checkpoint.FOLDER_NAME) for folder in (home, again)]
    except CheckpointError as error:
        return Verification(run_key, seed, "incomplete", len(one), str(error))
    first, second = (one.state.params | one.state.buffers for one in saved)
    for name, leaf in first.items():
        if name not in second or not _same_bits(leaf, second[name]):
            detail = f"for seed {seed} after step {int(saved[0].state.env_steps[0]):,}: the tensor {name} differs"
            return Verification(run_key, seed, "different", len(one), detail)
    return Verification(run_key, seed, "equal", len(one) + len(first))


def _values(folder: Path) -> dict[tuple[int, str, str], float]:
    return points(record for record, _ in tracking.records(folder) if record)


def _same_bits(one: Any, other: Any) -> bool:
    return bool(one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes())
