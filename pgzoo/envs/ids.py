"""Checks whether an environment id runs on this machine, and if not, why and how to fix it.

A registered id may still fail: old versions stay registered, others need a package, a few need an old one.
So `describe` and `check` make the environment. Gymnasium's warnings about ids are replaced by one message.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.envs import registration

from pgzoo.envs.checks import blame_environment
from pgzoo.errors import EnvError, did_you_mean, raised_at
from pgzoo.extras import install_hint
from pgzoo.quiet import prints_to_stderr, without_warnings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gymnasium.envs.registration import EnvSpec

__all__ = [
    "EnvInfo",
    "check",
    "check_draws",
    "describe",
    "find",
    "missing_package",
    "newer",
    "obstacle",
    "register_object",
    "successor",
    "threshold",
]

OBJECTS = "pgzoo-objects"
"""The namespace of environments that were given as classes or functions."""


@dataclass(frozen=True)
class EnvInfo:
    """Whether and how an environment runs on this machine. If it doesn't, `problem` is the reason and the fix."""

    id: str
    runs: bool
    problem: str = ""
    successor: str | None = None
    observation_space: str | None = None
    action_space: str | None = None
    max_episode_steps: int | None = None
    reward_threshold: float | None = None
    nondeterministic: bool | None = None
    entry_point: str | None = None


