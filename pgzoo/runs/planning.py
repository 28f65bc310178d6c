"""Make a plan: turn a resolved config into the objects that training needs, and resolve settings that are `auto`."""

from __future__ import annotations

import inspect
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from pgzoo.config import AlgorithmConfig, Component, Member, RunConfig
from pgzoo.envs.choice import choose_backend, inspect_environment, make_states, resets_completely
from pgzoo.errors import PgzooError, PluginError, UnfitError, UsageError, creation_error
from pgzoo.launchers.rollouts import RolloutBackend, start_process
from pgzoo.ops.acting import memory_size
from pgzoo.protocols import Diagnostic, Policy
from pgzoo.registry import PluginCatalog
from pgzoo.runs.initial import load_initial
from pgzoo.runs.memory import check_memory
from pgzoo.runs.resolve import refuse_ignored, refuse_without_effect
from pgzoo.runs.rows import check_rows
from pgzoo.training import added_critic
from pgzoo.training.plan import Plan, checked_needs, info_keys, make_policy
from pgzoo.types import Collection, EnvRequest, Episodes, Params, Spec, Steps

__all__ = ["POLICY_ARGUMENTS", "check_takes", "collection_of", "create", "make_plan", "name_component"]

POLICY_ARGUMENTS = (
    "with (config, spec, needs). If it builds a torch module from (inputs, outputs), register pgzoo.module_policy(it) "
    "instead"
)
"""How a policy is created."""

MIN_COMPILED_STEPS = 30_000
"""Gradient steps per seed from which compiling them saves time, even with an empty cache."""


def make_plan(
    config: RunConfig,
    catalog: PluginCatalog,
    group: str = "",
    members: Sequence[Member] = (),
    compile_cache: Path | None = None,
    *,
    resumed: bool = False,
) -> Plan:
    """Return the plan of a run. Nothing is written to disk.

    Args:
        config: the resolved settings.
        catalog: where the components are looked up.
        group: name of the group of runs; a new one by default.
        members: the members to train; by default those of `config`. Others may differ from it only in their seeds and
            in settings that a sweep may vary.
        compile_cache: folder for compiled gradient steps, see `Plan`.
        resumed: whether the state comes from checkpoints; then `init_from` is not loaded.

    Raises:
        UsageError: torch can't compute on the device, or the run can't fit into this machine's memory.
        EnvError: the environment can't be made.
        UnfitError: two components don't fit each other, a setting that the user gave would have no effect, or the
            policy of `init_from` doesn't fit.
        UnknownName, StoreError: the run of `init_from` can't be found, or has no policy.
        PluginError: the code of a component raised.
    """
    _check_device(config.device)
    members = tuple(members) or config.members()
    who = f'algorithm "{config.algorithm}"'
    advice = "without arguments. Its methods get the settings, as ctx.settings or hyper"
    algorithm = create(who, catalog.get("algorithm", config.algorithm).load(), (), advice)
    if not resumed:
        refuse_ignored(config, algorithm)
    with name_component(who):
        collection = collection_of(algorithm, config.settings)
        own_needs = _evaluate_attribute(getattr(algorithm, "needs", frozenset()), config.settings)
        needs = checked_needs(own_needs, f'Algorithm "{config.algorithm}"')
    estimator = catalog.get("estimator", config.estimator.name).load()
    needs |= checked_needs(getattr(estimator, "needs", ()), f'Estimator "{config.estimator.name}"', ())
    make_env = catalog.environments.get(config.env)
    request = EnvRequest(  # of one member
        config.env,
        config.env_kwargs,
        config.max_episode_steps,
        config.num_envs,
        wrappers=tuple(config.wrappers or ()),
        frame_stack=config.frame_stack or 0,
        info=info_keys(needs),
        make=make_env,
    )
    backend_name, backend = choose_backend(config.backend, catalog, request)
    spec = inspect_environment(request, backend)
    if added := added_critic.is_added(estimator, needs, config.settings):
        needs |= {"value"}
    policy_choice = {"policy": _choose_distribution(config.algorithm, config.policy, needs)}
    config, members = _with_choices(config, members, policy_choice)
    check_memory(config, spec, collection, len(members))
    policy = _policy(config, spec, needs, catalog)
    if not resumed:
        refuse_without_effect([(config.policy, policy)], config.asked)
    check_memory(config, spec, collection, len(members), policy)
    if not hasattr(algorithm, "loop"):
        check_rows(config, collection, bool(memory_size(policy)))
    initial: Params = {}
    source = config.init_from
    if source is not None and not resumed:
        source, initial = load_initial(config, policy, [member.seed for member in members], catalog)
    chosen = {"backend": backend_name, "compile": _choose_compile(config, policy, collection)}
    if source is not None:
        chosen["init_from"] = source
    config, members = _with_choices(config, members, chosen)
    env_states = make_states(catalog)
    plan = Plan(
        config=config,
        spec=spec,
        algorithm=algorithm,
        policy=policy,
        estimator=estimator,
        collection=collection,
        backend=backend,
        group=group or f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}",
        members=members,
        needs=needs,
        added_critic=added,
        env_states=env_states,
        forgets=isinstance(collection, Steps) or resets_completely(request._replace(states=env_states)),
        compile_cache=compile_cache,
        rollouts=_rollouts(config, backend_name, catalog, spec, needs, resumed),
        initial=initial,
        make_env=make_env,
    )
    return replace(plan, diagnostics=_diagnostics(plan, catalog)) if config.diagnostics else plan


