"""Run: resolve names, check everything, train, and relay each event to the listeners.

The one file that knows both the plugins and the training.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain
from typing import Any

import numpy as np

from pgzoo import checkpoint, tracking
from pgzoo.bundle import make_policy, make_spec
from pgzoo.config import AlgorithmConfig, Layer, RunConfig, read_yaml, resolve
from pgzoo.envs import info
from pgzoo.envs.single import allowed, make_single
from pgzoo.envs.state import forgets
from pgzoo.errors import ConfigError, EnvError, PgzooError, PluginError, RunFailed, UnfitError
from pgzoo.events import Event
from pgzoo.launching import Relay, Resumption
from pgzoo.ops.members import select
from pgzoo.plan import Plan
from pgzoo.protocols import EnvBackend, EnvRequest, Policy, RunContext
from pgzoo.registry import Catalog, Entry, add_listener, discover, listener_manager, relay
from pgzoo.result import Outcome, Result
from pgzoo.sweep import Member
from pgzoo.training import Control, Standing, train
from pgzoo.types import Collection, Spec, Steps
from pgzoo.video import need_extra

__all__ = [
    "Post",
    "choose_backend",
    "compose",
    "foreign_backends",
    "look",
    "make_plan",
    "run",
    "run_config",
    "versions",
]

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


def compose(given: Layer, catalog: Catalog, *, preset: str = "auto", file: str | None = None) -> RunConfig:
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


def make_plan(config: RunConfig, catalog: Catalog, group: str = "", members: Sequence[Member] = ()) -> Plan:
    """Turn a resolved config into the objects that `training.train` needs; nothing is created on disk.

    The `members` are those that the config has, or some others that differ from it in no more than a sweep may.

    Raises:
        EnvError: the environment can't be made here.
        UnfitError: a component doesn't fit another.
    """
    members = tuple(members) or config.members()
    request = EnvRequest(config.env, config.env_kwargs, config.max_episode_steps, config.num_envs)  # of one member
    name, backend = choose_backend(config.backend, catalog, request)
    spec = look(request, backend)
    with _blamed(f'algorithm "{config.algorithm}"'):
        algorithm = catalog.get("algorithm", config.algorithm).load()()
        collection = _of_settings(algorithm.collect, config)
        needs = frozenset(_of_settings(getattr(algorithm, "needs", frozenset()), config))
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


def look(request: EnvRequest, backend: EnvBackend | None = None) -> Spec:
    """Make one environment and see what it shows and takes: gymnasium's, or the backend's where there is none."""
    if backend is not None and getattr(backend, "foreign", False):
        envs = backend.open(request._replace(rows=1))
        try:
            envs.reset(np.zeros(1, np.int64))
            return make_spec(envs.observation_space, envs.action_space, masked=envs.action_mask is not None)
        finally:
            envs.close()
    env = make_single(request, flatten=False)
    try:
        _, first = env.reset(seed=0)
        return make_spec(env.observation_space, env.action_space, masked=allowed(env, first) is not None)
    finally:
        env.close()


def forgetful(request: EnvRequest) -> bool:
    """Make one environment and try whether a reset by a seed forgets the episodes before."""
    try:
        with closing(make_single(request)) as env:
            return forgets(env, request.states)
    except Exception:  # whatever it raises it will raise in the run, too
        return True


def _of_settings(value: Any, config: RunConfig) -> Any:
    """What an algorithm says outright, or by a function of its settings."""
    return value(config.settings) if callable(value) else value


@dataclass(frozen=True)
class Post:
    """The place of a worker in a run that a launcher has split: what it is part of, who stops it, and whom it tells."""

    group: str
    control: Control
    tell: Callable[[Event], None]


def run_config(
    config: RunConfig,
    catalog: Catalog,
    *,
    command: str = "",
    progress: str = "none",
    resumption: Resumption | None = None,
    post: Post | None = None,
) -> Result:
    """Carry out a resolved config: check, train, relay, close. It doesn't wait for the tracker: `Result.settled` does.

    `progress` is "bar", "plain" or "none". A component that raises while it runs is told in the result. With a `post`
    it is one part of a run, trained here; else the run's launcher may split it.

    Raises:
        UsageError: a setting is wrong; nothing was created.
    """
    if config.video:
        need_extra("--video")
        info.check(config.env, config.env_kwargs)  # which draws the pictures, whoever runs the others
    group = post.group if post else resumption.group if resumption else ""
    plan = make_plan(config, catalog, group, resumption.members if resumption else ())
    if (backend := catalog.get("env_backend", plan.config.backend)).name != config.backend:
        _tell_of(backend, config.env)
    home = tracking.Home.find()
    uri = tracking.resolve_uri(config.tracking_uri, home)
    tracking.check_store(uri, home)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home.root / "compiled"))
    begun = int(resumption.standing.state.env_steps.sum()) if resumption else 0
    control, outcome, failure = post.control if post else Control(), Outcome(begun), None
    elsewhere = None if post else _launch(plan, control, home, catalog, command, resumption)
    events = elsewhere.events() if elsewhere else train(plan, control, resumption.standing if resumption else None)
    started = next(events)  # the last check that everything fits; from here on things are created
    session = tracking.Session(home, plan.group, uri)
    listeners: dict[str, Any] = {}
    try:
        context = RunContext(plan, session, command, tags(plan, catalog, command), progress)
        manager = listener_manager(None if elsewhere else catalog)
        for entry in catalog.entries("listener"):
            if (elsewhere or post) and entry.facts.get("display", False) != bool(elsewhere):
                continue  # displays hear all seeds in one place, the others each where it is trained
            with _blamed(f'listener "{entry.name}"'):
                known = tuple(of.get(entry.name, {}) for of in resumption.listeners) if resumption else ()
                listener = entry.load()(replace(context, resumed=known))
            if listener is not None:  # a listener may have nothing to do in this run
                add_listener(manager, entry.name, listener)
                listeners[entry.name] = listener
        if elsewhere:
            elsewhere.session = session
        else:
            told = resumption is not None and not resumption.standing.exact
            control.keep = _Keeper(plan, home, listeners, told)
        with _stop_on_signals(control, aloud=progress != "none", deaf=post is not None), closing(events):
            for event in chain([started], events):
                outcome.take(event)
                relay(manager, event)
                if post:
                    post.tell(event)
    except RunFailed as error:
        failure = error
    finally:
        pending = session.close(0)
    return outcome.result(context, pending, failure, elsewhere.unkept if elsewhere else frozenset())


def _launch(
    plan: Plan,
    control: Control,
    home: tracking.Home,
    catalog: Catalog,
    command: str,
    resumption: Resumption | None,
) -> Relay | None:
    """Ask the launcher; None if all is to be trained in this process."""
    name = plan.config.launcher
    order = {"command": command, "imports": catalog.imports, "blocked": catalog.blocked}
    relay = Relay(plan, control, home, order=order, resumption=resumption)
    entry = catalog.get("launcher", name)
    with _blamed(f'launcher "{name}"'):
        return relay if relay.launch(entry.load()) else None


def _tell_of(backend: Entry, env: str) -> None:
    """Say that `auto` took what a plugin offers: without that plugin the numbers would be others."""
    if backend.plugin.source != "built-in":
        _log.warning(
            "%s runs on backend %s of plugin %s, which auto takes for it; gymnasium's own: --backend sync",
            *(env, backend.name, backend.plugin),
        )


@dataclass
class _Keeper:
    """Writes the checkpoints of a run; says once if they won't resume exactly."""

    plan: Plan
    home: tracking.Home
    listeners: Mapping[str, Any]
    told: bool = False

    def __call__(self, standing: Standing, members: tuple[int, ...]) -> None:
        """Write a checkpoint for each of these members. A full disk costs the checkpoint, not the run."""
        plan = self.plan
        if not (standing.exact or self.told or "failed" in standing.statuses):
            self.told = True
            what, then = "doesn't show the same after each reset by one seed", ""
            if plan.forgets:
                what = f"can't be saved in the middle of an episode on backend {plan.config.backend}"
                then = " open episodes begin anew, and"
            _log.warning(
                "%s %s: if this run is cut off and resumed,%s its numbers are no longer those of a run that was never "
                "left.",
                plan.config.env,
                what,
                then,
            )
        for member in members:
            recent = standing.state.recent[member]
            key = plan.run_keys[member]
            about = {
                "run_key": key,
                "group": plan.group,
                "status": standing.statuses[member],
                "reason": standing.reasons[member],
                "resume": "exact" if standing.exact else "episode-boundary",
                "config": plan.members[member].config.nested(),
                "versions": versions(),
                "listeners": {
                    name: snapshot(member)
                    for name, of in self.listeners.items()
                    if (snapshot := getattr(of, "snapshot", None))
                },
            }
            one = select(standing.state, [member])
            score = float(np.nanmean(recent)) if np.isfinite(recent).any() else None
            try:
                checkpoint.save(self.home.runs / key / checkpoint.FOLDER_NAME, one, about, score=score)
            except OSError as error:
                _log.warning("The checkpoint of run %s can't be kept: %s. Training goes on.", key, error.strerror)


