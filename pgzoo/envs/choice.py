"""Before a run: choose the backend, and inspect one environment for a few steps."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal, Protocol

import gymnasium as gym
import numpy as np

from pgzoo.envs import ids
from pgzoo.envs.checks import (
    blame_environment,
    check_observation,
    environment_id,
    read_info,
    read_reset,
    read_reward,
    read_step,
    sample_action,
)
from pgzoo.envs.single import action_mask, make_single
from pgzoo.envs.spec import check_action_space, make_spec
from pgzoo.envs.state import encode, reset_is_complete
from pgzoo.errors import EnvError, PgzooError, PluginError, UnfitError, creation_error
from pgzoo.protocols import EnvBackend, EnvState
from pgzoo.types import EnvRequest, Spec

__all__ = [
    "IGNORES_SEED",
    "choose_backend",
    "foreign_backends",
    "inspect_environment",
    "make_backend",
    "make_state",
    "make_states",
    "resets_completely",
]

PROBE_STEPS = 3
"""Steps of one environment that are looked at before a run."""


IGNORES_SEED = (
    "plays another episode each time it is reset with the same seed, so --seed doesn't determine its episodes, and "
    "runs can't be reproduced. Its code must draw all random numbers from self.np_random, and begin reset with "
    "super().reset(seed=seed)"
)
"""What is said about an environment whose `Spec.seeded` is False."""


class BackendEntry(Protocol):
    """A registered backend, environment state, or dynamics: `load()` imports the class or function."""

    @property
    def name(self) -> str:
        """Its name, as in `--backend NAME`."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """Of dynamics: `envs`, the ids of the environments that they are for."""
        ...

    def load(self) -> Any:
        """Return the class or function."""
        ...


class BackendCatalog(Protocol):
    """What choosing a backend needs of the plugin catalog."""

    def get(self, kind: Literal["env_backend"], name: str) -> BackendEntry:
        """Return the backend of this name. Raises UnknownName."""
        ...

    def entries(self, kind: Literal["env_backend", "env_state", "dynamics"]) -> Iterable[BackendEntry]:
        """Return all entries of a kind."""
        ...


def make_backend(entry: BackendEntry, catalog: BackendCatalog) -> EnvBackend:
    """Return a new backend; one with `takes_dynamics` gets a function that finds the dynamics of an environment id.

    Raises:
        PluginError: it can't be created.
    """
    made: Any = entry.load()

    def find(env_id: str) -> Any:
        plain = env_id.rpartition(":")[2]
        return next((one.load() for one in catalog.entries("dynamics") if plain in one.facts["envs"]), None)

    try:
        return made(find) if getattr(made, "takes_dynamics", False) else made()  # type: ignore[no-any-return]
    except PgzooError:
        raise
    except Exception as error:
        raise creation_error(
            f'The environment backend "{entry.name}"', error, "It is created without arguments."
        ) from error


def make_states(catalog: BackendCatalog) -> tuple[EnvState, ...]:
    """Return a new object of each registered environment state.

    Raises:
        PluginError: one can't be created, or lacks a method.
    """
    return tuple(make_state(entry) for entry in catalog.entries("env_state"))


def make_state(entry: BackendEntry) -> EnvState:
    """Return a new object of one registered environment state. Raises PluginError as `make_states` does."""
    who, advice = f'The environment state "{entry.name}"', "Register a class, or a function that returns an object,"
    advice += " with the methods fits(env), get(env) and put(env, state)."
    factory = entry.load()
    try:
        made = factory()
    except Exception as error:
        raise creation_error(who, error, advice) from error
    missing = [name for name in ("fits", "get", "put") if not callable(getattr(made, name, None))]
    if missing:
        raise PluginError(f"{who} has no method {' and no method '.join(missing)}. {advice}")
    return made  # type: ignore[no-any-return]


def choose_backend(name: str, catalog: BackendCatalog, request: EnvRequest) -> tuple[str, EnvBackend]:
    """Return a backend that runs the environment, with its name.

    `auto` takes the first backend whose `preferred(request)` is true, else sync. The request is that of one member:
    the choice doesn't depend on the number of seeds.

    Raises:
        EnvError: gymnasium can't make the environment. The message names the backends that can; they have to be
            asked for by name.
        UnfitError: the named backend can't run it.
    """
    backend = _named(name, catalog)
    if not getattr(backend, "foreign", False):
        try:
            ids.check(request.id, request.kwargs, make=request.make)
        except EnvError as error:
            ways = " or ".join(f"--backend {way}" for way in foreign_backends(catalog, request))
            message = str(error)
            raise EnvError(f"{message.removesuffix('.')}. Or use {ways}." if ways else message) from error
    if name == "auto":
        for entry in catalog.entries("env_backend"):
            other: Any = make_backend(entry, catalog)
            if hasattr(other, "preferred") and other.preferred(request) and not unfit(other, request):
                return entry.name, other
        return "sync", backend
    if reason := unfit(backend, request):
        raise UnfitError(f'Backend "{name}" can\'t run {request.id}: {reason}. Use --backend auto.')
    return name, backend


def is_foreign(name: str, catalog: BackendCatalog) -> bool:
    """Return whether the backend of this name, or `auto`, makes its environments without gymnasium."""
    return bool(getattr(_named(name, catalog), "foreign", False))


def _named(name: str, catalog: BackendCatalog) -> EnvBackend:
    return make_backend(catalog.get("env_backend", "sync" if name == "auto" else name), catalog)


def unfit(backend: EnvBackend, request: EnvRequest) -> str:
    """Return why a backend can't run the environment as the run asks for it; empty if it can."""
    if request.wrapped and not getattr(backend, "wraps", False):
        return "it can't put wrappers around its environments"
    if request.info and not getattr(backend, "sends_info", False):
        keys = ", ".join(f'info["{key}"]' for key in request.info)
        return f"it doesn't return {keys}, which the algorithm or the estimator needs"
    return backend.fits(request)


