"""The policy that is checked, made for each of some spaces, with inputs to try it on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor

from pgzoo.config import Component
from pgzoo.envs.spec import make_spec
from pgzoo.errors import PluginError, UnfitError
from pgzoo.ops.acting import actor_for, memory_size
from pgzoo.ops.draws import draw_noise
from pgzoo.protocols import Policy
from pgzoo.registry.components import resolve_component
from pgzoo.runs.planning import POLICY_ARGUMENTS, check_takes
from pgzoo.testing.target import CheckFailed, CheckTarget
from pgzoo.training.plan import make_policy
from pgzoo.types import ActorInputs, Array, Inputs, Output, Params, Spec

__all__ = ["ACTIONS", "MEMBERS", "OBSERVATIONS", "ROWS", "Case", "policy_cases", "policy_or_refusal"]

OBSERVATIONS: Mapping[str, gym.Space[Any]] = {
    "a vector": Box(-1.0, 1.0, (3,)),
    "a matrix": Box(-1.0, 1.0, (2, 3)),
    "a small image": Box(0, 255, (36, 36, 3), np.uint8),
    "an image": Box(0, 255, (64, 64, 3), np.uint8),
    "a category": Discrete(5),
    "a category from -2": Discrete(5, start=np.int64(-2)),
}
ACTIONS: Mapping[str, gym.Space[Any]] = {
    "Discrete(2)": Discrete(2),
    "Discrete(4) from 1": Discrete(4, start=np.int64(1)),
    "MultiDiscrete([2, 3])": MultiDiscrete([2, 3]),
    "MultiBinary(3)": MultiBinary(3),
    "Box of one": Box(-1.0, 1.0, (1,)),
    "Box of 2 x 2": Box(-0.5, 2.0, (2, 2)),
}
MEMBERS, ROWS = 3, 4
"""How many members (seeds) a case has, and how many rows its inputs have unless a check needs more."""


@dataclass(frozen=True)
class Case:
    """A policy made for some spaces, with parameters `[S, ...]`, and inputs to try it on."""

    where: str
    policy: Policy
    component: Component
    spec: Spec
    params: Params

    def obs(self, *shape: int) -> Array:
        """Return random observations `[*shape, *O]`, the same in every call."""
        space, rng = self.spec.observation_space, np.random.default_rng(0)
        if isinstance(space, Discrete):
            return rng.integers(space.start, space.start + space.n, shape)
        assert isinstance(space, Box)
        if np.issubdtype(space.dtype, np.integer):
            return rng.integers(space.low, space.high + 1, (*shape, *space.shape)).astype(space.dtype)
        return rng.uniform(space.low, space.high, (*shape, *space.shape)).astype(space.dtype)

    def inputs(self, rows: int = ROWS, steps: int = 1, mask: Array | None = None) -> Inputs:
        """Return inputs `[S, T, B, ...]`; episodes start at the first step."""
        obs = torch.from_numpy(self.obs(MEMBERS, steps, rows))
        allowed = None if mask is None else torch.from_numpy(np.broadcast_to(mask, (*obs.shape[:3], len(mask))).copy())
        if not memory_size(self.policy):
            return Inputs(obs, allowed)
        starts = torch.zeros(MEMBERS, steps, rows, dtype=torch.bool)
        starts[:, 0] = True
        return Inputs(obs, allowed, torch.zeros(MEMBERS, rows, memory_size(self.policy)), starts)

    def seen(self, rows: int = ROWS, mask: Array | None = None) -> ActorInputs:
        """Return the actor's inputs at the first step."""
        inputs = self.inputs(rows, mask=mask)
        return ActorInputs(
            inputs.obs[:, 0].numpy(),
            None if inputs.action_mask is None else inputs.action_mask[:, 0].numpy(),
            None if inputs.memory is None else inputs.memory.numpy(),
            None if inputs.starts is None else inputs.starts[:, 0].numpy(),
        )

    def noise(self, rows: int = ROWS) -> Array:
        """Return noise `[S, N, K]`, the same in every call."""
        return draw_noise(self.policy.noise, np.random.default_rng(1), (MEMBERS, rows, self.policy.noise_size))

    def act(self, seen: ActorInputs, noise: Array | None) -> Array:
        """Return actions `[S, N, *A]`."""
        return actor_for(self.policy, self.params)(seen, noise)[0]

    def apply(self, inputs: Inputs) -> Output:
        """Evaluate the policy on a batch."""
        with torch.no_grad():
            return self.policy.apply(self.params, inputs._replace(obs=inputs.obs.clone()))

    def moved(self) -> Case:
        """Return it with other parameters, because the distributions of initial policies are often nearly uniform.

        Only matrices change: a vector may be a scale, for which not every number has a meaning.
        """
        rng, learned = np.random.default_rng(3), self.policy.init(np.random.default_rng(0))

        def move(leaf: Tensor) -> Tensor:
            fan_in = max(leaf[0].numel() / leaf.shape[1], leaf[0].numel() / leaf.shape[-1])
            return leaf + torch.from_numpy(rng.normal(size=leaf.shape) / fan_in**0.5).to(leaf.dtype)

        params = {k: move(v) if k in learned and v.ndim > 2 and v.numel() else v for k, v in self.params.items()}
        return replace(self, params=params)

    def log_prob(self, output: Output, actions: Array) -> Tensor:
        """Return the log-probabilities of actions `[S, T, B, *A]`."""
        with torch.no_grad():
            return output.dist.log_prob(torch.from_numpy(np.ascontiguousarray(actions)))


