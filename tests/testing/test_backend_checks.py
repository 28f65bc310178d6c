"""Every check of an environment backend can fail: for each there is a backend with one fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from failing_checks import ALL_CHECKS, assert_fails, failing, named_by_faulty_plugins
from gymnasium.spaces import Box

from pgzoo.envs.sync import SyncBackend, SyncEnvs
from pgzoo.testing.checks import CHECKS
from pgzoo.types import Array, EnvRequest, StepResult


class Envs(SyncEnvs):
    def step(self, actions: Array, live: Any) -> StepResult:
        return self.changed(super().step(actions, live))

    def changed(self, step: StepResult) -> StepResult:
        return step


def backend(envs: type[SyncEnvs]) -> type:
    class Backend(SyncBackend):
        def open(self, request: EnvRequest) -> Any:
            return envs(request)

    return Backend


class Misshapen(Envs):
    def __init__(self, request: EnvRequest) -> None:
        super().__init__(request)
        self.observation_space = Box(-1.0, 1.0, (4,))


class Crowded(Envs):
    def __init__(self, request: EnvRequest) -> None:
        super().__init__(request)
        self.made = request.rows

    def changed(self, step: StepResult) -> StepResult:
        return step._replace(rewards=step.rewards * self.made)


class Paying(Envs):
    def changed(self, step: StepResult) -> StepResult:
        return step._replace(rewards=np.ones_like(step.rewards))


class Reusing(SyncEnvs):
    """Writes the observations of each step into the same array."""

    def reset(self, seeds: Any) -> Array:
        self.buffer = super().reset(seeds)
        return self.buffer

    def step(self, actions: Array, live: Any) -> StepResult:
        step = super().step(actions, live)
        reused = self.buffer[: len(live)]  # the buffer is longer after `select`
        reused[:] = step.obs
        return step._replace(obs=reused)


class ReusingMasks(SyncEnvs):
    """Writes the action masks of each step into the same array."""

    def step(self, actions: Array, live: Any) -> StepResult:
        before = self.action_mask
        step = super().step(actions, live)
        if before is not None and self.action_mask is not None:
            before[:] = self.action_mask
            self.action_mask = before
        return step


class Unmasked(Envs):
    """Has no action masks, also where the environment has them."""

    def changed(self, step: StepResult) -> StepResult:
        self.action_mask = None
        return step


class AllAllowed(Envs):
    """Allows every action, whatever the environment allows."""

    def changed(self, step: StepResult) -> StepResult:
        self.action_mask = None if self.action_mask is None else np.ones_like(self.action_mask)
        return step


class Maskless(Envs):
    """Lacks the attribute action_mask."""

    def __getattribute__(self, name: str) -> Any:
        if name == "action_mask":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def __init__(self, request: EnvRequest) -> None:
        super().__init__(request)
        del self.__dict__["action_mask"]


class LimitTerminates(Envs):
    """Reports time limits as terminations."""

    def changed(self, step: StepResult) -> StepResult:
        return step._replace(terminated=step.terminated | step.truncated, truncated=np.zeros_like(step.truncated))


class Swapped(Envs):
    """Exchanges the two flags of an end."""

    def changed(self, step: StepResult) -> StepResult:
        return step._replace(terminated=step.truncated, truncated=step.terminated)


class Doubling(Envs):
    """Doubles the rewards."""

    def changed(self, step: StepResult) -> StepResult:
        return step._replace(rewards=2 * step.rewards)


class Paralyzed(SyncEnvs):
    """Ignores the actions."""

    def step(self, actions: Array, live: Any) -> StepResult:
        return super().step(np.zeros_like(actions), live)


class Repeating(SyncEnvs):
    """Seeds every episode of a row with the seed of the row."""

    def step(self, actions: Array, live: Any) -> StepResult:
        for env, ended in zip(self._envs, self._ended, strict=True):
            if ended:
                env.reset(seed=env.unwrapped.np_random_seed)
        return super().step(actions, live)


class Tupled(Envs):
    """Returns a plain tuple."""

    def changed(self, step: StepResult) -> Any:
        return tuple(step)


class Listed(Envs):
    """Returns rewards as a list."""

    def changed(self, step: StepResult) -> Any:
        return step._replace(rewards=list(step.rewards))  # type: ignore[arg-type]


class Column(Envs):
    """Returns rewards as a column."""

    def changed(self, step: StepResult) -> StepResult:
        return step._replace(rewards=step.rewards[:, None])


class Numbered(Envs):
    """Returns the flags as numbers."""

    def changed(self, step: StepResult) -> StepResult:
        return step._replace(terminated=step.terminated.astype(int))


class Wide(Envs):
    """Returns observations in float64."""

    def changed(self, step: StepResult) -> StepResult:
        return step._replace(obs=step.obs.astype(np.float64))


class Reshuffled(Envs):
    def select(self, rows: Any) -> Any:
        return super().select(rows[::-1])


class Stuck(Envs):
    closed = False
    was_reset = False

    def reset(self, seeds: Any) -> Array:
        self.was_reset = True
        return super().reset(seeds)

    def close(self) -> None:
        if not self.was_reset:
            raise OSError("nothing to close")
        super().close()


BACKENDS = [
    (Misshapen, "fits", "has spaces that differ"),
    (Tupled, "results", "returns a tuple from step. Return pgzoo.types.StepResult"),
    (Listed, "results", "returns rewards as a list"),
    (Column, "results", "returns rewards as float64 [3, 1], expected a numpy array floating [3]"),
    (Numbered, "results", "returns the flags terminated as int64 [3], expected a numpy array bool [3]"),
    (Wide, "results", "returns observations from step as float64 [3, 4], expected a numpy array float32 [3, 4]"),
    (Maskless, "results", "without the attribute action_mask"),
    (Reusing, "new-arrays", "changes arrays that it returned in an earlier step: observations"),
    (ReusingMasks, "masks", "changes arrays that it returned in an earlier step: action_mask"),
    (Unmasked, "masks", "has no action_mask of bool [3, 6]"),
    (AllAllowed, "masks", "has another action_mask"),
    (LimitTerminates, "steps", "returns terminated=True, truncated=False in step 12 of an episode"),
    (Swapped, "steps", "returns terminated=False, truncated=True in step 5 of an episode"),
    (Doubling, "steps", "returns the reward -2 in a step of pgzoo/Corridor-v0 where gymnasium's is -1"),
    (Paralyzed, "steps", "returns the observation 0 in a step of pgzoo/Corridor-v0 where gymnasium's is 1"),
    (Crowded, "rows-independent", "returns different rewards for a row when there are more rows"),
    (Paying, "next-step", "does more than reset"),
    (Repeating, "next-step", "starts the second and third episode of every row in the same state"),
    (Reshuffled, "select", "once they are selected"),
    (Stuck, "close", "OSError: nothing to close"),
]


@ALL_CHECKS
@pytest.mark.parametrize(("envs", "check", "said"), BACKENDS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_backend_with_one_fault_fails_only_the_check_for_it(
    all_checks: bool, envs: type[SyncEnvs], check: str, said: str
) -> None:
    only = None if all_checks else check
    assert_fails(failing("env_backend", backend(envs), only), check, said, 'Environment backend "broken"')


def test_a_correct_backend_passes_all_checks() -> None:
    assert failing("env_backend", SyncBackend) == {}


@pytest.mark.parametrize("returned", [None, True])
def test_a_backend_whose_fits_returns_no_text_fails_only_fits(returned: Any) -> None:
    class Backend(SyncBackend):
        def fits(self, request: EnvRequest) -> Any:
            return returned

    said = f"returns {returned} from fits for CartPole-v1. Return the reason"
    assert_fails(failing("env_backend", Backend), "fits", said, 'Environment backend "broken"')


class Limp(SyncEnvs):
    """Ignores the actions in Pendulum, so that only a comparison of Box actions can notice it."""

    def step(self, actions: Array, live: Any) -> StepResult:
        return super().step(np.zeros_like(actions) if isinstance(self.action_space, Box) else actions, live)


def test_a_backend_that_ignores_only_box_actions_fails_only_the_comparison_of_steps() -> None:
    assert_fails(
        failing("env_backend", backend(Limp)), "steps", "in a step of Pendulum-v1", 'Environment backend "broken"'
    )


def test_every_check_of_a_backend_has_one_that_fails_it() -> None:
    assert {check for _, check, _ in BACKENDS} | named_by_faulty_plugins("env_backend") == set(CHECKS["env_backend"])
