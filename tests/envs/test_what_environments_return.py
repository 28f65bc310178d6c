"""What environments return is checked against what they declare, never silently changed, and errors name them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that worker processes can import the module by name

import odd_envs  # registers the environments
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from pgzoo.envs import ids, state
from pgzoo.envs.asynchronous import AsyncBackend
from pgzoo.envs.checks import read_mask, read_reward, read_step, sample_action
from pgzoo.envs.choice import inspect_environment, resets_completely
from pgzoo.envs.single import integer_choices
from pgzoo.envs.spec import make_spec
from pgzoo.envs.sync import SyncBackend
from pgzoo.errors import EnvError, UnfitError
from pgzoo.ops.entries import PackedSpace
from pgzoo.protocols import EnvBackend, VectorEnv
from pgzoo.types import EnvRequest

BACKENDS: dict[str, EnvBackend] = {"sync": SyncBackend(), "async": AsyncBackend()}
NOTHING_FORBIDDEN = [True] * 4
ONLY_LAST_TWO = [False, False, True, True]


def request(env: str, rows: int = 2, masked: bool = False, **kwargs: Any) -> EnvRequest:
    return EnvRequest(f"odd/{env}-v0", kwargs, None, rows, masked=masked)


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return `opened(request)`, for each of the two backends; the environments are closed after the test."""
    made: list[VectorEnv] = []

    def open_(what: EnvRequest) -> VectorEnv:
        made.append(BACKENDS[request.param].open(what))
        return made[-1]

    yield open_
    for envs in made:
        envs.close()


def stepped(envs: VectorEnv, steps: int, rows: int = 2) -> list[Any]:
    """Return the masks of the first row after a reset and after each step."""
    envs.reset(np.arange(rows))
    seen = [envs.action_mask]
    for _ in range(steps):
        envs.step(np.full(rows, 2), np.ones(rows, np.bool_))
        seen.append(envs.action_mask)
    return [None if mask is None else mask[0].tolist() for mask in seen]


# actions


def test_integer_box_actions_become_multi_discrete(opened: Any) -> None:
    spec = inspect_environment(request("WholeNumbers"))
    assert spec.action_space == MultiDiscrete([4, 4], start=[-1, -1])
    envs = opened(request("WholeNumbers"))
    envs.reset(np.arange(2))
    actions = np.array([[-1, 2], [2, 2]])
    assert envs.step(actions, np.ones(2, np.bool_)).rewards.tolist() == [1.0, 4.0]


@pytest.mark.parametrize(
    "space", [Box(-1.0, 1.0, (1,)), Box(0, 2**31 - 1, (1,), np.int32), Box(0, 2**64 - 1, (1,), np.uint64), Discrete(3)]
)
def test_integer_choices_is_none_for_other_spaces_and_very_large_ranges(space: gym.Space[Any]) -> None:
    assert integer_choices(space) is None


# masks


def test_steps_without_a_mask_allow_all_actions(opened: Any) -> None:
    assert stepped(opened(request("EvenMask")), 4) == [
        *(ONLY_LAST_TWO, NOTHING_FORBIDDEN, ONLY_LAST_TWO, NOTHING_FORBIDDEN, ONLY_LAST_TWO)
    ]


def test_masks_are_used_if_only_steps_and_not_reset_send_them(opened: Any) -> None:
    what = request("EvenMask", sends="odd")
    masked = inspect_environment(what).masked
    assert masked
    envs = opened(what._replace(masked=masked))
    assert stepped(envs, 3) == [NOTHING_FORBIDDEN, ONLY_LAST_TWO, NOTHING_FORBIDDEN, ONLY_LAST_TWO]


def test_a_mask_that_is_first_sent_after_many_steps_is_refused(opened: Any) -> None:
    what = request("EvenMask", sends="late")
    assert not inspect_environment(what).masked
    with pytest.raises(EnvError, match=r'"odd/EvenMask-v0" sent an action mask for the first time after many steps'):
        stepped(opened(what), 9)


def test_rows_without_a_mask_allow_all_actions_beside_rows_with_one() -> None:
    envs: Any = SyncBackend().open(request("EvenMask"))
    envs._envs[1].unwrapped.sends = "odd"
    envs.reset(np.arange(2))
    assert envs.action_mask.tolist() == [ONLY_LAST_TWO, NOTHING_FORBIDDEN]


