"""The backend `compiled`: its dynamics equal gymnasium's, and its loop equals the one in Python."""

from __future__ import annotations

import inspect
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from pgzoo.envs import compiled
from pgzoo.envs.choice import make_backend
from pgzoo.envs.native import NativeBackend
from pgzoo.errors import EnvError
from pgzoo.ops import jit
from pgzoo.ops.rows import rational_tanh
from pgzoo.registry import discover
from pgzoo.testing.backends import compare_dynamics
from pgzoo.training.engine import Engine
from pgzoo.training.events import RunEnded
from pgzoo.types import Array, Dynamics, EnvRequest, TrainState

MISSING = find_spec("numba") is None
NUMBA = pytest.mark.skipif(MISSING, reason="numba is not installed: pgzoo[compiled]")
CATALOG = discover(inline=False)
ENVS = {env: entry for entry in CATALOG.entries("dynamics") for env in entry.facts["envs"]}
ROUNDED = {
    "Acrobot-v1": {"state": 1e-15},  # gymnasium squares speeds with the power function of the C library
    "Pendulum-v1": {"rewards": 1e-9},  # and torques, in float32
}
"""Largest differences for environments that differ from gymnasium's by rounding. All others are equal bit for bit."""

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("Blackjack-v1", {"sab": False}),
    ("Blackjack-v1", {"sab": False, "natural": True}),
    ("CartPole-v1", {"sutton_barto_reward": True}),
    ("FrozenLake-v1", {"is_slippery": False}),
    ("FrozenLake-v1", {"desc": ["SFF", "FHF", "FFG"], "success_rate": 0.8}),
    ("MountainCar-v0", {"goal_velocity": 0.01}),
    ("MountainCarContinuous-v0", {"goal_velocity": 0.01}),
    ("Pendulum-v1", {"g": 9.81}),
    ("Taxi-v4", {"is_rainy": True}),
]


def opened(env: str, rows: int = 3, limit: int | None = None, **kwargs: Any) -> Any:
    backend = make_backend(CATALOG.get("env_backend", "compiled"), CATALOG)
    return backend.open(EnvRequest(env, kwargs, limit, rows))


@pytest.mark.parametrize("env", ENVS)
def test_dynamics_match_gymnasium(env: str) -> None:
    differences = compare_dynamics(ENVS[env].load(), env, 10_000)
    limits = dict.fromkeys(differences, 0.0) | ROUNDED.get(env, {})
    assert {name for name, difference in differences.items() if difference > limits[name]} == set()


@pytest.mark.parametrize(("env", "kwargs"), [pytest.param(*each, marks=pytest.mark.slow) for each in VARIANTS])
def test_dynamics_match_gymnasium_with_keyword_arguments(env: str, kwargs: dict[str, Any]) -> None:
    differences = compare_dynamics(ENVS[env].load(), env, 10_000, **kwargs)
    limits = dict.fromkeys(differences, 0.0) | ROUNDED.get(env, {})
    assert {name for name, difference in differences.items() if difference > limits[name]} == set()


def test_unsupported_environments_are_refused_with_a_reason() -> None:
    backend = make_backend(CATALOG.get("env_backend", "compiled"), CATALOG)
    assert backend.fits(EnvRequest("CartPole-v1", {}, None, 1)) == ""
    assert backend.fits(EnvRequest("probe/Corridor-v0", {}, None, 1)) == "no plugin has registered its dynamics"
    assert "fickle_passenger" in backend.fits(EnvRequest("Taxi-v4", {"fickle_passenger": True}, None, 1))


