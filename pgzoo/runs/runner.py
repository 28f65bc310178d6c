"""Carry out a run: resolve, plan, check, start listeners, train, relay events, close."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pluggy import PluginManager

from pgzoo import tracking
from pgzoo.config import Layer, Member, RunConfig
from pgzoo.envs import ids
from pgzoo.envs.choice import IGNORES_SEED
from pgzoo.errors import RunFailed, StoreError
from pgzoo.launchers.coordinator import Coordinator
from pgzoo.launchers.protocol import ResumePoint
from pgzoo.ops.acting import memory_size
from pgzoo.play.video import require_extra
from pgzoo.registry import PluginCatalog, discover
from pgzoo.runs.callbacks import TAG as CALLBACKS_TAG
from pgzoo.runs.callbacks import as_listeners
from pgzoo.runs.checkpoint_writer import CheckpointWriter
from pgzoo.runs.context import RunContext
from pgzoo.runs.memory import name_lack_of_memory, note_memory, return_freed_images
from pgzoo.runs.objects import check_objects, import_files, register_objects
from pgzoo.runs.planning import create, make_plan
from pgzoo.runs.provenance import sources, tags
from pgzoo.runs.relay import ListenerControl, add_listener, listener_manager, relay
from pgzoo.runs.resolve import compose
from pgzoo.runs.result import Result, ResultBuilder
from pgzoo.runs.rows import warn_of_few_rows
from pgzoo.runs.signals import stop_on_signals
from pgzoo.runs.time_limit import warn_of_cut_episodes, warn_of_endless_episodes
from pgzoo.runs.waiting import ProgressMode, Waiting, progress_mode
from pgzoo.training.events import Evaluated, Event
from pgzoo.training.loop import Control, train
from pgzoo.training.plan import Plan

__all__ = ["WorkerContext", "compile_folder", "plan", "run", "run_config"]

_log = logging.getLogger("pgzoo")


def run(
    algorithm: str | type[Any] | None = None,
    *,
    preset: str | Path = "auto",
    config: str | Path | None = None,
    imports: Sequence[str | Path] = (),
    no_plugin: Sequence[str] = (),
    progress: bool | None = None,
    callbacks: Sequence[Any] = (),
    **settings: Any,
) -> Result:
    """Train, track and evaluate; the library's `pgzoo run`, with the same names.

        pgzoo.run("reinforce", env="CartPole-v1", seeds=4, policy={"name": "mlp", "hidden": (32,)})
        pgzoo.run(MyAlgorithm, env=lambda: MyEnv(size=5), policy=MyModule)

    Classes, functions and torch modules may stand for names: see `runs.objects.register_objects`; so may
    `FILE.py:NAME`, a class or function in a file. `resume` and `repro` of such a run need the same objects again.

    `callbacks` are functions of `(event, control)`, called with every event of the run, or objects with event hooks.
    With `control` they can ask for a stop, an evaluation or a checkpoint (docs/hooks.md). They run in this process with
    every launcher. `resume` and `repro` don't call them.

    `progress` says whether to show how far the run is, on stderr; by default in a terminal and in a Jupyter notebook.
    Environment variables, signal handlers, warning filters and the threads of torch and numpy are the same after the
    call as before.

    Raises:
        UsageError: a setting is wrong; nothing was created.
        RunFailed: a component raised; what was tracked until then is kept.
    """
    listeners = as_listeners(callbacks)
    named, imports = import_files({"algorithm": algorithm, **settings} if algorithm else settings, imports)
    catalog = discover(blocked=no_plugin, imports=imports)
    given, objects = register_objects(named, catalog)
    resolved = compose(Layer(given, ".".join), catalog, preset=preset, file=config)
    check_objects(objects, resolved.launcher, resolved.rollout_workers)
    shown = given | {key: tracking.display_uri(given[key]) for key in ("tracking_uri",) if given.get(key)}
    call = ", ".join(f"{key}={value!r}" for key, value in shown.items())
    mode = progress_mode(progress)
    result = run_config(resolved, catalog, command=f"pgzoo.run({call})", progress=mode, callbacks=listeners)
    with Waiting(result.format_shipping, mode):
        result = result.settled()
    if result.error:
        raise result.error
    return result


def plan(
    algorithm: str | type[Any] | None = None,
    *,
    preset: str | Path = "auto",
    config: str | Path | None = None,
    imports: Sequence[str | Path] = (),
    no_plugin: Sequence[str] = (),
    **settings: Any,
) -> Plan:
    """Return the plan of a run for `pgzoo.train`; the arguments are those of `pgzoo.run`.

    Nothing is trained, and nothing is written to disk. Training the plan yields events; it tracks nothing.

    Raises:
        UsageError: a setting is wrong.
    """
    named, imports = import_files({"algorithm": algorithm, **settings} if algorithm else settings, imports)
    catalog = discover(blocked=no_plugin, imports=imports)
    given, _ = register_objects(named, catalog)
    return make_plan(compose(Layer(given, ".".join), catalog, preset=preset, file=config), catalog)


@dataclass(frozen=True)
class WorkerContext:
    """What a worker process needs to train one shard of a run.

    `group` is the group of the whole run, `control` receives the stop commands of the coordinator, and `send` passes
    events to it.
    """

    group: str
    control: Control
    send: Callable[[Event], None]


def run_config(
    config: RunConfig,
    catalog: PluginCatalog,
    *,
    command: str = "",
    progress: ProgressMode = "none",
    resume_point: ResumePoint | None = None,
    worker: WorkerContext | None = None,
    home: tracking.Home | None = None,
    members: Sequence[Member] = (),
    control: Control | None = None,
    on_event: Callable[[Event], None] | None = None,
    callbacks: Mapping[str, object] = MappingProxyType({}),
    own_process: bool = False,
) -> Result:
    """Carry out a run whose settings are resolved. Don't wait for the upload to MLflow; `Result.settled` does.

    Args:
        config: the resolved settings.
        catalog: where the components are looked up.
        command: what the user typed, for the tracker.
        progress: how to show progress; see `RunContext`.
        resume_point: where to continue a run.
        worker: given in a worker process, which trains one shard; otherwise the run's launcher may start workers.
        home: where journals, checkpoints and compiled code go; default: `tracking.Home.find()`.
        members: the members to train; by default those of `config`. See `make_plan`.
        control: receives requests to stop members; by default a new one.
        on_event: called with each event, after the listeners.
        callbacks: additional listeners by name, in the process that the user started.
        own_process: whether this process does nothing else, so that its memory allocator may be adjusted.

    Returns:
        the result. A component that raised during training is its `error`.

    Raises:
        UsageError: a setting is wrong; nothing was created.
        PluginError: a component's code raised before training.
        KeyboardInterrupt: a second Ctrl-C or SIGTERM. The runs are closed as interrupted.
    """
    home = home or tracking.Home.find()
    with Waiting(f"Preparing {config.algorithm} on {config.env}", progress):
        plan = _plan(config, catalog, home, resume_point, worker, members)
    if own_process:
        return_freed_images(plan.spec)
    tracking_uri = tracking.resolve_uri(config.tracking_uri, home)
    tracking.check_store(tracking_uri, home)
    control = worker.control if worker else control or Control()
    coordinator = None if worker else _launch(plan, control, home, catalog, command, resume_point)
    if not coordinator:
        tracking.reserve_descriptors(len(plan.members))
    failure: RunFailed | None = None
    warned_of_cut = False
    listeners: dict[str, Any] = {}
    with closing(_events(plan, control, coordinator, resume_point)) as events:
        with name_lack_of_memory():
            started = next(events)  # raises if components don't fit together; no file is created before this line
        outcome = ResultBuilder(int(resume_point.progress.state.env_steps.sum()) if resume_point else 0)
        session = tracking.Session(home, plan.group, tracking_uri)
        try:
            labels = tags(plan, catalog, command) | ({CALLBACKS_TAG: ", ".join(callbacks)} if callbacks else {})
            context = RunContext(
                plan, session, command, labels, progress, activity=control.activity, sources=sources(catalog)
            )
            manager, listeners = _start_listeners(context, catalog, resume_point, coordinator, worker)
            for name, listener in callbacks.items():
                add_listener(manager, f"{name} (callback)", listener)
            requests = ListenerControl(control, len(plan.members))
            if coordinator:
                coordinator.session = session
            else:
                warned = resume_point is not None and not resume_point.progress.exact
                control.write_checkpoints = CheckpointWriter(plan, home.runs, listeners, session.sync, warned)
            with stop_on_signals(control, announce=progress != "none", terminal=worker is None):
                for event in chain([started], events):
                    outcome.record(event)
                    if isinstance(event, Evaluated) and not worker and not warned_of_cut:
                        warned_of_cut = warn_of_cut_episodes(event, plan.config)
                    try:
                        relay(manager, event, requests)
                    except RunFailed as error:  # a required listener failed: stop as soon as possible
                        failure = error
                        control.stop(reason=str(error), status="failed")
                    if worker:
                        worker.send(event)
                    if on_event:
                        on_event(event)
            if failure and not coordinator:  # the listener that would have written the ends is detached
                _close_journals(session, plan, failure)
        except RunFailed as error:
            failure = error
        except BaseException as error:
            events.close()  # a coordinator ends its workers, which write to the journals of the runs
            _close_journals(session, plan, error)
            raise
        finally:
            _close_listeners(listeners)
            pending = session.close(0)
    outcome.warn_of_divergence(plan)
    result = outcome.result(context, pending, failure, coordinator.lost_members if coordinator else frozenset())
    return replace(result, verifications=tuple(coordinator.verifications)) if coordinator else result


def compile_folder(home: tracking.Home) -> Path:
    """Return the folder where compiled functions are stored."""
    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or home.root / "compiled")


def _plan(
    config: RunConfig,
    catalog: PluginCatalog,
    home: tracking.Home,
    resume_point: ResumePoint | None,
    worker: WorkerContext | None,
    members: Sequence[Member],
) -> Plan:
    """Make the plan, and warn if `auto` chose the environment backend of an installed plugin."""
    if config.video:
        require_extra("--video")
        # frames are drawn by gymnasium's environment, on any backend
        ids.check_draws(config.env, config.env_kwargs, catalog.environments.get(config.env))
    group = worker.group if worker else resume_point.group if resume_point else ""
    members = resume_point.members if resume_point else members
    plan = make_plan(config, catalog, group, members, compile_folder(home), resumed=resume_point is not None)
    backend = catalog.get("env_backend", plan.config.backend)
    if backend.name != config.backend and backend.plugin.source != "built-in":
        _log.warning(
            "%s runs on backend %s of plugin %s, chosen by --backend auto. To use gymnasium's: --backend sync",
            *(config.env, backend.name, backend.plugin),
        )
    if worker is None and not hasattr(plan.algorithm, "loop"):
        warn_of_few_rows(plan.config, plan.collection, bool(memory_size(plan.policy)))
    if worker is None:
        warn_of_endless_episodes(plan)
        note_memory(plan.config, plan.spec, plan.collection, len(plan.members), plan.policy)
        if plan.spec.dropped:
            _log.warning(
                "%s: no policy can learn from these entries of the observation, so they are left out: %s.",
                *(config.env, ", ".join(plan.spec.dropped)),
            )
        if not plan.spec.seeded:
            _log.warning("%s %s.", config.env, IGNORES_SEED)
    return plan


def _launch(
    plan: Plan,
    control: Control,
    home: tracking.Home,
    catalog: PluginCatalog,
    command: str,
    resume_point: ResumePoint | None,
) -> Coordinator | None:
    """Ask the run's launcher for worker processes. Return None if all seeds are trained in this process."""
    spec = {"command": command, "imports": catalog.imports, "blocked": catalog.blocked}
    coordinator = Coordinator(plan, control, home, worker=_worker_command(), spec=spec, resume_point=resume_point)
    entry = catalog.get("launcher", plan.config.launcher)
    who = f'launcher "{entry.name}" (plugin "{entry.plugin.name}")'
    return coordinator if coordinator.launch(entry.load(), who) else None


