"""The wall time of a run by phase, and the metrics of an update."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgzoo.errors import EnvError, RunFailed, raised_at
from pgzoo.training.activity import Activity, Cancelled
from pgzoo.training.field_hints import field_hint

__all__ = ["Stopwatch", "UpdateMetrics"]


class Stopwatch:
    """Measures wall time by phase. The time of a phase inside another doesn't count for the outer one."""

    def __init__(self, *phases: str) -> None:
        self.seconds = dict.fromkeys(phases, 0.0)
        self.activity = Activity()
        """Learns of every new phase."""
        self._current = ""
        self._since = 0.0

    @contextmanager
    def phase(self, name: str, component: str = "") -> Iterator[None]:
        """Time a phase. If `component` is given, an exception becomes a RunFailed that names the component."""
        outer = self._switch(name)
        try:
            yield
        except (RunFailed, Cancelled):
            raise
        except Exception as error:
            if not component:
                raise
            if isinstance(error, EnvError):  # its message already names the environment
                raise RunFailed(str(error)) from error
            raise RunFailed(
                f"{component} raised {type(error).__name__}: {error}{raised_at(error)}{field_hint(error)}"
            ) from error
        finally:
            self._switch(outer)

    def _switch(self, name: str) -> str:
        now = time.perf_counter()
        if self._current:
            self.seconds[self._current] += now - self._since
        outer, self._current, self._since = self._current, name, now
        self.activity.phase = name
        return outer


class UpdateMetrics:
    """The metrics of one update: for each member, means over its gradient steps."""

    def __init__(self) -> None:
        self._added: dict[tuple[str, ...], list[tuple[Tensor, Tensor]]] = {}

    def add(self, names: tuple[str, ...], values: Tensor, counts: Tensor) -> None:
        """Add metrics `values [M, S]` of the members in `counts [S]` (bool); of K steps at once with an axis K before.

        They are added up in `means`, because each operation on a tensor costs microseconds.
        """
        self._added.setdefault(names, []).append((values, counts))

    def means(self) -> dict[str, NDArray[np.float64]]:
        """Return the mean of each metric, `[S]`; NaN for a member without a value. Waits for the device."""
        groups = []
        for names, added in self._added.items():
            values = _stacked([value for value, _ in added], axes=3)
            counts = _stacked([count for _, count in added], axes=2)
            each = np.where(counts[:, None], values, 0.0)
            totals, count = each[0], counts.sum(0)
            for step in each[1:]:  # in order, as the last bits depend on it
                totals = totals + step
            groups.append((names, totals, count))
        with np.errstate(invalid="ignore"):
            if len(groups) == 1:
                return dict(zip(names, totals / count, strict=True))
            sums: dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]] = {}
            for names, totals, count in groups:  # different losses may report metrics of the same name
                for name, total in zip(names, totals, strict=True):
                    so_far = sums.get(name)
                    sums[name] = (total, count) if so_far is None else (so_far[0] + total, so_far[1] + count)
            return {name: total / count for name, (total, count) in sums.items()}


def _stacked(parts: Sequence[Tensor], axes: int) -> NDArray[Any]:
    """Return tensors of `axes` axes, the first of which counts steps and may be missing, as one array."""
    if len(parts) > 1:
        parts = [torch.cat([part if part.ndim == axes else part.unsqueeze(0) for part in parts])]
    array: NDArray[Any] = parts[0].cpu().numpy()
    return array if array.ndim == axes else array[None]
