"""What runs on the nodes of the cluster. It is sent there by value, so the nodes don't need this package.

It imports only ray and the standard library.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

__all__ = ["ShardHost", "compare_installations", "describe_installation"]

WAIT = 0.2
"""Longest time, in seconds, that `exchange` waits for a message."""

DRAIN_SECONDS = 2.0
"""Maximum seconds to read from a worker that has exited: one of its child processes may keep the pipes open."""

LEASE_SECONDS = 30.0
"""Seconds without a call of `exchange` after which an actor kills its worker: it is cut off, or its caller has died.

The shard may then be trained on another node, and two workers must not train it at the same time.
"""

DIE_WITH_PARENT = "import ctypes, signal; ctypes.CDLL(None).prctl(1, signal.SIGKILL); "
"""Code at the start of a worker: Linux kills it when this actor dies. PR_SET_PDEATHSIG is 1."""


class ShardHost:
    """An actor with the worker process of one shard."""

    def __init__(
        self,
        command: Sequence[str],
        folder: str,
        environment: Mapping[str, str | None],
        probe: str,
        lines: Sequence[str],
        expected: Mapping[str, str],
        packages: Sequence[str],
    ) -> None:
        """Start the worker and write `lines` to its standard input.

        Args:
            command: starts the worker: a Python interpreter, its options, and last a program as text.
            folder: the working directory.
            environment: environment variables to set, or to remove (None).
            probe: a file in pgzoo's folder, which must be there if the folder is shared.
            lines: the spec of the shard, and commands.
            expected: what `describe_installation(packages)` returns in the calling process.
            packages: see `describe_installation`.
        """
        if different := compare_installations(expected, describe_installation(packages)):
            raise RuntimeError(f"{platform.node()} has another installation, which could change results: {different}")
        if not Path(probe).exists():
            raise FileNotFoundError(
                f"{Path(probe).parent} on {platform.node()} isn't the folder of the calling process"
            )
        environ = {**os.environ, **{key: value for key, value in environment.items() if value is not None}}
        for key in [key for key, value in environment.items() if value is None]:
            environ.pop(key, None)
        start = DIE_WITH_PARENT if platform.system() == "Linux" else ""
        self._process = subprocess.Popen(
            [*command[:-1], start + command[-1]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=folder,
            env=environ,
        )
        self._messages: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        out, err = self._process.stdout, self._process.stderr
        assert out is not None and err is not None
        self._readers = [
            threading.Thread(target=self._read, args=(kind, pipe), daemon=True)
            for kind, pipe in (("stdout", out), ("stderr", err))
        ]
        for reader in self._readers:
            reader.start()
        self._called = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()
        self._write(lines)

    def exchange(self, lines: Sequence[str]) -> tuple[list[tuple[str, str]], int | None, str, str]:
        """Write `lines` to the worker, and return what it has written.

        Returns its new messages; after the last one its exit code and how it ended, before None and ""; and the id of
        this node.
        """
        import ray

        node = ray.get_runtime_context().get_node_id()
        self._called = time.monotonic()
        self._write(lines)
        found: list[tuple[str, str]] = []
        with suppress(queue.Empty):
            found.append(self._messages.get(timeout=WAIT))
            while True:
                found.append(self._messages.get_nowait())
        if found or self._process.poll() is None:
            return found, None, "", node
        deadline = time.monotonic() + DRAIN_SECONDS
        for reader in self._readers:
            reader.join(max(0.0, deadline - time.monotonic()))
        while not self._messages.empty():
            found.append(self._messages.get())
        return found, self._process.returncode, self._describe_exit(), node

    def _watch(self) -> None:
        """Kill the worker when `exchange` isn't called any more."""
        while self._process.poll() is None:
            if time.monotonic() - self._called > LEASE_SECONDS:
                self._process.kill()
            time.sleep(1.0)

    def _describe_exit(self) -> str:
        """Return how the worker ended, and where."""
        code, where = self._process.returncode, f"process {self._process.pid} on {platform.node()}"
        if code < 0:
            names = {number.value: number.name for number in signal.Signals}
            return f"its worker {where} was killed by {names.get(-code, f'signal {-code}')}"
        return f"its worker {where} ended with exit code {code}"

    def end(self) -> None:
        """Kill the worker."""
        self._process.kill()
        self._process.wait()

    def pid(self) -> int:
        """Return the process id of this actor."""
        return os.getpid()

    def _write(self, lines: Iterable[str]) -> None:
        assert self._process.stdin is not None
        rest = memoryview("".join(line + "\n" for line in lines).encode())
        with suppress(OSError):
            while rest:  # one write ends early if a signal arrives in the middle of it
                rest = rest[self._process.stdin.write(rest) or 0 :]

    def _read(self, kind: str, pipe: IO[bytes]) -> None:
        with suppress(OSError, ValueError):
            for line in pipe:
                self._messages.put((kind, line.decode(errors="replace").rstrip("\r\n")))


def describe_installation(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python, of some packages, and of all pgzoo plugins, and digests of their code."""
    found = {"Python": platform.python_version()}
    modules = {"pgzoo": "pgzoo"}
    for entry in importlib.metadata.entry_points(group="pgzoo"):
        if entry.dist is not None:
            modules[entry.dist.name] = entry.value.partition(".")[0].partition(":")[0]
    for name in sorted({*packages, *modules}):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    for name, module in modules.items():
        spec = importlib.util.find_spec(module)
        digest = hashlib.sha256()
        for folder in sorted((spec.submodule_search_locations or []) if spec else []):
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
        found[f"code of {name}"] = digest.hexdigest()[:12]
    return found


def compare_installations(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """Return in which versions two installations differ, as text; empty if they are equal."""
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    return "; ".join(f"{name}: {there.get(name, 'none')}, here {here.get(name, 'none')}" for name in names)
