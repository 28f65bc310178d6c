"""PPO and A2C against skrl: `update()` on a memory with the same steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from skrl.agents.torch.a2c import A2C
from skrl.agents.torch.ppo import PPO
from skrl.agents.torch.ppo.ppo import compute_gae
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, GaussianMixin, Model
from torch import Tensor, nn

STEPS, CLOSE = 14, 1e-6
FACTOR = math.sqrt((STEPS - 1) / STEPS)
"""skrl always divides advantages by the standard deviation with n - 1, pgzoo by the one with n."""


class Net(Model):  # type: ignore[misc, unused-ignore]
    """A network with the parameters `prefix` of `oracle`."""

    def __init__(self, oracle: Any, prefix: str, outputs: int) -> None:
        spec = oracle.ctx.spec
        Model.__init__(self, observation_space=spec.observation_space, action_space=spec.action_space, device="cpu")
        layers = [nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, outputs)]
        self.prefix, self.layers = prefix, nn.Sequential(*layers).double()
        with torch.no_grad():
            for i, layer in enumerate(layers[::2]):
                layer.weight.copy_(oracle.state.params[f"{prefix}.weight.{i}"][0].T)
                layer.bias.copy_(oracle.state.params[f"{prefix}.bias.{i}"][0])
        if prefix == "policy" and oracle.action != "discrete":
            self.log_std = nn.Parameter(oracle.state.params["policy.log_std"][0].clone())

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        found = self.layers(inputs["observations"].double())
        return found, {"log_std": self.log_std} if hasattr(self, "log_std") else {}

    def named(self) -> dict[str, Tensor]:
        """Return copies of the parameters by pgzoo's names."""
        found: dict[str, Tensor] = {}
        for name, value in self.named_parameters():
            value = value.detach().clone()
            if name == "log_std":
                found["policy.log_std"] = value
            else:
                _, place, kind = name.split(".")
                found[f"{self.prefix}.{kind}.{int(place) // 2}"] = value.T if kind == "weight" else value
        return found


class Gaussian(GaussianMixin, Net):
    def __init__(self, oracle: Any) -> None:
        Net.__init__(self, oracle, "policy", 2)
        GaussianMixin.__init__(self)


class Discrete(CategoricalMixin, Net):
    def __init__(self, oracle: Any) -> None:
        Net.__init__(self, oracle, "policy", 3)
        CategoricalMixin.__init__(self)


class Critic(DeterministicMixin, Net):
    def __init__(self, oracle: Any) -> None:
        Net.__init__(self, oracle, "critic", 1)
        DeterministicMixin.__init__(self)


def gradient(algorithm: type, ours: Any, steps: Any, log_probs: Tensor, **settings: Any) -> dict[str, Tensor]:
    """Return the gradient of skrl's update: SGD with the learning rate 1 subtracts it."""
    policy, critic = (Discrete if ours.action == "discrete" else Gaussian)(ours), Critic(ours)
    spec, memory = ours.ctx.spec, RandomMemory(memory_size=STEPS, num_envs=1, device="cpu")
    given = {
        "discount_factor": 0.75, "gae_lambda": 0.5, "mini_batches": 1, "rollouts": STEPS, "grad_norm_clip": 0,
        "time_limit_bootstrap": True, "experiment": {"write_interval": 0, "checkpoint_interval": 0},
    }  # fmt: skip
    agent = algorithm(
        models={"policy": policy, "value": critic},
        memory=memory,
        observation_space=spec.observation_space,
        action_space=spec.action_space,
        device="cpu",
        cfg=given | settings,
    )
    agent.init()
    agent.enable_training_mode(True)
    agent.optimizer = torch.optim.SGD([*policy.parameters(), *critic.parameters()], lr=1.0)
    for name, tensor in memory.tensors.items():
        if tensor.dtype == torch.float32:
            memory.tensors[name] = tensor.double()
            memory.tensors_view[name] = memory.tensors[name].view(-1, tensor.shape[-1])
    for t in range(STEPS):
        at, one = {"timestep": t, "timesteps": STEPS}, slice(t, t + 1)
        with torch.no_grad():
            agent.act(steps.obs[one], None, **at)
        agent.record_transition(
            observations=steps.obs[one], states=None, actions=steps.actions[one].view(1, -1),
            rewards=steps.rewards[one, None].double(), next_observations=steps.next_obs[one], next_states=None,
            terminated=steps.terminated[one, None], truncated=steps.truncated[one, None], infos={}, **at,
        )  # fmt: skip
    memory.set_tensor_by_name("log_prob", log_probs.double()[:, None, None])
    before = policy.named() | critic.named()
    agent.update(timestep=0, timesteps=1)
    return {name: before[name] - value for name, value in (policy.named() | critic.named()).items()}