@pytest.mark.learning
@pytest.mark.parametrize("backend", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_ppo_learns_if_only_some_steps_send_masks(backend: str, play: Any) -> None:
    """The best return is 10: action 2 in every step."""
    settings = {"num_envs": 4, "total_steps": 6000, "rollout_steps": 64, "learning_rate": 1e-2, "eval_episodes": 10}
    _, greedy = (e for e in play("ppo", env="odd/EvenMask-v0", backend=backend, **settings) if hasattr(e, "mode"))
    assert greedy.mode == "greedy" and greedy.returns[0].tolist() == [10.0] * len(greedy.returns[0])


BAD_MASKS: dict[str, Any] = {
    "additive": (0.0, -np.inf, -np.inf, 0.0),
    "list of legal indices": [2, 3],
    "too long": (1, 1, 1, 1, 1),
    "neither 0 nor 1": (0, 2, 1, 1),
    "text": "2,3",
}


@pytest.mark.parametrize("mask", BAD_MASKS)
def test_an_invalid_mask_is_refused_with_the_expected_format(mask: str) -> None:
    what = request("EvenMask", sends="always", mask=BAD_MASKS[mask])
    expected = (
        r'"odd/EvenMask-v0" sent the action mask .*; expected bool or 0/1 integers of shape \(4,\) for Discrete\(4\)'
    )
    with pytest.raises(EnvError, match=expected) as error:
        inspect_environment(what)
    assert "\n" not in str(error.value)
    with pytest.raises(EnvError, match=expected):
        SyncBackend().open(what).reset(np.arange(2))


def test_a_worker_refuses_an_invalid_mask() -> None:
    envs = AsyncBackend().open(request("EvenMask", sends="always", mask=(0, 2, 1, 1)))
    with pytest.raises(EnvError, match="sent the action mask"):
        envs.reset(np.arange(2))
    envs.close()


def test_a_mask_that_allows_nothing_is_refused_unless_the_episode_is_over() -> None:
    nothing = np.zeros(4, np.int8)
    with pytest.raises(EnvError, match="allows no action although the episode isn't over"):
        read_mask("x", gym.spaces.Discrete(4), nothing)
    assert not read_mask("x", gym.spaces.Discrete(4), nothing, ended=True).any()
    two = gym.spaces.MultiDiscrete([2, 3])
    with pytest.raises(EnvError, match="allows no action"):
        read_mask("x", two, [np.array([0, 0]), np.array([1, 1, 0])])
    assert read_mask("x", two, [np.array([0, 1]), np.array([1, 1, 0])]).tolist() == [False, True, True, True, False]


def test_masks_may_be_lists_or_arrays_of_bools_or_integers() -> None:
    for mask in ([True, False], [1, 0], np.array([1, 0], np.int8), np.array([True, False])):
        assert read_mask("x", gym.spaces.Discrete(2), mask).tolist() == [True, False]


def test_sampled_actions_are_allowed_by_the_mask() -> None:
    space = gym.spaces.MultiDiscrete([2, 3])
    space.seed(0)
    mask = np.array([False, True, False, False, True])
    assert {tuple(sample_action(space, mask).tolist()) for _ in range(20)} == {(1, 2)}


def test_an_action_masks_attribute_that_is_not_a_method_is_refused() -> None:
    with pytest.raises(EnvError, match=r"an attribute action_masks that isn't a method \(ndarray\)"):
        inspect_environment(request("NotAMethod", sends="late"))


# observations and rewards

# space, observation, its dtype, pattern of the message
BAD_OBSERVATIONS: dict[str, tuple[str, Any, str, str]] = {
    "broadcast": (
        "vector",
        (0.5,),
        "float32",
        r"\[0.5\] \(float32 of shape \(1,\)\); expected float32 of shape \(3,\)",
    ),
    "truncated": ("whole", (0.5,), "float64", r"\[0.5\] \(float64 of shape \(1,\)\); expected int32 of shape \(1,\)"),
    "wrapped": ("pixel", (300,), "int64", r"\[300\] .*; expected uint8 .* numbers from 0 to 255"),
    "negative": ("pixel", (-1,), "int64", r"\[-1\] .*; expected uint8 .* numbers from 0 to 255"),
    "not bits": ("bits", (0, 2), "int64", "all 0 or 1"),
    "words": ("vector", ("a", "b", "c"), "", r"\('a', 'b', 'c'\); expected float32"),
    "nothing": ("vector", None, "", "None; expected float32"),
    "out of range": ("category", 3, "", "3; expected a whole number from 0 to 2"),
    "from the end": ("category", -1, "", "-1; expected a whole number from 0 to 2"),
    "shifted": ("shifted", 2, "", "2; expected a whole number from -1 to 1"),
    "half a category": ("category", 0.5, "", "0.5; expected a whole number"),
    "category in a tuple": (
        "pair",
        (3, np.zeros(1, np.float32)),
        "",
        r"3 at \[0\]; expected a whole number from 0 to 2",
    ),
    "category in a dict": ("named", {"place": -1}, "", r"-1 at \['place'\]; expected a whole number from 0 to 2"),
    "no such key": ("named", {"spot": 1}, "", "expected a dict with place"),
}


@pytest.mark.parametrize("name", BAD_OBSERVATIONS)
def test_an_observation_outside_its_space_is_refused(name: str) -> None:
    space, obs, dtype, message = BAD_OBSERVATIONS[name]
    for at in (0, 2):  # from reset, or from the second step on
        what = request("Returns", space=space, obs=obs, dtype=dtype, at=at)
        with pytest.raises(EnvError, match=rf'environment "odd/Returns-v0" returned the observation .*{message}'):
            inspect_environment(what)
        envs = SyncBackend().open(what)
        with pytest.raises(EnvError, match=message):
            stepped(envs, 3)


def test_a_worker_refuses_an_observation_outside_its_space() -> None:
    envs = AsyncBackend().open(request("Returns", space="pixel", obs=(300,), dtype="int64", at=2))
    envs.reset(np.arange(2))
    envs.step(np.zeros(2, np.int64), np.ones(2, np.bool_))
    with pytest.raises(EnvError, match="numbers from 0 to 255"):
        envs.step(np.zeros(2, np.int64), np.ones(2, np.bool_))
    envs.close()


@pytest.mark.parametrize(
    ("space", "obs", "dtype"),
    [
        ("vector", (0.5, 1.0, 2.0), "float64"),
        ("vector", (1, 2, 3), "int64"),
        ("pixel", (44,), "int64"),
        ("bits", (0, 1), "int8"),
    ],
)
def test_an_observation_of_another_dtype_is_accepted_if_its_values_are_valid(
    space: str, obs: Any, dtype: str, opened: Any
) -> None:
    what = request("Returns", space=space, obs=obs, dtype=dtype)
    inspect_environment(what)
    assert opened(what).reset(np.arange(2))[0].tolist() == list(obs)


def test_a_reward_may_be_an_array_of_one_number(opened: Any) -> None:
    for reward in (np.array([2.5]), np.array(2.5), np.float32(2.5)):
        envs = opened(request("Returns", reward=reward, obs=np.zeros(3, np.float32)))
        envs.reset(np.arange(2))
        assert envs.step(np.zeros(2, np.int64), np.ones(2, np.bool_)).rewards.tolist() == [2.5, 2.5]


@pytest.mark.parametrize("flag", [True, np.True_, 1, 1.0, np.array([True]), np.array(True), [True]], ids=repr)
def test_a_flag_may_be_a_number_or_an_array_of_one_flag(flag: Any) -> None:
    what = request("Returns", obs=np.zeros(3, np.float32), ended=flag)
    inspect_environment(what)
    envs = SyncBackend().open(what)
    envs.reset(np.arange(2))
    step = envs.step(np.zeros(2, np.int64), np.array([True, False]))
    assert step.terminated.tolist() == [True, False] and step.truncated.tolist() == [False, False]


@pytest.mark.parametrize(
    "flags", [(True, False), (np.True_, np.False_), (np.False_, True), (False, np.True_), (1, np.False_)], ids=repr
)
def test_each_flag_of_a_step_becomes_a_bool(flags: tuple[Any, Any]) -> None:
    _, _, *read, _ = read_step("x", (0, 0.0, *flags, {}))
    assert [type(flag) for flag in read] == [bool, bool] and read == [bool(flag) for flag in flags]


def test_a_worker_accepts_an_array_of_one_flag() -> None:
    envs = AsyncBackend().open(request("Returns", obs=np.zeros(3, np.float32), ended=np.array([True])))
    envs.reset(np.arange(2))
    assert envs.step(np.zeros(2, np.int64), np.ones(2, np.bool_)).terminated.tolist() == [True, True]
    envs.close()


@pytest.mark.parametrize("flag", ["False", np.array([True, False]), [], {}, -0.5, float("nan"), 2], ids=repr)
def test_a_flag_that_is_not_one_bool_is_refused(flag: Any) -> None:
    with pytest.raises(EnvError, match=r'"odd/Returns-v0" returned .* as terminated from step; expected one bool\.'):
        inspect_environment(request("Returns", ended=flag, obs=np.zeros(3, np.float32)))


def test_every_environment_is_made_with_a_copy_of_its_keyword_arguments() -> None:
    what = request("Growing", goals=[5])
    ids.check(what.id, what.kwargs)
    assert inspect_environment(what).observation_space.shape == (2,)
    for _ in range(2):
        assert SyncBackend().open(what).observation_space.shape == (2,)
    assert what.kwargs == {"goals": [5]}


@pytest.mark.parametrize("reward", [None, "1.0", np.array([1.0, 2.0]), [1.0], 1j], ids=repr)
def test_a_reward_that_is_not_one_number_is_refused(reward: Any) -> None:
    with pytest.raises(EnvError, match=r'environment "odd/Returns-v0" returned the reward .*; expected one number\.'):
        inspect_environment(request("Returns", reward=reward, obs=np.zeros(3, np.float32)))
    with pytest.raises(EnvError, match="expected one number"):
        read_reward("x", reward)


# spaces


@pytest.mark.parametrize("space", ["sequence", "text", "graph"])
def test_observations_without_a_fixed_size_are_refused(space: str) -> None:
    with pytest.raises(
        UnfitError, match=rf"The observation space .* {space.capitalize()} isn't supported; observations can be Box"
    ):
        inspect_environment(request("Returns", space=space))


def test_dict_entries_without_a_fixed_size_are_omitted(opened: Any) -> None:
    asked = request("Returns", space="mission", obs={"mission": "go", "place": 1})
    spec = inspect_environment(asked)
    assert spec.dropped == ("mission (Text)",)
    assert spec.original_space == gym.spaces.Dict({"place": gym.spaces.Discrete(3)})
    assert opened(asked).reset(np.arange(2)).tolist() == [[0, 1, 0]] * 2


def test_a_dict_with_an_image_is_packed_on_every_backend(opened: Any) -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    asked = request("Returns", space="camera", obs={"camera": image, "place": 2})
    space = inspect_environment(asked).observation_space
    assert isinstance(space, PackedSpace)
    envs = opened(asked)
    first, step = envs.reset(np.arange(2)), envs.step(np.zeros(2, np.int64), np.ones(2, np.bool_))
    for obs in (first, step.obs):
        parts = space.unpack(np.asarray(obs))
        np.testing.assert_array_equal(parts["camera"], [image, image])
        assert parts["vector"].tolist() == [[0, 0, 1]] * 2
    with pytest.raises(EnvError, match=r"returned the observation .*uint8 of shape \(3,\).* at \['camera'\]"):
        inspect_environment(request("Returns", space="camera", obs={"camera": np.zeros(3, np.uint8), "place": 2}))


@pytest.mark.parametrize("space", [gym.spaces.Dict({}), gym.spaces.Tuple(()), Box(-1.0, 1.0, (0,))], ids=str)
def test_an_empty_observation_space_is_refused(space: gym.Space[Any]) -> None:
    with pytest.raises(UnfitError, match=r"The observation space .* is empty.*let the environment return a constant"):
        make_spec(space, Discrete(2))


def test_an_empty_action_space_is_refused() -> None:
    with pytest.raises(UnfitError, match="is empty: there is nothing to choose"):
        inspect_environment(request("Empty", obs=np.zeros(3, np.float32)))


def test_normalizing_boolean_observations_is_refused(plan: Any) -> None:
    with pytest.raises(UnfitError, match="are boolean; remove --normalize-obs"):
        plan(env="odd/Returns-v0", env_kwargs={"space": "bits", "obs": (0, 1)}, normalize_obs=True)


# exceptions


BROKEN: dict[str, str] = {
    "constructor": "raised KeyError: 'no such map' in its constructor (",
    "exit in constructor": "called sys.exit(3) in its constructor (",
    "observation_space": "raised RuntimeError: not connected in observation_space (",
    "no space": "has None as its observation_space; expected a gymnasium space.",
    "reset": "raised RuntimeError: no license in reset (",
    "old reset": "returned [0.0, 0.0] (float32 of shape (2,)) from reset; expected (observation, info).",
    "step": "raised ValueError: out of fuel in step (",
    "old step": "returned 4 values from step; expected (observation, reward, terminated, truncated, info).",
    "exit": "called sys.exit(3) in step (",
    "close": "raised OSError: port is busy in close (",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_failure_of_an_environment_becomes_one_line_that_names_it(how: str) -> None:
    with pytest.raises(EnvError) as error:
        inspect_environment(request("Raises", how=how))
    message = str(error.value)
    assert message.startswith(f'environment "odd/Raises-v0" {BROKEN[how]}') and "\n" not in message
    if message.startswith('environment "odd/Raises-v0" raised'):
        assert "odd_envs.py, line " in message


def test_the_error_for_a_reset_without_a_seed_shows_gymnasiums_signature() -> None:
    with pytest.raises(
        EnvError, match=r"keyword argument 'seed'.* Gymnasium's signature is reset\(self, \*, seed=None"
    ):
        inspect_environment(request("NoSeed"))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("step", "raised ValueError: out of fuel in step (/"),
        ("exit", "called sys.exit(3) in step"),
        ("die", "died during step"),
    ],
)
def test_a_failing_worker_raises_one_error_without_a_traceback(
    how: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    envs = AsyncBackend().open(request("Raises", how=how))
    envs.reset(np.arange(2))
    with pytest.raises(EnvError) as error:
        envs.step(np.zeros(2, np.int64), np.ones(2, np.bool_))
    envs.close()
    assert message.removesuffix("/") in str(error.value) and '"odd/Raises-v0"' in str(error.value)
    assert (how != "die") or "(exit code 7" in str(error.value)
    assert "Traceback" not in capfd.readouterr().err


def run(tmp_path: Path, *arguments: str, debug: str = "") -> subprocess.CompletedProcess[str]:
    import os

    environment = os.environ | {"PGZOO_HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"PGZOO_DEBUG": debug}
    command = [sys.executable, "-m", "pgzoo", "run", "reinforce", "--import", "odd_envs", "--no-progress"]
    command += ["--tracking-uri", "none", "--total-steps", "400", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=600, check=False
    )


def test_the_command_shows_a_traceback_only_in_debug_mode(tmp_path: Path) -> None:
    before = run(tmp_path, "--env", "odd/Raises-v0", "--env-kwarg", "how=exit")
    assert before.returncode == 2 and before.stderr.count("\n") == 1, before.stderr
    assert before.stderr.startswith('Error: environment "odd/Raises-v0" called sys.exit(3) in step (')
    during = run(tmp_path, "--env", "odd/Raises-v0", "--env-kwarg", "how=step", "--env-kwarg", "at=40")
    assert during.returncode == 1 and "Traceback" not in during.stderr
    assert 'Error: environment "odd/Raises-v0" raised ValueError: out of fuel in step (' in during.stderr
    debug = run(tmp_path, "--env", "odd/Raises-v0", "--env-kwarg", "how=step", debug="1")
    assert debug.returncode == 2 and "Traceback" in debug.stderr


# incomplete resets


def test_incomplete_resets_are_detected_if_an_observation_buffer_is_reused() -> None:
    assert not state.reset_is_complete(gym.make("odd/Reusing-v0", disable_env_checker=True), ())
    assert not resets_completely(request("Reusing", rows=1))


@pytest.mark.parametrize(("method", "returned"), [("step", None), ("step", 1.0)])
def test_a_method_without_a_tuple_is_reported_with_what_gymnasium_expects(
    monkeypatch: pytest.MonkeyPatch, method: str, returned: Any
) -> None:
    monkeypatch.setattr(odd_envs.EvenMask, method, lambda self, *args, **kwargs: returned)
    expected = r"Gymnasium's reset returns \(observation, info\), and its step \(observation, reward, terminated, "
    with pytest.raises(EnvError, match=rf"cannot unpack non-iterable \w+ object in {method}\. {expected}"):
        inspect_environment(request("EvenMask")._replace(max_episode_steps=5))


def test_an_error_in_the_code_of_the_environment_gets_no_advice_on_what_it_returns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def step(self: Any, action: Any) -> Any:
        _, _ = None  # type: ignore[misc]

    monkeypatch.setattr(odd_envs.EvenMask, "step", step)
    with pytest.raises(EnvError, match=r"cannot unpack .* in step \(.*_return\.py, line \d+\)\.$"):
        inspect_environment(request("EvenMask"))


# environments that ignore their seed


@pytest.mark.parametrize("generator", ["global", "own", "late"])
def test_an_environment_that_draws_from_another_generator_is_not_seeded(generator: str) -> None:
    assert not inspect_environment(request("Unseeded", generator=generator)).seeded


@pytest.mark.parametrize("env", ["odd/Reusing-v0", "odd/OnlyOneReset-v0", "odd/OnlyNaN-v0", "probe/LeakyReset-v0"])
def test_an_environment_that_remembers_episodes_or_fails_later_is_seeded(env: str) -> None:
    """Runs on it are reproducible, as each begins with new environments."""
    assert inspect_environment(EnvRequest(env, {}, None, 2)).seeded


def test_the_seed_is_tested_with_one_environment_and_two_resets(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    kept_make, kept_reset = gym.make, odd_envs.EvenMask.reset
    monkeypatch.setattr(gym, "make", lambda *args, **kwargs: made.append("make") or kept_make(*args, **kwargs))
    monkeypatch.setattr(
        odd_envs.EvenMask, "reset", lambda *args, **kwargs: made.append("reset") or kept_reset(*args, **kwargs)
    )
    assert inspect_environment(request("EvenMask")).seeded
    assert made == ["make", "reset", "reset"]


# values from info


def test_steps_return_values_of_info_only_if_requested(opened: Any) -> None:
    envs = opened(request("Costly")._replace(info=("cost", "other")))
    envs.reset(np.arange(2))
    steps = [envs.step(np.array([0, 1]), np.ones(2, np.bool_)) for _ in range(5)]
    assert [step.info["cost"].tolist() for step in steps] == [[10, 11], [20, 21], [30, 31], [0, 0], [10, 11]]
    assert [set(step.info) for step in steps] == [{"cost", "other"}] * 5  # the fourth step only resets
    plain = opened(request("Costly"))
    plain.reset(np.arange(2))
    assert plain.step(np.array([0, 1]), np.ones(2, np.bool_)).info is None


@pytest.mark.parametrize(
    ("sends", "message"),
    [
        ("nothing", r'environment "odd/Costly-v0" has no info\["cost"\] in a step, which .*Its info has: other\.'),
        ([1.0, 2.0], r'environment "odd/Costly-v0" has info\["cost"\] = \[1.0, 2.0\]; expected one number\.'),
    ],
)
def test_a_missing_or_invalid_value_of_info_is_named_in_the_error(opened: Any, sends: Any, message: str) -> None:
    what = request("Costly", sends=sends)._replace(info=("cost",))
    envs = opened(what)
    envs.reset(np.arange(2))
    envs.step(np.array([0, 1]), np.ones(2, np.bool_))
    with pytest.raises(EnvError, match=message):
        envs.step(np.array([0, 1]), np.ones(2, np.bool_))
    with pytest.raises(EnvError, match=message):
        inspect_environment(what)
    assert inspect_environment(what._replace(info=())).observation_space.shape == (1,)
