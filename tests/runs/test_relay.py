"""Every event reaches every listener, even if another listener raises an exception."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args

import pytest

from pgzoo.config import Layer
from pgzoo.errors import PluginError, RunFailed
from pgzoo.listeners.mlflow import MlflowListener
from pgzoo.registry import PluginCatalog, PluginInfo, Registry, hookimpl
from pgzoo.runs.relay import ListenerControl, add_listener, listener_manager, relay
from pgzoo.runs.resolve import compose
from pgzoo.runs.runner import run_config
from pgzoo.tracking import Home, records
from pgzoo.training import events
from pgzoo.training.loop import Control

EVENTS: dict[str, Any] = {
    f"pgzoo_{'_'.join(re.findall('[A-Z][a-z]+', event.__name__)).lower()}": event(*[None] * len(fields(event)))
    for event in get_args(events.Event)
}

CONTROL = ListenerControl(Control(), 1)

SHORT = {"algorithm": "a2c", "env": "CartPole-v1", "num_envs": 2, "total_steps": 100, "eval_episodes": 1}
SHORT |= {"tracking_uri": "none", "compile": "off"}


class Ear:
    """Records the events it receives; if `broken`, raises an exception at every update."""

    def __init__(self, broken: bool = False) -> None:
        self.heard: list[tuple[str, events.Event]] = []
        self.broken = broken

    @hookimpl
    def pgzoo_run_started(self, event: events.RunStarted) -> None:
        self.heard.append(("pgzoo_run_started", event))

    @hookimpl
    def pgzoo_episodes_finished(self, event: events.EpisodesFinished) -> None:
        self.heard.append(("pgzoo_episodes_finished", event))

    @hookimpl
    def pgzoo_update_done(self, event: events.UpdateDone) -> None:
        self.heard.append(("pgzoo_update_done", event))
        if self.broken:
            raise RuntimeError("oh")

    @hookimpl
    def pgzoo_evaluated(self, event: events.Evaluated) -> None:
        self.heard.append(("pgzoo_evaluated", event))

    @hookimpl
    def pgzoo_checkpoint_saved(self, event: events.CheckpointSaved) -> None:
        self.heard.append(("pgzoo_checkpoint_saved", event))

    @hookimpl
    def pgzoo_run_ended(self, event: events.RunEnded) -> None:
        self.heard.append(("pgzoo_run_ended", event))


@pytest.mark.parametrize("name", EVENTS)
def test_each_event_fires_its_own_hook(name: str) -> None:
    ear, manager = Ear(), listener_manager()
    add_listener(manager, "ear", ear)
    relay(manager, EVENTS[name], CONTROL)
    assert ear.heard == [(name, EVENTS[name])]


def test_a_listener_that_raises_is_detached_and_the_others_continue(caplog: pytest.LogCaptureFixture) -> None:
    manager = listener_manager()
    before, broken, after = Ear(), Ear(broken=True), Ear()
    for name, ear in [("before", before), ("broken", broken), ("after", after)]:
        add_listener(manager, name, ear)
    with caplog.at_level(logging.WARNING, "pgzoo"):
        relay(manager, EVENTS["pgzoo_update_done"], CONTROL)
        relay(manager, EVENTS["pgzoo_run_ended"], CONTROL)
    assert [len(ear.heard) for ear in (before, broken, after)] == [2, 1, 2]
    (message,) = caplog.messages
    said = 'Listener "broken" raised in pgzoo_update_done and is detached: RuntimeError: oh ('
    assert message.startswith(f"{said}tests/runs/test_relay.py, line ")


def test_calls_of_listeners_are_traced(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    manager = listener_manager()
    add_listener(manager, "ear", Ear())
    add_listener(manager, "broken", Ear(broken=True))
    monkeypatch.setenv("PGZOO_TRACE_PLUGINS", "1")
    relay(manager, EVENTS["pgzoo_update_done"], CONTROL)
    broken, ear = capsys.readouterr().err.splitlines()
    assert broken.startswith('[hook] pgzoo_update_done -> listener "broken": ') and broken.endswith(
        "raised RuntimeError"
    )
    assert ear.startswith('[hook] pgzoo_update_done -> listener "ear": ') and ear.endswith(" ms")


def test_a_required_listener_that_raises_is_an_error_but_others_get_the_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = listener_manager()
    before, keeper, after = Ear(), Ear(broken=True), Ear()
    keeper.required = True  # type: ignore[attr-defined]
    for name, ear in [("before", before), ("keeper", keeper), ("after", after)]:
        add_listener(manager, name, ear)
    with pytest.raises(
        RunFailed,
        match=r'^Listener "keeper", which keeps the record of the run, failed: RuntimeError: oh \(.*, line \d+\)$',
    ):
        relay(manager, EVENTS["pgzoo_update_done"], CONTROL)
    assert [len(ear.heard) for ear in (before, keeper, after)] == [1, 1, 1]
    assert not caplog.messages


def test_journals_are_closed_as_failed_when_the_mlflow_listener_raises(
    catalog: PluginCatalog, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        raise RuntimeError("oh")

    monkeypatch.setattr(MlflowListener, "pgzoo_update_done", hookimpl(fail))
    result = run_config(compose(Layer(SHORT | {"seeds": 2}, ".".join), catalog), catalog)
    reason = 'Listener "mlflow", which keeps the record of the run, failed: RuntimeError: oh'
    assert isinstance(result.error, RunFailed) and str(result.error).startswith(f"{reason} (")
    for run in result.runs:
        *_, tags, end = (record for record, _ in records(home.runs / run.run_key) if record)
        assert run.status == "failed" and tags["tags"] == {"pgzoo.status": "failed"}
        assert (end["t"], end["status"], end["reason"]) == ("end", "FAILED", str(result.error))


def test_an_exception_without_a_message_is_logged_by_its_class_name(caplog: pytest.LogCaptureFixture) -> None:
    class Mute:
        @hookimpl
        def pgzoo_run_ended(self) -> None:
            raise NotImplementedError

    manager = listener_manager()
    add_listener(manager, "mute", Mute())
    relay(manager, EVENTS["pgzoo_run_ended"], CONTROL)
    (message,) = caplog.messages
    assert message.startswith('Listener "mute" raised in pgzoo_run_ended and is detached: NotImplementedError (')


def test_a_hook_may_omit_the_event_argument() -> None:
    calls = []

    class Bell:
        @hookimpl
        def pgzoo_run_ended(self) -> None:
            calls.append("ring")

    manager = listener_manager()
    add_listener(manager, "bell", Bell())
    relay(manager, EVENTS["pgzoo_run_ended"], CONTROL)
    assert calls == ["ring"]


def test_a_plugin_may_receive_events_itself() -> None:
    ear, info = Ear(), PluginInfo("ear", "inline", "ear")
    catalog = PluginCatalog()
    catalog.add(info, ear, Registry(info).entries.values())
    manager = listener_manager(catalog)
    add_listener(manager, "ear", Ear())  # a listener with the same name as the plugin
    relay(manager, EVENTS["pgzoo_run_started"], CONTROL)
    assert len(ear.heard) == 1


def misspelt(hook: Callable[..., Any]) -> object:
    return type("Listener", (), {"pgzoo_update_don": hook})()


@pytest.mark.parametrize(
    ("listener", "message"),
    [
        (Ear, 'The listener "x" is not usable. Ear is a class, not an instance'),
        (object(), "implements no event hook"),
        (
            misspelt(hookimpl(lambda self, event: None)),
            'no hook "pgzoo_update_don". Did you mean "pgzoo_update_done"',
        ),
        (
            type("L", (), {"pgzoo_run_ended": hookimpl(lambda self, event, ctrl: None)})(),
            '"pgzoo_run_ended" takes event and control, not ctrl. Did you mean "control"?',
        ),
        (
            type("W", (), {"pgzoo_run_ended": hookimpl(wrapper=True)(lambda self: (yield))})(),
            "can't be a hook wrapper",
        ),
    ],
)
def test_an_unusable_listener_is_refused_with_the_reason(listener: object, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        add_listener(listener_manager(), "x", listener)
    assert message in str(caught.value)
