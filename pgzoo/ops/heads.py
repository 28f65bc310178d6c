"""The input and output layers of the built-in policies: observations to vectors, outputs to distributions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pgzoo.errors import UnfitError
from pgzoo.ops.distributions import DiagonalGaussian, TanhGaussian
from pgzoo.ops.draws import draw_perturbation
from pgzoo.ops.entries import is_image, is_image_stack
from pgzoo.ops.families import Family, family_for, masked
from pgzoo.ops.nets import ROW_BLOCK, linear
from pgzoo.types import Array, Distribution, Params, RowPolicy, Spec

if TYPE_CHECKING:
    from pgzoo.config import ActionConfig

__all__ = ["ActionHead", "ObsEncoder", "unused_critic"]

IMAGE_POLICIES = "Use --policy cnn or --policy impala-cnn."
"""Advice for a policy that is given images."""

TABLE = 1024
"""Maximum number of categories that are one-hot encoded by a table."""

VARIANCE_EPS = 1e-6
"""Added to the variance of state-dependent exploration, which is 0 where all features are 0. SB3 adds the same."""


class ObsEncoder:
    """Encodes observations as vectors of `size` numbers: a Box is flattened, a Discrete one-hot encoded.

    Raises:
        UnfitError: the observations are images, or stacks of images.
    """

    def __init__(self, space: gym.Space[Any], who: str, advice: str = IMAGE_POLICIES) -> None:
        """`who` and `advice` begin and end the message of the error."""
        self.categories = self.first = 0
        self._one_hot: Array | None = None
        if isinstance(space, gym.spaces.Discrete):
            self.categories, self.first, self.size = int(space.n), int(space.start), int(space.n)
            # a lookup table is faster than comparing, but its size is quadratic
            self._one_hot = np.eye(self.categories, dtype=np.float32) if self.categories <= TABLE else None
        elif isinstance(space, gym.spaces.Box) and not (is_image(space) or is_image_stack(space)):
            self.size = int(np.prod(space.shape))
        else:
            original = getattr(space, "original", space)
            raise UnfitError(
                f"{who} doesn't fit the observation space {original}: it supports flat vectors, not images. {advice}"
            )

    def encode(self, obs: Tensor) -> Tensor:
        """Encode a batch: `[S, T, B, *O] -> [S, T, B, size]`."""
        if self.categories:
            return F.one_hot(obs - self.first, self.categories).float()
        return obs.float().reshape(*obs.shape[:3], self.size)

    def encode_numpy(self, obs: Array) -> Array:
        """Encode arrays for acting: `[S, N, *O] -> [S, N, size]`."""
        if self.categories:
            index = obs - self.first
            if self._one_hot is not None:
                return np.asarray(self._one_hot[index])
            return np.asarray(index[..., None] == np.arange(self.categories), np.float32)
        return obs.astype(np.float32, copy=False).reshape(*obs.shape[:2], self.size)


class ActionHead:
    """Turns the last layer of a network, `outputs` numbers, into a distribution that fits the action space.

    With the setting `sde`, the policy explores by generalized state-dependent exploration (gSDE): an action is
    a = μ(s) + Θᵀ f(s), where the L features f(s) are the inputs of the last layer, and the entries of the matrix
    Θ [L, A] are normal with mean 0 and learned standard deviations σ. So the distribution of an action is a Gaussian
    with variance f² @ σ² (plus 1e-6). Its gradient doesn't reach the features.

    A new Θ is sampled at the start of each rollout and every `sde_sample_freq` steps of it, for each environment: an
    episode that starts during a rollout begins with the current matrix. The initial σ is exp(log_std) / √L, so that the
    initial standard deviation of an action is exp(log_std) times the root mean square of the features.

    Source: Raffin, Kober & Stulp (2021), Smooth exploration for robotic reinforcement learning, section 3.

    `without_effect` are the settings that have no effect on the distribution, each with the reason; see
    `protocols.Policy`.

    Raises:
        UnfitError: the distribution doesn't fit the space or the needs of the algorithm.
    """

    def __init__(
        self, spec: Spec, config: ActionConfig, needs: frozenset[str], who: str, features: int | None = None
    ) -> None:
        """`features` is the number L of inputs of the last layer, for a policy that has the setting `sde`."""
        self.family: Family = family_for(
            spec.action_space,
            who,
            distribution=config.distribution,
            state_std=config.state_std,
            rescale=config.rescale,
        )
        if "shift" in needs and self.family.name not in ("gaussian", "tanh"):
            raise UnfitError(
                f"The algorithm shifts the mean of the policy's distribution, but {who} has a {self.family.name} "
                "distribution, which has no mean to shift. "
                "Choose Box actions with a gaussian or tanh distribution, or another algorithm."
            )
        if "action_values" in needs and self.family.name != "epsilon-greedy":
            raise UnfitError(
                f"The algorithm learns action values, but {who} has a {self.family.name} distribution. "
                "Use --policy.distribution epsilon-greedy, which needs Discrete actions, or another algorithm."
            )
        self.outputs, self.log_std = self.family.outputs, config.log_std
        self.noise, self.noise_size, self.to_env = self.family.noise, self.family.noise_size, self.family.to_env
        self.noise_steps: int | None = 1
        self.without_effect = _without_effect(self.family, config)
        self.sde = features is not None and bool(getattr(config, "sde", False))
        self.scale_shape: tuple[int, ...] = (self.family.scale_size,)
        if self.sde:
            assert features is not None
            self._check_sde(config, who)
            self.noise_steps = getattr(config, "sde_sample_freq", None)
            self.noise_size, self.scale_shape = features * self.outputs, (features, self.outputs)
            self.log_std -= 0.5 * math.log(features)

    def init(self) -> Params:
        """Return one member's `log_std`, if it is learned, or its `epsilon`, initially 1.

        `log_std` is `[A]`, or `[L, A]` for state-dependent exploration.
        """
        if not self.family.scale_size:
            return {}
        name = self.family.scale_name
        return {name: torch.full(self.scale_shape, self.log_std if name == "log_std" else 1.0)}

    @staticmethod
    def log_std_of(params: Params) -> Array | None:
        """Return the log standard deviation, or ε, for `choose`: a view `[S, 1, A]` or `[S, 1, L, A]`."""
        scale = _scale_of(params)
        return None if scale is None else scale.detach().numpy()[:, None]

    def distribution(
        self, outputs: Tensor, params: Params, action_mask: Tensor | None, features: Tensor | None = None
    ) -> Distribution:
        """Return the distribution of batch shape `[S, T, B]` for `outputs [S, T, B, K]`.

        `features [S, T, B, L]` are the inputs of the last layer, for state-dependent exploration.
        """
        if action_mask is not None:
            outputs = masked(outputs, action_mask)
        log_std = _scale_of(params)
        if not self.sde:
            return self.family.distribution(outputs, None if log_std is None else log_std[:, None, None])
        assert features is not None and log_std is not None
        features = features.detach()
        dist = self.family.distribution(outputs, _log_std_of_state(features, log_std))
        assert isinstance(dist, DiagonalGaussian | TanhGaussian)
        return replace(dist, perturbation=partial(_perturbation, features, log_std))

    def row_policy(
        self, forward: Callable[..., Any], params: Params, weights: list[Tensor], sizes: list[int], width: int = 1
    ) -> RowPolicy | None:
        """Return a policy whose outputs a function of one row computes; None for a family without such a function.

        `weights` are its tensors `[S, ...]`, in the order in which the function takes them, flattened.
        """
        choose, bounds = self.family.choose_row, self.family.bounds
        if choose is None or self.sde:
            return None
        members = weights[0].shape[0]
        flat = [weight.detach().numpy().reshape(members, -1) for weight in weights]
        log_std = self.log_std_of(params)
        return RowPolicy(
            forward=forward,
            choose=choose,
            weights=np.concatenate(flat, 1, dtype=np.float32),
            sizes=np.array(sizes, np.int64),
            scale=np.zeros((members, 0), np.float32) if log_std is None else np.exp(log_std[:, 0]),
            bounds=bounds,
            stored=self.family.mode(np.zeros(self.outputs, np.float32)),
            width=width,
            outputs=self.outputs,
            moments=np.zeros((2, members, 0), np.float32),
        )

    def choose(
        self,
        outputs: Array,
        log_std: Array | None,
        action_mask: Array | None,
        noise: Array | None,
        features: Array | None = None,
    ) -> Array:
        """Return actions `[S, N, *A]` from `outputs [S, N, K]`: sampled with `noise`, or the mode if it is None.

        `features [S, N, L]` as in `distribution`.
        """
        if action_mask is not None:
            outputs = masked(outputs, action_mask)
        if noise is None:
            return self.family.mode(outputs)
        if self.sde:
            assert features is not None and log_std is not None
            return np.asarray(outputs + draw_perturbation(features, log_std, noise))
        return self.family.draw(outputs, log_std, noise)

    def _check_sde(self, config: ActionConfig, who: str) -> None:
        """Raise UnfitError if the distribution is no Gaussian with a learned standard deviation."""
        if config.state_std:
            raise UnfitError(
                f"{who}: sde and state_std are two ways to make the standard deviation depend on the observation; "
                "remove one of them."
            )
        if self.family.name not in ("gaussian", "tanh"):
            raise UnfitError(f'{who}: the distribution "{self.family.name}" has no standard deviation; remove sde.')


def unused_critic(needs: frozenset[str], *settings: str) -> dict[str, str]:
    """Return these settings of a critic as having no effect, unless the policy needs one; see `protocols.Policy`."""
    return {} if "value" in needs else dict.fromkeys(settings, "has no critic in this run")


def _without_effect(family: Family, config: ActionConfig) -> dict[str, str]:
    """Return the settings that have no effect on a distribution, with the reason."""
    found = {}
    has = f"has a {family.name} distribution, which has no"
    if family.name not in ("gaussian", "tanh"):
        found["log_std"] = f"{has} standard deviation"
    elif config.state_std:
        found["log_std"] = "computes the standard deviation from the observation (state_std)"
    if family.name not in ("gaussian", "tanh", "beta"):  # tanh and beta rescale in any case
        found["rescale"] = f"{has} actions to rescale"
    if not getattr(config, "sde", False):
        found["sde_sample_freq"] = "doesn't explore by gSDE (--policy.sde)"
    return found


def _log_std_of_state(features: Tensor, log_std: Tensor) -> Tensor:
    """Return ½ log(f² @ σ² + 1e-6), `[S, T, B, A]`, for `features [S, T, B, L]` and `log_std [S, L, A]`.

    Rows of sequences are padded, so that results don't depend on the length of a sequence (see `ops.nets.linear`).
    """
    steps, envs = features.shape[1:3]
    rows = features.square().flatten(1, 2)
    if steps > 1:
        rows = F.pad(rows, (0, 0, 0, -(steps * envs) % ROW_BLOCK))
    variance = linear(rows, (2 * log_std).exp(), log_std.new_zeros(log_std[:, 0].shape))
    return 0.5 * (variance[:, : steps * envs] + VARIANCE_EPS).log().reshape(*features.shape[:3], -1)


def _perturbation(features: Tensor, log_std: Tensor, noise: Array) -> Array:
    """Return the perturbation of actions `[S, T, B, A]` by `noise [S, T, B, L * A]`."""
    scale = log_std.detach()[:, None, None]
    return draw_perturbation(features.cpu().numpy(), scale.cpu().numpy(), noise)


def _scale_of(params: Params) -> Tensor | None:
    """Return the parameter that the family's `distribution` and `draw` take beside the outputs, if there is one."""
    return next((params[name] for name in ("log_std", "epsilon") if name in params), None)
