"""Changed copies of batches and trajectories, whose results the checks compare with those of the originals."""

from __future__ import annotations

from typing import Any

import torch

from pgzoo.ops.members import map_leaves
from pgzoo.ops.nets import ROW_BLOCK
from pgzoo.testing.recording import Change, named_tensors
from pgzoo.types import Batch, Trajectory

__all__ = [
    "before_start",
    "littered",
    "padded",
    "same",
    "swapped",
    "with_end",
    "with_far_actions",
    "with_other_advantages",
    "with_other_info",
    "with_other_invalid_steps",
]


def padded(batch: Batch) -> Batch:
    """Return the batch with more rows of weight 0, copies of the first ones."""
    rows = min(ROW_BLOCK, batch.weights.shape[2])
    longer: Batch = map_leaves(lambda leaf: torch.cat([leaf, leaf[:, :, :rows]], 2), batch)
    weights = longer.weights.clone()
    weights[:, :, -rows:] = 0.0
    return longer._replace(weights=weights)


def littered(batch: Batch) -> Batch:
    """Return the batch with more rows of weight 0, and other numbers in all rows of weight 0."""
    batch = padded(batch)
    changed: dict[str, Any] = {}
    for name in ("advantages", "returns", "values", "log_probs"):
        leaf = getattr(batch, name)
        if leaf is not None:
            changed[name] = torch.where(batch.weights > 0, leaf, leaf + 1.0)
    if batch.info is not None:
        changed["info"] = {key: torch.where(batch.weights > 0, leaf, leaf + 1.0) for key, leaf in batch.info.items()}
    obs = batch.inputs.obs
    if obs.is_floating_point():
        weights = batch.weights.reshape(*batch.weights.shape, *[1] * (obs.ndim - 3))
        changed["inputs"] = batch.inputs._replace(obs=torch.where(weights > 0, obs, obs + 3.0))
    return batch._replace(**changed)


def swapped(batch: Batch) -> Batch:
    """Return the batch with the advantages and returns of two rows exchanged, of the most different ones."""
    low = torch.where(batch.weights > 0, batch.advantages, torch.inf)[:, 0].argmin(1)
    high = torch.where(batch.weights > 0, batch.advantages, -torch.inf)[:, 0].argmax(1)
    member = torch.arange(len(low))
    changed: dict[str, Any] = {}
    for name in ("advantages", "returns"):
        leaf = getattr(batch, name).clone()
        leaf[member, 0, low], leaf[member, 0, high] = leaf[member, 0, high], leaf[member, 0, low]
        changed[name] = leaf
    return batch._replace(**changed)


def with_other_advantages(batch: Batch) -> Batch:
    """Return the batch with other advantages and returns, in another ratio to each other."""
    return batch._replace(advantages=-2 * batch.advantages, returns=-2 * batch.returns)


def same(trajectory: Trajectory, whole_episodes: bool) -> Trajectory:
    """Return the trajectory itself."""
    return trajectory


def with_other_invalid_steps(trajectory: Trajectory, whole_episodes: bool) -> Trajectory:
    """Return the trajectory with other actions in steps that are not valid, and more such steps after whole episodes.

    A window has a fixed number of steps.
    """
    valid = trajectory.valid.reshape(*trajectory.valid.shape, *[1] * (trajectory.actions.ndim - 3))
    changed = trajectory._replace(actions=torch.where(valid, trajectory.actions, trajectory.actions.flip(1)))
    if trajectory.info is not None:
        info = {key: torch.where(trajectory.valid, leaf, leaf + 1.0) for key, leaf in trajectory.info.items()}
        changed = changed._replace(info=info)
    if not whole_episodes:
        return changed
    longer = changed._asdict()
    if changed.info is not None:
        longer["info"] = {key: torch.cat([leaf, *[leaf[:, -1:]] * 8], 1) for key, leaf in changed.info.items()}
    for name, leaf in named_tensors(changed._replace(memory=None, info=None)):
        last = leaf[:, -1:] if name in ("obs", "actions", "action_mask") else torch.zeros_like(leaf[:, -1:])
        longer[name] = torch.cat([leaf, *[last] * 8], 1)
    return Trajectory(**longer)


def with_end(kind: str, shift: float) -> Change:
    """Return the function that ends episodes by `terminated` or `truncated`, and shifts their last observations."""

    def change(trajectory: Trajectory, whole_episodes: bool) -> Trajectory:
        at = min(5, trajectory.valid.shape[1] - 3)
        ending = trajectory.valid[:, at : at + 3].all(1)  # [S, N]
        fields: dict[str, Any] = {name: leaf.clone() for name, leaf in named_tensors(trajectory)}
        for name in ("terminated", "truncated"):
            fields[name][:, at : at + 2] &= ~ending[:, None]
        fields[kind][:, at] |= ending
        fields["valid"][:, at + 1] &= ~ending
        fields["rewards"][:, at + 1] *= ~ending
        fields["starts"][:, at + 2] |= ending
        fields["obs"][:, at + 1][ending] += torch.tensor(shift).to(fields["obs"].dtype)
        return trajectory._replace(**fields)

    return change


def with_other_info(key: str, offset: float) -> Change:
    """Return the function that adds this offset to a value of the environment's info, in all valid steps."""

    def change(trajectory: Trajectory, whole_episodes: bool) -> Trajectory:
        info = dict(trajectory.info or {})
        info[key] = torch.where(trajectory.valid, info[key] + offset, info[key])
        return trajectory._replace(info=info)

    return change


def before_start(batch: Batch) -> tuple[Batch, Batch]:
    """Return two batches of sequences that differ only before the start of an episode in the middle of each sequence.

    The steps before it have weight 0, and other observations and another memory in the second batch.
    """
    at, inputs = batch.weights.shape[1] // 2, batch.inputs
    assert inputs.starts is not None
    starts, weights = inputs.starts.clone(), batch.weights.clone()
    starts[:, at] = True
    weights[:, :at] = 0.0
    first = batch._replace(inputs=inputs._replace(starts=starts), weights=weights)
    obs = inputs.obs.clone()
    obs[:, :at] += torch.tensor(3.0).to(obs.dtype)
    memory = map_leaves(lambda leaf: leaf + 1.0, inputs.memory)
    return first, first._replace(inputs=first.inputs._replace(obs=obs, memory=memory))


def with_far_actions(distance: float) -> Change:
    """Return the function that puts every third action outside of the Box, at this distance from the bound."""

    def change(trajectory: Trajectory, whole_episodes: bool) -> Trajectory:
        actions = trajectory.actions.clone()
        actions[:, ::3] = 2.0 + distance  # the bound of the world "box" is 2
        return trajectory._replace(actions=actions)

    return change
