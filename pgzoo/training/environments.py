"""The environments of a run: opened when they are first needed, put where a checkpoint left them, saved and closed."""

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
    """Environments to train in and others to evaluate in, `num_envs` and `evaluation_width` for each member."""

    def __init__(self, plan: Plan, *, taking_up: bool) -> None:
        """With `taking_up`, a run goes on from a checkpoint."""
        self.plan, self.taking_up = plan, taking_up
        self.evaluation_width = min(plan.backend.width, plan.config.eval_episodes)
        self._held: dict[int, Any] = {}
        self._training: VectorEnv | None = None
        self._evaluation: VectorEnv | None = None

    def training(self) -> VectorEnv:
        """The environments that are learned from."""
        if self._training is None:
            self._training = self.plan.backend.open(self.plan.request(self.plan.config.num_envs))
        return self._training

    def evaluation(self) -> VectorEnv:
        """Those that are evaluated in."""
        if self._evaluation is None:
            self._evaluation = self.plan.backend.open(self.plan.request(self.evaluation_width))
        return self._evaluation

    def begin(self, state: TrainState) -> Collector:
        """Reset every environment, each member's from its own stream."""
        return rollout.begin(self.training(), self.plan.policy, self._seeds(state, "reset"))

    def begin_apart(self, state: TrainState) -> Collector:
        """Reset every environment, to be played by a policy of its own: `[S * N, 1]`."""
        return rollout.begin(self.training(), self.plan.policy, self._seeds(state, "reset").reshape(-1, 1))

    def go_on(self, state: TrainState, at: Collector) -> Collector:
        """Where a window goes on from `at`, where the one before ended.

        Of a run that is taken up, the environments are first put where they stood; for members of which that isn't
        known, open episodes begin anew.
        """
        if not self.taking_up:
            return at
        self.taking_up = False
        n, told = self.plan.config.num_envs, state.environments or (None,) * len(state.active)
        fresh = state.updates == 0  # who hasn't begun begins as in a run that was never left
        seeds = np.where(fresh[:, None], self._seeds(state, "reset"), self._seeds(state, "resume"))
        begun = rollout.begin(self.training(), self.plan.policy, seeds)
        known = np.array([rows is not None for rows in told])
        if known.any():
            self.training().restore(  # type: ignore[attr-defined]
                [row for rows in told for row in rows or [None] * n]
            )
        self._held = {member: told[member] for member in np.flatnonzero(~state.active).tolist()}
        return freeze(known, at, begun)

    def hold(self, state: TrainState, members: NDArray[np.bool_]) -> None:
        """Remember where the environments of these members stand, who have ended.

        A backend may move rows on that aren't live: what they return is never read.
        """
        saved = self.snapshot(state).environments
        if saved is not None:
            self._held |= {member: saved[member] for member in np.flatnonzero(members).tolist()}

    def snapshot(self, state: TrainState) -> TrainState:
        """The state with where its environments stand, or stood when a member ended, if they can be saved."""
        if state.collector is None or self.taking_up:
            return state
        save = getattr(self._training, "save", None)
        rows = save() if save else None
        if rows is None:
            return state._replace(environments=None)
        n = self.plan.config.num_envs
        cut = enumerate(rows[k : k + n] for k in range(0, len(rows), n))
        return state._replace(environments=tuple(self._held.get(member, now) for member, now in cut))

    def close(self) -> None:
        """Close all of them."""
        for envs in (self._training, self._evaluation):
            if envs is not None:
                envs.close()

    def _seeds(self, state: TrainState, stream: str) -> NDArray[np.int64]:
        n, pairs = self.plan.config.num_envs, zip(self.plan.seeds, state.updates, strict=True)
        return np.stack([reset_seeds(seed, stream, n, int(update)) for seed, update in pairs])
