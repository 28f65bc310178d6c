"""Published results that pgzoo's are held against, and the rule by which a row passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ZOO = "RL Zoo"
TIANSHOU = "Tianshou"
CLEANRL = "CleanRL"

SOURCES = {
    ZOO: "[RL Zoo](https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/benchmark.md): one run, greedy; "
    "the standard deviation is over evaluation episodes. LunarLander-v2 and MuJoCo `-v3`",
    TIANSHOU: "[Tianshou](https://github.com/thu-ml/tianshou/blob/v1.2.0/examples/mujoco/README.md): the best mean of "
    "10 seeds during training; the standard deviation is over seeds. MuJoCo `-v3` and `-v2`",
    CLEANRL: "[CleanRL](https://docs.cleanrl.dev/rl-algorithms/ppo/): the last training returns, with sampled actions, "
    "of 3 seeds; the standard deviation is over seeds. MuJoCo `-v4`",
}

LONG_EPISODES = ("Pendulum-v5", "Swimmer-v5", "Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Ant-v5", "Walker-v3")
"""How the ids of environments end in which good policies play 1000 steps or more; they are evaluated in 20 episodes."""


def given(algorithm: str, env: str) -> dict[str, Any]:
    """Return the settings that the command of an algorithm in an environment gives."""
    episodes = {"eval_episodes": 20} if env.endswith(LONG_EPISODES) else {}
    return {"algorithm": algorithm, "env": env, "seeds": 5, **episodes}


def command(given: Mapping[str, Any]) -> str:
    """Return the command that gives these settings."""
    options = (f"--{key.replace('_', '-')} {value}" for key, value in given.items() if key != "algorithm")
    return f"pgzoo run {given['algorithm']} {' '.join(options)}"


@dataclass(frozen=True)
class Row:
    """An algorithm in an environment, with a published result.

    `theirs` are the settings of the source that produced it, as the arguments of RL Zoo's hyperparameter files.
    `total_steps` is that of the row if fewer steps than the preset's are enough. `remark` is what a reader should know
    of the comparison.
    """

    algorithm: str
    env: str
    mean: float
    std: float
    steps: float
    source: str = ZOO
    theirs: Mapping[str, Any] = field(default_factory=dict)
    total_steps: int | None = None
    remark: str = ""

    @property
    def name(self) -> str:
        """The name that ROW=... takes."""
        return f"{self.algorithm}/{self.env}"

    @property
    def given(self) -> dict[str, Any]:
        """The settings that the row's command gives."""
        steps = {} if self.total_steps is None else {"total_steps": self.total_steps}
        return {**given(self.algorithm, self.env), **steps}

    def bar(self, random: float) -> float:
        """Return the median greedy return from which the row passes, given that of random actions."""
        return self.mean - max(0.1 * abs(self.mean - random), self.std)


