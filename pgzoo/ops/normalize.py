"""Running means and standard deviations, and the normalization of observations and rewards by them.

Every sum is a running sum over rows, so it doesn't depend on the amount of padding (see `ops.losses`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from pgzoo.errors import UnfitError
from pgzoo.ops.acting import actor_for, memory_size, noise_steps
from pgzoo.ops.entries import VECTOR, PackedSpace
from pgzoo.ops.returns import reverse_scan
from pgzoo.protocols import Actor, Policy
from pgzoo.types import ActorInputs, Array, Inputs, Output, Params, RowPolicy, Spec, Trajectory

__all__ = [
    "CLIP",
    "NormalizedPolicy",
    "moments",
    "reward_buffers",
    "scale_rewards",
    "update_moments",
    "update_reward_moments",
]

CLIP = 10.0
"""Normalized numbers are clipped to [-CLIP, CLIP]."""

EPS = 1e-8

SINGLE = (torch.float32, torch.float16, torch.uint8, torch.int8, torch.int16)
"""Types of observations that are normalized in single precision, which has all of their values. For all others the mean
is subtracted in double precision: the numbers may be large, and differ by little."""

SINGLE_NUMPY = tuple(np.dtype(str(dtype).removeprefix("torch.")) for dtype in SINGLE)


def moments(*shape: int) -> Params:
    """Return initial moments: `count []`, `mean` and `square` (sum of squared differences from it), `shape`."""
    zeros = torch.zeros(shape, dtype=torch.float64)
    return {"count": torch.zeros((), dtype=torch.float64), "mean": zeros, "square": zeros}


def update_moments(known: Params, x: Tensor, weights: Tensor) -> Params:
    """Merge the rows of `x [S, R, *D]` with `weights [S, R]` of 0 or 1 into moments with leaves `[S, *D]`.

    Source: Chan, Golub & LeVeque (1983), Algorithms for computing the sample variance, eq. 1.5.
    """
    x, w = x.double(), weights.double().reshape(*weights.shape, *[1] * (x.ndim - 2))
    count, like = known["count"], [1] * (x.ndim - 2)
    new = w.cumsum(1)[:, -1].reshape(-1)
    share = new.clamp(min=1.0).reshape(-1, *like)
    mean = (x * w).cumsum(1)[:, -1] / share
    square = ((x - mean.unsqueeze(1)) ** 2 * w).cumsum(1)[:, -1]
    total = (count + new).clamp(min=1.0).reshape(-1, *like)
    n, m = count.reshape(-1, *like), new.reshape(-1, *like)
    difference = mean - known["mean"]
    return {
        "count": count + new,
        "mean": known["mean"] + difference * m / total,
        "square": known["square"] + square + difference * difference * (n * m / total),
    }


def _std(known: Params) -> Tensor:
    """Return standard deviations, `[S, *D]`; 1 without data."""
    count = known["count"].reshape(-1, *[1] * (known["mean"].ndim - 1))
    variance = known["square"] / count.clamp(min=1.0)
    return torch.where(count > 0, (variance + EPS).sqrt(), 1.0)


class NormalizedPolicy:
    """A policy with standardized observations (mean 0, standard deviation 1), clipped to +-`CLIP`.

    The images of a policy with an attribute `image_mask` (which numbers of an observation belong to images, `[*O]`) are
    not normalized.

    The running moments are buffers of the policy, so they are saved and exported with it and don't change in
    evaluations. They are updated between an update and the next collection, so acting and learning use the same
    normalized observations.
    """

    PREFIX = "norm."

    def __init__(self, policy: Policy, spec: Spec) -> None:
        space = spec.observation_space
        mask = getattr(policy, "image_mask", None)
        self.images = None if mask is None or not mask.any() else torch.from_numpy(mask)
        self.packed = space if isinstance(space, PackedSpace) else None
        if mask is not None and mask.all():
            raise UnfitError(f"Observations of {spec.original_space} are images only; remove --normalize-obs.")
        if not isinstance(space, gym.spaces.Box | PackedSpace):
            raise UnfitError(f"Observations of {spec.original_space} are categories; remove --normalize-obs.")
        if space.dtype == np.bool_:
            raise UnfitError(f"Observations of {spec.original_space} are boolean; remove --normalize-obs.")
        self.policy, self.shape = policy, (self.packed.vector_size,) if self.packed else space.shape or ()
        self.compiles = getattr(policy, "compiles", False)
        self.noise, self.noise_size, self.noise_steps = policy.noise, policy.noise_size, noise_steps(policy)
        self.memory_size = memory_size(policy)
        self.without_effect = getattr(policy, "without_effect", {})

    def init(self, rng: np.random.Generator) -> Params:
        """As the wrapped policy."""
        return self.policy.init(rng)

    def buffers(self) -> Params:
        """Return the moments of the observations, and the buffers of the wrapped policy."""
        own: Params = getattr(self.policy, "buffers", dict)()
        return own | {self.PREFIX + name: value for name, value in moments(*self.shape).items()}

    def absorb(self, buffers: Params, obs: Tensor, valid: Tensor) -> Params:
        """Update the moments with observations: `obs [S, T, N, *O]`, `valid [S, T, N]`."""
        seen = self.packed.unpack(obs)[VECTOR] if self.packed else obs
        known = update_moments(self._moments(buffers), seen.flatten(1, 2), valid.flatten(1, 2))
        if hasattr(self.policy, "absorb"):
            buffers = self.policy.absorb(buffers, obs, valid)
        return buffers | {self.PREFIX + name: value for name, value in known.items()}

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Evaluate a batch of raw observations."""
        return self.policy.apply(self._rest(params), inputs._replace(obs=self.normalize(params, inputs.obs)))

    def normalize(self, params: Params, obs: Any) -> Any:
        """Return normalized observations `[S, T, B, *O]`; packed ones are unpacked."""
        at = (slice(None), None, None)

        def normalize(obs: Tensor) -> Tensor:
            mean, std = self._scale(params)
            if obs.dtype in SINGLE:
                mean, std = mean.float(), std.float()
            normalized = ((obs - mean[at]) / std[at]).clamp(-CLIP, CLIP).float()
            return normalized if self.images is None else torch.where(self.images.to(obs.device), obs, normalized)

        return self._with_vector(obs, normalize)

    def actor(self, params: Params) -> Actor:
        """Act on raw observations."""
        exact = [scale[:, None].numpy() for scale in self._scale(params)]
        single = [scale.astype(np.float32) for scale in exact]
        inner = actor_for(self.policy, self._rest(params))

        images = None if self.images is None else self.images.numpy()

        def normalize(obs: Array) -> Array:
            mean, std = single if obs.dtype in SINGLE_NUMPY else exact
            normalized = np.clip((obs - mean) / std, -CLIP, CLIP).astype(np.float32, copy=False)
            return normalized if images is None else np.where(images, obs, normalized).astype(np.float32)

        def act(seen: ActorInputs, noise: Array | None) -> tuple[Array, Array | None]:
            return inner(seen._replace(obs=self._with_vector(seen.obs, normalize)), noise)

        return act

    def row_policy(self, params: Params) -> RowPolicy | None:
        """Return the policy for the compiled collector; None if the wrapped policy has none, or for images."""
        own = getattr(self.policy, "row_policy", None)
        inner: RowPolicy | None = (
            own(self._rest(params)) if own and self.packed is None and self.images is None else None
        )
        if inner is None:
            return None
        return inner._replace(moments=np.stack([scale.float().flatten(1).numpy() for scale in self._scale(params)]))

    def to_env(self, actions: Array) -> Array:
        """As the wrapped policy."""
        return self.policy.to_env(actions)

    def _with_vector(self, obs: Any, normalize: Callable[[Any], Any]) -> Any:
        """Return observations whose numbers, but not those of packed images, are normalized."""
        if self.packed is None:
            return normalize(obs)
        parts = dict(obs) if isinstance(obs, Mapping) else self.packed.unpack(obs)
        return parts | {VECTOR: normalize(parts[VECTOR])}

    def _moments(self, params: Params) -> Params:
        return {name: params[self.PREFIX + name] for name in ("count", "mean", "square")}

    def _rest(self, params: Params) -> Params:
        return {name: value for name, value in params.items() if not name.startswith(self.PREFIX)}

    def _scale(self, params: Params) -> tuple[Tensor, Tensor]:
        """Return the means and standard deviations, `[S, *D]`, in double precision."""
        known = self._moments(params)
        return known["mean"], _std(known)


