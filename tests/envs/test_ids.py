"""Errors for environments that can't be made say why, and what to install or which id to use."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from pgzoo.envs import ids
from pgzoo.errors import EnvError
from pgzoo.play import video


def test_check_returns_the_specification_of_an_environment_that_runs() -> None:
    spec = ids.check("CartPole-v1", {"sutton_barto_reward": True})
    assert (spec.id, spec.max_episode_steps) == ("CartPole-v1", 500)


def test_describe_returns_spaces_successor_limit_and_threshold() -> None:
    found = ids.describe("CartPole-v0")
    assert found.runs
    assert found.successor == "CartPole-v1"
    assert found.action_space == "Discrete(2)"
    assert found.observation_space == "Box([-4.8 -inf -0.41887903 -inf], [4.8 inf 0.41887903 inf], (4,), float32)"
    assert (found.max_episode_steps, found.reward_threshold) == (200, 195.0)


@pytest.mark.parametrize("change", [ids._quiet, video._without_display])
def test_two_threads_that_change_the_process_leave_it_as_it_was(
    change: Callable[[], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)

    def process() -> tuple[object, ...]:
        return sys.stdout, warnings.filters[0], os.environ.get("SDL_VIDEODRIVER")

    before = process()
    first, second = change(), change()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert process() != before  # the second thread is still inside
    second.__exit__(None, None, None)
    assert process() == before


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Cartpoll-v1", 'There is no environment "Cartpoll-v1" (gymnasium {v}). Did you mean "CartPole-v1"?'),
        ("cartpole-v1", 'Did you mean "CartPole-v1"?'),
        ("CartPole", 'Use "CartPole-v1", the newest version.'),
        ("CartPole-v9", 'Use "CartPole-v1", the newest version.'),
        ("LunarLander-v2", 'Use "LunarLander-v3", which replaced it.'),
        ("Taxi-v3", 'Use "Taxi-v4", which replaced it.'),
        ("Ant-v3", 'moved to the gymnasium-robotics project'),
        ("Ant-v3", 'Use "Ant-v5", which replaced it.'),
        ("GymV21Environment-v0", "shimmy"),
        ("not_there:Thing-v1", "If it is in the working directory, add: --import not_there"),
        ("nowhere/Thing-v1", 'No imported module registers "nowhere/...": name the one that does with'),
        ("no_module:Thing-v1", 'The module "no_module" of the environment "no_module:Thing-v1"'),
        (
            "zzzz",
            'There is no environment "zzzz" (gymnasium {v}). If another package registers it, name its module: '
            "MODULE:zzzz. See: pgzoo envs",
        ),
        ("not an id", "There is no environment"),
        ("", "There is no environment"),
    ],
)  # fmt: skip
def test_errors_explain_why_an_environment_cannot_be_made(env_id: str, message: str) -> None:
    with pytest.raises(EnvError) as caught:
        ids.check(env_id)
    assert message.format(v=gym.__version__) in str(caught.value)
    assert caught.value.exit_code == 2
    described = ids.describe(env_id)
    assert (described.runs, described.problem) == (False, str(caught.value))


@pytest.mark.parametrize(
    ("env_id", "module", "extra"),
    [("LunarLander-v3", "Box2D", "box2d"), ("Ant-v5", "mujoco", "mujoco"), ("ALE/Pong-v5", "ale_py", "atari"),
     ("PongNoFrameskip-v4", "ale_py", "atari")],
)  # fmt: skip
def test_a_missing_extra_is_named_with_its_install_command(
    env_id: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it weren't installed
    for name in [name for name in sys.modules if name.startswith(("gymnasium.envs.mujoco", "gymnasium.envs.box2d"))]:
        monkeypatch.delitem(sys.modules, name)
    if env_id in gym.registry:
        assert ids.obstacle(gym.spec(env_id)) == f'pip install "pgzoo[{extra}]"'
    with pytest.raises(EnvError, match=rf'needs {module}\. Install it: pip install "pgzoo\[{extra}\]"'):
        ids.check(env_id)


def test_newer_returns_a_version_only_for_ids_that_can_be_loaded() -> None:
    assert ids.newer("CartPole-v0") == "CartPole-v1"
    assert [ids.newer(env_id) for env_id in ("CartPole-v1", "LunarLander-v2", "Ant-v2", "Nothing-v0")] == [None] * 4


def test_threshold_is_none_for_unknown_ids_and_ids_without_a_threshold() -> None:
    said = [ids.threshold(env_id) for env_id in ("CartPole-v1", "Pendulum-v1", "LunarLander-v2")]
    assert said == [475.0, None, None]


def test_an_unknown_keyword_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(EnvError, match=r'no keyword "sutton_reward". Did you mean "sutton_barto_reward"\?'):
        ids.check("CartPole-v1", {"sutton_reward": True})


def test_a_wrong_keyword_value_shows_the_error_of_the_environment() -> None:
    with pytest.raises(EnvError, match="\"FrozenLake-v1\" can't be made here: KeyError: '9x9'"):
        ids.check("FrozenLake-v1", {"map_name": "9x9"})


def test_modules_are_imported_to_find_their_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_envs.py").write_text(
        "import gymnasium\ngymnasium.register('mine/Cart-v0', 'gymnasium.envs.classic_control.cartpole:CartPoleEnv')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert ids.check("my_envs:mine/Cart-v0").id == "mine/Cart-v0"
        assert ids.check("mine/Cart-v0", imports=["my_envs"]).id == "mine/Cart-v0"
    finally:
        gym.registry.pop("mine/Cart-v0", None)
        sys.modules.pop("my_envs", None)


def test_an_error_without_a_message_is_reported_with_the_line_that_raised_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "mute_envs.py"
    package.parent.mkdir()
    package.write_text(
        "import gymnasium\n\ndef make():\n    raise AssertionError\n\ngymnasium.register('Mute-v0', make)\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))
    try:
        with pytest.raises(EnvError, match=r"here: AssertionError \(mute_envs.py, line 4\)\.$"):
            ids.check("mute_envs:Mute-v0")
    finally:
        gym.registry.pop("Mute-v0", None)
        sys.modules.pop("mute_envs", None)


def test_describe_shows_no_warnings_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids.describe("CartPole-v0")
        ids.describe("Ant-v2")
    assert capfd.readouterr() == ("", "")


class Blind(gym.Env[Any, Any]):
    """An environment that renders nothing; it accepts `render_mode`, and ignores it."""

    observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(2)

    def __init__(self, **kwargs: Any) -> None:
        pass


class Deaf(Blind):
    """An environment that doesn't accept the keyword `render_mode`."""

    def __init__(self) -> None:
        pass


gym.register("probe/Blind-v0", Blind)
gym.register("probe/Deaf-v0", Deaf)


@pytest.mark.parametrize("name", ["Blind", "Deaf"])
def test_a_video_of_an_environment_that_renders_nothing_is_refused(name: str) -> None:
    with pytest.raises(EnvError, match=f'"probe/{name}-v0" draws no frames for --video, as render_mode="rgb_array"'):
        ids.check_draws(f"probe/{name}-v0")


def test_a_video_of_an_environment_that_renders_is_not_refused() -> None:
    ids.check_draws("CartPole-v1")


def test_an_environment_that_is_given_is_checked_in_place_of_the_registered_one() -> None:
    made = gym.spec("CartPole-v1").entry_point
    assert isinstance(made, str)
    ids.check("probe/Blind-v0", {"render_mode": "rgb_array"}, make=gym.envs.registration.load_env_creator(made))
    ids.check_draws("probe/Blind-v0", make=gym.envs.registration.load_env_creator(made))
    with pytest.raises(EnvError, match='"CartPole-v1" draws no frames'):
        ids.check_draws("CartPole-v1", make=Deaf)
