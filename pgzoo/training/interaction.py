"""Let policies act in the environments of a run: to collect trajectories, and to evaluate candidates and policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pgzoo.errors import RunFailed
from pgzoo.ops.members import freeze, map_leaves
from pgzoo.training import rollout
from pgzoo.training.activity import Monitor
from pgzoo.training.behavior import Behavior, GivenNoise, Greedy, Noise
from pgzoo.training.environments import Environments
from pgzoo.training.evaluation import Evaluation, evaluate
from pgzoo.training.events import EvaluationMode
from pgzoo.training.metrics import Stopwatch
from pgzoo.training.plan import Plan, policy_tensors
from pgzoo.training.rollout import EndlessEpisode, collect, compiled_policy
from pgzoo.training.seeding import generator
from pgzoo.training.tape import FinishedEpisodes, concatenate_episodes
from pgzoo.types import RECENT, Episodes, Params, TrainState, Trajectory

__all__ = ["Interaction"]

NO_LIMIT = np.iinfo(np.int64).max


class Interaction:
    """The environments of a run, and the policy acting in them."""

    def __init__(self, plan: Plan, watch: Stopwatch, *, resuming: bool) -> None:
        """`resuming`: whether the environments are first restored from a checkpoint."""
        self.plan, self.watch = plan, watch
        self.environments = Environments(plan, resuming=resuming)
        self.activity = watch.activity
        self._compiled, self._steps = False, 0

    @property
    def monitor(self) -> Monitor:
        """Watches the collections for training."""
        return self.activity.collecting

    def collect(
        self,
        state: TrainState,
        given: Tensor | None = None,
        call: int = 0,
        meanwhile: Callable[[TrainState], TrainState] | None = None,
    ) -> tuple[TrainState, Trajectory, FinishedEpisodes]:
        """Let the policy act for a window of steps or whole episodes, as specified by `plan.collection`.

        `call` counts the collections of an update from 0: each has its own noise and, if they are whole, its own
        episodes. `meanwhile` trains the state, while rollout workers act with the policy of before; without workers,
        after the collection.

        Returns the state with its progress set and the steps and episodes of the active members counted, the
        trajectory on the CPU, and the episodes that ended. Actions are sampled with the noise `given [S, T, N, K]`, by
        default with noise that is drawn here.

        Raises:
            Cancelled: the monitor ends a collection of whole episodes.
            ValueError: noise is given, and its shape is another one or whole episodes are collected.
        """
        plan, kind = self.plan, self.plan.collection
        episodes, window = (kind.per_env, None) if isinstance(kind, Episodes) else (NO_LIMIT, kind.count)
        index = (call,) if call else ()
        noise = self._noise(state, window, *index) if given is None else self._given_noise(given, window)
        self._compile(state)
        state = state._replace(progress=self._progress(state))
        with self._collecting():
            envs = self.environments.training()
            start = None if window is None else state.collector
            start = (
                self.environments.reset(state, *index)
                if start is None
                else self.environments.window_start(state, start)
            )
            quota = np.where(state.active, episodes, 0)
            behavior = Behavior(plan.policy, plan.policy_params(state), noise)
            quotas = np.repeat(quota[:, None], plan.config.num_envs, 1)
            begin = getattr(envs, "begin_rollout", None) if meanwhile else None
            finish = begin(behavior, start, quotas, window) if begin else None
            collected = None if finish else collect(envs, behavior, start, quotas, window, self.monitor, self._steps)
        before = state
        if meanwhile:
            state = meanwhile(state)
        if finish:
            with self._collecting():
                collected = finish(self.monitor)
        assert collected is not None
        trajectory, finished, end = collected
        self._steps = trajectory.valid.shape[1]
        collector = None if window is None else freeze(before.active, end, start)
        state = state._replace(collector=collector, environments=None)
        return _counted(state, trajectory, finished), trajectory, finished

    def play(
        self, state: TrainState, candidates: Params, *index: int
    ) -> tuple[TrainState, NDArray[np.float64], Trajectory, FinishedEpisodes]:
        """Play one episode per environment with greedy actions, each with different parameters.

        `candidates` are leaves `[S, N, ...]` of the policy, under the names in the state. Returns the results of
        `collect`, with the returns `[S, N]` after the state; NaN for members that are not active. `index` selects the
        episodes of this update.
        """
        plan, members, n = self.plan, len(self.plan.members), self.plan.config.num_envs
        for name, leaf in candidates.items():
            if name not in state.params:
                raise ValueError(f'ctx.play: no parameter "{name}"; there are: {", ".join(state.params)}')
            expected = [members, n, *state.params[name].shape[1:]]
            if list(leaf.shape) != expected:
                raise ValueError(f"ctx.play: {name} must be [S, N, ...], here {expected}; got {list(leaf.shape)}")
        self._compile(state)
        state = state._replace(progress=self._progress(state))
        shared = {k: v.unsqueeze(1).expand(-1, n, *v.shape[1:]) for k, v in (state.params | state.buffers).items()}
        params = {k: v.flatten(0, 1).contiguous() for k, v in policy_tensors(shared | candidates).items()}
        with self._collecting():
            # each environment is treated as a separate member: [S * N, 1]
            envs, start = self.environments.training(), self.environments.reset_as_members(state, *index)
            quota = np.repeat(state.active, n)[:, None].astype(np.int64)
            trajectory, finished, _ = collect(
                envs, Behavior(plan.policy, params, Greedy()), start, quota, None, self.monitor
            )

        def by_member(leaf: Tensor) -> Tensor:  # [S * N, T, 1, ...] -> [S, T, N, ...]
            return leaf.reshape(members, n, *leaf.shape[1:]).squeeze(3).transpose(1, 2)

        trajectory = map_leaves(by_member, trajectory._replace(memory=None))
        returns = np.array([r[0] if len(r) else np.nan for r in finished.returns]).reshape(members, n)
        finished = concatenate_episodes(
            [FinishedEpisodes(finished.returns[k::n], finished.lengths[k::n]) for k in range(n)], members
        )
        return _counted(state, trajectory, finished), returns, trajectory, finished

    def evaluate(self, state: TrainState, active: NDArray[np.bool_], mode: EvaluationMode) -> Evaluation:
        """Play the evaluation episodes of the members in `active [S]` in separate environments; see `evaluate`."""
        c, plan = self.plan.config, self.plan
        self.activity.evaluating = Monitor(self.monitor.cancelled)
        self.activity.episodes_due = int(active.sum()) * c.eval_episodes
        with self.watch.phase("evaluate", f'environment "{c.env}"'):
            return evaluate(
                self.environments.evaluation(),
                self.environments.evaluation_width,
                plan.policy,
                plan.policy_params(state),
                seeds=plan.seeds,
                active=active,
                episodes=c.eval_episodes,
                mode=mode,
                max_steps=c.eval_max_steps,
                monitor=self.activity.evaluating,
            )

    def _compile(self, state: TrainState) -> None:
        """Compile the environments and the policy, as far as both can be, before the first collection."""
        if self._compiled:
            return
        c = self.plan.config
        with self.watch.phase("collect"):
            envs: Any = self.environments.training()
        if hasattr(envs, "compile"):
            with self.watch.phase("compile", f'environment "{c.env}" or policy "{c.policy.name}"'):
                envs.compile(compiled_policy(envs, self.plan.policy, self.plan.policy_params(state)))
        self._compiled = True

    def _noise(self, state: TrainState, window: int | None, *index: int) -> Noise:
        """Return the noise of the next collection, each member's from a generator of this update and `index`."""
        plan, pairs = self.plan, zip(self.plan.seeds, state.updates, strict=True)
        generators = [generator(seed, "act", int(update), *index) for seed, update in pairs]
        return Noise(plan.policy, generators, plan.config.num_envs, window)

    def _given_noise(self, given: Tensor, window: int | None) -> GivenNoise:
        """Return the noise `[S, T, N, K]` of a collection of `window` steps. Raises ValueError; see `collect`."""
        plan = self.plan
        if window is None:
            raise ValueError("ctx.collect: noise can be given only for a number of steps, not for whole episodes")
        expected = [len(plan.members), window, plan.config.num_envs, plan.policy.noise_size]
        if list(given.shape) != expected:
            raise ValueError(f"ctx.collect: noise must be [S, T, N, K], here {expected}; got {list(given.shape)}")
        return GivenNoise(np.ascontiguousarray(given.cpu().numpy().swapaxes(0, 1)))

    def _progress(self, state: TrainState) -> NDArray[np.float64]:
        """Return the fraction of its run that each member has completed, `[S]`, 0 to 1."""
        c, done = self.plan.config, np.zeros(len(self.plan.members))
        if c.total_steps is not None:
            done = np.maximum(done, state.env_steps / c.total_steps)
        if c.total_episodes is not None:
            done = np.maximum(done, state.episodes / c.total_episodes)
        return np.minimum(done, 1.0)

    @contextmanager
    def _collecting(self) -> Iterator[None]:
        """Time a collection, without overflow warnings: the update finds non-finite tensors and names them."""
        c = self.plan.config
        with (
            self.watch.phase("collect", f'environment "{c.env}" or policy "{c.policy.name}"'),
            np.errstate(over="ignore", invalid="ignore"),
        ):
            try:
                yield
            except EndlessEpisode as error:
                raise RunFailed(
                    f'Environment "{c.env}": an episode has not ended after {rollout.EPISODE_LIMIT:,} steps, and '
                    f'algorithm "{c.algorithm}" collects whole episodes. Limit them with --max-episode-steps.'
                ) from error


def _counted(state: TrainState, trajectory: Trajectory, finished: FinishedEpisodes) -> TrainState:
    """Return the state with the collected steps, episodes and recent returns added."""
    state = state._replace(env_steps=state.env_steps + trajectory.valid.numpy().sum((-2, -1)))
    if not any(map(len, finished.returns)):
        return state
    both = zip(state.recent, finished.returns, strict=True)
    return state._replace(
        episodes=state.episodes + np.array([len(r) for r in finished.returns], np.int64),
        recent=np.stack([np.concatenate([known, new])[-RECENT:] for known, new in both]),
    )
