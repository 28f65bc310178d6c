"""Cutting trajectories into batches: each step occurs exactly once, in the batch of its own member."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pgzoo.ops.distributions import Categorical
from pgzoo.training.minibatches import Batcher, padded_blocks
from pgzoo.types import PolicyEvaluation, Targets, Trajectory

S, T, N = 2, 3, 5
NUMBERS = torch.arange(S * T * N).reshape(S, T, N)
"""A unique number for every step: member * 15 + t * 5 + n."""


def trajectory(valid: torch.Tensor | None = None, memory: bool = False) -> Trajectory:
    obs = torch.cat([NUMBERS, NUMBERS[:, -1:] + N], 1)[..., None].float()
    flags = torch.zeros(S, T, N, dtype=torch.bool)
    starts = torch.zeros(S, T + 1, N, dtype=torch.bool)
    starts[:, 0], starts[1, 2, 3] = True, True
    return Trajectory(
        obs=obs,
        actions=NUMBERS % 2,
        rewards=NUMBERS.float(),
        terminated=flags,
        truncated=flags,
        valid=torch.ones_like(flags) if valid is None else valid,
        starts=starts,
        timestep=torch.arange(T)[None, :, None].expand(S, T, N),
        action_mask=torch.stack([obs[..., 0] % 2 == 0, torch.ones(S, T + 1, N, dtype=torch.bool)], -1),
        memory=NUMBERS[:, 0, :, None].float() if memory else None,
    )


HINDSIGHT = PolicyEvaluation(
    values=torch.cat([NUMBERS, NUMBERS[:, :1]], 1).float() + 1000,
    log_probs=NUMBERS.float() + 2000,
    dist=Categorical(torch.stack([NUMBERS.float(), -NUMBERS.float()], -1)),
)


def batcher(seen: Trajectory, *, window: bool = True, needs: tuple[str, ...] = ("value",), **kwargs: Any) -> Batcher:
    targets = Targets(NUMBERS.float(), NUMBERS.float() * 2, seen.valid.float())
    sequences = seen.memory is not None
    return Batcher(seen, targets, HINDSIGHT, window=window, sequences=sequences, needs=frozenset(needs), **kwargs)


def shuffle(member: int, n: int) -> Any:
    return np.random.default_rng(member).permutation(n)


def numbers(batch: Any, member: int) -> list[int]:
    """Return the numbers of a member's steps in a batch, which are their advantages."""
    return batch.advantages[member][batch.weights[member] > 0].int().tolist()  # type: ignore[no-any-return]


def test_the_batch_of_a_window_has_all_steps_in_time_order_padded_to_sixteen() -> None:
    batch = batcher(trajectory()).whole()
    assert batch.weights.shape == (S, 1, 16)
    for member in range(S):
        assert numbers(batch, member) == list(range(member * 15, member * 15 + 15))
    assert batch.weights.sum((-2, -1)).tolist() == [15, 15]


def test_a_step_that_only_resets_stays_in_the_batch_of_a_window_with_weight_0() -> None:
    valid = torch.ones(S, T, N, dtype=torch.bool)
    valid[0, 1, 2] = False
    batch = batcher(trajectory(valid)).whole()
    assert batch.advantages[0, 0, :15].tolist() == list(range(15))
    assert batch.weights[0, 0].tolist() == [float(k != 7) for k in range(15)] + [0.0]


def test_invalid_steps_are_removed_from_a_batch_of_whole_episodes() -> None:
    valid = torch.ones(S, T, N, dtype=torch.bool)
    valid[0, 1:, 2:], valid[1, 2, 0] = False, False
    batch = batcher(trajectory(valid), window=False).whole()
    assert batch.advantages[0, 0, :9].tolist() == [0, 1, 2, 3, 4, 5, 6, 10, 11]
    assert batch.advantages[1, 0, :14].tolist() == [15 + k for k in range(15) if k != 10]
    assert [weights.tolist() for weights in batch.weights[:, 0]] == [[1.0] * k + [0.0] * (256 - k) for k in (9, 14)]


