"""A rollout worker: a process with a share of the environments of a run, in which it acts on request.

Requests arrive on standard input and are answered on standard output: pickled objects, each after its length. Both
pipes connect it with the process that started it, and with nothing else. It ends when its standard input ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
from collections.abc import Mapping
from typing import IO, Any

__all__ = ["RolloutServer", "main", "read_object", "write_object"]

LENGTH = struct.Struct("<Q")


def write_object(file: IO[bytes], value: object) -> None:
    """Write a pickled object. Raises OSError if the reader has ended."""
    data = pickle.dumps(value, protocol=5)
    for part in (LENGTH.pack(len(data)), data):
        rest = memoryview(part)
        while rest:
            rest = rest[file.write(rest) or 0 :]


def read_object(file: IO[bytes]) -> Any:
    """Read a pickled object. Raises EOFError if the writer has ended."""
    (size,) = LENGTH.unpack(_read(file, LENGTH.size))
    return pickle.loads(_read(file, size))  # written by the process at the other end of this private pipe


def _read(file: IO[bytes], size: int) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        count = file.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        rest = rest[count:]
    return data


class RolloutServer:
    """The environments of one worker, and the methods that may be requested."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        """Open the environments.

        Args:
            setup: "imports" and "blocked", the plugins; "policy", the name of the policy, and "make_policy", the other
                arguments of `make_policy`; "backend", the name of the environment backend; "request", the environments
                of all workers; and "own", the rows of this worker.
        """
        from pgzoo.envs.choice import make_backend
        from pgzoo.registry import discover
        from pgzoo.training.plan import make_policy
        from pgzoo.training.rollout_parts import OwnRows

        catalog = discover(blocked=setup["blocked"], imports=setup["imports"])
        backend = make_backend(catalog.get("env_backend", setup["backend"]), catalog)
        request, self.own = setup["request"], setup["own"]
        envs: Any = backend.open(request._replace(rows=len(self.own)))
        if hasattr(envs, "collect"):  # compiled code acts row by row, in all rows that have episodes left
            envs.close()
            envs = backend.open(request)
        self._has_all_rows = hasattr(envs, "collect")
        self._inner = envs
        self.envs: Any = envs if self._has_all_rows else OwnRows(envs, self.own, request.rows)
        self._policy = make_policy(catalog.get("policy", setup["policy"]).load(), *setup["make_policy"])
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
        """Act in the own rows; see `collect_part`."""
        import numpy as np
        import torch

        from pgzoo.training.behavior import Behavior
        from pgzoo.training.rollout import compiled_policy
        from pgzoo.training.rollout_parts import collect_part

        tensors = {name: torch.from_numpy(leaf) for name, leaf in params.items()}
        if not self._compiled and hasattr(self.envs, "compile"):
            self.envs.compile(compiled_policy(self.envs, self._policy, tensors))
            self._compiled = True
        with np.errstate(over="ignore", invalid="ignore"):
            behavior = Behavior(self._policy, tensors, noise)
            return collect_part(self.envs, behavior, start, quota, window, self.own, shape)

    def save(self) -> list[Any] | None:
        """Return the state of each own row; None if it can't be saved."""
        save = getattr(self._inner, "save", None)
        rows: list[Any] | None = save() if save else None
        return [rows[row] for row in self.own] if rows is not None and self._has_all_rows else rows

    def restore(self, states: list[Any]) -> None:
        """Restore the state of each own row among all; None leaves that row unchanged."""
        own = self.own.tolist()
        if self._has_all_rows:
            self._inner.restore([state if row in set(own) else None for row, state in enumerate(states)])
        else:
            self._inner.restore([states[row] for row in own])

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def answer(self, name: str, arguments: tuple[Any, ...]) -> tuple[str, Any]:
        """Call a method; return "done" and its result, or "raised" and the exception, which can be pickled."""
        try:
            return "done", getattr(self, name)(*arguments)
        except Exception as error:
            return "raised", portable(error)

    def _own_mask(self) -> Any:
        mask = self.envs.action_mask
        return None if mask is None else mask[self.own]


def portable(error: Exception) -> Exception:
    """Return an exception that can be pickled: a PgzooError unchanged, for any other one a RuntimeError."""
    from pgzoo.errors import PgzooError

    if isinstance(error, PgzooError):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def main() -> None:
    """Answer requests until standard input ends."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what environments print goes to standard error
    requests = os.fdopen(os.dup(0), "rb")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one closes it
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        setup = read_object(requests)
        from pgzoo.training.threads import limit_threads

        with limit_threads(setup["threads"]):
            try:
                server = RolloutServer(setup)
            except Exception as error:
                write_object(out, ("raised", portable(error)))
                return
            write_object(out, ("done", server.spaces()))
            while True:
                name, arguments = read_object(requests)
                write_object(out, server.answer(name, arguments))
                if name == "close":
                    return
    except (EOFError, OSError):  # the process that started this one has ended
        return
