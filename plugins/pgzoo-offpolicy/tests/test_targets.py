"""The targets of the critics, computed by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pgzoo_offpolicy.loop import Sample
from pgzoo_offpolicy.replay import Transitions
from pgzoo_offpolicy.sac import SAC
from pgzoo_offpolicy.targets import move_targets, td_target
from pgzoo_offpolicy.td3 import DDPG, TD3
from torch import Tensor

from pgzoo.ops.distributions import DiagonalGaussian, TanhGaussian
from pgzoo.types import Hyper

REWARDS = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
TERMINATED = torch.tensor([[[False, True, False, False]]])
"""The third transition ends in a truncation: it doesn't differ from the others, because its target bootstraps, too."""


def test_only_a_termination_stops_the_bootstrap() -> None:
    values = torch.tensor([[[10.0, 20.0, 30.0, 40.0]]])
    target = td_target(REWARDS, TERMINATED, values, torch.full((1, 1, 1), 0.9))
    assert target.flatten().tolist() == pytest.approx([10.0, 2.0, 30.0, 40.0])


def test_an_infinite_value_after_a_termination_has_no_effect() -> None:
    values = torch.tensor([[[0.0, math.inf, 0.0, 0.0]]])
    assert torch.isfinite(td_target(REWARDS, TERMINATED, values, torch.full((1, 1, 1), 0.9))).all()


def sample(noise: float) -> Sample:
    """Four transitions of one observation, 0, with the same noise for every action."""
    zeros = torch.zeros(1, 1, 4, 1)
    transitions = Transitions(zeros, zeros, REWARDS, zeros, TERMINATED, torch.ones(1, 1, 4).bool())
    both = torch.full((2, 1, 1, 4, 1), noise)
    return Sample(transitions, torch.ones(1, 1, 4), both, np.ones(1, np.bool_), np.zeros(1, np.int64))


def policy_with(dist: Any) -> Any:
    """A policy with the same distribution for all observations."""
    return SimpleNamespace(
        apply=lambda params, inputs: SimpleNamespace(dist=dist), vectors=lambda params, inputs: inputs.obs
    )


def linear(of_action: float, bias: float) -> dict[str, Tensor]:
    """A critic without hidden layers: Q(s, a) = `of_action` a + `bias`, for one member."""
    return {"weight.0": torch.tensor([[[0.0], [of_action]]]), "bias.0": torch.tensor([[bias]])}


def state_with(critics: dict[str, dict[str, Tensor]], **buffers: Tensor) -> Any:
    params = {prefix + name: leaf for prefix, critic in critics.items() for name, leaf in critic.items()}
    return SimpleNamespace(params=params, buffers=buffers)


def test_the_targets_of_sac() -> None:
    """The action is tanh(0) = 0, ln π = -½ ln 2π = -0.9189, the smaller Q is 2, α = ½: V = 2 + 0.4595."""
    zeros = torch.zeros(1, 1, 4, 1)
    state = state_with({"sac.q1.": linear(9.0, 7.0), "sac.q2.": linear(9.0, 7.0)})
    state.params["sac.log_alpha"] = torch.tensor([math.log(0.5)])
    state.buffers["sac.target"] = torch.tensor([[0.0, 9.0, 3.0, 0.0, 9.0, 2.0]])  # weights and bias of both
    targets = SAC().targets(policy_with(TanhGaussian(zeros, zeros)), state, sample(0.0), gamma(0.9))
    value = 2 + 0.5 * 0.5 * math.log(2 * math.pi)
    assert targets.flatten().tolist() == pytest.approx([1 + 0.9 * value, 2.0, 3 + 0.9 * value, 4 + 0.9 * value])


@pytest.mark.parametrize(
    ("noise", "action"),
    [(1.0, 0.7), (10.0, 1.0), (-10.0, 0.0)],  # 0.5 + 0.2; 0.5 + 0.5, clipped noise; 0.5 - 0.5
)
def test_the_targets_of_td3(noise: float, action: float) -> None:
    """Q' are a and 2a - 1, of which the second is the smaller below a = 1."""
    dist = DiagonalGaussian(torch.full((1, 1, 4, 1), 0.5), torch.zeros(1, 1, 4, 1))
    state = state_with({"td3.q1.": linear(1.0, 0.0), "td3.q2.": linear(2.0, -1.0)})
    state.buffers["td3.target"] = torch.tensor([[0.0, 1.0, 0.0, 0.0, 2.0, -1.0]])
    hyper = gamma(0.9, target_noise=0.2, target_noise_clip=0.5)
    targets = TD3()._learner.targets(policy_with(dist), state, sample(noise), hyper)
    value = 2 * action - 1
    assert targets.flatten().tolist() == pytest.approx([1 + 0.9 * value, 2.0, 3 + 0.9 * value, 4 + 0.9 * value])


def test_the_targets_of_ddpg() -> None:
    """The noise has no effect; Q' = 2a + 1 = 2."""
    dist = DiagonalGaussian(torch.full((1, 1, 4, 1), 0.5), torch.zeros(1, 1, 4, 1))
    state = state_with({"ddpg.q.": linear(9.0, 9.0)})
    state.buffers["ddpg.target"] = torch.tensor([[0.0, 2.0, 1.0]])
    targets = DDPG()._learner.targets(policy_with(dist), state, sample(3.0), gamma(0.5))
    assert targets.flatten().tolist() == pytest.approx([2.0, 2.0, 4.0, 5.0])


def test_target_networks_move_only_where_they_should() -> None:
    class State(SimpleNamespace):
        def _replace(self, **changes: Any) -> State:
            return State(**{**vars(self), **changes})

    state: Any = State(params={"q.w": torch.tensor([[1.0], [1.0]]), "other": torch.ones(2, 3)})
    state.buffers = {"target": torch.tensor([[0.0], [0.0]])}
    moved = move_targets(state, "target", ("q.",), torch.tensor([0.25, 0.25]), np.array([True, False]))
    assert moved.buffers["target"].tolist() == [[0.25], [0.0]]
    assert state.buffers["target"].tolist() == [[0.0], [0.0]]


def gamma(value: float, **others: float) -> Hyper:
    return Hyper({name: torch.full((1, 1, 1), number) for name, number in ({"gamma": value} | others).items()})
