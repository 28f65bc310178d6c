"""The plan of a run: all of its components and settings, as plain objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from pgzoo.config import Member, RunConfig
from pgzoo.errors import PluginError, did_you_mean
from pgzoo.ops.acting import memory_size
from pgzoo.ops.heads import ObsEncoder
from pgzoo.ops.normalize import NormalizedPolicy
from pgzoo.protocols import Algorithm, Diagnostic, EnvBackend, EnvState, Policy
from pgzoo.types import INFO, Collection, EnvRequest, Inputs, Need, NoiseKind, Output, Params, Spec, TrainState

__all__ = [
    "POLICY",
    "Plan",
    "PolicyView",
    "checked_needs",
    "info_keys",
    "make_policy",
    "policy_tensors",
    "with_state_names",
]

POLICY_NEEDS = frozenset({"value", "aux_value", "shift", "action_values"})

POLICY, CRITIC = "policy.", "critic."
"""Prefixes of the names of the policy's and its critic's tensors in a `TrainState`."""


@dataclass(frozen=True)
class Plan:
    """All components and settings of a run, as plain objects; made by `pgzoo.plan` or by hand.

    Attributes:
        config: the configuration of the first member.
        members: the seeds (and settings of a sweep) trained together; see `pgzoo.types`.
        needs: the outputs and data that the algorithm requires (see `types.Need`).
        added_critic: True if "value" is among the needs only for the estimator (see `training.added_critic`).
        env_states: save and restore environments.
        diagnostics: measured after every `config.diagnostics_every` updates, by name.
        forgets: True if an episode after `reset(seed)` doesn't depend on earlier episodes.
        compile_cache: folder for compiled gradient steps; None: TORCHINDUCTOR_CACHE_DIR, or a temporary folder.
    """

    config: RunConfig
    spec: Spec
    algorithm: Algorithm
    policy: Policy
    estimator: Callable[..., Any]
    collection: Collection
    backend: EnvBackend
    group: str
    members: tuple[Member, ...]
    needs: frozenset[str] = frozenset()
    added_critic: bool = False
    env_states: tuple[EnvState, ...] = ()
    diagnostics: Mapping[str, Diagnostic] = field(default_factory=dict)
    forgets: bool = True
    compile_cache: Path | None = None
    rollouts: EnvBackend | None = None
    """The backend of the training environments, if it isn't that of the evaluation environments (`backend`)."""

    initial: Params = field(default_factory=dict)
    """Tensors `[S, ...]` of the policy, by their names in the state, with which the run starts instead of new ones."""

    make_env: Callable[..., Any] | None = None
    """The class or function that makes the environment, if the run was given one instead of an id."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each member."""
        return tuple(member.seed for member in self.members)

    @property
    def info(self) -> tuple[str, ...]:
        """The keys of the environment's info whose values the run needs."""
        return info_keys(self.needs)

    @property
    def run_keys(self) -> tuple[str, ...]:
        """The run key of each member."""
        return tuple(member.run_key(self.group) for member in self.members)

    def request(self, envs_per_member: int) -> EnvRequest:
        """Return the environments to request from the backend."""
        c = self.config
        rows = len(self.members) * envs_per_member
        return EnvRequest(
            c.env,
            c.env_kwargs,
            c.max_episode_steps,
            rows,
            self.env_states,
            self.spec.masked,
            tuple(c.wrappers or ()),
            c.frame_stack or 0,
            make=self.make_env,
        )

    def settings_as_tensors(self, settings: Callable[[RunConfig], dict[str, Any]]) -> dict[str, Any]:
        """Return settings with the members' floats as `[S, 1, 1]` tensors; all others are the same for every member."""
        each = [settings(member.config) for member in self.members]
        return {
            name: torch.tensor([own[name] for own in each], device=self.config.device).reshape(-1, 1, 1)
            if isinstance(value, float)
            else value
            for name, value in each[0].items()
        }

    def policy_params(self, state: TrainState) -> Params:
        """Return the parameters and buffers of the policy and its critic, under the policy's own names."""
        return policy_tensors(state.params | state.buffers)