def test_every_field_of_a_minibatch_belongs_to_the_same_steps() -> None:
    for batch in batcher(trajectory(), needs=("value", "log_probs", "old")).minibatches([shuffle], 3):
        step = batch.advantages
        real = batch.weights > 0
        assert torch.equal(batch.inputs.obs[..., 0][real], step[real])
        assert torch.equal(batch.inputs.action_mask[..., 0][real], step[real] % 2 == 0)
        assert torch.equal(batch.actions[real], step[real].long() % 2)
        assert torch.equal(batch.returns[real], 2 * step[real])
        assert torch.equal(batch.values[real], step[real] + 1000)
        assert torch.equal(batch.log_probs[real], step[real] + 2000)
        assert torch.equal(batch.old.logits[..., 1][real], -step[real])
        assert torch.equal(batch.timestep[real], (step[real].long() % 15) // 5)


def test_leaves_that_no_component_needs_are_omitted() -> None:
    batch = batcher(trajectory(), needs=()).whole()
    assert batch.log_probs is None and batch.old is None


@pytest.mark.parametrize("count", [1, 2, 4, 15])
def test_minibatches_contain_every_step_exactly_once(count: int) -> None:
    batches = list(batcher(trajectory()).minibatches([shuffle], count))
    assert len(batches) == count
    for member in range(S):
        seen = [step for batch in batches for step in numbers(batch, member)]
        assert sorted(seen) == list(range(member * 15, member * 15 + 15))
        assert (seen != sorted(seen)) == (count > 1)


def test_members_with_different_numbers_of_steps_get_equally_many_minibatches() -> None:
    valid = torch.ones(S, T, N, dtype=torch.bool)
    valid[0, 1:] = False  # 5 steps, while the other member has 15
    batches = list(batcher(trajectory(valid), window=False).minibatches([shuffle], 2))
    assert [[len(numbers(batch, member)) for batch in batches] for member in range(S)] == [[2, 3], [7, 8]]


def test_a_policy_with_memory_gets_whole_sequences_with_their_initial_memory() -> None:
    batches = list(batcher(trajectory(memory=True)).minibatches([shuffle], 2))
    assert [batch.weights.shape for batch in batches] == [(S, T, 16), (S, T, 16)]
    assert [batch.weights[0, 0].tolist() for batch in batches] == [[1.0] * k + [0.0] * (16 - k) for k in (2, 3)]
    for batch in batches:
        first = batch.advantages[:, 0]
        assert torch.equal(batch.inputs.memory[..., 0], first)
        assert torch.equal(batch.advantages, first[:, None] + torch.arange(T)[None, :, None] * N)
        assert torch.equal(batch.inputs.starts, (batch.inputs.obs[..., 0] % 15 < 5) | (batch.advantages == 15 + 13))
    together = [step for batch in batches for step in numbers(batch, 1)]
    assert sorted(together) == list(range(15, 30))


def test_a_policy_with_memory_has_at_most_one_minibatch_per_environment() -> None:
    assert len(list(batcher(trajectory(memory=True)).minibatches([shuffle], 99))) == N


def test_extra_tensors_of_an_algorithm_are_cut_with_the_batch() -> None:
    extra = {"noise": torch.stack([NUMBERS, NUMBERS + 1], -1)}
    batch = next(iter(batcher(trajectory(), extra=extra).minibatches([shuffle], 5)))
    real = batch.weights > 0
    assert batch.extra is not None and torch.equal(batch.extra["noise"][..., 1][real], batch.advantages[real] + 1)


@pytest.mark.parametrize(
    ("blocks", "padded"),
    [(1, 1), (2, 2), (3, 4), (17, 32), (24, 32), (32, 32), (33, 48), (47, 48), (48, 48), (49, 64), (65, 96), (97, 128)],
)
def test_the_number_of_blocks_in_a_compiled_batch_is_rounded_up_to_few_values(blocks: int, padded: int) -> None:
    assert padded_blocks(blocks) == padded