def reward_buffers(num_envs: int) -> Params:
    """Return one member's buffers: moments of the discounted return, and the current return of each environment."""
    return {"reward.return": torch.zeros(num_envs), **{f"reward.{k}": v for k, v in moments().items()}}


def update_reward_moments(buffers: Params, seen: Trajectory, gamma: Tensor) -> Params:
    """Update the moments with the discounted return so far at every step, Rₜ = rₜ + γ Rₜ₋₁ within an episode.

    Source: Engstrom et al. (2020), Implementation matters in deep policy gradients, section 3.
    """
    steps = seen.rewards.shape[-2]
    continues = seen.valid & ~seen.starts[:, :steps]
    decay = gamma * continues.float()
    rewards = seen.rewards.clone()
    rewards[:, 0] += decay[:, 0] * buffers["reward.return"]
    returns = reverse_scan(rewards.flip(-2), decay.flip(-2)).flip(-2)
    known = {name: buffers[f"reward.{name}"] for name in ("count", "mean", "square")}
    known = update_moments(known, returns.flatten(1), seen.valid.flatten(1))
    fresh: dict[str, Any] = {f"reward.{name}": value for name, value in known.items()}
    is_open = seen.valid[:, -1] & ~(seen.terminated | seen.truncated)[:, -1]
    return buffers | fresh | {"reward.return": torch.where(is_open, returns[:, -1], 0.0)}


def scale_rewards(buffers: Params, rewards: Tensor) -> Tensor:
    """Divide `rewards [S, T, N]` by the standard deviation of the discounted return, and clip them to [-CLIP, CLIP].

    The mean is not subtracted.
    """
    known = {name: buffers[f"reward.{name}"] for name in ("count", "mean", "square")}
    return (rewards / _std(known).float()[:, None, None]).clamp(-CLIP, CLIP)