SDE = {"use_sde": True}
A2C_SDE = {
    "normalize": True,
    "n_steps": 8,
    "gae_lambda": 0.9,
    "vf_coef": 0.4,
    "learning_rate": "lin_7e-4",
    "policy_kwargs": "dict(log_std_init=-2, ortho_init=False)",
    **SDE,
}
ARS_MLP = {
    "policy": "MlpPolicy",
    "normalize": "dict(norm_obs=True, norm_reward=False)",
    "learning_rate": 0.018,
    "n_top": 1,
    "delta_std": 0.1,
    "policy_kwargs": "dict(net_arch=[16])",
}
LANDER = {"n_envs": 16, "n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98, "gamma": 0.999, "n_epochs": 4}
LANDER |= {"ent_coef": 0.01}
TRPO_MUJOCO = {"normalize": True, "n_envs": 2, "n_steps": 1024, "cg_max_steps": 25, "n_critic_updates": 20}
TRPO_MUJOCO |= {"batch_size": 128}
WIDE = "dict(log_std_init=-2, ortho_init=False, activation_fn=nn.ReLU, net_arch=dict(pi=[256, 256], vf=[256, 256]))"
PPO_WIDE = {"normalize": True, "n_steps": 512, "policy_kwargs": WIDE}
TWO = {"normalize": True, "n_envs": 2, "n_steps": 1024}

ROWS = (
    Row("ppo", "CartPole-v1", 500.0, 0.0, 1e5, theirs={
        "n_envs": 8, "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20,
        "learning_rate": "lin_0.001", "clip_range": "lin_0.2"}),
    Row("a2c", "CartPole-v1", 500.0, 0.0, 5e5, theirs={"n_envs": 8}),
    Row("trpo", "CartPole-v1", 500.0, 0.0, 1e5, theirs={
        "n_envs": 2, "n_steps": 512, "batch_size": 512, "cg_damping": 0.001, "gae_lambda": 0.98,
        "n_critic_updates": 20}),
    Row("ars", "CartPole-v1", 500.0, 0.0, 5e4, theirs={"policy": "LinearPolicy", "n_delta": 2}),
    Row("ppo", "Acrobot-v1", -73.5, 18.2, 1e6, theirs={
        "normalize": True, "n_envs": 16, "n_steps": 256, "gae_lambda": 0.94, "n_epochs": 4}),
    Row("a2c", "Acrobot-v1", -83.4, 17.2, 5e5, theirs={"normalize": True, "n_envs": 16}),
    Row("trpo", "Acrobot-v1", -83.1, 18.6, 1e5, theirs=TWO),
    Row("ars", "Acrobot-v1", -82.9, 23.8, 5e5, theirs={**ARS_MLP, "n_delta": 4}),
    Row("ppo", "MountainCar-v0", -110.4, 19.5, 1e6, theirs={
        "normalize": True, "n_envs": 16, "n_steps": 16, "gae_lambda": 0.98, "n_epochs": 4}),
    Row("a2c", "MountainCar-v0", -111.3, 24.1, 1e6, theirs={"normalize": True, "n_envs": 16}),
    Row("trpo", "MountainCar-v0", -107.3, 13.2, 1e5, theirs={**TWO, "n_critic_updates": 20}),
    Row("ars", "MountainCar-v0", -122.0, 33.5, 5e5, theirs={**ARS_MLP, "n_delta": 8}),
    Row("ppo", "MountainCarContinuous-v0", 88.3, 2.6, 2e4, theirs={
        "normalize": True, "n_envs": 1, "batch_size": 256, "n_steps": 8, "gamma": 0.9999, "learning_rate": 7.77e-5,
        "ent_coef": 0.00429, "clip_range": 0.1, "gae_lambda": 0.9, "max_grad_norm": 5, "vf_coef": 0.19,
        "policy_kwargs": "dict(log_std_init=-3.29, ortho_init=False)", **SDE}),
    Row("a2c", "MountainCarContinuous-v0", 91.2, 0.3, 1e5, theirs={
        "normalize": True, "n_envs": 4, "n_steps": 100, "policy_kwargs": "dict(ortho_init=False)", **SDE}),
    Row("trpo", "MountainCarContinuous-v0", 92.5, 0.4, 5e4, theirs={"normalize": True, "n_envs": 2, **SDE}),
    Row("ars", "MountainCarContinuous-v0", 96.7, 0.8, 5e5, theirs={**ARS_MLP, "n_delta": 4, "delta_std": 0.2}),
    Row("ppo", "Pendulum-v1", -172.2, 104.2, 1e5, theirs={
        "n_envs": 4, "n_steps": 1024, "gamma": 0.9, "learning_rate": 0.001, **SDE}),
    Row("a2c", "Pendulum-v1", -163.0, 103.2, 1e6, theirs={**A2C_SDE, "n_envs": 8, "gamma": 0.9}),
    Row("trpo", "Pendulum-v1", -174.6, 127.6, 1e5, theirs={
        "n_envs": 2, "n_steps": 1024, "gamma": 0.9, "n_critic_updates": 15, **SDE}),
    Row("ars", "Pendulum-v1", -212.5, 160.4, 2e6, theirs={**ARS_MLP, "n_delta": 4}),
    Row("ppo", "LunarLander-v3", 242.1, 31.8, 1e6, theirs=LANDER),
    Row("a2c", "LunarLander-v3", 155.8, 80.4, 2e5, theirs={
        "n_envs": 8, "gamma": 0.995, "learning_rate": "lin_0.00083", "ent_coef": 1e-5}),
    Row("trpo", "LunarLander-v3", 133.2, 112.2, 2e5, theirs={
        "n_envs": 2, "n_steps": 512, "cg_damping": 0.01, "gae_lambda": 0.98, "n_critic_updates": 15}),
    Row("ppo", "LunarLanderContinuous-v3", 270.9, 32.1, 1e6, theirs=LANDER),
    Row("a2c", "LunarLanderContinuous-v3", 84.2, 145.9, 5e6, theirs={**A2C_SDE, "n_envs": 4}),
    Row("trpo", "LunarLanderContinuous-v3", 262.4, 21.4, 2e5, theirs={**TWO, "n_critic_updates": 20}),
    Row("ars", "LunarLanderContinuous-v3", 168.0, 147.1, 2e6, theirs={**ARS_MLP, "n_delta": 4}),
    Row("ppo", "InvertedPendulum-v5", 1000.0, 0.0, 1e6, TIANSHOU),
    Row("a2c", "InvertedPendulum-v5", 1000.0, 0.0, 1e6, TIANSHOU),
    Row("trpo", "InvertedPendulum-v5", 1000.0, 0.0, 1e6, TIANSHOU),
    Row("npg", "InvertedPendulum-v5", 1000.0, 0.0, 1e6, TIANSHOU),
    Row("reinforce", "InvertedPendulum-v5", 999.2, 2.4, 3e6, TIANSHOU),
    Row("ppo", "InvertedDoublePendulum-v5", 9231.3, 270.4, 1e6, TIANSHOU),
    Row("a2c", "InvertedDoublePendulum-v5", 9257.7, 277.4, 1e6, TIANSHOU),
    Row("trpo", "InvertedDoublePendulum-v5", 8435.2, 1073.3, 1e6, TIANSHOU, total_steps=150_000),
    Row("npg", "InvertedDoublePendulum-v5", 9243.2, 276.0, 1e6, TIANSHOU),
    Row("reinforce", "InvertedDoublePendulum-v5", 1059.7, 307.7, 3e6, TIANSHOU),
    Row("ppo", "Reacher-v5", -4.1, 0.3, 1e6, TIANSHOU),
    Row("a2c", "Reacher-v5", -6.7, 2.3, 1e6, TIANSHOU),
    Row("trpo", "Reacher-v5", -5.1, 0.8, 1e6, TIANSHOU),
    Row("npg", "Reacher-v5", -4.5, 0.5, 1e6, TIANSHOU),
    Row("reinforce", "Reacher-v5", -10.5, 0.7, 3e6, TIANSHOU,
        remark="an arm that stands still gets about -11.7"),
    Row("ppo", "Swimmer-v5", 281.6, 9.7, 1e6, theirs={
        "normalize": True, "gamma": 0.9999, "n_envs": 4, "n_steps": 1024, "batch_size": 256, "learning_rate": 6e-4,
        "gae_lambda": 0.98}),
    Row("a2c", "Swimmer-v5", 200.6, 2.5, 1e6, theirs={"normalize": True, "gamma": 0.9999}),
    Row("trpo", "Swimmer-v5", 365.7, 2.1, 1e6, theirs={**TRPO_MUJOCO, "gamma": 0.9999}),
    Row("npg", "Swimmer-v5", 31.5, 8.0, 1e6, TIANSHOU),
    Row("reinforce", "Swimmer-v5", 35.3, 1.4, 3e6, TIANSHOU),
    Row("ars", "Swimmer-v5", 355.3, 12.8, 2e6, theirs={
        "policy": "LinearPolicy", "learning_rate": 0.02, "delta_std": 0.01, "n_delta": 1, "n_top": 1}),
    Row("ppo", "Hopper-v5", 2410.4, 10.0, 1e6, theirs={
        **PPO_WIDE, "batch_size": 32, "gamma": 0.999, "learning_rate": 9.80828e-5, "ent_coef": 0.00229519,
        "n_epochs": 5, "gae_lambda": 0.99, "max_grad_norm": 0.7, "vf_coef": 0.835671}),
    Row("a2c", "Hopper-v5", 733.5, 376.6, 1e6, theirs={"normalize": True}, total_steps=200_000),
    Row("trpo", "Hopper-v5", 3618.4, 356.8, 1e6, theirs=TRPO_MUJOCO),
    Row("reinforce", "Hopper-v5", 395.8, 64.5, 3e6, TIANSHOU),
    Row("ppo", "Walker2d-v5", 3478.8, 821.7, 1e6, theirs={
        **PPO_WIDE, "batch_size": 32, "learning_rate": 5.05041e-5, "ent_coef": 0.000585045, "clip_range": 0.1,
        "n_epochs": 20, "max_grad_norm": 1, "vf_coef": 0.871923}),
    Row("a2c", "Walker2d-v5", 581.8, 127.6, 1e6, theirs={"normalize": True}, total_steps=400_000),
    Row("trpo", "Walker2d-v5", 4933.1, 1452.5, 1e6, theirs=TRPO_MUJOCO),
    Row("ppo", "HalfCheetah-v5", 5819.1, 663.5, 1e6, theirs={
        **PPO_WIDE, "gamma": 0.98, "learning_rate": 2.0633e-5, "ent_coef": 0.000401762, "clip_range": 0.1,
        "n_epochs": 20, "gae_lambda": 0.92, "max_grad_norm": 0.8, "vf_coef": 0.58096}),
    Row("a2c", "HalfCheetah-v5", 3041.2, 157.3, 1e6, theirs={"normalize": True}),
    Row("trpo", "HalfCheetah-v5", 1785.5, 68.7, 1e6, theirs={**TRPO_MUJOCO, "target_kl": 0.04}),
    Row("ppo", "Ant-v5", 1327.2, 451.6, 1e6, theirs={"normalize": True}),
    Row("a2c", "Ant-v5", -44.0, 63.2, 1e6, theirs={"normalize": True}, total_steps=50_000,
        remark="a robot that stands still gets about 990, which is more than the published result"),
    Row("trpo", "Ant-v5", 4982.3, 663.8, 1e6, theirs=TRPO_MUJOCO),
    Row("ppo", "BipedalWalker-v3", 287.9, 2.4, 5e6, theirs={
        "normalize": True, "n_envs": 32, "gamma": 0.999, "clip_range": 0.18}),
    Row("a2c", "BipedalWalker-v3", 299.8, 23.5, 5e6, theirs={**A2C_SDE, "n_envs": 16, "learning_rate": "lin_0.00096"}),
    Row("trpo", "BipedalWalker-v3", 182.3, 145.6, 1e6, theirs=TRPO_MUJOCO),
)  # fmt: skip

OFF_POLICY_ROWS = (
    Row("sac", "Pendulum-v1", -157.0, 88.7, 2e4),
    Row("td3", "Pendulum-v1", -151.9, 90.2, 2e4),
    Row("ddpg", "Pendulum-v1", -152.1, 94.3, 2e4),
    Row("sac", "MountainCarContinuous-v0", 94.7, 1.1, 5e4),
    Row("td3", "MountainCarContinuous-v0", 93.5, 0.1, 3e5),
    Row("ddpg", "MountainCarContinuous-v0", 93.5, 0.0, 3e5),
    Row("sac", "LunarLanderContinuous-v3", 260.4, 65.5, 5e5),
    Row("td3", "LunarLanderContinuous-v3", 207.5, 67.6, 3e5),
    Row("ddpg", "LunarLanderContinuous-v3", 230.2, 92.4, 3e5),
    Row("sac-discrete", "CartPole-v1", 500.0, 0.0, 5e4,
        remark="there is no published result of discrete SAC for this environment; RL Zoo's is that of DQN"),
    Row("sac", "HalfCheetah-v5", 9535.5, 100.5, 1e6),
    Row("td3", "HalfCheetah-v5", 9655.7, 969.9, 1e6),
)  # fmt: skip
"""The rows of the plugin `pgzoo-offpolicy`, whose README holds their results."""
