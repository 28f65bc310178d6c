"""The checks of environment backends."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np

from pgzoo.envs import kernel
from pgzoo.envs.checks import mask_size, sample_action
from pgzoo.envs.choice import make_backend
from pgzoo.envs.dynamics_checks import make_dynamics
from pgzoo.envs.single import action_mask, make_single
from pgzoo.errors import EnvError
from pgzoo.ops import jit
from pgzoo.protocols import EnvBackend, VectorEnv
from pgzoo.testing import probes  # noqa: F401  registers the environments
from pgzoo.testing.target import Check, CheckTarget, NotApplicable, checks_by_name
from pgzoo.types import Array, Dynamics, EnvRequest, StepResult

__all__ = ["CHECKS", "DYNAMICS_CHECKS", "compare_dynamics"]

CANDIDATES = ("CartPole-v1", "pgzoo/AnySpaces-v0", "Pendulum-v1", "FrozenLake-v1")
MASKED = "Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"
"""An environment with action masks, whose observation is the number of its state."""

LIMIT, STEPS = 9, 25
LONGER_LIMIT = 12
"""Time limit for comparing with gymnasium: a CartPole with a constant action falls before it, others don't."""

FIELDS = ("obs", "rewards", "terminated", "truncated")
"""The arrays of a step that are compared."""
TOLERANCE = 1e-6
FLOAT32_TOLERANCE = 1e-3
"""Of steps from a state that was taken from a float32 observation."""

INTERPRETED_STEPS, LONGEST_EPISODE = 300, 500


def _put_corridor(env: Any, obs: Any) -> None:
    env.cell = int(obs)


def _put_cartpole(env: Any, obs: Any) -> None:
    env.state, env.steps_beyond_terminated = obs.astype(np.float64), None


def _put_pendulum(env: Any, obs: Any) -> None:
    cosine, sine, speed = obs.astype(np.float64)
    env.state = np.array([np.arctan2(sine, cosine), speed])


COMPARED: Mapping[str, Callable[[Any, Any], None]] = {
    "pgzoo/Corridor-v0": _put_corridor,
    "CartPole-v1": _put_cartpole,
    "Pendulum-v1": _put_pendulum,
}
"""Deterministic environments, each with a function that puts gymnasium's into the state of an observation.

So a backend may have other initial states for a seed than gymnasium.
"""


def fits(target: CheckTarget) -> None:
    """`fits` returns a text, and environments have the spaces of gymnasium's environment of the same id."""
    for env_id in CANDIDATES:
        if env_id in gym.registry:
            reason: Any = _backend(target).fits(EnvRequest(env_id, {}, LIMIT, 1))
            target.expect(
                isinstance(reason, str),
                f"returns {reason!r} from fits for {env_id}",
                "Return the reason why it can't run the environment, or an empty string if it can.",
            )
    with _open(target, 2) as envs:
        plain = make_single(_request(target, 1))
        target.expect(
            (envs.observation_space, envs.action_space) == (plain.observation_space, plain.action_space),
            "has spaces that differ from those of the environment",
            "Set observation_space and action_space to those of one environment.",
        )
        plain.close()


def results(target: CheckTarget) -> None:
    """`reset` returns observations, and `step` a StepResult of arrays: one entry per row, of the dtypes of a run."""
    rows = 3
    with _open(target, rows) as envs:
        space = envs.observation_space
        target.expect(
            hasattr(envs, "action_mask"),
            "has environments without the attribute action_mask",
            "Set it to None for environments without action masks.",
        )
        shape = rows, *(space.shape or ())
        dtype = np.integer if isinstance(space, gym.spaces.Discrete) else space.dtype
        _expect_array(target, "observations from reset", envs.reset(np.arange(rows)), shape, dtype)
        for actions in _drawn(envs.action_space, rows)[: LIMIT + 2]:
            step: Any = envs.step(actions, np.ones(rows, np.bool_))
            target.expect(
                isinstance(step, StepResult),
                f"returns a {type(step).__name__} from step",
                "Return pgzoo.types.StepResult(obs, rewards, terminated, truncated).",
            )
            _expect_array(target, "observations from step", step.obs, shape, dtype)
            _expect_array(target, "rewards", step.rewards, (rows,), np.floating)
            _expect_array(target, "the flags terminated", step.terminated, (rows,), np.bool_)
            _expect_array(target, "the flags truncated", step.truncated, (rows,), np.bool_)


