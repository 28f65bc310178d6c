"""Runs commands in forks of a process that has imported torch, because the import takes longer than most commands.

Otherwise, a fork is like a new process: it has its own arguments, environment variables, working directory and output,
and imports pgzoo itself.
"""

from __future__ import annotations

import atexit
import functools
import gc
import itertools
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

PATIENCE = 600
"""Seconds after which a command is killed."""
AT_START = ("PYTHON", "LD_", "LC_", "LANG", "OMP_", "MKL_", "TORCH_", "CUDA")
"""Prefixes of the environment variables that Python and torch read when they start."""
VARIABLES = dict(os.environ)
"""Environment variables of the processes that are forked."""
TURNS, ONE_AT_A_TIME = itertools.cycle((0, 1)), threading.Lock()
"""Two processes are forked in turn: forks of one process have equal string hashes, and no result may depend on them."""


@functools.cache
def parent(_: int) -> subprocess.Popen[str]:
    """Start a process that forks for each command that it reads; it ends with this process."""
    command = [sys.executable, __file__]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=VARIABLES)
    assert started.stdin is not None and started.stdout is not None
    atexit.register(started.wait)
    atexit.register(started.stdout.close)
    atexit.register(started.stdin.close)  # the first of the three to be called
    return started


def can_fork(env: Mapping[str, str]) -> bool:
    """Return whether a fork would behave like a new process with these environment variables."""
    theirs, its = ({k: v for k, v in given.items() if k.startswith(AT_START)} for given in (VARIABLES, env))
    return sys.platform == "linux" and theirs == its


def pgzoo(args: Sequence[str], cwd: Path, env: Mapping[str, str]) -> tuple[int, str, str]:
    """Run `python -m pgzoo ARGS` to its end; return its exit code, and what it wrote to stdout and stderr."""
    with tempfile.TemporaryDirectory() as written, ONE_AT_A_TIME:
        streams = [Path(written) / "out", Path(written) / "err"]
        process = parent(next(TURNS))
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps([list(args), str(cwd), dict(env), list(map(str, streams))]) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        out, err = (stream.read_text() for stream in streams)
    return code, out, err


def serve() -> None:
    """Fork for each command on stdin and write its exit code to stdout; in a fork, return, and so run the command."""
    import gymnasium  # noqa: F401
    import torch  # noqa: F401

    gc.freeze()
    for line in sys.stdin:
        args, cwd, env, streams = json.loads(line)
        if not (pid := os.fork()):
            return become(args, cwd, env, streams)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    os._exit(0)


def become(args: list[str], cwd: str, env: dict[str, str], streams: list[str]) -> None:
    """Turn this process into one that is about to run `python -m pgzoo ARGS`."""
    signal.alarm(PATIENCE)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for stream, path in enumerate((os.devnull, *streams)):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(file, stream)
        os.close(file)
    sys.argv, sys.path[0] = ["-m", *args], cwd


if __name__ == "__main__":
    serve()
    runpy.run_module("pgzoo", run_name="__main__", alter_sys=True)