def _worker_command() -> tuple[str, ...]:
    """Return the command that starts a worker with this process's import path."""
    boot = f"import sys; sys.path[:] = {sys.path!r}; from pgzoo.runs.shard import main; main()"
    return sys.executable, "-P", "-c", boot


def _events(
    plan: Plan, control: Control, coordinator: Coordinator | None, resume_point: ResumePoint | None
) -> Generator[Event]:
    """Return the events of the run, from the workers of a coordinator or from training in this process.

    Training happens while the events are consumed.
    """
    if coordinator:
        return coordinator.events()
    return train(plan, control, resume_point.progress if resume_point else None)


def _start_listeners(
    context: RunContext,
    catalog: PluginCatalog,
    resume_point: ResumePoint | None,
    coordinator: Coordinator | None,
    worker: WorkerContext | None,
) -> tuple[PluginManager, dict[str, Any]]:
    """Build the listeners of this process and register them on a manager of this run; return both.

    Displays run in the process that the user started and receive events of all seeds. Other listeners run where their
    seeds are trained.
    """
    manager = listener_manager(None if coordinator else catalog)
    listeners: dict[str, Any] = {}
    for entry in catalog.entries("listener"):
        display = entry.facts.get("display", False)
        if (coordinator and not display) or (worker and display):
            continue
        snapshots = tuple(of.get(entry.name, {}) for of in resume_point.listeners) if resume_point else ()
        how = "with one argument, the context of the run"
        listener = create(f'listener "{entry.name}"', entry.load(), [replace(context, resumed=snapshots)], how)
        if listener is not None:  # a listener may have nothing to do in this run
            add_listener(manager, entry.name, listener)
            listeners[entry.name] = listener
    return manager, listeners


def _close_listeners(listeners: Mapping[str, Any]) -> None:
    for name, listener in listeners.items():
        if (close := getattr(listener, "close", None)) is not None:
            try:
                close()
            except Exception as error:
                _log.warning('Listener "%s" raised in close: %s: %s', name, type(error).__name__, error)
                _log.debug("Traceback of listener %s", name, exc_info=error)


def _close_journals(session: tracking.Session, plan: Plan, error: BaseException) -> None:
    """Write the end of each run whose events were cut off: interrupted by KeyboardInterrupt, failed by an exception."""
    interrupted = not isinstance(error, Exception)
    status: tracking.EndStatus = "KILLED" if interrupted else "FAILED"
    reason = str(error) or type(error).__name__
    labels = {"pgzoo.status": "interrupted" if interrupted else "failed"}
    for key in plan.run_keys:
        journal = session.journals.get(key)
        if journal is None:  # written by a worker, if at all
            session.close_dead_run(key, status, reason, labels)
        elif journal.open:
            with suppress(StoreError):  # it was removed and can't be written again, which has been reported
                journal.tags(labels)
                journal.end(status, reason)