def policy_tensors(params: Params) -> Params:
    """Return the tensors of the policy and its critic from all tensors of a state, under the policy's own names."""
    return {k.removeprefix(POLICY): v for k, v in params.items() if k.startswith((POLICY, CRITIC))}


def with_state_names(params: Params) -> Params:
    """Return the policy's tensors under their names in a state."""
    return {k if k.startswith(CRITIC) else POLICY + k: v for k, v in params.items()}


class PolicyView:
    """Implements `protocols.LearningPolicy`: the policy finds its own parameters among all of a member's."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.memory_size = memory_size(plan.policy)
        self.needs = plan.needs

    def init(self, rng: np.random.Generator) -> Params:
        """Return one member's initial parameters, under their names in the state."""
        return with_state_names(self._plan.policy.init(rng))

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Evaluate a batch with the policy's part of `params`."""
        return self._plan.policy.apply(policy_tensors(params), inputs)

    @property
    def vector_size(self) -> int:
        """Size of the vectors that `vectors` returns. Raises UnfitError for images."""
        return self._encoder.size

    def vectors(self, params: Params, inputs: Inputs) -> Tensor:
        """Return the observations of a batch as vectors, `[S, T, B, vector_size]`."""
        obs = inputs.obs
        if isinstance(self._plan.policy, NormalizedPolicy):
            obs = self._plan.policy.normalize(policy_tensors(params), obs)
        return self._encoder.encode(obs)

    @cached_property
    def _encoder(self) -> ObsEncoder:
        advice = "It has a network of its own, so another --policy doesn't help. Use an environment without images."
        return ObsEncoder(self._plan.spec.observation_space, f'algorithm "{self._plan.config.algorithm}"', advice)


def checked_needs(needs: Iterable[str], component: str, known: Sequence[str] = get_args(Need)) -> frozenset[str]:
    """Return the needs of a component, such as 'Algorithm "ppo"', as a set. Raises PluginError for an unknown one.

    `known` are the needs that it may have besides "info:KEY".
    """
    asked = (needs,) if isinstance(needs, str) else tuple(needs)
    unknown = next((need for need in asked if need not in known and not _is_info(need)), None)
    if unknown is not None:
        raise PluginError(
            f'{component} declares the unknown need "{unknown}".'
            f"{did_you_mean(unknown, known)} Choose from: {', '.join([*known, 'info:KEY'])}."
        )
    return frozenset(asked)


def info_keys(needs: Iterable[str]) -> tuple[str, ...]:
    """Return the keys of the environment's info among the needs."""
    return tuple(sorted(need.removeprefix(INFO) for need in needs if _is_info(need)))


def _is_info(need: str) -> bool:
    return need.startswith(INFO) and need != INFO


def make_policy(factory: Any, settings: Any, spec: Spec, needs: frozenset[str], normalize_obs: bool) -> Policy:
    """Build a policy with its factory.

    Raises:
        UnfitError: it doesn't fit the environment or the needs.
        PluginError: the factory returned something else than a policy, or one with an unknown kind of noise.
    """
    policy: Policy = factory(settings, spec, needs & POLICY_NEEDS)
    if not all(callable(getattr(policy, name, None)) for name in ("init", "apply")):
        name = getattr(factory, "__qualname__", type(factory).__qualname__)
        raise PluginError(
            f"{name} returned {policy!r:.60}; it must return a policy, with the methods of pgzoo.protocols.Policy."
        )
    if (noise := getattr(policy, "noise", None)) not in (known := get_args(NoiseKind)):
        raise PluginError(f"its attribute noise is {noise!r}; it must be one of {', '.join(known)}.")
    return NormalizedPolicy(policy, spec) if normalize_obs else policy
