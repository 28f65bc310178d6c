"""The environments of a run: opened when first needed, restored from a checkpoint, saved, and closed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgzoo.ops.members import freeze
from pgzoo.protocols import VectorEnv
from pgzoo.training import rollout
from pgzoo.training.plan import Plan
from pgzoo.training.seeding import reset_seeds
from pgzoo.types import Collector, TrainState

__all__ = ["Environments"]


class Environments:
    """Environments for training, `num_envs` per member, and others for evaluation, `evaluation_width` per member."""

    def __init__(self, plan: Plan, *, resuming: bool) -> None:
        """`resuming`: whether the run starts from a checkpoint."""
        self.plan, self.resuming = plan, resuming
        self.evaluation_width = min(plan.backend.width, plan.config.eval_episodes)
        self._saved_ended: dict[int, Any] = {}  # the environments of members that have ended, saved
        self._training: VectorEnv | None = None
        self._evaluation: VectorEnv | None = None

    def training(self) -> VectorEnv:
        """Return the environments for training."""
        if self._training is None:
            request = self.plan.request(self.plan.config.num_envs)._replace(info=self.plan.info)
            self._training = (self.plan.rollouts or self.plan.backend).open(request)
        return self._training

    def evaluation(self) -> VectorEnv:
        """Return the environments for evaluation."""
        if self._evaluation is None:
            self._evaluation = self.plan.backend.open(self.plan.request(self.evaluation_width))
        return self._evaluation

    def reset(self, state: TrainState, *index: int) -> Collector:
        """Reset every training environment, each member's from its own random stream; another one for every `index`."""
        self.resuming = False  # the run begins here, also if it is resumed without a checkpoint
        return rollout.reset_all(self.training(), self.plan.policy, self._seeds(state, "reset", *index))

    def reset_as_members(self, state: TrainState, *index: int) -> Collector:
        """Reset every training environment as if each were a member with one environment, `[S * N, 1]`.

        Each starts another episode for every `index`.
        """
        return rollout.reset_all(self.training(), self.plan.policy, self._seeds(state, "reset", *index).reshape(-1, 1))

    def window_start(self, state: TrainState, last: Collector) -> Collector:
        """Return where the next window starts, given `last`, where the last one ended.

        That is `last` itself, except in the first window after a resume: then the environments are restored from the
        checkpoint, and members whose environments weren't saved start new episodes.
        """
        if not self.resuming:
            return last
        self.resuming = False
        n, saved = self.plan.config.num_envs, state.environments or (None,) * len(state.active)
        fresh = state.updates == 0  # members without any update yet start as in a run that was not interrupted
        seeds = np.where(fresh[:, None], self._seeds(state, "reset"), self._seeds(state, "resume"))
        fresh_start = rollout.reset_all(self.training(), self.plan.policy, seeds)
        known = np.array([rows is not None for rows in saved])
        if known.any():
            self.training().restore(  # type: ignore[attr-defined]
                [row for rows in saved for row in rows or [None] * n]
            )
        self._saved_ended = {member: saved[member] for member in np.flatnonzero(~state.active).tolist()}
        return freeze(known, last, fresh_start)

    def save_ended(self, state: TrainState, members: NDArray[np.bool_]) -> None:
        """Save the environments of members `[S]` (bool) that have ended, for later snapshots.

        They can't be saved later: a backend may continue to step environments of members that are not active.
        """
        saved = self.snapshot(state).environments
        if saved is not None:
            self._saved_ended |= {member: saved[member] for member in np.flatnonzero(members).tolist()}

    def snapshot(self, state: TrainState) -> TrainState:
        """Return the state with its environments; for ended members as of their end; None if they can't be saved."""
        if state.collector is None or self.resuming:
            return state
        save = getattr(self._training, "save", None)
        rows = save() if save else None
        if rows is None:
            return state._replace(environments=None)
        n = self.plan.config.num_envs
        cut = enumerate(rows[k : k + n] for k in range(0, len(rows), n))
        return state._replace(environments=tuple(self._saved_ended.get(member, now) for member, now in cut))

    def close(self) -> None:
        """Close all environments."""
        for envs in (self._training, self._evaluation):
            if envs is not None:
                envs.close()

    def _seeds(self, state: TrainState, stream: str, *index: int) -> NDArray[np.int64]:
        n, pairs = self.plan.config.num_envs, zip(self.plan.seeds, state.updates, strict=True)
        return np.stack([reset_seeds(seed, stream, n, int(update), *index) for seed, update in pairs])