def new_arrays(target: CheckTarget) -> None:
    """Arrays that were returned stay unchanged: each step returns new ones."""
    rows, kept = 3, list[Kept]()
    with _open(target, rows) as envs:
        kept.append(_kept("observations", envs.reset(np.arange(rows))))
        for actions in _drawn(envs.action_space, rows):
            step = envs.step(actions, np.ones(rows, np.bool_))
            for name, values in zip(("observations", "rewards", "terminated", "truncated"), step, strict=False):
                kept.append(_kept(name, values))
    _expect_unchanged(target, kept)


def rows_independent(target: CheckTarget) -> None:
    """A row depends only on its seed and actions, and the same seed and actions produce the same episode."""
    with _open(target, 2) as few, _open(target, 4) as many:
        first, again, among = (_play(envs, rows) for envs, rows in ((few, 2), (few, 2), (many, 4)))
    for name, values in first.items():
        target.expect(
            np.array_equal(values, again[name]),
            f"returns different {name} for the same seeds",
            "Let reset(seeds) restart everything, including random generators.",
        )
        target.expect(
            np.array_equal(values, among[name][:, :2]),
            f"returns different {name} for a row when there are more rows",
            "Use a separate random generator for every row, seeded with the row's seed.",
        )


def next_step(target: CheckTarget) -> None:
    """NEXT_STEP autoreset: an end returns the final observation; the step after it only resets (reward 0, no flags).

    Where initial states are random, the episodes of a row don't all start alike.
    """
    with _open(target, 3) as envs:
        seen = _play(envs, 3)
    over = seen["terminated"] | seen["truncated"]
    target.expect(
        over[:-1].any(),
        f"ends no episode in {STEPS} steps, with a limit of {LIMIT}",
        "Truncate episodes at max_episode_steps.",
    )
    after = np.zeros_like(over)
    after[1:] = over[:-1]
    target.expect(
        not over[after].any() and not seen["rewards"][after].any(),
        "does more than reset in the step after an end",
        "In NEXT_STEP autoreset that step ignores its action, and returns reward 0 and no end flags.",
    )
    lengths = [np.diff(np.flatnonzero(np.r_[True, column])) for column in over.T]
    target.expect(
        max(map(max, lengths)) <= LIMIT + 1,
        f"plays episodes of more than {LIMIT} steps",
        "Truncate episodes at max_episode_steps.",
    )
    moved = (seen["obs"][1:] != seen["obs"][:-1]).reshape(*over.shape, -1).any(-1)
    target.expect(
        moved[after].all(),
        "returns the final observation again in the step after an end",
        "That step returns the first observation of the new episode.",
    )
    begins = np.concatenate([np.ones_like(over[:1]), after])
    starts = [seen["obs"][begins[:, row], row] for row in range(3)]
    random = not any(np.array_equal(starts[row][0], starts[row - 1][0]) for row in range(3))
    target.expect(
        not random or not all(len(one) > 2 and np.array_equal(one[1], one[2]) for one in starts),
        "starts the second and third episode of every row in the same state",
        "Seed the generator of a row in reset(seeds) only, so that later episodes start in other states.",
    )


def steps(target: CheckTarget) -> None:
    """A step from the same state gives gymnasium's observation, reward and flags; `truncated` is the time limit's."""
    backend = _backend(target)
    compared = [env_id for env_id in COMPARED if not backend.fits(EnvRequest(env_id, {}, LONGER_LIMIT, 4))]
    if not compared:
        raise NotApplicable(f"it runs none of {', '.join(COMPARED)}")
    for env_id in compared:
        _compare_steps(target, EnvRequest(env_id, {}, LONGER_LIMIT, 4))


