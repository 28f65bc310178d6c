"""How the launcher handles the loss of its driver process; the drivers here need no cluster."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from pgzoo_ray import launcher

from pgzoo.config import Layer
from pgzoo.errors import UsageError
from pgzoo.registry import discover
from pgzoo.runs.resolve import compose
from pgzoo.types import LaunchRequest, Shard, WorkerMessage

STOP = json.dumps({"stop": {"rows": None, "reason": "", "status": "interrupted"}})

DRIVER = """
import json, os, signal
job = json.loads(input())
def tell(*message): print(json.dumps(message), flush=True)
def ask(*message): tell(*message); return json.loads(input())
shards, past = ask("split", 2)
with open("log", "a") as log: print(json.dumps([job["again"], shards, past]), file=log)
if job["again"]:
    for index, *_ in shards: tell("message", index, "exited", "done")
else:
    commands = ask("commands")
    tell("message", 0, "stdout", "{}")
    tell("message", 0, "exited", "done")
    END
"""
LOST = DRIVER.replace("END", "tell('lost', 'the head is gone')")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(launcher, "_address", lambda: "")
    monkeypatch.setattr(launcher, "ENDED_SECONDS", 0.0)


def launched(monkeypatch: pytest.MonkeyPatch, program: str, commands: list[str]) -> Generator[WorkerMessage]:
    monkeypatch.setattr(launcher, "DRIVER", program)
    given = iter(commands)
    settings = {"algorithm": "ppo", "env": "CartPole-v1", "seeds": (1, 2)}
    return launcher.launch(
        LaunchRequest(
            config=compose(Layer(settings, ".".join), discover(inline=False), preset="none"),
            command=("worker",),
            split=lambda count: tuple(Shard((seed,), f"spec {seed}") for seed in range(1, count + 1)),
            commands=lambda: [line for line in [next(given, "")] if line],
            restart=lambda index: Shard((index,), f"restarted {index}"),
        )
    )


def log() -> list[Any]:
    return [json.loads(line) for line in Path("log").read_text().splitlines()]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("tell('lost', 'the head is gone')", "the head is gone"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "the process that talks to Ray was killed by SIGKILL"),
        (
            "os.write(2, b'no raylet\\n'); os._exit(1)",
            "the process that talks to Ray ended with exit code 1: no raylet",
        ),
    ],
)
def test_unfinished_shards_continue_with_another_driver(monkeypatch: pytest.MonkeyPatch, end: str, reason: str) -> None:
    save = json.dumps({"save": True})
    messages = list(launched(monkeypatch, DRIVER.replace("END", end), [save]))
    assert [message for message in messages if message.kind != "stderr"] == [
        (0, "stdout", "{}"),
        (0, "exited", "done"),
        (1, "exited", "done"),
    ]
    (warning,) = (message.text for message in messages if message.kind == "stderr")
    assert warning.startswith(f"Warning: {reason}. If it is back within 90 seconds, the seeds continue")
    first = [False, [[0, "spec 1", None], [1, "spec 2", None]], []]
    assert log() == [first, [True, [[1, "restarted 1", None]], [save]]]


def test_a_stopped_run_is_not_continued_when_its_driver_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = list(launched(monkeypatch, LOST, [STOP]))
    assert messages[-1] == (1, "exited", "the head is gone") and len(log()) == 1


def test_a_cluster_that_does_not_come_back_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "RETURN_SECONDS", 0.0)
    messages = list(launched(monkeypatch, LOST, []))
    assert messages[-1] == (1, "exited", "the head is gone") and len(log()) == 1


def test_a_refusal_by_the_driver_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no node is large enough"):
        launched(monkeypatch, """input(); print('["refused", "no node is large enough"]')""", [])


def test_a_cluster_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "READY_SECONDS", 0.1)
    monkeypatch.setattr(launcher, "CLOSE_SECONDS", 0.1)
    with pytest.raises(UsageError, match="A Ray cluster on this machine wasn't ready within 0 seconds"):
        launched(monkeypatch, "import time; time.sleep(600)", [])