def versions() -> dict[str, str]:
    """The versions on which the numbers of a run depend."""
    return {name: version(name) for name in ("pgzoo", "torch", "gymnasium", "numpy")}


@contextmanager
def _blamed(who: str) -> Iterator[None]:
    """Say whose code it was that raised while it was made."""
    try:
        yield
    except PgzooError:
        raise
    except Exception as error:
        raise PluginError(f"{who} can't be made: {type(error).__name__}: {error}") from error


@contextmanager
def _stop_on_signals(control: Control, aloud: bool, deaf: bool) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the run in order; the second at once. A worker is deaf to Ctrl-C: it is told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = (signal.SIGTERM,) if deaf else (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.getsignal(name) for name in names}

    def stop(number: int, _: object) -> None:
        for name in names:
            signal.signal(name, _interrupt)
        control.stop(reason=f"interrupted by {signal.Signals(number).name}", status="interrupted")
        if aloud:  # by the system call: the signal may have come in the middle of a print
            clear = "\r\x1b[K" if sys.stderr.isatty() else ""
            os.write(2, f"{clear}Stopping, and keeping what there is. Once more ends at once.\n".encode())

    for name in names:
        signal.signal(name, stop)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt


def tags(plan: Plan, catalog: Catalog, command: str) -> dict[str, str]:
    """What every run of a command tells of where it came from."""
    found = {
        "mlflow.source.name": command or f"pgzoo run {plan.config.algorithm}",
        "mlflow.source.type": "LOCAL",
        "pgzoo.version": version("pgzoo"),
        "torch.version": version("torch"),
        "gymnasium.version": version("gymnasium"),
        "cpu.threads": str(plan.config.threads),
        **{f"plugin.{p.name}": p.origin for p in catalog.plugins if p.status == "ok" and p.source != "built-in"},
        **plan.config.tags,
    }
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
        if git.returncode == 0:
            found["mlflow.source.git.commit"] = git.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        pass  # no git here
    return found


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