def _with_choices(
    config: RunConfig, members: tuple[Member, ...], chosen: dict[str, Any]
) -> tuple[RunConfig, tuple[Member, ...]]:
    """Return the configs with what was chosen for `auto`, so that `resume` and `repro` make the same choices."""
    updated = (replace(member, config=member.config.model_copy(update=chosen)) for member in members)
    return config.model_copy(update=chosen), tuple(updated)


def _policy(config: RunConfig, spec: Spec, needs: frozenset[str], catalog: PluginCatalog) -> Policy:
    """Create the policy. Raises UnfitError if it doesn't fit the environment or the needs."""
    who = f'policy "{config.policy.name}"'
    with name_component(who):
        factory = catalog.get("policy", config.policy.name).load()
        check_takes(who, factory, 3, POLICY_ARGUMENTS)
        try:
            return make_policy(factory, config.policy.settings, spec, needs, config.normalize_obs)
        except PluginError as error:
            raise PluginError(f"{who} can't be created: {error}") from error
        except UnfitError as error:
            # the advice of a policy, such as another distribution, doesn't help an algorithm for other actions
            only = _only_actions(str(catalog.get("algorithm", config.algorithm).facts.get("actions")), needs)
            if only is None or isinstance(spec.action_space, only):
                raise
            raise UnfitError(
                f'Algorithm "{config.algorithm}" supports only {only.__name__} actions, not {spec.action_space}. '
                "Choose another algorithm (pgzoo algorithms)."
            ) from error


def _only_actions(registered: str, needs: frozenset[str]) -> type[gym.Space[Any]] | None:
    """Return the only kind of action space that an algorithm supports, or None if that isn't certain.

    `registered` describes the spaces in words, of which only the names of the two kinds are understood here.
    """
    if registered == "Box" or "shift" in needs:  # the mean of a Gaussian is shifted
        return gym.spaces.Box
    return gym.spaces.Discrete if registered == "Discrete" or "action_values" in needs else None


def _diagnostics(plan: Plan, catalog: PluginCatalog) -> dict[str, Diagnostic]:
    """Create the diagnostics of a run. Raises UnfitError for one that can't measure it."""
    found: dict[str, Diagnostic] = {}
    for name in plan.config.diagnostics:
        who = f'diagnostic "{name}"'
        diagnostic = found[name] = create(who, catalog.get("diagnostic", name).load(), (), "without arguments")
        with name_component(who):
            reason = diagnostic.fits(plan) if hasattr(diagnostic, "fits") else ""
        if reason:
            raise UnfitError(f'Diagnostic "{name}" can\'t measure this run: {reason}.')
    return found


def _rollouts(
    config: RunConfig, backend: str, catalog: PluginCatalog, spec: Spec, needs: frozenset[str], resumed: bool
) -> RolloutBackend | None:
    """Return the environments in worker processes that the run asks for.

    Raises UsageError for a policy on a GPU, and for more workers than environments in a run that isn't resumed.
    """
    if not config.rollout_workers:
        return None
    if config.rollout_workers > config.num_envs and not resumed:
        raise UsageError(
            f"--rollout-workers {config.rollout_workers}: a seed has {config.num_envs} environments to share. Give at "
            f"most {config.num_envs}, or more environments with --num-envs."
        )
    if config.device != "cpu":
        raise UsageError("--rollout-workers: the policy acts on the workers' CPUs. Use --device cpu, or 0 workers.")
    setup = {"imports": catalog.imports, "blocked": catalog.blocked, "threads": config.threads}
    setup |= {"policy": config.policy.nested(), "needs": sorted(needs), "normalize_obs": config.normalize_obs}
    setup |= {"spaces": (spec.original_space, spec.action_space)}
    setup |= {"masked": spec.masked, "time_limited": spec.time_limited}
    return RolloutBackend(start_process, backend, config.rollout_workers, config.num_envs, setup)


@contextmanager
def name_component(component: str) -> Iterator[None]:
    """Turn an exception of a component's code into a PluginError that names the component.

    Raises:
        PluginError: the body raised something that isn't a PgzooError.
    """
    try:
        yield
    except PgzooError:
        raise
    except Exception as error:
        raise creation_error(component, error) from error