def policy_cases(target: CheckTarget, *, masked: bool = False, needs: frozenset[str] = frozenset()) -> Iterator[Case]:
    """Yield the policy on the spaces that it supports: one observation space with all actions, the others with one.

    Images are only tried if nothing smaller is supported, the larger one only if the small one isn't.
    """
    component, _ = resolve_component("policy", target.component.name, target.catalog)
    flat = 0
    for seen, observation in sorted(OBSERVATIONS.items(), key=lambda item: "image" in item[0]):
        if "image" in seen and flat:
            continue
        one_action_is_enough = flat > 0
        for taken, action in ACTIONS.items():
            spec = make_spec(observation, action, masked=masked)
            policy = policy_or_refusal(target, spec, needs)
            if isinstance(policy, UnfitError):
                continue
            flat += 1
            where = f"observations of {seen} and actions in {taken}" + (" with a critic" if "value" in needs else "")
            key = f"initial parameters for {where}{' that are masked' if masked else ''}, {sorted(needs)}"
            if key not in target.remembered:
                own: Params = getattr(policy, "buffers", dict)()
                each = [policy.init(np.random.default_rng(seed)) | own for seed in range(MEMBERS)]
                target.remembered[key] = {name: torch.stack([one[name] for one in each]) for name in each[0]}
            params = {name: leaf.clone() for name, leaf in target.remembered[key].items()}
            yield Case(where, policy, component, spec, params)
            if one_action_is_enough:
                break


def policy_or_refusal(target: CheckTarget, spec: Spec, needs: frozenset[str] = frozenset()) -> Policy | UnfitError:
    """Return the policy made for these spaces, or the UnfitError with which its factory refuses them."""
    component, factory = resolve_component("policy", target.component.name, target.catalog)
    with target.errors_fail_check(
        f"on {spec.observation_space} and {spec.action_space}",
        "Correct it, or raise UnfitError if it doesn't support such spaces.",
    ):
        try:
            check_takes(target.who, factory, 3, POLICY_ARGUMENTS)
        except PluginError as error:
            raise CheckFailed(str(error)) from error
        try:
            return make_policy(factory, component.settings, spec, needs, normalize_obs=False)
        except UnfitError as error:
            return error
        except PluginError as error:
            raise CheckFailed(f"{target.who} can't be created: {error}") from error