def test_without_numba_the_same_functions_run_in_python(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def playing() -> list[Array]:
        envs = opened("CartPole-v1", limit=7)
        seen = [envs.reset(np.arange(3))]
        return seen + [envs.step(np.array([0, 1, t % 2]), np.ones(3, np.bool_)).obs for t in range(20)]

    expected = None if MISSING else playing()
    monkeypatch.setattr("pgzoo.ops.jit.available", lambda: False)
    compiled._warn_not_compiled.cache_clear()
    with caplog.at_level(logging.WARNING, "pgzoo"):
        plain, _ = playing(), playing()
    assert [record.getMessage().count("numba is not installed") for record in caplog.records] == [1]
    assert expected is None or np.array_equal(expected, plain)
    starts = NativeBackend().open(EnvRequest("CartPole-v1", {}, None, 3)).reset(np.arange(3))
    assert np.abs(plain[0]).max() <= 0.05 and np.unique(plain[0]).size == np.unique(starts).size


@pytest.mark.parametrize("size", [3, 10_000])
def test_rational_tanh_matches_torch(size: int) -> None:
    x = np.linspace(-12.0, 12.0, size, dtype=np.float32)
    ours = np.array([rational_tanh(float(v)) for v in x], np.float32)
    np.testing.assert_allclose(ours, torch.tanh(torch.from_numpy(x)), rtol=2e-7, atol=6e-8)
    assert np.abs(ours).max() <= 1.0 and np.isnan(rational_tanh(np.nan))


CASES: dict[str, dict[str, Any]] = {
    "cartpole": {"env": "CartPole-v1", "policy": {"name": "mlp", "hidden": (30, 7)}},
    "taxi, with masks": {"env": "Taxi-v4", "policy": "mlp", "max_episode_steps": 15},
    "pendulum, normalized and rescaled": {
        "env": "Pendulum-v1",
        "max_episode_steps": 15,
        "normalize_obs": True,
        "policy": {"name": "mlp", "rescale": True, "activation": "relu"},
    },
    "mountain car, clipped": {"env": "MountainCarContinuous-v0", "max_episode_steps": 15, "policy": "linear"},
    "frozen lake, a table": {"env": "FrozenLake-v1", "policy": "tabular"},
}
SLOW = ["pendulum, normalized and rescaled", "mountain car, clipped", "frozen lake, a table"]
"""Each takes seconds to compile."""

EACH = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CASES]


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
@pytest.mark.parametrize("case", EACH)
@NUMBA
def test_the_compiled_loop_collects_the_same_as_the_python_loop(
    case: str, algorithm: str, engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same noise. Rounding changes no action here, so flags are equal, and numbers equal up to rounding."""
    settings: dict[str, Any] = {"backend": "compiled", "seeds": (0, 1), "num_envs": 3, "total_steps": 100_000}
    settings |= CASES[case] | ({"rollout_steps": 150} if algorithm == "ppo" else {})

    def collected() -> list[Any]:
        one = engine(algorithm=algorithm, **settings)
        state, trajectory = one.collect(one.state)
        _, later = one.collect(state._replace(updates=state.updates + 1))
        return [*trajectory[:9], *later[:9]]

    ours = collected()
    monkeypatch.setattr("pgzoo.training.rollout.compiled_policy", lambda *_: None)
    theirs = collected()
    valid = [leaves[5] for leaves in (ours[:9], ours[9:])]
    assert all(v.any() for v in valid) and (algorithm == "reinforce" or not valid[1].all())
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a is None:
            assert b is None
            continue
        assert a.dtype == b.dtype and a.shape == b.shape
        v = valid[k // 9]
        counted = a[:, : v.shape[1]][v], b[:, : v.shape[1]][v]
        torch.testing.assert_close(*counted, rtol=1e-4, atol=1e-4)


def last(events: list[Any]) -> TrainState:
    assert isinstance(events[-1], RunEnded)
    return events[-1].state


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
@NUMBA
def test_a_seed_trains_identically_alone_and_among_others(algorithm: str, play: Callable[..., list[Any]]) -> None:
    settings: dict[str, Any] = {"backend": "compiled", "num_envs": 3, "total_steps": 600, "eval_episodes": 5}
    settings |= {"max_episode_steps": 40, "policy": {"name": "mlp", "hidden": (30, 7)}}
    settings |= {"rollout_steps": 32} if algorithm == "ppo" else {}
    one, many = (play(algorithm=algorithm, env="CartPole-v1", seeds=s, **settings) for s in ((3,), (0, 1, 2, 3)))
    for name, leaf in last(one).params.items():
        assert torch.equal(leaf[0], last(many).params[name][3]), name
    assert np.array_equal(one[-2].returns[0], many[-2].returns[3])
    assert one[-1].laps["compiled"] > 0 and one[-1].laps["acting"] == 0


def test_a_recurrent_policy_acts_in_python(play: Callable[..., list[Any]]) -> None:
    settings: dict[str, Any] = {"env": "CartPole-v1", "total_steps": 60, "rollout_steps": 16, "eval_episodes": 1}
    ended = play(algorithm="ppo", backend="compiled", num_envs=2, policy="gru", **settings)[-1]
    assert "compiled" not in ended.laps and ended.laps["acting"] > 0


def test_steps_handle_time_limits_action_masks_and_rows_that_are_not_live() -> None:
    envs = opened("Taxi-v4", rows=2, limit=3)
    obs, live = envs.reset(np.arange(2)), np.array([True, False])
    assert obs.dtype == np.int64 and envs.action_mask.shape == (2, 6) and envs.action_mask.any(1).all()
    before = envs.save()
    steps = [envs.step(np.array([0, 0]), live) for _ in range(4)]
    assert [step.truncated[0] for step in steps] == [False, False, True, False]
    assert steps[3].rewards[0] == 0 and envs.save()[1] == before[1] and envs.save()[0] != before[0]


def test_the_documented_environment_matches_its_documented_dynamics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pgzoo.ops.jit.available", lambda: False)
    page = (Path(__file__).parents[2] / "docs/backends.md").read_text()
    code = page.split("### Your own environment")[1].split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"__name__": "pgzoo_plugin"}
    try:
        exec(code, names)
        assert set(compare_dynamics(names["spaceship"], "Spaceship-v0", 300).values()) == {0.0}
    finally:
        gym.registry.pop("Spaceship-v0", None)


def slope(state: Array, action: Any, random: Array, constants: Array) -> tuple[float, bool]:
    return FACTOR * state[0], False


FACTOR = 2.0


@NUMBA
def test_a_function_is_recompiled_when_a_global_constant_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def reward() -> float:
        made: Dynamics = replace(ENVS["CartPole-v1"].load()(opened_env()), step=slope)
        envs = compiled.CompiledEnvs(made, opened_env(wrapped=True), 1, 100)
        at = envs.reset(np.zeros(1, np.int64))[0, 0]
        return float(envs.step(np.zeros(1, np.int64), np.ones(1, np.bool_)).rewards[0] / at)

    assert reward() == pytest.approx(2.0)
    monkeypatch.setitem(slope.__globals__, "FACTOR", 3.0)
    assert reward() == pytest.approx(3.0)


def opened_env(*, wrapped: bool = False) -> Any:
    env = gym.make("CartPole-v1")
    return env if wrapped else env.unwrapped


def test_an_error_in_the_dynamics_names_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgzoo.ops.jit.available", lambda: False)

    def outside(state: Array, random: Array, constants: Array) -> None:
        state[9] = 1.0

    made = replace(ENVS["CartPole-v1"].load()(opened_env()), reset=outside)
    with pytest.raises(EnvError, match=r'environment "CartPole-v1" raised IndexError.* in reset'):
        compiled.CompiledEnvs(made, opened_env(wrapped=True), 1, 100).reset(np.zeros(1, np.int64))


def far_reset(state: Array, random: Array, constants: Array) -> None:
    state[0] = random[5]


def far_step(state: Array, action: Any, random: Array, constants: Array) -> tuple[float, bool]:
    state[0] = constants[99]
    return 1.0, False


def far_observe(state: Array, obs: Array, constants: Array) -> None:
    obs[4] = state[0]


def far_mask(state: Array, allowed: Array, constants: Array) -> None:
    allowed[2] = True


def no_result(state: Array, action: Any, random: Array, constants: Array) -> None:
    pass


def only_reward(state: Array, action: Any, random: Array, constants: Array) -> float:
    return 1.0


def three_results(state: Array, action: Any, random: Array, constants: Array) -> tuple[float, bool, bool]:
    return 1.0, False, False


def raises(state: Array, action: Any, random: Array, constants: Array) -> tuple[float, bool]:
    raise ValueError("boom")


def outside_domain(state: Array, action: Any, random: Array, constants: Array) -> tuple[float, bool]:
    return math.log(-1.0), False


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"size": 3}, r"use an index outside of an array: IndexError: index 3 .*They declare size=3, reset_randoms=4"),
        (
            {"reset": far_reset},
            r"IndexError: index 5 is out of bounds for axis 0 with size 4 \(.*test_compiled.py, line",
        ),
        ({"step": far_step}, "IndexError: index 99"),
        ({"observe": far_observe}, "IndexError: index 4"),
        ({"mask": far_mask}, "IndexError: index 2"),
        (
            {"step": no_result},
            r": step must return \(reward, terminated\): TypeError: cannot unpack non-iterable NoneType",
        ),
        (
            {"step": only_reward},
            r": step must return \(reward, terminated\): TypeError: cannot unpack non-iterable float",
        ),
        ({"step": three_results}, r": step must return \(reward, terminated\): ValueError: too many values to unpack"),
        ({"size": 4.0}, "have size=4.0, which must be an integer, 0 or greater"),
        ({"reset_randoms": -1}, "have reset_randoms=-1"),
        ({"step": None}, "have step=None, which must be a function"),
        ({"constants": ["a"]}, r"have constants=\['a'\], which must be an array of numbers"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, dict) else "",
)
def test_faulty_dynamics_are_an_error_before_anything_is_compiled(fields: dict[str, Any], said: str) -> None:
    made = replace(ENVS["CartPole-v1"].load()(opened_env()), **fields)
    backend = compiled.CompiledBackend(lambda env_id: lambda env: made)
    with pytest.raises(EnvError, match=rf'environment "CartPole-v1": its dynamics \(.*<lambda>\).*{said}'):
        backend.open(EnvRequest("CartPole-v1", {}, None, 2))


def test_dynamics_that_cannot_be_made_are_an_error() -> None:
    for factory, said in ((lambda env: env.nothing, "can't be made: AttributeError: "), (lambda env: None, "are None")):
        with pytest.raises(EnvError, match=said):
            compiled.CompiledBackend(lambda env_id, one=factory: one).fits(EnvRequest("CartPole-v1", {}, None, 2))


def test_dynamics_may_compute_a_number_for_which_python_raises() -> None:
    made = replace(ENVS["CartPole-v1"].load()(opened_env()), step=outside_domain)
    assert compiled.CompiledBackend(lambda env_id: lambda env: made).fits(EnvRequest("CartPole-v1", {}, None, 2)) == ""


class Clock(gym.Env[Any, Any]):
    """Counts its steps."""

    observation_space, action_space = gym.spaces.Box(0, np.inf, (1,)), gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.array([self.t], np.float32), 0.0, False, False, {}


def to_zero(state: Array, random: Array, constants: Array) -> None:
    state[0] = 0.0


def tick(state: Array, action: Any, random: Array, constants: Array) -> tuple[float, bool]:
    state[0] += 1.0
    if state[0] == 350.0:
        state[1] = 1.0
    return 0.0, False


def show_time(state: Array, obs: Array, constants: Array) -> None:
    obs[0] = state[0]


@pytest.fixture
def clock() -> Iterator[str]:
    gym.register("Clock-v0", Clock)
    yield "Clock-v0"
    gym.registry.pop("Clock-v0")


@NUMBA
def test_a_late_write_outside_of_the_state_is_found_in_compiled_code(clock: str) -> None:
    made = Dynamics(size=1, reset=to_zero, step=tick, observe=show_time, read=lambda env: [env.t])
    assert set(compare_dynamics(lambda env: made, clock, 340).values()) == {0.0}
    with pytest.raises(EnvError, match='of environment "Clock-v0" write more than 1 numbers of the state'):
        compare_dynamics(lambda env: made, clock, 400)


def test_comparing_dynamics_needs_as_many_numbers_of_read_as_the_size(clock: str) -> None:
    made = Dynamics(size=2, reset=to_zero, step=tick, observe=show_time, read=lambda env: [env.t])
    with pytest.raises(EnvError, match=r"`read` of the dynamics returns an array of shape \(1,\), but size is 2"):
        compare_dynamics(lambda env: made, clock, 10)


TABLE = {"a": 1.0}


def from_a_dict(state: Array, action: Any, random: Array, constants: Array) -> tuple[float, bool]:
    return TABLE["a"], False


@NUMBA
def test_a_short_error_names_what_numba_cannot_compile() -> None:
    made = replace(ENVS["CartPole-v1"].load()(opened_env()), step=from_a_dict)
    with pytest.raises(
        EnvError, match=r"can't compile its dynamics.*'TABLE'.*test_compiled.py\", line \d+\)"
    ) as caught:
        compiled.CompiledEnvs(made, opened_env(wrapped=True), 1, 100).reset(np.zeros(1, np.int64))
    assert len(str(caught.value)) < 400


@NUMBA
def test_the_error_of_compiling_names_what_python_raises_instead_of_the_file_of_the_loop() -> None:
    made = replace(ENVS["CartPole-v1"].load()(opened_env()), step=raises)
    message = (
        r"can't compile its dynamics.*: failed to unpack none\. In Python, a reset or a step raised ValueError: boom"
    )
    with pytest.raises(EnvError, match=rf"{message} \(.*test_compiled\.py, line \d+\)\.") as caught:
        compiled.CompiledEnvs(made, opened_env(wrapped=True), 1, 100).reset(np.zeros(1, np.int64))
    assert "kernel.py" not in str(caught.value)


def test_functions_of_different_modules_do_not_share_compiled_code() -> None:
    """Numba imports the module of a function that it loads, and the other module may not exist by then."""
    source = "def double(x):\n    return 2 * x\n\n\ndef whole(x):\n    return double(x) + 1\n"
    made = []
    for module in ("first_module", "second_module"):
        names: dict[str, Any] = {"__name__": module}
        exec(compile(source, __file__, "exec"), names)
        made += [jit.specialize(names["whole"], {}), jit.specialize(names["whole"], {})]
    assert [function is made[0] for function in made] == [True, jit.available(), False, False]


def first_plus(x: Array) -> float:
    return x[0] + 1.0


def first_plus_two(x: Array) -> float:
    return x[0] + 2.0


def calling(x: Array) -> float:
    return first_plus(x)


@NUMBA
def test_functions_that_numba_compiles_already_are_told_apart_and_can_run_in_python() -> None:
    """Compiled code would read outside of an empty array."""
    njit = import_module("numba").njit
    functions = [jit.specialize(calling, {"first_plus": njit(one)}) for one in (first_plus, first_plus_two)]
    assert [function(np.ones(1)) for function in functions] == [2.0, 3.0]
    with pytest.raises(IndexError):
        jit.specialize(calling, {"first_plus": njit(first_plus)}, interpreted=True)(np.zeros(0))


def with_an_array(x: Array) -> float:
    """Allocate an array, which code compiled without reference counting can't do."""
    doubled = np.zeros(len(x))
    for i in range(len(x)):
        doubled[i] = 2.0 * x[i]
    return float(doubled.sum())


def with_a_view(x: Array) -> float:
    x[0] += 1.0
    rest = x[1:]
    if rest[0] < 0.0:
        raise ValueError("negative")
    return float(rest[0])


@NUMBA
def test_code_with_allocations_is_cached(tmp_path: Path) -> None:
    source = inspect.getsource(with_an_array).replace("x: Array", "x")
    (tmp_path / "apart.py").write_text(
        f"import numpy as np\nfrom pgzoo.ops import jit\n{source}\n"
        "print(jit.specialize(with_an_array, {})(np.ones(3)), jit.compiled_anew())"
    )
    command, env = [sys.executable, str(tmp_path / "apart.py")], os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [subprocess.run(command, env=env, check=True, capture_output=True, text=True) for _ in range(2)]
    assert [done.stdout.split() for done in runs] == [["6.0", "1"], ["6.0", "0"]]


@NUMBA
def test_only_code_that_allocates_counts_references_and_code_that_raises_runs_once() -> None:
    x = np.array([1.0, 2.0, 3.0])
    allocating, viewing = jit.specialize(with_an_array, {}), jit.specialize(with_a_view, {})
    assert (allocating(x), allocating(2 * x), viewing(x)) == (12.0, 24.0, 2.0)
    assert vars(allocating)["_counting"] and not vars(viewing)["_counting"]
    x[1] = -1.0
    with pytest.raises(ValueError, match="negative"):
        viewing(x)
    assert x[0] == 3.0  # not called a second time


def flat(x: Array) -> float:
    return float(x.T.flatten().sum())  # numba allocates the array in code that other functions may have compiled


def one_flat(x: Array) -> float:
    return flat(x)


def two_flat(x: Array) -> float:
    return flat(x) + flat(x)


@NUMBA
def test_arrays_allocated_by_compiled_code_are_freed() -> None:
    counts = import_module("numba.core.runtime._nrt_python")

    counts.memsys_enable_stats()
    functions, x = [jit.specialize(one_flat, {}), jit.specialize(two_flat, {})], np.ones((2, 3))
    assert [function(x) for function in functions] == [6.0, 12.0]
    made, freed = counts.memsys_get_stats_mi_alloc(), counts.memsys_get_stats_mi_free()
    for function in functions:
        for _ in range(10):
            function(x)
    made, freed = counts.memsys_get_stats_mi_alloc() - made, counts.memsys_get_stats_mi_free() - freed
    counts.memsys_disable_stats()
    assert made == freed >= 30