def rows_of(ours: Any, steps: Any, log_probs: Tensor) -> Any:
    """Return the steps as a batch, with pgzoo's advantages and returns."""
    trajectory = ours.trajectory(steps)
    evaluated = ours.ctx.evaluate_policy(ours.state, trajectory)
    targets, valid = ours.ctx.estimate(ours.state, trajectory, evaluated), trajectory.valid
    values = evaluated.values[:, :-1][valid]
    shape = type(ours.rows())
    return shape(steps.obs, steps.actions, log_probs, targets.advantages[valid], targets.returns[valid], values)


@pytest.mark.parametrize("action", ["discrete", "gaussian"])
def test_ppo_gradient_matches(oracle: Any, difference: Any, action: str) -> None:
    ours = oracle(
        "ppo", action, gamma=0.75, estimator={"name": "gae", "lam": 0.5}, clip_range=0.25,
        entropy_coef=0.125 / FACTOR, value_coef=1.5, normalize_advantages=True,
    )  # fmt: skip
    steps = ours.steps()
    log_probs = ours.log_probs(steps.obs, steps.actions) + 0.3 * ours.normal(STEPS)
    _, expected = ours.gradient(rows_of(ours, steps, log_probs))
    scaled = {name: value * (FACTOR if name.startswith("policy.") else 1.0) for name, value in expected.items()}
    settings = {"ratio_clip": 0.25, "value_clip": 0, "value_loss_scale": 0.75, "entropy_loss_scale": 0.125}
    assert difference(scaled, gradient(PPO, ours, steps, log_probs, learning_epochs=1, **settings)) < CLOSE


@pytest.mark.parametrize("action", ["discrete", "gaussian"])
def test_a2c_gradient_matches(oracle: Any, difference: Any, action: str) -> None:
    """skrl's A2C has no weight for the value loss, which is the whole squared error: `value_coef` 2 in pgzoo."""
    ours = oracle(
        "a2c", action, gamma=0.75, estimator={"name": "gae", "lam": 0.5}, value_coef=2.0,
        entropy_coef=0.125 / FACTOR, normalize_advantages=True,
    )  # fmt: skip
    steps = ours.steps()
    log_probs = ours.log_probs(steps.obs, steps.actions)
    _, expected = ours.gradient(rows_of(ours, steps, log_probs))
    scaled = {name: value * (FACTOR if name.startswith("policy.") else 1.0) for name, value in expected.items()}
    assert difference(scaled, gradient(A2C, ours, steps, log_probs, entropy_loss_scale=0.125)) < CLOSE


def test_skrl_by_default_does_not_cut_off_advantages_at_a_truncation(oracle: Any, difference: Any) -> None:
    """With `time_limit_bootstrap`, skrl's returns equal pgzoo's; without it, those of the truncated episode differ."""
    ours = oracle("a2c", "discrete", gamma=0.75, estimator={"name": "gae", "lam": 0.5})
    steps = ours.steps()
    rows = rows_of(ours, steps, ours.log_probs(steps.obs, steps.actions))
    after = ours.values(steps.next_obs)

    def returns(bootstrap: bool) -> Tensor:
        rewards = steps.rewards.double() + (0.75 * after * steps.truncated if bootstrap else 0.0)
        ends = {"terminated": steps.terminated, "truncated": steps.truncated}
        settings = {"discount_factor": 0.75, "lambda_coefficient": 0.5, "time_limit_bootstrap": bootstrap}
        found: Tensor = compute_gae(rewards=rewards, values=rows.values, last_values=after[-1:], **ends, **settings)[0]
        return found

    assert difference({"returns": rows.returns}, {"returns": returns(True)}) < CLOSE
    wrong = (rows.returns - returns(False)).abs() > 1e-3
    assert wrong[steps.truncated].all() and not wrong[9:].any() and not wrong[:5].any()