def choose_backend(name: str, catalog: Catalog, request: EnvRequest) -> tuple[str, EnvBackend]:
    """Return a backend that runs the environment, with its name.

    `auto` takes the first that says of itself that it is to be preferred, else sync. The request is that of one member:
    the choice doesn't depend on the number of seeds.

    Raises:
        EnvError: gymnasium can't make the environment. A backend that can is named, and only taken if it is asked for.
        UnfitError: the named backend can't run it.
    """
    backend: EnvBackend = catalog.get("env_backend", "sync" if name == "auto" else name).load()()
    if not getattr(backend, "foreign", False):
        try:
            info.check(request.id, request.kwargs)
        except EnvError as error:
            ways = " or ".join(f"--backend {way}" for way in foreign_backends(catalog, request))
            said = str(error)
            raise EnvError(f"{said.removesuffix('.')}. As it is, it runs with {ways}." if ways else said) from error
    if name == "auto":
        for entry in catalog.entries("env_backend"):
            other = entry.load()()
            if hasattr(other, "preferred") and other.preferred(request) and not other.fits(request):
                return entry.name, other
        return "sync", backend
    if reason := backend.fits(request):
        raise UnfitError(f'Backend "{name}" can\'t run {request.id}: {reason}. Use --backend auto.')
    return name, backend


def foreign_backends(catalog: Catalog, request: EnvRequest) -> list[str]:
    """The names of the backends that run an environment which gymnasium can't make."""
    backends = {entry.name: entry.load()() for entry in catalog.entries("env_backend")}
    return [name for name, one in backends.items() if getattr(one, "foreign", False) and not one.fits(request)]