def create(component: str, target: Any, arguments: Sequence[Any], how: str) -> Any:
    """Call the class or function of a component. `how` describes the call, such as "without arguments".

    Raises:
        PluginError: it can't be called like this, or raised something that isn't a PgzooError.
    """
    check_takes(component, target, len(arguments), how)
    with name_component(component):
        return target(*arguments)


def check_takes(component: str, target: Any, count: int, how: str) -> None:
    """Raise PluginError if the class or function of a component can't be called with so many arguments."""
    if not callable(target):
        raise PluginError(
            f"{component} can't be created: {target!r:.60} is not a class or function. Register the "
            "class itself, not an object of it."
        )
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # of some classes in compiled code
        return
    try:
        signature.bind(*range(count))
    except TypeError as error:
        name = getattr(target, "__qualname__", type(target).__qualname__)
        taken = f"({', '.join(signature.parameters)})" if signature.parameters else "no arguments"
        raise PluginError(f"{component} can't be created: {name} takes {taken}, but pgzoo calls it {how}.") from error


def collection_of(algorithm: Any, settings: Any) -> Collection:
    """Return what the algorithm collects: its attribute `collect`, else windows of its setting `rollout_steps`."""
    who = type(algorithm).__name__
    if hasattr(algorithm, "collect"):
        if isinstance(algorithm.collect, type):
            raise PluginError(
                f"{who}: `collect` is the class {algorithm.collect.__name__}. Make it an object such as "
                "pgzoo.Steps(128) or pgzoo.Episodes(per_env=1), or a method collect(self, config) that returns one."
            )
        return _checked_collection(who, _evaluate_attribute(algorithm.collect, settings))
    if not hasattr(settings, "rollout_steps"):
        raise PluginError(
            f"{who} doesn't declare what it collects. Give it an attribute `collect`, such as "
            "Episodes(per_env=1), or a setting `rollout_steps`."
        )
    return _checked_collection(who, Steps(settings.rollout_steps))


def _checked_collection(who: str, collection: Any) -> Collection:
    """Return a collection. Raises PluginError if it is another object, or if its count isn't a positive integer."""
    if not isinstance(collection, Steps | Episodes):
        raise PluginError(
            f"{who}: `collect` is {collection!r}. Make it pgzoo.Steps(count) or pgzoo.Episodes(per_env), or a method "
            "collect(self, config) that returns one."
        )
    name = "count" if isinstance(collection, Steps) else "per_env"
    count: Any = getattr(collection, name)
    if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
        raise PluginError(
            f"{who} collects {collection!r}, but `{name}` must be an integer, at least 1. To use a setting: "
            f"def collect(self, config): return pgzoo.{type(collection).__name__}(config.SETTING)"
        )
    return collection


def _evaluate_attribute(attribute: Any, settings: Any) -> Any:
    """Return an attribute of an algorithm, or its value for the settings if it is a function of them."""
    return attribute(settings) if callable(attribute) else attribute


def _check_device(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        why = "finds no GPU here" if built else "was built without CUDA"
        remedy = "check nvidia-smi" if built else "install a torch with CUDA"
        raise UsageError(f"--device cuda: torch {torch.__version__} {why}. Use --device cpu, or {remedy}.")


def _choose_distribution(algorithm: str, policy: Component, needs: frozenset[str]) -> Component:
    """Return the policy's settings, in which `auto` is epsilon-greedy for an algorithm that learns action values.

    Raises UnfitError if the distribution is epsilon-greedy for another algorithm: its probabilities have no gradient
    with respect to the action values, and nothing sets ε, which says how often sampled actions are random.
    """
    distribution = getattr(policy.settings, "distribution", None)
    if "action_values" not in needs:
        if distribution == "epsilon-greedy":
            raise UnfitError(
                f'The distribution epsilon-greedy fits only algorithms that learn action values, and "{algorithm}" '
                "doesn't. Remove --policy.distribution, or choose such an algorithm: pqn."
            )
        return policy
    if distribution != "auto":
        return policy
    settings = policy.settings.model_copy(update={"distribution": "epsilon-greedy"})
    return policy.model_copy(update={"settings": settings})


def _choose_compile(config: RunConfig, policy: Policy, collection: Collection) -> str:
    """Return "on" or "off": `auto` is on for a long run of a policy that compiles well.

    The number of seeds and the steps that a resumed run has left play no part, so that a seed computes the same numbers
    alone and among others, and before and after it is resumed.
    """
    if config.compile != "auto":
        return config.compile
    settings: Any = config.settings
    if not (isinstance(settings, AlgorithmConfig) and isinstance(collection, Steps) and config.total_steps):
        return "off"
    updates = config.total_steps / (collection.count * config.num_envs)
    steps = updates * getattr(settings, "epochs", 1) * getattr(settings, "minibatches", 1)
    return "on" if steps >= MIN_COMPILED_STEPS and getattr(policy, "compiles", False) else "off"
