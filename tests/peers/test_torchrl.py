"""The losses of PPO and A2C against TorchRL's loss modules, on the same parameters and batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import A2CLoss, ClipPPOLoss
from torchrl.objectives.value.functional import generalized_advantage_estimate

ROWS, CLOSE = 32, 1e-6


class Gaussian(nn.Module):
    """A network for the mean, and a learned log standard deviation that doesn't depend on the state."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.log_std = net, nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.net(obs)
        return mean, self.log_std.exp().expand_as(mean)


def network(oracle: Any, prefix: str, outputs: int) -> nn.Sequential:
    layers = [nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, outputs)]
    net = nn.Sequential(*layers).double()
    with torch.no_grad():
        for i, layer in enumerate(layers[::2]):
            layer.weight.copy_(oracle.state.params[f"{prefix}.weight.{i}"][0].T)
            layer.bias.copy_(oracle.state.params[f"{prefix}.bias.{i}"][0])
    return net


class Peer:
    """TorchRL's actor and critic with the parameters of `oracle`."""

    def __init__(self, oracle: Any) -> None:
        self.discrete = oracle.action == "discrete"
        self.net, self.critic_net = network(oracle, "policy", 3 if self.discrete else 2), network(oracle, "critic", 1)
        if self.discrete:
            body, keys, dist = self.net, ["logits"], torch.distributions.Categorical
        else:
            body, keys, dist = Gaussian(self.net), ["loc", "scale"], None
            with torch.no_grad():
                body.log_std.copy_(oracle.state.params["policy.log_std"][0])
        self.body = body
        module = TensorDictModule(body, in_keys=["observation"], out_keys=keys)
        self.actor = ProbabilisticActor(
            module,
            in_keys=keys,
            distribution_class=dist or normal,
            return_log_prob=True,
        )
        self.critic = ValueOperator(self.critic_net, in_keys=["observation"])

    def data(self, rows: Any) -> TensorDict:
        column = {name: getattr(rows, name).double()[:, None] for name in ("advantages", "returns", "values")}
        return TensorDict(
            {
                "observation": rows.obs.double(),
                "action": rows.actions if self.discrete else rows.actions.double(),
                "action_log_prob": rows.log_probs.double(),
                "advantage": column["advantages"],
                "value_target": column["returns"],
                "state_value": column["values"],
            },
            batch_size=[ROWS],
        )

    def gradient(self, module: Any, rows: Any) -> tuple[TensorDict, dict[str, Tensor]]:
        """Return the losses and the gradient of their sum, by pgzoo's names."""
        found = module(self.data(rows))
        (found["loss_objective"] + found["loss_entropy"] + found["loss_critic"]).sum().backward()
        gradients: dict[str, Tensor] = {}
        for prefix, params in (("policy", module.actor_network_params), ("critic", module.critic_network_params)):
            for name, value in params.flatten_keys(".").items():
                key = name.replace("module.", "").replace("net.", "")
                place, _, kind = key.rpartition(".")
                if kind == "log_std":
                    gradients["policy.log_std"] = value.grad
                    continue
                index = int(place.split(".")[-1]) // 2
                gradients[f"{prefix}.{kind}.{index}"] = value.grad.T if kind == "weight" else value.grad
        return found, gradients


def normal(loc: Tensor, scale: Tensor) -> torch.distributions.Independent:
    return torch.distributions.Independent(torch.distributions.Normal(loc, scale), 1)


COMMON = {"entropy_coeff": 0.125, "loss_critic_type": "l2"}


@pytest.mark.parametrize("action", ["discrete", "gaussian"])
@pytest.mark.parametrize("clip_value", [None, 0.25])
def test_ppo_loss_and_gradient(oracle: Any, difference: Any, action: str, clip_value: float | None) -> None:
    """TorchRL clips values as pgzoo does: the larger of the two errors counts."""
    settings = {"clip_range": 0.25, "entropy_coef": 0.125, "value_coef": 1.5, "normalize_advantages": False}
    ours = oracle("ppo", action, clip_value=clip_value, **settings)
    rows, peer = ours.rows(), Peer(ours)
    module = ClipPPOLoss(peer.actor, peer.critic, clip_epsilon=0.25, critic_coeff=0.75, clip_value=clip_value, **COMMON)
    losses, found = peer.gradient(module, rows)
    loss, expected = ours.gradient(rows)
    assert difference(expected, found) < CLOSE
    assert loss.metrics["loss/policy"].item() == pytest.approx(losses["loss_objective"].item(), rel=CLOSE)
    assert loss.metrics["loss/value"].item() * 1.5 == pytest.approx(losses["loss_critic"].item(), rel=CLOSE)
    assert loss.metrics["policy/entropy"].item() == pytest.approx(losses["entropy"].item(), rel=CLOSE)


@pytest.mark.parametrize("action", ["discrete", "gaussian"])
def test_a2c_gradient_matches(oracle: Any, difference: Any, action: str) -> None:
    ours = oracle("a2c", action, entropy_coef=0.125, value_coef=1.5)
    rows, peer = ours.rows(), Peer(ours)
    _, found = peer.gradient(A2CLoss(peer.actor, peer.critic, critic_coeff=0.75, **COMMON), rows)
    assert difference(ours.gradient(rows)[1], found) < CLOSE


def test_advantages_differ_by_the_divisor_of_the_variance(oracle: Any, difference: Any) -> None:
    """TorchRL divides by the standard deviation with n - 1, as SB3 does."""
    ours = oracle("ppo", "discrete", clip_range=0.25, value_coef=1.5, entropy_coef=0.0, normalize_advantages=True)
    rows, peer = ours.rows(), Peer(ours)
    settings = COMMON | {"entropy_coeff": 0.0}
    module = ClipPPOLoss(
        peer.actor, peer.critic, clip_epsilon=0.25, critic_coeff=0.75, normalize_advantage=True, **settings
    )
    _, found = peer.gradient(module, rows)
    factor = math.sqrt((ROWS - 1) / ROWS)
    expected = {n: v * (factor if n.startswith("policy.") else 1.0) for n, v in ours.gradient(rows)[1].items()}
    assert difference(expected, found) < CLOSE


def test_gae_matches_with_a_termination_and_a_truncation(oracle: Any, difference: Any) -> None:
    """TorchRL's GAE takes `terminated` and `done` separately, as pgzoo's does."""
    ours = oracle("a2c", "discrete", gamma=0.75, estimator={"name": "gae", "lam": 0.5})
    steps = ours.steps()
    trajectory = ours.trajectory(steps)
    targets = ours.ctx.estimate(ours.state, trajectory, ours.ctx.evaluate_policy(ours.state, trajectory))
    advantages, returns = generalized_advantage_estimate(
        0.75, 0.5, ours.values(steps.obs)[:, None], ours.values(steps.next_obs)[:, None],
        steps.rewards.double()[:, None], (steps.terminated | steps.truncated)[:, None], steps.terminated[:, None],
    )  # fmt: skip
    valid = trajectory.valid
    expected = {"advantages": targets.advantages[valid], "returns": targets.returns[valid]}
    assert difference(expected, {"advantages": advantages[:, 0], "returns": returns[:, 0]}) < CLOSE
