"""The replay buffer holds the last transitions that were written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pgzoo_offpolicy import replay
from pgzoo_offpolicy.replay import Transitions
from torch import Tensor

from pgzoo.types import Trajectory

WRITTEN = 2
ZEROS = torch.zeros(2)


class State(SimpleNamespace):
    """The two fields of a train state that the buffer uses."""

    def _replace(self, **changes: Any) -> State:
        return State(**{**vars(self), **changes})


def transitions(numbers: list[list[int]]) -> Transitions:
    """Return transitions `[S, B]` whose leaves are all computed from these numbers."""
    x = torch.tensor(numbers)
    return Transitions(
        obs=torch.stack([x, -x], -1).float(),
        actions=x.float().unsqueeze(-1),
        rewards=x.float(),
        next_obs=torch.stack([x + 1, -x], -1).float(),
        terminated=x % 3 == 0,
        valid=x % 5 > 0,
    )


def empty(capacity: int, updates: list[int], obs: Tensor = ZEROS) -> Any:
    one = replay.allocate(capacity, WRITTEN, obs, 1)
    buffers = {name: leaf.expand(len(updates), *leaf.shape).clone() for name, leaf in one.items()}
    return State(buffers=buffers, updates=np.array(updates))


@pytest.mark.parametrize("block", [2, 4, 100])
def test_the_buffer_holds_the_last_transitions(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block holds one update, two updates, or the whole buffer, which is filled two and a half times."""
    monkeypatch.setattr(replay, "BLOCK_SIZE", block)
    state = empty(8, [0, 0])
    for update in range(10):
        numbers = [[100 * member + WRITTEN * update + i + 1 for i in range(WRITTEN)] for member in range(2)]
        before = {name: leaf.clone() for name, leaf in state.buffers.items()}
        written = replay.write(state, transitions(numbers))
        assert all(torch.equal(leaf, before[name]) for name, leaf in state.buffers.items()), "written in place"
        count = replay.stored(written, WRITTEN)
        assert count.tolist() == [min(8, WRITTEN * (update + 1))] * 2
        slots = np.repeat(np.arange(count[0])[None], 2, 0)
        found = replay.read(written, WRITTEN, slots)
        newest = WRITTEN * (update + 1)
        kept = [{100 * member + i for i in range(newest - count[0] + 1, newest + 1)} for member in range(2)]
        assert [set(row) for row in found.rewards.int().tolist()] == kept
        expected = transitions(found.rewards.int().tolist())
        assert all(torch.equal(leaf, getattr(expected, name)) for name, leaf in found._asdict().items())
        state = written._replace(updates=state.updates + 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32], ids=str)
def test_observations_of_integers_are_stored_as_they_are(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest number is kept, in the block and in the ring; the block holds two updates of two transitions."""
    monkeypatch.setattr(replay, "BLOCK_SIZE", 4)
    state = empty(8, [0], torch.zeros(2, dtype=dtype))
    for update in range(3):
        new = transitions([[update, update]])
        obs = torch.full((1, WRITTEN, 2), torch.iinfo(dtype).max - update, dtype=dtype)
        state = replay.write(state, new._replace(obs=obs, next_obs=obs))
        found = replay.read(state, WRITTEN, np.arange(2 * update + 2)[None])
        assert found.obs.dtype == found.next_obs.dtype == dtype
        largest = torch.iinfo(dtype).max
        assert found.obs[0, ::2, 0].tolist() == [largest - before for before in range(update + 1)]
        state = state._replace(updates=state.updates + 1)


def test_members_may_differ_in_their_number_of_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """One member has filled its block, the other hasn't; each reads as if it were alone."""
    monkeypatch.setattr(replay, "BLOCK_SIZE", 4)
    both = empty(8, [1, 0])
    alone = [empty(8, [1]), empty(8, [0])]
    for update in range(6):
        numbers = [[10 * update + 1, 10 * update + 2], [10 * update + 3, 10 * update + 4]]
        both = replay.write(both, transitions(numbers))
        alone = [replay.write(one, transitions([row])) for one, row in zip(alone, numbers, strict=True)]
        slots = np.arange(WRITTEN * (update + 1)).clip(max=7)[None]
        found = replay.read(both, WRITTEN, np.repeat(slots, 2, 0))
        for member, one in enumerate(alone):
            own = replay.read(one, WRITTEN, slots)
            assert torch.equal(found.rewards[member], own.rewards[0])
        both = both._replace(updates=both.updates + 1)
        alone = [one._replace(updates=one.updates + 1) for one in alone]


def test_the_capacity_is_rounded_up_to_a_multiple_of_the_block_size() -> None:
    one = replay.allocate(2000, 3, torch.zeros(4, dtype=torch.int64), 2)
    assert one["replay.block.rewards"].shape == (1023,) and one["replay.rewards"].shape == (2046,)
    assert one["replay.obs"].shape == (2046, 4) and one["replay.obs"].dtype == torch.int64
    assert replay.allocate(5, 8, torch.zeros(4), 2)["replay.rewards"].shape == (8,)


def test_the_steps_of_a_trajectory_become_transitions() -> None:
    """There are two steps of two environments; the next observation is from the same environment."""
    steps, envs = 2, 2
    obs = torch.arange(6.0).reshape(1, steps + 1, envs, 1)  # step t of environment n is 2t + n
    flags = torch.zeros(1, steps, envs, dtype=torch.bool)
    rewards = torch.arange(4.0).reshape(1, steps, envs)
    trajectory = Trajectory(obs, torch.zeros(1, steps, envs, 1), rewards, flags, flags, ~flags, flags, rewards.long())
    found = replay.transitions_of(trajectory, trajectory.actions)
    assert found.obs.flatten().tolist() == [0, 1, 2, 3]
    assert found.next_obs.flatten().tolist() == [2, 3, 4, 5]
    assert found.rewards.flatten().tolist() == [0, 1, 2, 3]
