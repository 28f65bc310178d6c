"""The critics' targets, and losses, match calculations by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pgzoo_offpolicy.loop import Sample, batch_of, critic_values
from pgzoo_offpolicy.replay import Transitions
from pgzoo_offpolicy.sac import SAC
from pgzoo_offpolicy.sac_discrete import DiscreteSAC
from pgzoo_offpolicy.targets import move_targets, td_target
from pgzoo_offpolicy.td3 import DDPG, TD3
from torch import Tensor

from pgzoo.ops.critics import critic_network, init_critic_network
from pgzoo.ops.distributions import Categorical, DiagonalGaussian, TanhGaussian
from pgzoo.types import Hyper

REWARDS = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
TERMINATED = torch.tensor([[[False, True, False, False]]])
"""The third transition ends in a truncation. Nothing marks it, because its target bootstraps like the others."""


def test_only_termination_prevents_bootstrapping() -> None:
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


def test_the_targets_of_sac_match_a_calculation_by_hand() -> None:
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
def test_the_targets_of_td3_match_a_calculation_by_hand(noise: float, action: float) -> None:
    """The two Q' are a and 2a - 1; the second is smaller for a < 1."""
    dist = DiagonalGaussian(torch.full((1, 1, 4, 1), 0.5), torch.zeros(1, 1, 4, 1))
    state = state_with({"td3.q1.": linear(1.0, 0.0), "td3.q2.": linear(2.0, -1.0)})
    state.buffers["td3.target"] = torch.tensor([[0.0, 1.0, 0.0, 0.0, 2.0, -1.0]])
    hyper = gamma(0.9, target_noise=0.2, target_noise_clip=0.5)
    targets = TD3()._learner.targets(policy_with(dist), state, sample(noise), hyper)
    value = 2 * action - 1
    assert targets.flatten().tolist() == pytest.approx([1 + 0.9 * value, 2.0, 3 + 0.9 * value, 4 + 0.9 * value])


def test_the_targets_of_ddpg_match_a_calculation_by_hand() -> None:
    """The noise has no effect; Q' = 2a + 1 = 2."""
    dist = DiagonalGaussian(torch.full((1, 1, 4, 1), 0.5), torch.zeros(1, 1, 4, 1))
    state = state_with({"ddpg.q.": linear(9.0, 9.0)})
    state.buffers["ddpg.target"] = torch.tensor([[0.0, 2.0, 1.0]])
    targets = DDPG()._learner.targets(policy_with(dist), state, sample(3.0), gamma(0.5))
    assert targets.flatten().tolist() == pytest.approx([2.0, 2.0, 4.0, 5.0])


def discrete(state: dict[str, Tensor], target: Tensor) -> tuple[Any, Any]:
    """Return the state and the policy of a test with two actions of probabilities ¼ and ¾, and α = ½."""
    params = {"sac_discrete.log_alpha": torch.tensor([math.log(0.5)]), **state}
    logits = torch.tensor([1.0, 3.0]).log().expand(1, 1, 4, 2)
    return SimpleNamespace(params=params, buffers={"sac_discrete.target": target}), policy_with(Categorical(logits))


def two_values(first: tuple[float, float], second: tuple[float, float]) -> dict[str, Tensor]:
    """Two critics without hidden layers whose values of the two actions are their biases."""
    both = {"sac_discrete.q1.": first, "sac_discrete.q2.": second}
    weights = {q + "weight.0": torch.zeros(1, 1, 2) for q in both}
    return weights | {q + "bias.0": torch.tensor([values]) for q, values in both.items()}


ENTROPY = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))


def test_the_targets_of_discrete_sac_match_a_calculation_by_hand() -> None:
    """The smaller Q' are 1 and 2: V = ¼ 1 + ¾ 2 + ½ H."""
    target = torch.tensor([[0.0, 0.0, 1.0, 5.0, 0.0, 0.0, 4.0, 2.0]])  # weights and biases of both
    state, policy = discrete(two_values((9.0, 9.0), (9.0, 9.0)), target)
    order = [name for name in state.params if ".q" in name]
    state.params = {name: state.params[name] for name in sorted(order, key=lambda n: (n[:15], "bias" in n))} | {
        "sac_discrete.log_alpha": state.params["sac_discrete.log_alpha"]
    }
    targets = DiscreteSAC().targets(policy, state, sample(0.0), gamma(0.9))
    value = 1.75 + 0.5 * ENTROPY
    assert targets.flatten().tolist() == pytest.approx([1 + 0.9 * value, 2.0, 3 + 0.9 * value, 4 + 0.9 * value])


def test_the_losses_of_discrete_sac_match_a_calculation_by_hand() -> None:
    """All actions are 1, with Q = 5 and 2; y = 4. The target entropy is ln 2 / 2."""
    state, policy = discrete(two_values((1.0, 5.0), (4.0, 2.0)), torch.zeros(1, 8))
    data = sample(0.0)
    data = data._replace(transitions=data.transitions._replace(actions=torch.ones(1, 1, 4, 1)))
    batch = batch_of(data, torch.full((1, 1, 4), 4.0), data.weights)
    log_alpha = state.params["sac_discrete.log_alpha"].requires_grad_()
    loss = DiscreteSAC().joint_loss(policy, state.params, batch, gamma(0.9, target_entropy=0.5))
    assert float(loss.metrics["loss/value"]) == pytest.approx(0.5 * 1 + 0.5 * 4)
    assert float(loss.metrics["loss/policy"]) == pytest.approx(-0.5 * ENTROPY - 1.75)
    assert float(loss.metrics["policy/entropy"]) == pytest.approx(ENTROPY)
    loss.value.sum().backward()
    assert log_alpha.grad is not None
    assert float(log_alpha.grad) == pytest.approx(ENTROPY - 0.5 * math.log(2))  # lowers the temperature


def test_critics_computed_together_equal_critics_computed_one_by_one() -> None:
    """The values and gradients of two members are bit-identical."""
    rng, names = np.random.default_rng(0), ("a.", "b.")
    members = [init_critic_network(rng, q, 3, (8,), outputs=2, activation="relu") for q in names for _ in range(2)]
    params: dict[str, Tensor] = {}
    for one, other in (members[:2], members[2:]):
        params |= {name: torch.stack([one[name], other[name]]).requires_grad_() for name in one}
    x = torch.from_numpy(rng.standard_normal((2, 1, 64, 3), np.float32))
    found = []
    for values in (
        critic_values(params, names, x, 2),
        [critic_network(params, q, x, "relu", outputs=2) for q in names],
    ):
        gradients = torch.autograd.grad(sum((value**2).sum() for value in values), list(params.values()))
        found.append([*values, *gradients])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_target_networks_move_only_for_the_selected_members() -> None:
    class State(SimpleNamespace):
        def _replace(self, **changes: Any) -> State:
            return State(**{**vars(self), **changes})

    state: Any = State(params={"q.w": torch.tensor([[1.0], [1.0]]), "other": torch.ones(2, 3)})
    state.buffers = {"target": torch.tensor([[0.0], [0.0]])}
    moved = move_targets(state, "target", ("q.",), torch.tensor([0.25, 0.25]), np.array([True, False]))
    assert moved.buffers["target"].tolist() == [[0.25], [0.0]]
    assert state.buffers["target"].tolist() == [[0.0], [0.0]]


def gamma(value: float, **others: float) -> Hyper:
    """Return settings with this gamma; the temperature is learned."""
    tensors = {name: torch.full((1, 1, 1), number) for name, number in ({"gamma": value} | others).items()}
    return Hyper({"temperature": None} | tensors)
