"""Run: resolve names, check everything, train, and relay each event to the listeners.

The one file that knows both the plugins and the training.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch

from pgzoo import tracking
from pgzoo.config import AlgorithmConfig, Layer, Member, RunConfig, read_yaml
from pgzoo.envs import info
from pgzoo.envs.choice import choose_backend, forgetful, look
from pgzoo.errors import ConfigError, PgzooError, PluginError, RunFailed, UsageError
from pgzoo.launchers.coordinator import Coordinator
from pgzoo.launchers.protocol import ResumePoint
from pgzoo.play.video import need_extra
from pgzoo.protocols import Policy
from pgzoo.registry import Entry, PluginCatalog, add_listener, discover, listener_manager, relay
from pgzoo.runs.checkpointing import CheckpointWriter
from pgzoo.runs.context import RunContext
from pgzoo.runs.provenance import tags
from pgzoo.runs.resolve import resolve
from pgzoo.runs.result import Outcome, Result
from pgzoo.runs.shard import worker_command
from pgzoo.runs.signals import stop_on_signals
from pgzoo.training.events import Event
from pgzoo.training.loop import Control, train
from pgzoo.training.plan import Plan, make_policy
from pgzoo.types import Collection, EnvRequest, Steps

__all__ = ["WorkerContext", "compose", "make_plan", "run", "run_config"]

_log = logging.getLogger("pgzoo")

WORTH_COMPILING = 30_000
"""Gradient steps of a seed from which on compiling them pays, even if nothing of it was kept by an earlier run."""


def run(
    algorithm: str | None = None,
    *,
    preset: str = "auto",
    config: str | None = None,
    imports: Sequence[str] = (),
    no_plugin: Sequence[str] = (),
    progress: bool = False,
    **settings: Any,
) -> Result:
    """Train, track and evaluate; the library's `pgzoo run`, with the same names.

        pgzoo.run("reinforce", env="CartPole-v1", seeds=4, policy={"name": "mlp", "hidden": (32,)})

    Raises:
        UsageError: a setting is wrong; nothing was created.
        RunFailed: a component raised; what was tracked until then is kept.
    """
    catalog = discover(blocked=no_plugin, imports=imports)
    given = {"algorithm": algorithm, **settings} if algorithm else settings
    layer = Layer(given, ".".join)
    resolved = compose(layer, catalog, preset=preset, file=config)
    shown = given | {key: tracking.display_uri(given[key]) for key in ("tracking_uri",) if given.get(key)}
    said = ", ".join(f"{key}={value!r}" for key, value in shown.items())
    result = run_config(resolved, catalog, command=f"pgzoo.run({said})", progress="bar" if progress else "none")
    result = result.settled()
    if result.error:
        raise result.error
    return result


def compose(given: Layer, catalog: PluginCatalog, *, preset: str = "auto", file: str | None = None) -> RunConfig:
    """Lay what was given over the file, that over the preset, that over the defaults.

    `preset` is a name, "none", or "auto": the one that a plugin recommends for this algorithm and environment.

    Raises:
        ConfigError, UnknownName: as `config.resolve`; also for a preset of another algorithm.
    """
    layers = [read_yaml(file), given] if file else [given]
    if "preset" in layers[0].values and file:
        values = dict(layers[0].values)
        named = values.pop("preset")
        layers[0] = Layer(values, layers[0].where)
        preset = str(named) if preset == "auto" else preset
    if preset == "none":
        return resolve(layers, catalog)
    merged = {key: value for layer in layers for key, value in layer.values.items()}
    if preset == "auto":
        entry = catalog.auto_preset(str(merged.get("algorithm")), str(merged.get("env")))
    else:
        entry = catalog.get("preset", preset)
        if merged.get("algorithm", entry.target.algorithm) != entry.target.algorithm:
            raise ConfigError(
                f'Preset "{preset}" is for algorithm {entry.target.algorithm}, not {merged["algorithm"]}.'
            )
        if entry.target.env not in (None, merged.get("env")):
            raise ConfigError(f'Preset "{preset}" is for {entry.target.env}, not {merged.get("env")}.')
    if entry is not None:
        layers.insert(0, Layer(entry.target.settings, lambda path: f'preset "{entry.name}", {".".join(path)}'))
    return resolve(layers, catalog)


def make_plan(config: RunConfig, catalog: PluginCatalog, group: str = "", members: Sequence[Member] = ()) -> Plan:
    """Turn a resolved config into the objects that `training.train` needs; nothing is created on disk.

    The `members` are those that the config has, or some others that differ from it in no more than a sweep may.

    Raises:
        UsageError: torch can't compute on the device here.
        EnvError: the environment can't be made here.
        UnfitError: a component doesn't fit another.
    """
    _check_device(config.device)
    members = tuple(members) or config.members()
    request = EnvRequest(config.env, config.env_kwargs, config.max_episode_steps, config.num_envs)  # of one member
    name, backend = choose_backend(config.backend, catalog, request)
    spec = look(request, backend)
    with _blamed(f'algorithm "{config.algorithm}"'):
        algorithm = catalog.get("algorithm", config.algorithm).load()()
        collection = collection_of(algorithm, config.settings)
        needs = frozenset(_of_settings(getattr(algorithm, "needs", frozenset()), config.settings))
    with _blamed(f'policy "{config.policy.name}"'):
        factory = catalog.get("policy", config.policy.name).load()
        policy = make_policy(factory, config.policy.settings, spec, needs, config.normalize_obs)
    # a run goes on, and is done again, as it was: what was left to be chosen is settled
    settled = {"backend": name, "compile": _compile(config, policy, collection)}
    config = config.model_copy(update=settled)
    members = tuple(replace(member, config=member.config.model_copy(update=settled)) for member in members)
    env_states = tuple(entry.load()() for entry in catalog.entries("env_state"))
    group = group or f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    return Plan(
        config=config,
        spec=spec,
        algorithm=algorithm,
        policy=policy,
        estimator=catalog.get("estimator", config.estimator.name).load(),
        collection=collection,
        backend=backend,
        group=group,
        members=members,
        needs=needs,
        env_states=env_states,
        forgets=isinstance(collection, Steps) or forgetful(request._replace(states=env_states)),
    )


def collection_of(algorithm: Any, settings: Any) -> Collection:
    """Return what an algorithm collects: its `collect`, or else `Steps` of its setting `rollout_steps`.

    Raises:
        PluginError: it has neither.
    """
    if hasattr(algorithm, "collect"):
        return _of_settings(algorithm.collect, settings)  # type: ignore[no-any-return]
    if not hasattr(settings, "rollout_steps"):
        raise PluginError(
            f"{type(algorithm).__name__} doesn't say what it collects. Give it an attribute `collect`, such as "
            "Episodes(per_env=1), or a setting `rollout_steps`."
        )
    return Steps(settings.rollout_steps)


def _of_settings(value: Any, settings: Any) -> Any:
    """Return an attribute of an algorithm, or its result if it is a function of the settings."""
    return value(settings) if callable(value) else value


@dataclass(frozen=True)
class WorkerContext:
    """The place of a worker in a run that a launcher has split: what it is part of, who stops it, and whom it tells."""

    group: str
    control: Control
    send: Callable[[Event], None]


def run_config(
    config: RunConfig,
    catalog: PluginCatalog,
    *,
    command: str = "",
    progress: str = "none",
    resume_point: ResumePoint | None = None,
    worker: WorkerContext | None = None,
) -> Result:
    """Carry out a resolved config: check, train, relay, close. It doesn't wait for the tracker: `Result.settled` does.

    `progress` is "bar", "plain" or "none". A component that raises while it runs is told in the result. With a `worker`
    it is one part of a run, trained here; else the run's launcher may split it.

    Raises:
        UsageError: a setting is wrong; nothing was created.
    """
    if config.video:
        need_extra("--video")
        info.check(config.env, config.env_kwargs)  # which draws the pictures, whoever runs the others
    group = worker.group if worker else resume_point.group if resume_point else ""
    plan = make_plan(config, catalog, group, resume_point.members if resume_point else ())
    if (backend := catalog.get("env_backend", plan.config.backend)).name != config.backend:
        _tell_of(backend, config.env)
    home = tracking.Home.find()
    uri = tracking.resolve_uri(config.tracking_uri, home)
    tracking.check_store(uri, home)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home.root / "compiled"))
    begun = int(resume_point.standing.state.env_steps.sum()) if resume_point else 0
    control, outcome, failure = worker.control if worker else Control(), Outcome(begun), None
    elsewhere = None if worker else _launch(plan, control, home, catalog, command, resume_point)
    events = elsewhere.events() if elsewhere else train(plan, control, resume_point.standing if resume_point else None)
    started = next(events)  # the last check that everything fits; from here on things are created
    session = tracking.Session(home, plan.group, uri)
    listeners: dict[str, Any] = {}
    try:
        context = RunContext(plan, session, command, tags(plan, catalog, command), progress)
        manager = listener_manager(None if elsewhere else catalog)
        for entry in catalog.entries("listener"):
            if (elsewhere or worker) and entry.facts.get("display", False) != bool(elsewhere):
                continue  # displays hear all seeds in one place, the others each where it is trained
            with _blamed(f'listener "{entry.name}"'):
                known = tuple(of.get(entry.name, {}) for of in resume_point.listeners) if resume_point else ()
                listener = entry.load()(replace(context, resumed=known))
            if listener is not None:  # a listener may have nothing to do in this run
                add_listener(manager, entry.name, listener)
                listeners[entry.name] = listener
        if elsewhere:
            elsewhere.session = session
        else:
            told = resume_point is not None and not resume_point.standing.exact
            control.keep = CheckpointWriter(plan, home.runs, listeners, told)
        with stop_on_signals(control, aloud=progress != "none", deaf=worker is not None), closing(events):
            for event in chain([started], events):
                outcome.take(event)
                relay(manager, event)
                if worker:
                    worker.send(event)
    except RunFailed as error:
        failure = error
    finally:
        pending = session.close(0)
    return outcome.result(context, pending, failure, elsewhere.unkept if elsewhere else frozenset())


def _launch(
    plan: Plan,
    control: Control,
    home: tracking.Home,
    catalog: PluginCatalog,
    command: str,
    resume_point: ResumePoint | None,
) -> Coordinator | None:
    """Ask the launcher; None if all is to be trained in this process."""
    name = plan.config.launcher
    spec = {"command": command, "imports": catalog.imports, "blocked": catalog.blocked}
    coordinator = Coordinator(plan, control, home, worker=worker_command(), spec=spec, resume_point=resume_point)
    entry = catalog.get("launcher", name)
    with _blamed(f'launcher "{name}"'):
        return coordinator if coordinator.launch(entry.load()) else None


def _tell_of(backend: Entry, env: str) -> None:
    """Say that `auto` took what a plugin offers: without that plugin the numbers would be others."""
    if backend.plugin.source != "built-in":
        _log.warning(
            "%s runs on backend %s of plugin %s, which auto takes for it; gymnasium's own: --backend sync",
            *(env, backend.name, backend.plugin),
        )


def _check_device(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        why = "finds no GPU here" if built else "was built without CUDA"
        remedy = "see what nvidia-smi says" if built else "install a torch with CUDA"
        raise UsageError(
            f"The run is for --device cuda, and torch {torch.__version__} {why}. "
            f"Start one with --device cpu, or {remedy}."
        )


@contextmanager
def _blamed(who: str) -> Iterator[None]:
    """Say whose code it was that raised while it was made."""
    try:
        yield
    except PgzooError:
        raise
    except Exception as error:
        raise PluginError(f"{who} can't be made: {type(error).__name__}: {error}") from error


def _compile(config: RunConfig, policy: Policy, collection: Collection) -> str:
    """Resolve `auto`: on where a seed takes so many gradient steps that compiling pays, of a policy made for it.

    Never by the number of seeds, or by what remains of a run.
    """
    if config.compile != "auto":
        return config.compile
    settings: Any = config.settings
    if not (isinstance(settings, AlgorithmConfig) and isinstance(collection, Steps) and config.total_steps):
        return "off"
    updates = config.total_steps / (collection.count * config.num_envs)
    steps = updates * getattr(settings, "epochs", 1) * getattr(settings, "minibatches", 1)
    return "on" if steps >= WORTH_COMPILING and getattr(policy, "compiles", False) else "off"
