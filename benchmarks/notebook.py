"""The teaching notebook's training loop, as its readers run it: REINFORCE on CartPole-v1, one step at a time.

It doesn't use pgzoo. `benchmarks/run.py` compares pgzoo with it.

    python benchmarks/notebook.py --episodes 1000 --seed 0
"""

from __future__ import annotations

import argparse
import json
import time

import gymnasium as gym
import torch


def discount_rewards(rewards: torch.Tensor, gamma: float) -> torch.Tensor:
    returns = torch.pow(gamma, torch.arange(len(rewards))) * rewards
    return returns / returns.max()


def reinforce(max_episodes: int, seed: int, max_trajectory: int = 500, gamma: float = 0.99) -> tuple[int, float]:
    """Return environment steps and seconds of the loop."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 64), torch.nn.LeakyReLU(), torch.nn.Linear(64, 2), torch.nn.Softmax(dim=-1)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    env = gym.make("CartPole-v1")
    env.reset(seed=seed)
    steps, started = 0, time.perf_counter()
    for _ in range(max_episodes):
        observation, _ = env.reset()
        transitions = []
        for t in range(max_trajectory):
            state = torch.from_numpy(observation)
            action_probs = model(state)
            action = torch.multinomial(action_probs, 1)
            observation, reward, done, trunc, _ = env.step(action.item())
            transitions.append((state, action, float(reward) + t))
            if done or trunc:
                break
        steps += len(transitions)

        states, actions, rewards = zip(*transitions, strict=True)
        state_batch, action_batch = torch.stack(states), torch.stack(actions)
        reward_batch = torch.Tensor(rewards).flip(dims=(0,))
        prob_batch = model(state_batch).gather(dim=1, index=action_batch).squeeze(1)
        loss = -torch.sum(discount_rewards(reward_batch, gamma) * torch.log(prob_batch))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return steps, time.perf_counter() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    env_steps, wall_seconds = reinforce(options.episodes, options.seed)
    report = {"env_steps": env_steps, "wall_seconds": wall_seconds, "steps_per_second": env_steps / wall_seconds}
    print(json.dumps(report))
