"""The input and output layers of the built-in policies: observations to vectors, outputs to distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pgzoo.errors import UnfitError
from pgzoo.ops.entries import is_image
from pgzoo.ops.families import Family, family_for, masked
from pgzoo.types import Array, Distribution, Params, RowPolicy, Spec

if TYPE_CHECKING:
    from pgzoo.config import ActionConfig

__all__ = ["ActionHead", "ObsEncoder"]

TABLE = 1024
"""Maximum number of categories that are one-hot encoded by a table."""


class ObsEncoder:
    """Encodes observations as vectors of `size` numbers: a Box is flattened, a Discrete one-hot encoded.

    Raises:
        UnfitError: the observations are images.
    """

    def __init__(self, space: gym.Space[Any], who: str) -> None:
        self.categories = self.first = 0
        self._one_hot: Array | None = None
        if isinstance(space, gym.spaces.Discrete):
            self.categories, self.first, self.size = int(space.n), int(space.start), int(space.n)
            # a lookup table is faster than comparing, but its size is quadratic
            self._one_hot = np.eye(self.categories, dtype=np.float32) if self.categories <= TABLE else None
        elif isinstance(space, gym.spaces.Box) and not is_image(space):
            self.size = int(np.prod(space.shape))
        else:
            original = getattr(space, "original", space)
            raise UnfitError(
                f"{who} doesn't fit the observation space {original}: it supports flat vectors, not images. "
                "Use --policy cnn or --policy impala-cnn."
            )

    def encode(self, obs: Tensor) -> Tensor:
        """Encode a batch: `[S, T, B, *O] -> [S, T, B, size]`."""
        if self.categories:
            return F.one_hot(obs - self.first, self.categories).float()
        return obs.float().reshape(*obs.shape[:3], self.size)

    def encode_numpy(self, obs: Array) -> Array:
        """Encode arrays for acting: `[S, N, *O] -> [S, N, size]`."""
        if self._one_hot is not None:
            return np.asarray(self._one_hot[obs - self.first])
        if self.categories:
            return np.asarray((obs - self.first)[..., None] == np.arange(self.categories), np.float32)
        return obs.astype(np.float32, copy=False).reshape(*obs.shape[:2], self.size)


class ActionHead:
    """Turns the last layer of a network, `outputs` numbers, into a distribution that fits the action space.

    Raises:
        UnfitError: the distribution doesn't fit the space or the needs of the algorithm.
    """

    def __init__(self, spec: Spec, config: ActionConfig, needs: frozenset[str], who: str) -> None:
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
        self.outputs, self.log_std = self.family.outputs, config.log_std
        self.noise, self.noise_size, self.to_env = self.family.noise, self.family.noise_size, self.family.to_env

    def init(self) -> Params:
        """Return one member's `log_std`, if it is learned and state-independent."""
        return {"log_std": torch.full((self.family.scale_size,), self.log_std)} if self.family.scale_size else {}

    @staticmethod
    def log_std_of(params: Params) -> Array | None:
        """Return the log standard deviation for `choose`: a view `[S, 1, A]` on the parameter."""
        return params["log_std"].detach().numpy()[:, None] if "log_std" in params else None

    def distribution(self, outputs: Tensor, params: Params, action_mask: Tensor | None) -> Distribution:
        """Return the distribution of batch shape `[S, T, B]` for `outputs [S, T, B, K]`."""
        if action_mask is not None:
            outputs = masked(outputs, action_mask)
        log_std = params.get("log_std")
        return self.family.distribution(outputs, None if log_std is None else log_std[:, None, None])

    def row_policy(
        self, forward: Callable[..., Any], params: Params, weights: list[Tensor], sizes: list[int], width: int = 1
    ) -> RowPolicy | None:
        """Return a policy whose outputs a function of one row computes; None for a family without such a function.

        `weights` are its tensors `[S, ...]`, in the order in which the function takes them, flattened.
        """
        choose, bounds = self.family.choose_row, self.family.bounds
        if choose is None:
            return None
        flat = [weight.detach().flatten(1).numpy() for weight in weights]
        log_std = self.log_std_of(params)
        return RowPolicy(
            forward=forward,
            choose=choose,
            weights=np.concatenate(flat, 1, dtype=np.float32),
            sizes=np.array(sizes, np.int64),
            scale=np.zeros((len(flat[0]), 0), np.float32) if log_std is None else np.exp(log_std[:, 0]),
            bounds=bounds,
            stored=self.family.mode(np.zeros(self.outputs, np.float32)),
            width=width,
            outputs=self.outputs,
            moments=np.zeros((2, len(flat[0]), 0), np.float32),
        )

    def choose(self, outputs: Array, log_std: Array | None, action_mask: Array | None, noise: Array | None) -> Array:
        """Return actions `[S, N, *A]` from `outputs [S, N, K]`: sampled with `noise`, or the mode if it is None."""
        if action_mask is not None:
            outputs = masked(outputs, action_mask)
        return self.family.mode(outputs) if noise is None else self.family.draw(outputs, log_std, noise)