def _compare_steps(target: CheckTarget, request: EnvRequest) -> None:
    """Play constant actions in two rows, so that episodes end, and random ones in the others."""
    plain: Any = make_single(request._replace(rows=1)).unwrapped
    plain.reset(seed=0)
    space, rows, env_id = plain.action_space, request.rows, request.id
    least, most = (space.low, space.high) if isinstance(space, gym.spaces.Box) else (0, 1)
    played, over = np.zeros(rows, np.int64), np.zeros(rows, np.bool_)
    with _open(target, rows, request) as envs:
        obs = np.array(envs.reset(np.arange(rows)))
        for actions in _drawn(space, rows):
            actions[:2] = least, most
            step = envs.step(actions, np.ones(rows, np.bool_))
            for row in range(rows):
                if over[row]:
                    over[row], played[row] = False, 0  # `next_step` checks what such a step returns
                    continue
                COMPARED[env_id](plain, obs[row])
                wanted, reward, ended, _, _ = plain.step(actions[row])
                played[row] += 1
                last = bool(played[row] == request.max_episode_steps)
                over[row] = ended or last
                target.expect(
                    np.allclose(step.obs[row], wanted, FLOAT32_TOLERANCE, FLOAT32_TOLERANCE),
                    f"returns the observation {step.obs[row]} in a step of {env_id} where gymnasium's is {wanted}",
                    "From the same state, the same action leads to the same observation. Pass each row its own action, "
                    "and return the final observation of an episode, not the first one of the next.",
                )
                target.expect(
                    np.isclose(step.rewards[row], reward, FLOAT32_TOLERANCE, FLOAT32_TOLERANCE),
                    f"returns the reward {step.rewards[row]:g} in a step of {env_id} where gymnasium's is {reward:g}",
                    "Return the rewards of the environment unchanged: runs normalize them if that is asked for.",
                )
                flags = bool(step.terminated[row]), bool(step.truncated[row])
                target.expect(
                    flags == (ended, last) or (flags[0] and ended and last),
                    f"returns terminated={flags[0]}, truncated={flags[1]} in step {played[row]} of an episode of "
                    f"{env_id} limited to {request.max_episode_steps} steps, expected {bool(ended)}, {last}",
                    "`terminated` is the environment's own end, after which nothing has a value; `truncated` is the "
                    "time limit, after which the critic's value counts. Return both as they are.",
                )
            obs = np.array(step.obs)


def masks(target: CheckTarget) -> None:
    """For an environment with action masks, `action_mask` is that of each row's state, a new array after each step."""
    rows, backend, kept = 3, _backend(target), list[Kept]()
    request = EnvRequest(MASKED, {}, LIMIT, rows, masked=True)
    if getattr(backend, "foreign", False):
        raise NotApplicable("its environments are its own, and only it knows whether they have masks")
    if reason := backend.fits(request):
        raise NotApplicable(f"it doesn't run {MASKED}, which has action masks: {reason}")
    plain: Any = make_single(request._replace(rows=1)).unwrapped
    advice = (
        'A request with `masked=True` asks for them. Set action_mask to info["action_mask"] of each row, bool '
        "[rows, K], after reset and after each step; or let fits return why it has no masks."
    )
    with _open(target, rows, request) as envs:
        obs, over = envs.reset(np.arange(rows)), np.zeros(rows, np.bool_)
        for actions in _drawn(envs.action_space, rows):
            mask, wanted = envs.action_mask, np.array([plain.action_mask(int(state)) for state in obs], np.bool_)
            target.expect(
                isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == wanted.shape,
                f"has no action_mask of bool {list(wanted.shape)} for {MASKED}",
                advice,
            )
            assert mask is not None
            target.expect(
                np.array_equal(mask[~over], wanted[~over]),
                f"has another action_mask for {MASKED} than gymnasium's environment in the same state",
                advice,
            )
            kept.append(_kept("action_mask", mask))
            step = envs.step(actions, np.ones(rows, np.bool_))
            obs, over = step.obs, step.terminated | step.truncated
    _expect_unchanged(target, kept)


