"""Measure the diagnostics of a run: after every k-th update, and without an effect on it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgzoo.ops.members import to_device
from pgzoo.protocols import Diagnostic, UpdateContext
from pgzoo.training.activity import Cancelled
from pgzoo.training.engine import Engine
from pgzoo.types import TrainState

__all__ = ["READS", "Diagnostics", "ReadOnlyContext", "copied"]

_log = logging.getLogger("pgzoo")

READS = frozenset(
    {
        *("algorithm", "settings", "members", "config", "num_envs", "spec", "policy", "device"),
        *("evaluate_policy", "estimate", "batch", "minibatches", "gradient", "hvp", "hyper", "learning_rate"),
        *("rng", "noise"),
    }
)
"""What a diagnostic may use of `protocols.UpdateContext`: nothing of it changes the run."""


class ReadOnlyContext:
    """The part of an engine that computes and changes nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        if name not in READS:
            raise AttributeError(f"a diagnostic has no ctx.{name}; it may use: {', '.join(sorted(READS))}")
        return getattr(self._engine, name)


class Diagnostics:
    """The diagnostics of a run. One that raises is left out from then on, with a warning."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: dict[str, Diagnostic] = dict(engine.plan.diagnostics)

    def measure(self, before: TrainState) -> None:
        """Report the metrics of the update that started from `before`, for the members whose turn it is.

        They are measured with the parameters that collected the last trajectory. The turn of a member depends on its
        own number of updates, so that it is the same after a resume.
        """
        if not self._open:
            return
        due = before.active & ((before.updates + 1) % self._engine.config.diagnostics_every == 0)
        record = self._engine.record
        if not due.any() or record.trajectory is None or record.collected_by is None:
            return
        state = copied(record.collected_by)
        context = cast(UpdateContext, ReadOnlyContext(self._engine))
        for name, diagnostic in list(self._open.items()):
            try:
                self._report(name, diagnostic.measure(context, state, record.trajectory), due)
            except Cancelled:
                return
            except Exception as error:
                del self._open[name]
                what = f"{type(error).__name__}: {error}".removesuffix(": ")
                _log.warning('Diagnostic "%s" raised and is not measured any more: %s', name, what)
                _log.debug("Traceback of diagnostic %s", name, exc_info=error)

    def _report(self, name: str, found: Tensor | Mapping[str, Tensor], due: NDArray[np.bool_]) -> None:
        metrics = {"": found} if isinstance(found, Tensor) else found
        members = to_device(torch.from_numpy(due), self._engine.device)
        self._engine.report({f"diagnostic/{name}/{key}".rstrip("/"): value for key, value in metrics.items()}, members)


def copied(state: TrainState) -> TrainState:
    """Return a state whose tensors are copies: in-place changes of a diagnostic have no effect on the run."""
    params, buffers = ({k: v.clone() for k, v in part.items()} for part in (state.params, state.buffers))
    return state._replace(params=params, buffers=buffers, collector=None)