def describe(env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> EnvInfo:
    """Make the environment and return what is known of it; one that can't be made has `runs=False` and a `problem`."""
    spec: EnvSpec | None = None
    facts: dict[str, Any] = {}
    try:
        spec = find(env_id)
        facts = _of_spec(spec)
        with _temporary_env(env_id, spec, env_kwargs or {}) as env:
            facts |= {
                "observation_space": _one_line(env.observation_space),
                "action_space": _one_line(env.action_space),
            }
    except EnvError as error:
        return EnvInfo(env_id, runs=False, problem=str(error), successor=successor(env_id), **facts)
    return EnvInfo(env_id, runs=True, successor=successor(env_id), **facts)


def check(
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    imports: Iterable[str] = (),
    make: Callable[..., Any] | None = None,
) -> EnvSpec:
    """Make the environment once and close it; return gymnasium's specification, as `find` does.

    `imports` are modules to import first, for the environments that they register.

    Raises:
        EnvError: it can't be made here. The message says why and what to install or which id to use.
    """
    for module in imports:
        _import(module, f'environment "{env_id}"')
    spec = find(env_id, make)
    with _temporary_env(env_id, spec, env_kwargs or {}):
        return spec


def check_draws(
    env_id: str, env_kwargs: Mapping[str, Any] | None = None, make: Callable[..., Any] | None = None
) -> None:
    """Make the environment for a video and close it; arguments as of `check`.

    Raises:
        EnvError: it can't be made here, or can't draw frames.
    """
    kwargs = dict(env_kwargs or {})
    spec = check(env_id, kwargs, make=make)
    try:
        with _temporary_env(env_id, spec, {**kwargs, "render_mode": "rgb_array"}) as env:
            modes = env.metadata.get("render_modes", ())
            why = "" if "rgb_array" in modes else f"its render modes are {', '.join(map(str, modes)) or 'none'}"
    except EnvError as error:
        why = str(error)
    if why:
        raise EnvError(f'The environment "{env_id}" draws no frames for --video, as render_mode="rgb_array": {why}')


def find(env_id: str, make: Callable[..., Any] | None = None) -> EnvSpec:
    """Return the specification of an id, also of the form "module:EnvId", without making the environment.

    With `make`, that function makes it, in place of the one that is registered under the id: see `EnvRequest.make`.

    Raises:
        EnvError: there is none. The message names the successor or the nearest id.
    """
    spec = _registered(env_id)
    return spec if make is None else replace(spec, entry_point=make)


def _registered(env_id: str) -> EnvSpec:
    module, _, name = env_id.rpartition(":")
    if module:
        _import(module, f'environment "{env_id}"')
    elif _is_atari(name) and name not in registration.registry:
        _import("ale_py", f'Atari environment "{env_id}"')
    if name in registration.registry:
        return registration.registry[name]
    newest = successor(name)
    if newest:
        raise EnvError(f'{_unknown(name)} Use "{newest}", {_relation(name, newest)}.')
    namespace = name.rpartition("/")[0]
    if namespace and not any(spec.namespace == namespace for spec in registration.registry.values()):
        raise EnvError(
            f'{_unknown(name)} No imported module registers "{namespace}/...": name the one that does with '
            "--import MODULE. See: pgzoo envs"
        )
    nearest = _nearest(name)
    advice = "" if nearest or ":" in name else f" If another package registers it, name its module: MODULE:{name}."
    raise EnvError(f"{_unknown(name)}{nearest}{advice} See: pgzoo envs")


def register_object(name: str, make: Callable[..., Any]) -> None:
    """Register a class or function that makes an environment under an id without a version.

    Not with `gym.register`, which allows only one of `Corridor` and `Corridor-v0`: an author who registers the class
    `Corridor` as `Corridor-v0` may also give a run the class, in either order.
    """
    spec = registration.EnvSpec(name, entry_point=make)
    spec.namespace = OBJECTS
    registration.registry[name] = spec


def successor(env_id: str) -> str | None:
    """Return the newest registered version of the same environment.

    None if the id is that version, is unknown, or is registered without a version.
    """
    short = env_id.rpartition(":")[2]
    try:
        namespace, name, version = registration.parse_env_id(short)
    except gym.error.Error:
        return None
    if version is None and short in registration.registry:
        return None
    newest = registration.find_highest_version(namespace, name)
    if newest is None or newest == version:
        return None
    return registration.get_env_id(namespace, name, newest)


def newer(env_id: str) -> str | None:
    """Return the newer version of an environment that can be loaded here; None without one."""
    try:
        return None if obstacle(find(env_id)) else successor(env_id)
    except EnvError:
        return None


def threshold(env_id: str) -> float | None:
    """Return the return at which an environment counts as solved; None where gymnasium has none."""
    try:
        return find(env_id).reward_threshold
    except EnvError:
        return None


def obstacle(spec: EnvSpec) -> str:
    """Return why the environment's code can't be loaded here, or "".

    Faster than creating the environment, but it may miss problems.
    """
    creator = spec.entry_point
    if callable(creator) and getattr(creator, "__name__", "").startswith(
        "_raise"
    ):  # gymnasium registers a function of this name for environments that have moved to other packages
        return _successor_advice(spec.id) or "not supported by gymnasium itself"
    if not isinstance(creator, str):
        return ""
    try:
        with _quiet():
            registration.load_env_creator(creator)
    except (Exception, SystemExit) as error:
        return (
            _successor_advice(spec.id)
            or missing_package(error).rpartition("Install it: ")[2]
            or _one_line_message(error)
        )
    return ""


@contextmanager
def _temporary_env(env_id: str, spec: EnvSpec, kwargs: Mapping[str, Any]) -> Iterator[gym.Env[Any, Any]]:
    """Make the environment, yield it and close it. Raises EnvError if that can't be done."""
    try:
        with _quiet():
            env = gym.make(spec, disable_env_checker=True, **copy.deepcopy(dict(kwargs)))
    except (Exception, SystemExit) as error:  # an environment may raise anything
        raise EnvError(_why_not(env_id, spec, kwargs, error)) from error
    try:
        yield env
    finally:
        with _quiet(), blame_environment(env_id, "close"):
            env.close()


def _why_not(env_id: str, spec: EnvSpec, kwargs: Mapping[str, Any], error: BaseException) -> str:
    head = f'The environment "{env_id}" can\'t be made here:'
    if unknown := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
        known = _keywords(spec)
        if unknown[1] in kwargs:
            takes = f" It takes: {', '.join(known)}." if known else ""
            return f'{head} it takes no keyword "{unknown[1]}".{did_you_mean(unknown[1], known)}{takes}'
    newest = successor(env_id)
    if install := missing_package(error):
        return f"{head} {install}" + (f' (its newest version is "{newest}")' if newest else "")
    if newest:
        return f'{head} {_one_line_message(error)}. Use "{newest}", {_relation(env_id, newest)}.'
    return f"{head} {_one_line_message(error)}{raised_at(error)}."


def missing_package(error: BaseException | None) -> str:
    """Return which module is missing and the command that installs it, or "" for another exception."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            command = install_hint(error.name)
            return f"it needs {error.name.partition('.')[0]}" + (f". Install it: {command}" if command else "")
        error = error.__cause__
    return ""


def _import(module: str, what: str) -> None:
    try:
        with _quiet():
            imported = import_module(module)
        if module == "ale_py":  # without this, ale_py prints a banner
            imported.ALEInterface.setLoggerMode(imported.LoggerMode.Error)
    except (Exception, SystemExit) as error:
        command = install_hint(module) if isinstance(error, ModuleNotFoundError) else ""
        if command:
            raise EnvError(f"The {what} needs {module}. Install it: {command}") from error
        missing = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        advice = f" If it is in the working directory, add: --import {module}" if missing else ""
        raise EnvError(
            f'The module "{module}" of the {what} can\'t be imported: {_one_line_message(error)}{raised_at(error)}.'
            f"{advice}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings about versions, which the messages here cover, and send what is printed to stderr."""
    with without_warnings(), prints_to_stderr():
        yield


def _one_line(space: gym.Space[Any]) -> str:
    """Return a space in one line; numpy aligns its arrays in columns."""
    return re.sub(r"\s+", " ", str(space))


def _of_spec(spec: EnvSpec) -> dict[str, Any]:
    return {
        "max_episode_steps": spec.max_episode_steps,
        "reward_threshold": spec.reward_threshold,
        "nondeterministic": spec.nondeterministic,
        "entry_point": spec.entry_point if isinstance(spec.entry_point, str) else repr(spec.entry_point),
    }


def _keywords(spec: EnvSpec) -> list[str]:
    entry = spec.entry_point
    creator = registration.load_env_creator(entry) if isinstance(entry, str) else entry
    parameters = inspect.signature(creator).parameters.values() if creator is not None else ()
    named = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [name for name in named if name != "render_mode"]


def _nearest(name: str) -> str:
    """Return " Did you mean ...?" with the newest version of the nearest name."""
    ids = list(registration.registry)
    return did_you_mean(name, [env_id for env_id in ids if successor(env_id) is None])


def _unknown(name: str) -> str:
    return f'There is no environment "{name}" (gymnasium {gym.__version__}).'


def _relation(env_id: str, newest: str) -> str:
    version, latest = (registration.parse_env_id(i.rpartition(":")[2])[2] for i in (env_id, newest))
    return "which replaced it" if version is not None and version < (latest or 0) else "the newest version"


def _successor_advice(env_id: str) -> str:
    newest = successor(env_id)
    return f"use {newest}" if newest else ""


def _is_atari(name: str) -> bool:
    return name.startswith("ALE/") or "NoFrameskip-" in name


def _one_line_message(error: BaseException) -> str:
    text = " ".join(str(error).split()).removesuffix(".")
    if isinstance(error, gym.error.Error | ImportError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
