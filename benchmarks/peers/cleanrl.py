"""PPO as a single file, in the manner of CleanRL: no library around torch and gymnasium.

Written here, since CleanRL is no package. Like CleanRL's `ppo.py` it makes no difference between terminated and
truncated, uses gymnasium's SyncVectorEnv with an episode counter around each environment, and distributions of torch.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import watched
import work
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical


def linear(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def network(inputs: int, outputs: int, gain: float) -> nn.Sequential:
    return nn.Sequential(
        linear(inputs, work.HIDDEN),
        nn.Tanh(),
        linear(work.HIDDEN, work.HIDDEN),
        nn.Tanh(),
        linear(work.HIDDEN, outputs, gain),
    )


def prepare(options: Namespace, seed: int, returns: work.Returns) -> Callable[[], object]:
    def make() -> gym.Env[Any, Any]:
        return gym.wrappers.RecordEpisodeStatistics(watched.make(options.env, returns))

    torch.manual_seed(seed)
    envs = SyncVectorEnv([make] * work.NUM_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    inputs, actions = int(np.prod(envs.single_observation_space.shape)), int(envs.single_action_space.n)  # type: ignore[attr-defined]
    return partial(train, options, seed, envs, network(inputs, actions, 0.01), network(inputs, 1, 1.0))


def train(options: Namespace, seed: int, envs: SyncVectorEnv, actor: nn.Module, critic: nn.Module) -> None:
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=work.LEARNING_RATE, eps=1e-5)
    shape = (work.ROLLOUT_STEPS, work.NUM_ENVS)
    all_obs = torch.zeros(*shape, *envs.single_observation_space.shape)
    all_actions, log_probs, rewards, dones, values = (torch.zeros(shape) for _ in range(5))
    obs, done = torch.as_tensor(envs.reset(seed=seed)[0]), torch.zeros(work.NUM_ENVS)
    updates = -(-options.total_steps // (work.ROLLOUT_STEPS * work.NUM_ENVS))
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = work.LEARNING_RATE * (1 - update / updates)
        for t in range(work.ROLLOUT_STEPS):
            all_obs[t], dones[t] = obs, done
            with torch.no_grad():
                dist = Categorical(logits=actor(obs))
                action = dist.sample()
                all_actions[t], log_probs[t], values[t] = action, dist.log_prob(action), critic(obs).flatten()
            array, reward, terminated, truncated, _ = envs.step(action.numpy())
            rewards[t] = torch.as_tensor(reward)
            obs, done = torch.as_tensor(array), torch.as_tensor(terminated | truncated).float()
        with torch.no_grad():
            last_value = critic(obs).flatten()
        advantages = estimate(rewards, values, dones, last_value, done)
        rows = (all_obs, all_actions, log_probs, advantages, advantages + values, values)
        improve(actor, critic, optimizer, parameters, *(row.flatten(0, 1) for row in rows))


def estimate(rewards: Tensor, values: Tensor, dones: Tensor, last_value: Tensor, last_done: Tensor) -> Tensor:
    advantages, advantage = torch.zeros_like(rewards), torch.zeros_like(last_value)
    for t in reversed(range(len(rewards))):
        goes_on = 1 - (dones[t + 1] if t + 1 < len(rewards) else last_done)
        next_value = values[t + 1] if t + 1 < len(rewards) else last_value
        delta = rewards[t] + work.GAMMA * next_value * goes_on - values[t]
        advantages[t] = advantage = delta + work.GAMMA * work.LAMBDA * goes_on * advantage
    return advantages


def improve(
    actor: nn.Module,
    critic: nn.Module,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    obs: Tensor,
    actions: Tensor,
    log_probs: Tensor,
    advantages: Tensor,
    targets: Tensor,
    old_values: Tensor,
) -> None:
    for _ in range(work.EPOCHS):
        for rows in torch.randperm(len(obs)).split(work.MINIBATCH):
            dist = Categorical(logits=actor(obs[rows]))
            log_ratio = dist.log_prob(actions[rows]) - log_probs[rows]
            ratio = log_ratio.exp()
            with torch.no_grad():  # CleanRL watches these
                ((ratio - 1) - log_ratio).mean(), ((ratio - 1).abs() > work.CLIP_RANGE).float().mean().item()
            advantage = advantages[rows]
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            clipped = ratio.clamp(1 - work.CLIP_RANGE, 1 + work.CLIP_RANGE)
            policy_loss = torch.max(-advantage * ratio, -advantage * clipped).mean()
            value = critic(obs[rows]).flatten()
            moved = old_values[rows] + (value - old_values[rows]).clamp(-work.CLIP_RANGE, work.CLIP_RANGE)
            errors = torch.max((value - targets[rows]) ** 2, (moved - targets[rows]) ** 2)
            loss = policy_loss - work.ENTROPY * dist.entropy().mean() + work.VALUE * 0.5 * errors.mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, work.MAX_GRAD_NORM)
            optimizer.step()


if __name__ == "__main__":
    torch.set_num_threads(1)
    work.measure(prepare, work.parse(__doc__), ("torch", "gymnasium"))
