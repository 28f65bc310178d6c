"""The checks of listeners."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from pgzoo.config import Layer
from pgzoo.errors import PluginError
from pgzoo.runs.context import RunContext
from pgzoo.runs.planning import make_plan
from pgzoo.runs.relay import HOOKS, ListenerControl, add_listener, listener_manager
from pgzoo.runs.resolve import resolve
from pgzoo.testing import probes  # noqa: F401  registers the environments
from pgzoo.testing.target import Check, CheckTarget, NotApplicable, checks_by_name
from pgzoo.tracking import Home, Session
from pgzoo.training.events import CheckpointSaved, Event, RunEnded
from pgzoo.training.loop import Control, train

__all__ = ["CHECKS", "PATIENCE"]

PATIENCE = 3.0
"""Seconds after which a hook that is called in every update has blocked the training."""

SLOW = 0.2
"""Seconds that such a hook may take in every update. The fastest call counts, because the machine may be busy."""

END_PATIENCE = 20.0
"""The same for hooks that are called once."""

SEEDS = 2
"""The number of seeds of the small run."""

EVERY_UPDATE = ("pgzoo_episodes_finished", "pgzoo_update_done")
JOURNAL = "mlflow"
"""The listener that opens the journals which others may add artifacts to."""


def creates(target: CheckTarget) -> None:
    """The factory takes the context of a run, and returns an object with event hooks, or None."""
    with _listening(target) as listener, target.errors_fail_check("to be registered for a run", ADVICE):
        if listener is not None:
            add_listener(listener_manager(), target.component.name, listener)


def raises_nothing(target: CheckTarget) -> None:
    """No hook raises in a run with every kind of event."""
    errors = [f"{type(error).__name__}: {error} in {hook}" for hook, error in _relayed(target)["errors"]]
    target.expect(
        not errors,
        f"raises {errors[0] if errors else ''}",
        "A listener that raises is detached and misses the rest of the run. Catch what can fail, such as a connection.",
    )


def returns_promptly(target: CheckTarget) -> None:
    """No hook waits: training waits for it."""
    found = _relayed(target)
    blocked = found["blocked"]
    advice = "Training waits for every hook. Put the event into a queue and let a thread of the listener send it."
    target.expect(
        not blocked,
        f"blocks in {blocked}: it hasn't returned after {PATIENCE if blocked in EVERY_UPDATE else END_PATIENCE:g} s",
        advice,
    )
    for hook in EVERY_UPDATE:
        fastest = min(found["seconds"].get(hook, [0.0]))
        target.expect(fastest < SLOW, f"takes {fastest:.1f} s or more in each {hook}", advice)


def events_unchanged(target: CheckTarget) -> None:
    """Hooks don't write into the arrays of events, which other listeners read, too."""
    changed = _relayed(target)["changed"]
    target.expect(
        not changed, f"writes into {', '.join(changed)}", "Copy an array before changing it: event.env_steps.copy()."
    )


def snapshots(target: CheckTarget) -> None:
    """`snapshot(member)`, if there is one, returns plain JSON data for the checkpoint of each seed."""
    found = _relayed(target)
    advice = (
        "Checkpoints keep it as JSON, and a resumed run gets it back: return dicts with texts as keys, lists, texts, "
        "numbers, bools and None, for example int(x) and x.tolist() of arrays. It may be called after any update."
    )
    target.expect(not found["unsaved"], f"has a snapshot that can't be saved: {found['unsaved']}", advice)


def closes(target: CheckTarget) -> None:
    """`close`, if there is one, raises nothing and returns promptly after the last event."""
    unclosed = _relayed(target)["unclosed"]
    target.expect(
        not unclosed,
        f"{unclosed} in close",
        "close ends threads and connections. Catch what can fail, and limit how long it waits for them.",
    )


ADVICE = "A listener is registered as a function that takes the run's context and returns an object with event hooks."
CHECKS: Mapping[str, Check] = checks_by_name(
    (creates, raises_nothing, returns_promptly, events_unchanged, snapshots, closes)
)


def _relayed(target: CheckTarget) -> dict[str, Any]:
    """Pass the events of a small run to the listener, once for all checks; return what was noticed."""
    if "relayed" in target.remembered:
        return target.remembered["relayed"]  # type: ignore[no-any-return]
    found: dict[str, Any] = {"errors": [], "changed": [], "blocked": "", "seconds": {}, "unsaved": "", "unclosed": ""}
    with _listening(target) as listener:
        if listener is None:
            raise NotApplicable("it returns None for a plain run")
        for event in target.remembered["events"]:
            hook = HOOKS[type(event)]
            if isinstance(event, CheckpointSaved):
                found["unsaved"] = _unsaved(listener)
            before = dict(_arrays(event))
            begun = time.perf_counter()
            if not _call(listener, hook, event, found["errors"]):
                found["blocked"] = hook
                break
            found["seconds"].setdefault(hook, []).append(time.perf_counter() - begun)
            found["changed"] += [
                f"{type(event).__name__}.{name}" for name, x in _arrays(event) if x.tobytes() != before[name].tobytes()
            ]
        else:
            found["unclosed"] = _unclosed(listener)
    target.remembered["relayed"] = found
    return found