def select(target: CheckTarget) -> None:
    """Rows that continue alone after `select` return the same results as among all rows."""
    half = np.arange(2)
    with _open(target, 4) as whole, _open(target, 4) as envs:
        expected = _play(whole, 4)
        begin = _play(envs, 4, steps=STEPS // 2)
        part = envs.select(half)
        if part is None:
            raise NotApplicable("its `select` returns None")
        rest = _play(part, 2, first=STEPS // 2)
    for name, values in expected.items():
        seen = np.concatenate([begin[name][:, :2], rest[name]])
        target.expect(
            np.array_equal(values[:, :2], seen),
            f"returns different {name} for rows once they are selected",
            "select must return the same environments in their current state.",
        )


def close(target: CheckTarget) -> None:
    """It can be closed, even before the first reset."""
    with target.errors_fail_check("to be closed", "Let close work at any time."):
        _backend(target).open(_request(target, 2)).close()


def equals_gymnasium(target: CheckTarget) -> None:
    """Dynamics and gymnasium's environment take the same steps from the same states, up to rounding."""
    with target.errors_fail_check("to load the dynamics", "See pgzoo.types.Dynamics."):
        factory = target.component.load()  # first: its module may register the environment
    for env_id in target.component.facts["envs"]:
        if env_id not in gym.registry:
            raise NotApplicable(f"{env_id} isn't registered with gymnasium")
        with target.errors_fail_check(f"to step {env_id}", "See pgzoo.types.Dynamics."):
            differences = compare_dynamics(factory, env_id)
        for name, difference in differences.items():
            target.expect(
                difference <= TOLERANCE,
                f"differs from {env_id} by {difference:.3g} in {name}",
                "A step from the same state, with the same action and random numbers, must give the same.",
            )


def compare_dynamics(
    factory: Callable[[Any], Dynamics], env_id: str, steps: int = 2_000, **kwargs: Any
) -> dict[str, float]:
    """Compare dynamics with gymnasium's environment over `steps` random steps, resets included.

    Each step is compared alone, from the state in which gymnasium's environment is, so that rounding can't add up. The
    dynamics run twice: in Python, which raises an error where a function writes outside an array, and compiled, if
    numba is installed.

    Args:
        factory: what a plugin registers as `dynamics`.
        env_id: the environment.
        steps: the number of steps.
        **kwargs: keyword arguments of the environment.

    Returns:
        the largest difference of the state, the observations, the rewards, the end flags and the action masks, divided
        by the size of the number where that is above 1. All 0: both are equal, bit for bit.

    Raises:
        EnvError: the dynamics are faulty, `read` doesn't return `size` numbers, or a compiled function writes outside
            of its row.
    """
    env = make_single(EnvRequest(env_id, kwargs, None, 1))
    try:
        dynamics = make_dynamics(factory, env)
        seen = _steps_of(env, dynamics, steps)
    finally:
        env.close()
    parts = {"reset": dynamics.reset, "step": dynamics.step, "observe": dynamics.observe}
    parts["mask"] = dynamics.mask or kernel.no_mask
    discrete = isinstance(env.action_space, gym.spaces.Discrete)
    differences: dict[str, float] = {}
    for interpreted in (True, False):
        apply = jit.specialize(kernel.apply_rows, parts, interpreted=interpreted)
        rows = slice(INTERPRETED_STEPS if interpreted else steps)
        actions = seen["actions"][rows]
        inputs = (seen[name][rows] for name in ("resets", "random of reset", "random of step"))
        actions = actions.astype(np.int64) if discrete else actions.reshape(len(actions), -1)
        found = {name: np.zeros_like(seen[name][rows]) for name in ("observations", "rewards", "end flags", "masks")}
        found["state"] = seen["state before"][rows]
        guarded = {name: kernel.guard(found[name]) for name in ("state", "observations", "masks")}
        state, obs, allowed = guarded.values()
        results = obs, found["rewards"], found["end flags"], allowed
        with np.errstate(all="ignore"):
            apply(state, *inputs, np.ascontiguousarray(dynamics.constants, np.float64), actions, *results)
        for name, values in guarded.items():
            found[name], intact = kernel.unguard(values)
            if not intact:
                raise EnvError(
                    f'the compiled dynamics of environment "{env_id}" write more than {found[name].shape[1]} numbers '
                    f"of the {name}."
                )
        for name, values in found.items():
            expected = seen[name][rows].astype(np.float64)
            errors = np.abs(values - expected) / np.maximum(np.abs(expected), 1.0)
            errors = np.where(np.isnan(errors), np.where(np.isnan(values) & np.isnan(expected), 0.0, np.inf), errors)
            differences[name] = max(differences.get(name, 0.0), float(errors.max(initial=0.0)))
    return differences


def _steps_of(env: Any, dynamics: Dynamics, steps: int) -> dict[str, Array]:
    """Take random steps in gymnasium's environment and return what each begins with and what it results in."""
    space = env.action_space
    space.seed(0)
    counts = {"random of reset": dynamics.reset_randoms, "random of step": dynamics.step_randoms}
    allowed = np.zeros(mask_size(space) if dynamics.mask else 0, np.bool_)
    env.reset(seed=0)
    seen: dict[str, list[Any]] = {}
    over, mask, played = True, None, 0
    for _ in range(steps):
        before = _numbers(dynamics.read(env.unwrapped), dynamics.size, "read", "size")
        drawn = {name: np.zeros(count) for name, count in counts.items()}
        used = "random of reset" if over else "random of step"
        if counts[used]:
            generator = copy.deepcopy(env.unwrapped.np_random)
            drawn[used] = _numbers(dynamics.draws(generator, counts[used]), counts[used], "draws", "count")
        action, reward, end = space.sample() if mask is None else sample_action(space, mask), 0.0, False
        if over:
            obs, info = env.reset()
            cut, played = False, 0
        else:
            obs, reward, end, cut, info = env.step(action)
            played += 1
        mask = action_mask(env, info, ended=end)
        shown = {"state before": before, "resets": over, "actions": action, "rewards": reward}
        shown["observations"] = np.ravel(obs)
        after = _numbers(dynamics.read(env.unwrapped), dynamics.size, "read", "size")
        shown |= {"state": after, "end flags": end, "masks": allowed if mask is None else mask}
        for name, value in (shown | drawn).items():
            seen.setdefault(name, []).append(np.array(value))
        over = end or cut or played >= LONGEST_EPISODE
    kinds = {"rewards": np.float64, "resets": np.bool_, "end flags": np.bool_}
    kinds |= {"masks": np.bool_, "observations": env.observation_space.dtype, "actions": space.dtype}
    return {name: np.array(values, kinds.get(name, np.float64)) for name, values in seen.items()}


def _numbers(values: Any, count: int, function: str, field: str) -> Array:
    """Return what a function of the dynamics returned as an array. Raises EnvError if it isn't `count` numbers."""
    array = np.array(values, np.float64)
    if array.shape != (count,):
        raise EnvError(f"`{function}` of the dynamics returns an array of shape {array.shape}, but {field} is {count}.")
    return array


CHECKS: Mapping[str, Check] = checks_by_name(
    (fits, results, new_arrays, rows_independent, next_step, steps, masks, select, close)
)
DYNAMICS_CHECKS: Mapping[str, Check] = checks_by_name((equals_gymnasium,))


def _backend(target: CheckTarget) -> EnvBackend:
    return make_backend(target.component, target.catalog)


def _request(target: CheckTarget, rows: int) -> EnvRequest:
    for env in CANDIDATES:
        request = EnvRequest(env, {}, LIMIT, rows)
        if env in gym.registry and not _backend(target).fits(request):
            return request
    raise NotApplicable(f"it runs none of {', '.join(CANDIDATES)}")


@contextmanager
def _open(target: CheckTarget, rows: int, request: EnvRequest | None = None) -> Iterator[VectorEnv]:
    """Open the environments of a request, by default those of the first candidate that it runs."""
    request = request or _request(target, rows)
    with target.errors_fail_check(f"to run {request.id}", "See pgzoo.protocols.VectorEnv."):
        envs = _backend(target).open(request)
        try:
            yield envs
        finally:
            envs.close()


def _drawn(space: gym.Space[Any], rows: int) -> list[Array]:
    """Return random actions `[rows, *A]` of each step, the same for a row whatever the number of rows."""
    drawn = []
    for row in range(rows):
        space.seed(row)
        drawn.append([space.sample() for _ in range(STEPS)])
    return [np.array([one[t] for one in drawn]) for t in range(STEPS)]


def _play(envs: VectorEnv, rows: int, *, steps: int = STEPS, first: int = 0) -> dict[str, Array]:
    """Play fixed actions per row, after a reset or continuing at step `first`."""
    seen: dict[str, list[Any]] = {"obs": []} if first else {"obs": [np.array(envs.reset(np.arange(rows) + 10))]}
    for actions in _drawn(envs.action_space, rows)[first : STEPS if first else steps]:
        step = envs.step(actions, np.ones(rows, np.bool_))
        for name, value in zip(FIELDS, step, strict=False):
            seen.setdefault(name, []).append(np.array(value))
    return {name: np.stack(values) for name, values in seen.items()}


def _expect_array(target: CheckTarget, what: str, found: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """Expect an array of this shape, and of this dtype or kind of dtypes, such as np.floating."""
    given = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"
    wanted = dtype.__name__ if isinstance(dtype, type) else str(dtype)
    target.expect(
        isinstance(found, np.ndarray) and found.shape == shape and np.issubdtype(found.dtype, dtype),
        f"returns {what} as {given}, expected a numpy array {wanted} {list(shape)}",
        "A run stores them in arrays of that shape, an entry for each row. Convert them with numpy.",
    )


Kept = tuple[str, Any, Any]
"""The name of an array that a backend returned, the array itself, uncopied, and a copy of what was in it."""


def _kept(name: str, values: Any) -> Kept:
    return name, values, copy.deepcopy(values)


def _expect_unchanged(target: CheckTarget, kept: list[Kept]) -> None:
    changed = sorted({name for name, values, before in kept if not np.array_equal(values, before)})
    target.expect(
        not changed,
        f"changes arrays that it returned in an earlier step: {', '.join(changed)}",
        "A run keeps the arrays of a step while it takes the next one, and would store wrong values. Return a new "
        "array in each step: copy the array before writing into it.",
    )
