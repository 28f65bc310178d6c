"""Callbacks receive the events of a run, and listeners control it."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

import pgzoo
from pgzoo.errors import ConfigError
from pgzoo.protocols import RunControl
from pgzoo.registry import discover, hookimpl
from pgzoo.runs.callbacks import FunctionListener, as_listeners
from pgzoo.runs.reproduce import differences, reproduce
from pgzoo.runs.resume import resume
from pgzoo.tracking import Home, find
from pgzoo.training.events import CheckpointSaved, EpisodesFinished, Evaluated, RunEnded, RunStarted, UpdateDone

SHORT: dict[str, Any] = {"env": "CartPole-v1", "num_envs": 2, "eval_episodes": 1, "checkpoint_every": 0}
SHORT |= {"tracking_uri": "none", "compile": "off", "rollout_steps": 16, "backend": "native"}


class StopsAt:
    """Stops members at an update, and counts the updates."""

    def __init__(self, update: int, members: tuple[int, ...] | None = None) -> None:
        self.update, self.members, self.seen = update, members, 0

    @hookimpl
    def pgzoo_episodes_finished(self, event: EpisodesFinished, control: RunControl) -> None:
        if event.update == self.update:
            control.stop("far enough", self.members)

    @hookimpl
    def pgzoo_update_done(self) -> None:
        self.seen += 1


def test_callbacks_see_every_event_and_control_the_run(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    with_control: list[Any] = []

    def ask(event: Any, control: RunControl) -> None:
        with_control.append(event)
        if isinstance(event, UpdateDone) and event.update == 1:
            control.evaluate()
            control.save()

    def raises(event: Any, control: RunControl) -> None:
        if isinstance(event, UpdateDone):
            control.stop("never", [7])

    stops = StopsAt(3, (0,))
    callbacks = [lambda event: seen.append(type(event).__name__), ask, stops, raises]
    result = pgzoo.run("a2c", seeds=2, total_steps=320, callbacks=callbacks, **SHORT)
    assert [run.status for run in result.runs] == ["stopped", "finished"]
    assert [run.reason for run in result.runs] == ["far enough", "completed 320 steps"]
    assert result.runs[0].env_steps < 4 * 32 + 1 < result.runs[1].env_steps and stops.seen > 9
    kinds = [type(event) for event in with_control]
    assert [kind.__name__ for kind in kinds] == seen and kinds[0] is RunStarted and kinds[-1] is RunEnded
    asked = kinds[: kinds.index(CheckpointSaved) + 1][-4:]  # in the same update as the request
    assert asked == [EpisodesFinished, UpdateDone, Evaluated, CheckpointSaved] and kinds.count(UpdateDone) == stops.seen
    assert 'Listener "raises (callback)" raised in pgzoo_update_done and is detached' in caplog.text
    assert "there is no member 7" in caplog.text

    alone = pgzoo.run("a2c", seed=0, total_steps=320, callbacks=[StopsAt(3)], **SHORT)
    assert alone.runs[0].env_steps == result.runs[0].env_steps
    assert alone.runs[0].returns.tolist() == result.runs[0].returns.tolist()

    [found] = find(alone.group, home)
    [sentence] = differences(found, discover())
    assert sentence.startswith("The run was started with callbacks (StopsAt). They aren't called again")
    again = reproduce(found, discover())  # stops at the same step without the callback
    assert again.first is None and again.compared > 0
    caplog.clear()
    assert resume([found], discover()).runs[0].status == "stopped"
    assert sentence in caplog.text


def test_a_built_in_function_without_a_signature_gets_the_event() -> None:
    last: deque[Any] = deque(maxlen=2)
    [listener] = as_listeners([last.append]).values()
    assert isinstance(listener, FunctionListener)
    for event in ("one", "two", "three"):
        listener.pgzoo_run_ended(event, None)  # type: ignore[arg-type]
    assert list(last) == ["two", "three"]


def test_invalid_callbacks_are_refused() -> None:
    def no_arguments() -> None:
        """Takes no event."""

    async def later(event: Any) -> None:
        """Would never run."""

    class Empty:
        """Has no hook."""

    for callback, message in [
        (StopsAt, r"callbacks: StopsAt is neither .* Did you forget the \(\)\?"),
        (Empty(), "callbacks: Empty is neither a function of"),
        (later, "callbacks: later is an async function, which would never run"),
        (no_arguments, r"callbacks: no_arguments can't be called with \(event, control\) or \(event\)"),
    ]:
        with pytest.raises(ConfigError, match=message):
            pgzoo.run("a2c", total_steps=320, callbacks=[callback], **SHORT)
    with pytest.raises(ConfigError, match=r"callbacks: expected a list, not function\. Give: callbacks=\[...\]"):
        pgzoo.run("a2c", total_steps=320, callbacks=no_arguments, **SHORT)  # type: ignore[arg-type]
