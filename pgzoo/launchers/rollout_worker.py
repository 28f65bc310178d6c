"""A rollout worker: a process with a share of the environments of a run, in which it acts on request.

Requests arrive on standard input and are answered on standard output, as `messages`. It ends when its standard input
ends.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pgzoo.launchers.messages import read_message, write_message
from pgzoo.process import ignore_stop_signals

__all__ = ["RolloutServer", "main"]


class RolloutServer:
    """The environments of one worker, and the methods that may be requested."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        """Open the environments.

        Args:
            setup: "imports" and "blocked", the plugins; "policy", the policy and its settings; "needs", what the
                algorithm needs of it; "normalize_obs"; "spaces", "masked" and "time_limited", which specify the
                environment; "backend", the name of the environment backend; "request", the environments of all
                workers; "saves", whether their states may be saved; and "own", the rows of this worker.
        """
        from pgzoo.envs.choice import make_backend, make_states
        from pgzoo.envs.spec import make_spec
        from pgzoo.registry import discover
        from pgzoo.registry.components import resolve_component
        from pgzoo.registry.objects import register_env
        from pgzoo.training.plan import make_policy
        from pgzoo.training.rollout_parts import OwnRows

        catalog = discover(blocked=setup["blocked"], imports=setup["imports"])
        backend = make_backend(catalog.get("env_backend", setup["backend"]), catalog)
        states = make_states(catalog) if setup["saves"] else ()
        request, self.own = setup["request"]._replace(states=states), setup["own"]
        register_env(request.id, catalog.imports)
        envs: Any = backend.open(request._replace(rows=len(self.own)))
        if hasattr(envs, "collect"):  # compiled code acts row by row, in all rows that have episodes left
            envs.close()
            envs = backend.open(request)
        self._has_all_rows = hasattr(envs, "collect")
        self._inner = envs
        self.envs: Any = envs if self._has_all_rows else OwnRows(envs, self.own, request.rows)
        policy, factory = resolve_component("policy", setup["policy"], catalog)
        spec = replace(make_spec(*setup["spaces"], masked=setup["masked"]), time_limited=setup["time_limited"])
        self._policy = make_policy(factory, policy.settings, spec, frozenset(setup["needs"]), setup["normalize_obs"])
        self._compiled = False

    def spaces(self) -> tuple[Any, Any]:
        """Return the spaces of one environment."""
        return self.envs.observation_space, self.envs.action_space

    def reset(self, seeds: Any) -> tuple[Any, Any]:
        """Reset all rows; return the observations and action masks of the own ones."""
        obs = self.envs.reset(seeds)
        return obs[self.own], self._own_mask()

    def step(self, actions: Any, live: Any) -> tuple[Any, Any]:
        """Step the own rows among all; return their part of the result, and their action masks."""
        alive = live.copy()
        alive[:] = False
        alive[self.own] = live[self.own]
        step = self.envs.step(actions, alive)
        info = None if step.info is None else {key: value[self.own] for key, value in step.info.items()}
        return step.__class__(*(leaf[self.own] for leaf in step[:4]), info), self._own_mask()

    def rollout(
        self, params: Mapping[str, Any], noise: Any, start: Any, quota: Any, window: int | None, shape: Any
    ) -> Any:
        """Act in the own rows; see `collect_part`. `noise` is what `sendable_noise` returned."""
        import numpy as np
        import torch

        from pgzoo.training.behavior import Behavior, received_noise
        from pgzoo.training.rollout import compiled_policy
        from pgzoo.training.rollout_parts import collect_part

        tensors = {name: torch.from_numpy(leaf) for name, leaf in params.items()}
        if not self._compiled and hasattr(self.envs, "compile"):
            self.envs.compile(compiled_policy(self.envs, self._policy, tensors))
            self._compiled = True
        with np.errstate(over="ignore", invalid="ignore"):
            behavior = Behavior(self._policy, tensors, received_noise(noise, self._policy, shape[1], window))
            return collect_part(self.envs, behavior, start, quota, window, self.own, shape)

    def save(self) -> list[Any] | None:
        """Return the state of each own row; None if it can't be saved."""
        save = getattr(self._inner, "save", None)
        rows: list[Any] | None = save() if save else None
        return [rows[row] for row in self.own] if rows is not None and self._has_all_rows else rows

    def restore(self, states: list[Any]) -> None:
        """Restore the state of each own row among all; None leaves that row unchanged."""
        own = {row: states[row] for row in self.own.tolist()}
        self._inner.restore([own.get(row) for row in range(len(states))] if self._has_all_rows else [*own.values()])

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def answer(self, name: str, arguments: tuple[Any, ...]) -> tuple[str, Any]:
        """Call a method; return "done" and its result, or "raised" and the exception, which can be sent."""
        try:
            return "done", getattr(self, name)(*arguments)
        except Exception as error:
            return "raised", portable(error)

    def _own_mask(self) -> Any:
        mask = self.envs.action_mask
        return None if mask is None else mask[self.own]


def portable(error: Exception) -> Exception:
    """Return an exception that can be sent: a PgzooError unchanged, for any other one a RuntimeError."""
    from pgzoo.errors import PgzooError

    if isinstance(error, PgzooError):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def main() -> None:
    """Answer requests until standard input ends."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what environments print goes to standard error
    requests = os.fdopen(os.dup(0), "rb")
    ignore_stop_signals()
    try:
        setup = read_message(requests)
        from pgzoo.training.threads import limit_threads

        with limit_threads(setup["threads"]):
            try:
                server = RolloutServer(setup)
                write_message(out, ("done", server.spaces()))
            except Exception as error:
                write_message(out, ("raised", portable(error)))
                return
            while True:
                name, arguments = read_message(requests)
                write_message(out, server.answer(name, arguments))
                if name == "close":
                    return
    except (EOFError, OSError):  # the process that started this one has ended
        return