def foreign_backends(catalog: BackendCatalog, request: EnvRequest) -> list[str]:
    """Return the names of the backends that run this environment without gymnasium (`foreign = True`)."""
    backends = {entry.name: make_backend(entry, catalog) for entry in catalog.entries("env_backend")}
    return [name for name, one in backends.items() if getattr(one, "foreign", False) and not unfit(one, request)]


def inspect_environment(request: EnvRequest, backend: EnvBackend | None = None) -> Spec:
    """Make one environment, play a reset and a few steps with random actions, and return its specification.

    It is gymnasium's environment, or the backend's where that has its own (`foreign`). What it returns is compared with
    its spaces. `Spec.masked` is true if it sent an action mask with the reset or with any of the steps. The reset and
    the steps of gymnasium's environment are repeated with the same seed, for `Spec.seeded`.

    Raises:
        EnvError: it raises, or returns something that doesn't fit its spaces.
        UnfitError: pgzoo can't use such spaces.
    """
    if backend is not None and getattr(backend, "foreign", False):
        return _inspect_foreign(request, backend)
    env = make_single(request, flatten=False)
    env_id = environment_id(env)
    try:
        make_spec(env.observation_space, env.action_space)
        check_action_space(env.action_space)
        masked, played = _probe(env, env_id, request.info)
        # the episodes of dynamics have random numbers of their own, and the environment's reset isn't used
        seeded = getattr(backend, "takes_dynamics", False) or _repeats(env, request, played)
    finally:
        with blame_environment(env_id, "close"):
            env.close()
    if not seeded:  # it may only remember the episode before, which a new environment can't: then runs are reproducible
        seeded = _new_repeats(request, played)
    spec = make_spec(env.observation_space, env.action_space, masked=masked)
    return replace(spec, time_limited=_has_time_limit(env), seeded=seeded)


def _repeats(env: gym.Env[Any, Any], request: EnvRequest, played: list[Any]) -> bool:
    """Return whether another reset with the same seed, and the same steps, return what they `played`."""
    try:
        return _probe(env, environment_id(env), request.info)[1] == played
    except (Exception, SystemExit):  # if it matters to the run, the run raises it too
        return True


def _new_repeats(request: EnvRequest, played: list[Any]) -> bool:
    """Return whether a new environment returns what another one `played`, with the same seed and the same steps."""
    try:
        with closing(make_single(request, flatten=False)) as env:
            return _repeats(env, request, played)
    except (Exception, SystemExit):
        return True


def _has_time_limit(env: gym.Env[Any, Any]) -> bool:
    """Return whether gymnasium's wrapper that limits episodes is around the environment."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            return True
        env = env.env
    return False


def _probe(env: Any, env_id: str, info: tuple[str, ...]) -> tuple[bool, list[Any]]:
    """Play a few steps, continuing after the end of an episode; return whether a mask was sent, and what was returned.

    Each step has to return the keys `info` in its info. What was returned is plain data, to be compared; None for what
    can't be.
    """
    actions = copy.deepcopy(env.action_space)  # sampling must not change the environment's generator
    actions.seed(0)
    with blame_environment(env_id, "reset"):
        obs, about = read_reset(env_id, env.reset(seed=0))
        check_observation(env_id, env.observation_space, obs)
        mask = action_mask(env, about)
    masked, over = mask is not None, False
    played = [_plain(obs)]
    for _ in range(PROBE_STEPS):
        with blame_environment(env_id, "reset" if over else "step"):
            if over:
                (obs, about), over, reward = read_reset(env_id, env.reset()), False, 0.0
            else:
                obs, reward, ended, cut, about = read_step(env_id, env.step(sample_action(actions, mask)))
                reward = read_reward(env_id, reward)
                read_info(env_id, about, info)
                over = bool(ended or cut)
            check_observation(env_id, env.observation_space, obs)
            mask = action_mask(env, about, ended=over)
        masked |= mask is not None
        played.append(_plain((obs, reward, over)))
    return masked, played


def _plain(value: Any) -> Any:
    """Return a value as plain data that can be compared, and doesn't change with it; None if that isn't possible."""
    try:
        return encode(value)
    except (TypeError, ValueError):
        return None


def _inspect_foreign(request: EnvRequest, backend: EnvBackend) -> Spec:
    with blame_environment(request.id, "its constructor"):
        envs = backend.open(request._replace(rows=1))
    try:
        spec = make_spec(envs.observation_space, envs.action_space)
        check_action_space(envs.action_space)
        actions = copy.deepcopy(envs.action_space)
        actions.seed(0)
        with blame_environment(request.id, "reset"):
            check_observation(request.id, envs.observation_space, envs.reset(np.zeros(1, np.int64))[0])
        for _ in range(PROBE_STEPS):
            mask = None if envs.action_mask is None else envs.action_mask[0]
            with blame_environment(request.id, "step"):
                step = envs.step(np.asarray(sample_action(actions, mask))[None], np.ones(1, np.bool_))
                check_observation(request.id, envs.observation_space, step.obs[0])
        return replace(spec, masked=envs.action_mask is not None)
    finally:
        with blame_environment(request.id, "close"):
            envs.close()


def resets_completely(request: EnvRequest) -> bool:
    """Make one environment and return whether a seeded reset erases all effects of earlier episodes (see `state`)."""
    try:
        with closing(make_single(request)) as env:
            return reset_is_complete(env, request.states)
    except (Exception, SystemExit):  # the run will raise it too, with a better message
        return True