def _call(listener: Any, hook: str, event: Event, errors: list[tuple[str, Exception]]) -> bool:
    """Call a hook in a thread of its own; return whether it returned in time."""
    manager = listener_manager()
    add_listener(manager, "checked", listener)
    arguments = {"event": event, "control": ListenerControl(Control(), SEEDS)}

    def call() -> None:
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            try:
                implementation.function(*[arguments[name] for name in implementation.argnames])
            except Exception as error:
                errors.append((hook, error))

    return _returns(call, PATIENCE if hook in EVERY_UPDATE else END_PATIENCE)


def _returns(call: Callable[[], None], patience: float) -> bool:
    """Call a function in a thread of its own; return whether it returned in time."""
    thread = threading.Thread(target=call, daemon=True, name="pgzoo-listener-check")
    thread.start()
    thread.join(patience)
    return not thread.is_alive()


def _unsaved(listener: Any) -> str:
    """Return why the snapshots of a listener can't be saved; empty if they can, or if it has none."""
    if (snapshot := getattr(listener, "snapshot", None)) is None:
        return ""
    for member in range(SEEDS):
        try:
            taken = snapshot(member)
            json.dumps(taken)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        if keys := _other_keys(taken):
            return f"{keys[0]!r} is a key, which JSON turns into a text"
    return ""


def _other_keys(data: Any) -> list[Any]:
    """Return the keys of dicts that are no texts."""
    if isinstance(data, dict):
        return [key for key in data if not isinstance(key, str)] or _other_keys(list(data.values()))
    return [key for part in data for key in _other_keys(part)] if isinstance(data, list | tuple) else []


def _unclosed(listener: Any) -> str:
    """Return what goes wrong in the listener's `close`; empty if nothing does, or if it has none."""
    errors: list[str] = []
    close = getattr(listener, "close", None)

    def call() -> None:
        try:
            if close is not None:
                close()
        except Exception as error:
            errors.append(f"raises {type(error).__name__}: {error}")

    if not _returns(call, END_PATIENCE):
        return f"hasn't returned after {END_PATIENCE:g} s"
    return errors[0] if errors else ""


def _arrays(event: Event) -> Iterator[tuple[str, Any]]:
    """Yield copies of the arrays of an event with their names."""
    for name, value in vars(event).items():
        whole = {"": value} if isinstance(value, np.ndarray) else {}
        parts = value if isinstance(value, Mapping) else dict(enumerate(value)) if type(value) is tuple else whole
        for key, part in parts.items():
            if isinstance(part, np.ndarray):
                yield f"{name}[{key!r}]" if key != "" else name, part.copy()


@contextmanager
def _listening(target: CheckTarget) -> Iterator[Any]:
    """Create the listener in the context of a small run that isn't uploaded."""
    given = {
        "algorithm": "reinforce",
        "env": "pgzoo/Bandit-v0",
        "num_envs": 4,
        "total_steps": 12,
        "eval_episodes": 2,
        "seeds": SEEDS,
    }
    if "events" not in target.remembered:
        plan = make_plan(resolve([Layer(given, ".".join)], target.catalog), target.catalog)
        *events, end = train(plan)
        assert isinstance(end, RunEnded)
        saved = CheckpointSaved(env_steps=end.env_steps, members=(0, 1), exact=True)
        target.remembered.update(plan=plan, events=(*events, saved, end))
    plan = target.remembered["plan"]
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Home.find({"PGZOO_HOME": folder}), plan.group, "none", lambda text: None)
        try:
            context = RunContext(plan, session, "pgzoo plugins check", {}, "none")
            if target.component.name != JOURNAL and JOURNAL in target.catalog.names("listener"):
                opened = target.catalog.get("listener", JOURNAL).load()(context)
                opened.pgzoo_run_started(target.remembered["events"][0])
            with target.errors_fail_check("to be created for a run", ADVICE):
                try:
                    listener = target.component.load()(context)
                except PluginError as error:
                    raise NotApplicable(str(error)) from error
            yield listener
        finally:
            session.close(0)
