"""Real Ray nodes on this machine, each started by `ray start --block`, optionally in its own network namespace."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PATIENCE = 300.0
"""Longest time, in seconds, to wait for anything on a busy machine."""


def namespaces_are_allowed() -> bool:
    """Return whether this user may create network namespaces and connect them."""
    if not shutil.which("ip") or os.geteuid():
        return False
    name = f"pgz{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    return made and subprocess.run(["ip", "netns", "del", name], capture_output=True).returncode == 0


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)


def eventually(found: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait until `found` returns something true, and return it."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"no {what} within {seconds:.0f} seconds"
        time.sleep(0.1)
    return value


class Nodes:
    """A cluster with a token of its own. `close` ends every node and every command."""

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        self.folder, self.address, self.children = folder, address, list[subprocess.Popen[str]]()
        self.token = self.new_token("token")
        self.head: subprocess.Popen[str] | None = None
        with socket.socket() as free:
            free.bind((address, 0))
            self.port = free.getsockname()[1]

    def new_token(self, name: str) -> Path:
        """Write a new token to a file of this name in the folder."""
        path = self.folder / name
        path.write_text(secrets.token_hex(32))
        path.chmod(0o600)
        return path

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables of nodes and commands."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PGZOO_", "MLFLOW_"))}
        # The paths of Ray's sockets may have 107 characters at most, which pytest's folders would exceed.
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token), "RAY_TMPDIR": self.short()}
        return inherited | own | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}

    def short(self) -> str:
        path = Path("/tmp") / f"pgzray-{os.getpid()}"
        path.mkdir(exist_ok=True)
        return str(path)

    def start(
        self, *, cpus: int, head: bool = False, namespace: str = "", address: str = "", again: bool = False
    ) -> subprocess.Popen[str]:
        """Start a node, wait until it runs, and return its process, which leads a session of processes.

        `again`: the head was killed. A new head needs another folder, or else Ray believes that the old one is alive.
        """
        where = ["--head", f"--port={self.port}"] if head else [f"--address={self.address}:{self.port}"]
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        command = [*inside, str(Path(sys.executable).parent / "ray"), "start", *where, f"--num-cpus={cpus}", "--block"]
        command += [f"--node-ip-address={address or self.address}", *["--include-dashboard=false"][: int(head)]]
        command += ["--object-store-memory=80000000", "--disable-usage-stats"]
        environ = self.environ
        if again:
            environ["RAY_TMPDIR"] += "/again"
            Path(environ["RAY_TMPDIR"]).mkdir(exist_ok=True)
        path = self.folder / f"node{len(self.children)}.log"
        with path.open("w") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environ, start_new_session=True)
        self.children.append(child)
        eventually(lambda: "Ray runtime started" in path.read_text() or child.poll() is not None, "node")
        assert child.poll() is None, path.read_text()
        return child

    def python(self, code: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run Python code with the cluster's address."""
        environ = self.environ | {"RAY_ADDRESS": f"{self.address}:{self.port}"} | env
        return subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=PATIENCE, check=check
        )

    def pgzoo(self, *args: str, **env: str) -> subprocess.Popen[str]:
        """Start a command of pgzoo in the folder."""
        environ = self.environ | {"RAY_ADDRESS": f"{self.address}:{self.port}"} | env
        environ = {name: value for name, value in environ.items() if value}
        with (self.folder / "out").open("w") as out, (self.folder / "err").open("w") as err:
            child = subprocess.Popen(
                [sys.executable, "-m", "pgzoo", *args],
                stdout=out,
                stderr=err,
                cwd=self.folder,
                env=environ,
                text=True,
                start_new_session=True,
            )
        self.children.append(child)
        return child

    def result(self, child: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
        """Wait for a command with --json; return its exit code, its result and what it wrote to stderr."""
        code = child.wait(PATIENCE)
        out = (self.folder / "out").read_text().strip().splitlines()
        return code, json.loads(out[-1]) if out else {}, (self.folder / "err").read_text()

    def kill(self, child: subprocess.Popen[str]) -> None:
        """Kill a node with all of its processes, as if the machine had lost its power."""
        pids = [child.pid, *descendants(child.pid)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.wait()
        eventually(lambda: not any(map(alive, pids)), "end of its processes")

    def freeze(self, child: subprocess.Popen[str]) -> None:
        """Pause a node's processes: connections to it are accepted, but not answered."""
        for pid in [child.pid, *descendants(child.pid)]:
            os.kill(pid, signal.SIGSTOP)

    def close(self) -> None:
        """End all nodes and commands."""
        for child in reversed(self.children):
            self.kill(child)
        shutil.rmtree(self.short(), ignore_errors=True)


def alive(pid: int) -> bool:
    """Return whether a process exists and isn't a zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """Return the processes of the session that `pid` leads, and all their descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1]), int(fields[3])
    found = {child for child, (_, session) in parents.items() if session == pid}
    while more := {child for child, (parent, _) in parents.items() if parent in found | {pid}} - found:
        found |= more
    return sorted(found)


@contextmanager
def bridge(count: int) -> Iterator[list[tuple[str, str, str]]]:
    """Create `count` network namespaces on a bridge; yield the name, the address and the link of each."""
    tag = f"{os.getpid() % 100_000}"
    made = []
    ip("link", "add", f"pgb{tag}", "type", "bridge")
    try:
        ip("addr", "add", "10.231.7.1/24", "dev", f"pgb{tag}")
        ip("link", "set", f"pgb{tag}", "up")
        for index in range(count):
            name, outside, inside = f"pgn{tag}x{index}", f"pgo{tag}x{index}", f"pgi{tag}x{index}"
            ip("netns", "add", name)
            made.append((name, f"10.231.7.{index + 2}", outside))
            ip("link", "add", outside, "type", "veth", "peer", "name", inside)
            ip("link", "set", inside, "netns", name)
            ip("link", "set", outside, "master", f"pgb{tag}")
            ip("link", "set", outside, "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "addr", "add", f"10.231.7.{index + 2}/24", "dev", inside)
            ip("-n", name, "link", "set", inside, "up")
        yield made
    finally:
        for name, _, outside in made:
            # The kernel keeps the namespace, and the link with it, as long as a socket in it waits for an answer.
            subprocess.run(["ip", "link", "del", outside], capture_output=True)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", f"pgb{tag}"], capture_output=True)
