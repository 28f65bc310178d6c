"""The packages from PyPI whose environments benchmarks/environments.py tries."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Package:
    """A package, the lines that install it and train in one of its environments, and files that the latter needs.

    `about` says what the environment takes beyond its id, and why.
    """

    name: str
    install: str
    command: str
    about: str
    files: dict[str, str] = field(default_factory=dict)


MINATAR = """
from minatar.gym import register_envs

register_envs()
"""

BLUESKY = """
import bluesky_gym

bluesky_gym.register_envs()
"""

RETRO = """
import gymnasium as gym
import stable_retro


def make(render_mode=None, **keywords):
    return stable_retro.make("Airstriker-Genesis-v0", render_mode=render_mode, **keywords)


gym.register("Airstriker-v0", make)
"""

CRAFTER = '''
import crafter
import gymnasium as gym
import numpy as np


class Crafter(gym.Env):
    """crafter's environment, which has the methods of the old gym, with those of gymnasium."""

    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gym.spaces.Discrete(17)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.env = crafter.Env(seed=seed)
        return self.env.reset(), {}

    def step(self, action):
        obs, reward, over, info = self.env.step(action)
        died = info["discount"] == 0
        return obs, reward, over and died, over and not died, info


gym.register("Crafter-v1", Crafter)
'''

TRADING = """
import gym_trading_env
import gymnasium as gym
import numpy as np
import pandas as pd

random = np.random.default_rng(0)
close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, 1000)))  # put your prices here
prices = pd.DataFrame({"open": close, "high": close, "low": close, "close": close, "volume": 1.0})
prices.index = pd.date_range("2024-01-01", periods=1000, freq="h")
prices["feature_change"] = prices["close"].pct_change().fillna(0)
settings = {"df": prices, "positions": [-1, 0, 1], "verbose": 0}
gym.register("Trading-v0", "gym_trading_env.environments:TradingEnv", kwargs=settings)
"""

WEIGHTED = """
import mo_gymnasium
import numpy as np


class Weighted(mo_gymnasium.wrappers.LinearReward):
    def __init__(self, env):
        super().__init__(env, weight=np.array([0.7, 0.3]))
"""

OLDER_MUJOCO = "It fails with the newest mujoco, so an older one is installed."

PACKAGES = (
    Package(
        "minigrid",
        "pip install minigrid",
        "pgzoo run ppo --env minigrid:MiniGrid-Empty-5x5-v0",
        "A Dict of an image of 7 x 7, a direction and a text. The text is left out with a warning. The image is too "
        "small for convolutions with strides, so the default policy `mlp` takes it as a vector.",
    ),
    Package(
        "highway-env",
        "pip install highway-env",
        "pgzoo run ppo --env highway_env:highway-fast-v0",
        "The module's name has an underscore. `highway-v0` is the same, but takes a second for a few steps.",
    ),
    Package(
        "popgym",
        "pip install popgym",
        "pgzoo run ppo --env popgym:popgym-RepeatPreviousEasy-v0 --policy gru",
        "These environments need memory: `--policy gru` or `lstm`.",
    ),
    Package(
        "MinAtar",
        "pip install minatar",
        "pgzoo run ppo --env MinAtar/Breakout-v1 --import minatar_envs --policy cnn",
        "Importing the package doesn't register the ids, calling its function does: a file of two lines.",
        {"minatar_envs.py": MINATAR},
    ),
    Package(
        "gymnasium-robotics",
        'pip install gymnasium-robotics "mujoco<3.9"',
        "pgzoo run ppo --env gymnasium_robotics:FetchReachDense-v4",
        f"Dicts of an observation and goals are flattened. {OLDER_MUJOCO} Ids without `Dense` have a sparse reward, "
        "which PPO rarely finds.",
    ),
    Package(
        "metaworld",
        'pip install metaworld "mujoco<3.9"',
        "pgzoo run ppo --env metaworld:Meta-World/MT1 --env-kwarg env_name=reach-v3",
        f"The task is a keyword. {OLDER_MUJOCO}",
    ),
    Package(
        "tetris-gymnasium",
        "pip install tetris-gymnasium",
        "pgzoo run ppo --env tetris_gymnasium.envs:tetris_gymnasium/Tetris",
        "The module that registers the id is `tetris_gymnasium.envs`.",
    ),
    Package(
        "flappy-bird-gymnasium",
        "pip install flappy-bird-gymnasium",
        "pgzoo run ppo --env flappy_bird_gymnasium:FlappyBird-v0 --env-kwarg use_lidar=false",
        "`use_lidar=false` gives 12 numbers instead of 180 distances.",
    ),
    Package(
        "gym-trading-env",
        "pip install gym-trading-env",
        "pgzoo run ppo --env Trading-v0 --import trading_envs",
        "Its argument is a table of prices, which no option can hold: a file registers an id with it.",
        {"trading_envs.py": TRADING},
    ),
    Package(
        "gym-anytrading",
        "pip install gym-anytrading",
        "pgzoo run ppo --env gym_anytrading:stocks-v0 --normalize-obs",
        "Observations are prices of about 100: `--normalize-obs`.",
    ),
    Package(
        "crafter",
        "pip install crafter",
        "pgzoo run ppo --env Crafter-v1 --import crafter_envs --policy cnn",
        "Its methods are those of gym before 0.26: a file converts them.",
        {"crafter_envs.py": CRAFTER},
    ),
    Package(
        "miniworld",
        "pip install miniworld",
        "PYGLET_HEADLESS=true pgzoo run ppo --env miniworld:MiniWorld-Hallway-v0 --policy cnn",
        "Without a display it needs `PYGLET_HEADLESS=true` and EGL (Debian: `libegl1`).",
    ),
    Package(
        "pybullet_envs_gymnasium",
        "pip install pybullet_envs_gymnasium",
        "pgzoo run ppo --env pybullet_envs_gymnasium:HopperBulletEnv-v0",
        "Nothing.",
    ),
    Package(
        "panda-gym",
        "pip install panda-gym",
        "pgzoo run ppo --env panda_gym:PandaReachDense-v3",
        "Dicts of an observation and goals are flattened.",
    ),
    Package(
        "PyFlyt",
        "pip install PyFlyt",
        "pgzoo run ppo --env PyFlyt.gym_envs:PyFlyt/QuadX-Hover-v1",
        "The module that registers the ids is `PyFlyt.gym_envs`.",
    ),
    Package(
        "gym-pusht",
        "pip install gym-pusht",
        "pgzoo run ppo --env gym_pusht:gym_pusht/PushT-v0 --normalize-obs --policy.rescale",
        "Actions are pixels from 0 to 512: `--policy.rescale` maps -1 to 1 onto them.",
    ),
    Package(
        "vizdoom",
        "pip install vizdoom",
        "pgzoo run ppo --env vizdoom.gymnasium_wrapper:VizdoomBasic-v1 --policy cnn",
        "A Dict of an image of 240 x 320 and game variables: convolutions for the first, a vector of the second.",
    ),
    Package(
        "stable-retro",
        "pip install stable-retro",
        "pgzoo run ppo --env Airstriker-v0 --import retro_envs --policy cnn --backend async",
        "Games have no gymnasium ids: a file registers one. A process can hold only one game: `--backend async`. "
        "Actions are 12 buttons (MultiBinary).",
        {"retro_envs.py": RETRO},
    ),
    Package(
        "shimmy[dm-control]",
        'pip install "shimmy[dm-control]" "mujoco<4"',
        "pgzoo run ppo --env shimmy:dm_control/cartpole-balance-v0",
        "The DeepMind Control Suite. A Dict of vectors, flattened.",
    ),
    Package(
        "shimmy[bsuite]",
        'pip install "shimmy[bsuite]"',
        "pgzoo run ppo --env shimmy:bsuite/catch-v0",
        "DeepMind's Behaviour Suite.",
    ),
    Package(
        "shimmy[gym-v26]",
        'pip install "shimmy[gym-v26]"',
        "pgzoo run ppo --env shimmy:GymV26Environment-v0 --env-kwarg env_id=CartPole-v1 "
        "--env-kwarg make_kwargs='{disable_env_checker: true}'",
        "Environments of gym 0.26. Its checker fails with numpy 2, so it is disabled.",
    ),
    Package(
        "bluesky-gym",
        "pip install bluesky-gym",
        "pgzoo run ppo --env DescentEnv-v0 --import bluesky_envs",
        "As for MinAtar: a file of two lines registers the ids. The package fails with numpy 2.4, also without pgzoo.",
        {"bluesky_envs.py": BLUESKY},
    ),
    Package(
        "gym-electric-motor",
        "pip install gym-electric-motor",
        "pgzoo run ppo --env gym_electric_motor:Finite-CC-PMSM-v0",
        "A Tuple of two Boxes, flattened.",
    ),
    Package(
        "mo-gymnasium",
        "pip install mo-gymnasium",
        "pgzoo run ppo --env mo_gymnasium:deep-sea-treasure-v0 --import weighted --wrapper weighted:Weighted",
        "Rewards are vectors, which are refused: a wrapper makes a weighted sum.",
        {"weighted.py": WEIGHTED},
    ),
    Package(
        "safety-gymnasium",
        "pip install safety-gymnasium",
        "pgzoo run ppo --env safety_gymnasium:SafetyPointGoal1-v0",
        "It needs gymnasium 0.28, pgzoo 1.2 or newer.",
    ),
    Package(
        "procgen",
        "pip install procgen",
        "pgzoo run ppo --env procgen:procgen-coinrun-v0 --policy cnn",
        "Its last release is for Python 3.10.",
    ),
)
