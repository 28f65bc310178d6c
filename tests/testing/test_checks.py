"""Every check can fail: for each there is a component with one fault, and a message that says what is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from pydantic import Field
from torch import Tensor

from pgzoo.config import AlgorithmConfig, ComponentConfig
from pgzoo.envs.dynamics import cartpole
from pgzoo.envs.sync import SyncBackend, SyncEnvs
from pgzoo.errors import UnfitError
from pgzoo.markers import hookimpl
from pgzoo.ops import returns
from pgzoo.ops.distributions import DiagonalGaussian
from pgzoo.ops.losses import weighted_mean
from pgzoo.policies.mlp import MLP, MLPActor, MLPConfig
from pgzoo.registry import ComponentKind, PluginCatalog, PluginInfo, Registry, discover
from pgzoo.testing.checks import CAUSES, CHECKS, PLUGIN_CHECKS, CheckFailed, CheckTarget, NotApplicable, check_component
from pgzoo.training.events import UpdateDone
from pgzoo.types import (
    ActorInputs,
    Array,
    Batch,
    EnvRequest,
    Hyper,
    Inputs,
    Loss,
    Output,
    Params,
    Spec,
    StepResult,
    Steps,
    TrainState,
    Trajectory,
)

INSTALLED = discover(inline=False)
INFO = PluginInfo("broken", "import", "broken", "pgzoo-broken", "1.0")


def failing(kind: ComponentKind, target: Any, **facts: Any) -> dict[str, str]:
    """Return the checks that a component fails, with their messages. The catalog always has a policy named gru."""
    catalog = INSTALLED.copy()
    registry = Registry(INFO)
    getattr(registry, kind)("broken", target, **facts)
    if "gru" not in catalog.names("policy"):
        registry.policy("gru", Echo, config=MLPConfig)
    catalog.add(INFO, object(), registry.entries.values())
    failed = {}
    for name, check in check_component(catalog.get(kind, "broken"), catalog):
        try:
            check()
        except CheckFailed as failure:
            failed[name] = str(failure)
        except NotApplicable:
            pass
    return failed


# algorithms


class Sound:
    """Minus the mean of log-probability times return. Source: none, it is made for these tests."""

    collect = Steps(8)
    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 4, "total_steps": 1000}

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return self.step(ctx, state, trajectory)

    def step(self, ctx: Any, state: TrainState, trajectory: Trajectory, **report: Tensor) -> TrainState:
        def loss(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
            dist = policy.apply(params, batch.inputs).dist
            value = -weighted_mean(dist.log_prob(batch.actions) * batch.advantages, batch.weights)
            return Loss(value, {"loss/policy": value.detach(), **report})

        targets = ctx.estimate(state, trajectory)
        return ctx.step(loss, state, ctx.batch(trajectory, targets))  # type: ignore[no-any-return]


class Undocumented(Sound):
    """Doesn't say where it comes from."""


class Mistyped(Sound):
    """Needs a critic, but misspells it. Source: none."""

    needs = ("valeu",)


class SilentConfig(AlgorithmConfig):
    loud: int = 1


def late(state: TrainState) -> bool:
    """Return whether more than 20% of a run is done: only in whole runs, as other checks make few of 100,000 steps."""
    return bool(state.progress.max() > 0.2)


def in_box(ctx: Any) -> bool:
    return isinstance(ctx.plan.spec.action_space, Box)


class Raises(Sound):
    """Raises late in a run. Source: none."""

    boxes = False

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        if late(state) and in_box(ctx) == self.boxes and trajectory.memory is None:
            raise ZeroDivisionError("late")
        return super().update(ctx, state, trajectory)


class RaisesForBoxes(Raises):
    """Raises late in a run with Box actions. Source: none."""

    boxes = True


class Forgetful(Sound):
    """Raises if the policy is recurrent. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        if trajectory.memory is not None:
            raise RuntimeError("what is this?")
        return super().update(ctx, state, trajectory)


class Lazy(Sound):
    """Learns nothing. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return state


class Modest(Sound):
    """Learns, but declares that it doesn't. Source: none."""

    learns = False


class Misnamed(Sound):
    """Reports a metric whose name has no group. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return self.step(ctx, state, trajectory, loss=torch.zeros(len(state.active)))


class Infinite(Sound):
    """Reports infinity. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return self.step(ctx, state, trajectory, **{"loss/odd": torch.full((len(state.active),), torch.inf)})


class Loud(Sound):
    """Reports a metric in a group of pgzoo's own. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return self.step(ctx, state, trajectory, **{"time/odd": torch.zeros(len(state.active))})


class Stubborn(Sound):
    """Uses one gamma for all members of a sweep. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return super().update(ctx, state, trajectory._replace(rewards=trajectory.rewards * ctx.plan.config.gamma))


class Mourner(Sound):
    """Stops learning once any member has stopped. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return super().update(ctx, state, trajectory) if state.active.all() else state


class Shy(Sound):
    """Stops learning once it has been evaluated. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return state if ctx.watch.seconds["evaluate"] else super().update(ctx, state, trajectory)


ALGORITHMS: list[tuple[type, dict[str, Any], str, str]] = [
    (Undocumented, {}, "documented", "doesn't name its source"),
    (Sound, {"config": SilentConfig}, "settings", "without a description: loud"),
    (Mistyped, {}, "settings", 'Did you mean "value"?'),
    (Raises, {}, "trains-discrete", "ZeroDivisionError: late"),
    (RaisesForBoxes, {}, "trains-box", "ZeroDivisionError: late"),
    (Forgetful, {}, "trains-memory", "what is this?"),
    (Lazy, {}, "learns", "policy.weight.0"),
    (Modest, {}, "learns", "Remove `learns = False`"),
    (Misnamed, {}, "metrics", 'reports "loss"'),
    (Infinite, {}, "metrics", "reports loss/odd = "),
    (Loud, {}, "metrics", 'reports "time/odd", in a group that pgzoo logs itself'),
    (Stubborn, {}, "sweep", "trains a seed differently in a sweep, with learning_rate=0.0009"),
    (Mourner, {}, "frozen", "trains seeds differently"),
    (Shy, {}, "evaluation-has-no-effect", "trains differently when it is evaluated"),
]


class Endless(Sound):
    """Has a loop without `yield`. Source: none."""

    def loop(self, ctx: Any) -> None:
        while ctx.running():
            state, trajectory = ctx.collect(ctx.state)
            ctx.state = self.update(ctx, state, trajectory)


def test_an_algorithm_whose_loop_never_yields_fails_the_checks_of_training_instead_of_hanging() -> None:
    failed = failing("algorithm", Endless)
    assert list(failed) == ["trains-discrete", "trains-box"]
    assert all("loop must be a generator. Write `yield` at the end of each iteration" in x for x in failed.values())


def test_a_correct_algorithm_passes_all_checks() -> None:
    assert failing("algorithm", Sound) == {}


@pytest.mark.parametrize(
    ("target", "facts", "check", "said"),
    [pytest.param(*a, marks=[pytest.mark.slow] if a[0] in (Misnamed, Modest, Loud) else []) for a in ALGORITHMS],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_an_algorithm_with_one_fault_fails_only_the_check_for_it(
    target: type, facts: dict[str, Any], check: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("rounds", "recording"):  # one of them never learns, and would be updated until the limit
        monkeypatch.setattr(f"pgzoo.testing.{module}.WARM_UP", 5)
    assert_fails(failing("algorithm", target, **facts), check, said, 'Algorithm "broken"')


def assert_fails(failed: dict[str, str], check: str, said: str, who: str) -> None:
    assert list(failed) == [check], failed
    assert said in failed[check] and failed[check].startswith(f'{who} of plugin "broken" (pgzoo-broken 1.0) ')


# estimators


def positional(rewards: Tensor, *, terminated: Tensor, truncated: Tensor, valid: Tensor, gamma: Any) -> Tensor:
    return returns.reward_to_go(rewards=rewards, terminated=terminated, truncated=truncated, valid=valid, gamma=gamma)


def greedy_for_more(*, rewards: Tensor, valid: Tensor, wishes: Tensor) -> Tensor:
    return rewards


def to_go(**given: Any) -> Tensor:
    return returns.reward_to_go(**{k: given[k] for k in ("rewards", "terminated", "truncated", "valid", "gamma")})


Estimator = Callable[..., Any]


def like_to_go(change: Callable[[Tensor, dict[str, Any]], Any]) -> Estimator:
    def estimator(*, rewards: Tensor, terminated: Tensor, truncated: Tensor, valid: Tensor, gamma: Any) -> Any:
        given = {"rewards": rewards, "terminated": terminated, "truncated": truncated, "valid": valid, "gamma": gamma}
        return change(to_go(**given), given)

    return estimator


def leaking(x: Tensor, given: dict[str, Any]) -> Tensor:
    seen = given["rewards"] * given["valid"]
    return torch.where(given["valid"], given["gamma"] * seen.flip(1).cumsum(1).flip(1), 0.0)


def bootstrapping(
    *, rewards: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, valid: Tensor, gamma: Any
) -> Tensor:
    return returns.reward_to_go(
        rewards=rewards,
        next_values=next_values,
        terminated=torch.zeros_like(terminated),
        truncated=terminated | truncated,
        valid=valid,
        gamma=gamma,
    )


def writing(x: Tensor, given: dict[str, Any]) -> Tensor:
    given["rewards"].add_(1.0)
    return x


class UnusedConfig(ComponentConfig):
    lam: Annotated[float, Field(description="of no use")] = 0.5


ESTIMATORS: list[tuple[str, Estimator, dict[str, Any], str, str]] = [
    ("by position", positional, {}, "keywords", "takes rewards as positional arguments"),
    ("unused setting", like_to_go(lambda x, g: x), {"config": UnusedConfig}, "keywords", "aren't arguments: lam"),
    ("squeezed", like_to_go(lambda x, g: x.squeeze(1)), {}, "shape", "[2, 3] for rewards of float32 [2, 1, 3]"),
    ("0 / 0", like_to_go(lambda x, g: x / (g["rewards"] != 0).any()), {}, "finite", "not finite for rewards = 0"),
    ("ones", like_to_go(lambda x, g: torch.where(g["valid"], x, 1.0)), {}, "zeros", "rows that are not valid"),
    (
        "leaking",
        like_to_go(leaking),
        {},
        "episodes-independent",
        "lets the next episode change the estimates across the end of an episode (terminated)",
    ),
    ("bootstrapping", bootstrapping, {}, "bootstrap", "bootstraps where an episode terminated"),
    (
        "by length",
        like_to_go(lambda x, g: x / x.shape[1]),
        {},
        "padding",
        "different numbers for other rows that are not valid (more of them)",
    ),
    ("by number", like_to_go(lambda x, g: x / x.shape[0]), {}, "members", "different numbers for a seed alone"),
    ("writing", like_to_go(writing), {}, "pure", "writes into its arguments: rewards"),
]


def test_a_correct_estimator_passes_all_checks() -> None:
    assert failing("estimator", like_to_go(lambda x, g: x)) == {}


@pytest.mark.parametrize(
    ("target", "facts", "check", "said"), [e[1:] for e in ESTIMATORS], ids=[e[0] for e in ESTIMATORS]
)
def test_an_estimator_with_one_fault_fails_only_the_check_for_it(
    target: Estimator, facts: dict[str, Any], check: str, said: str
) -> None:
    assert_fails(failing("estimator", target, **facts), check, said, 'Estimator "broken"')


def test_the_error_for_an_unknown_estimator_argument_lists_the_known_ones() -> None:
    assert (
        "requires wishes, which no run passes. A run passes: actions, gamma"
        in (failing("estimator", greedy_for_more)["keywords"])
    )


# policies


class Plain(MLP):
    """The built-in `mlp`, under another name."""

    def __init__(self, config: Any, spec: Spec, needs: frozenset[str]) -> None:
        try:
            super().__init__(MLPConfig(hidden=(5,)), spec, needs)
        except UnfitError as error:
            raise UnfitError(f'policy "broken": {error}') from error


class Grudging(Plain):
    """Raises ValueError instead of UnfitError for spaces that it doesn't support."""

    def __init__(self, config: Any, spec: Spec, needs: frozenset[str]) -> None:
        try:
            super().__init__(config, spec, needs)
        except UnfitError as error:
            raise ValueError("no") from error


class Lucky(Plain):
    """Has different initial parameters each time."""

    def init(self, rng: np.random.Generator) -> Params:
        return super().init(np.random.default_rng())


class Gambler(Plain):
    """Draws from the global generator of `random` in `init`."""

    def init(self, rng: np.random.Generator) -> Params:
        random.random()
        return super().init(rng)


class Worthless(Plain):
    """Returns values of the wrong shape."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        said = super().apply(params, inputs)
        return said if said.value is None else said._replace(value=said.value.unsqueeze(-1))


class Scribbling(Plain):
    """Overwrites its observations."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        said = super().apply(params, inputs)
        if inputs.obs.dtype == torch.float32:
            inputs.obs.zero_()
        return said


class OtherActor(MLPActor):
    def __call__(self, seen: ActorInputs, noise: Array | None) -> tuple[Array, None]:
        obs = seen.obs if self.policy.encoder.categories else seen.obs * np.float32(-3)
        return super().__call__(seen._replace(obs=obs), noise)


class TwoFaced(Plain):
    """Has an actor that differs from `apply`."""

    def actor(self, params: Params) -> MLPActor:
        return OtherActor(self, params)


class Unclipped(Plain):
    """Sends sampled actions to the environment without clipping them."""

    def __init__(self, config: Any, spec: Spec, needs: frozenset[str]) -> None:
        super().__init__(config, spec, needs)
        if isinstance(spec.action_space, Box):
            self.to_env = lambda actions: actions.astype(np.float32)


class Herd(Plain):
    """Has outputs that depend on the number of members."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        common = {k: v * (1 + 1e-6 * len(v)) if k == "weight.0" else v for k, v in params.items()}
        return super().apply(common, inputs)


class Echo(Plain):
    """Counts steps in its memory, and adds the count to the observations."""

    memory_size = 1

    def apply(self, params: Params, inputs: Inputs) -> Output:
        assert inputs.memory is not None and inputs.starts is not None
        memory, seen = inputs.memory, []
        for t in range(inputs.obs.shape[1]):
            memory = self.forget(memory, inputs.starts[:, t, :, None])
            obs = inputs.obs[:, t]
            seen.append(
                obs if self.encoder.categories else obs + memory.reshape(*memory.shape[:2], *[1] * (obs.ndim - 2))
            )
            memory = memory + 1
        return super().apply(params, inputs._replace(obs=torch.stack(seen, 1)))._replace(memory=memory)

    def forget(self, memory: Tensor, starts: Tensor) -> Tensor:
        return torch.where(starts, 0.0, memory)

    actor: Any = property()  # acts through apply


class Elephant(Echo):
    """Doesn't reset its memory where an episode starts."""

    def forget(self, memory: Tensor, starts: Tensor) -> Tensor:
        return memory


class Tossing(Plain):
    """Draws a number from torch's global generator, and ignores it."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        torch.rand(1)
        return super().apply(params, inputs)


class Clamped(DiagonalGaussian):
    def log_prob(self, actions: Tensor) -> Tensor:
        return super().log_prob(actions.clamp(-0.5, 1.0))


class Clamping(Plain):
    """Returns the log-probability of the clipped action, not of the sampled one."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        said = super().apply(params, inputs)
        dist: Any = said.dist
        return said._replace(dist=Clamped(dist.mean, dist.log_std)) if isinstance(dist, DiagonalGaussian) else said


class Keeping(Plain):
    """Counts the valid rows in a buffer."""

    def buffers(self) -> Params:
        return {"count": torch.zeros(())}

    def absorb(self, buffers: Params, obs: Tensor, valid: Tensor) -> Params:
        return {"count": buffers["count"] + valid.sum((-2, -1))}


class Indiscriminate(Keeping):
    """Updates its buffer with rows that are not valid, too."""

    def absorb(self, buffers: Params, obs: Tensor, valid: Tensor) -> Params:
        times = torch.arange(obs.shape[1]).reshape(-1, *[1] * (obs.ndim - 2))
        return {"count": buffers["count"] + (obs.float() * times).flatten(1).sum(1)}


class Unbridled(Plain):
    """Ignores action masks."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        return super().apply(params, inputs._replace(action_mask=None))

    def actor(self, params: Params) -> Any:
        free = super().actor(params)
        return lambda seen, noise: free(seen._replace(action_mask=None), noise)


class Amnesiac(Plain):
    """Has outputs that depend on a number that isn't among its parameters."""

    made = 0

    def __init__(self, config: Any, spec: Spec, needs: frozenset[str]) -> None:
        super().__init__(config, spec, needs)
        type(self).made += 1
        self.tilt = torch.linspace(-1, 1, self.head.outputs) * (-1) ** type(self).made

    def tilted(self, params: Params) -> Params:
        return {k: v + self.tilt if k == "bias.1" else v for k, v in params.items()}

    def apply(self, params: Params, inputs: Inputs) -> Output:
        return super().apply(self.tilted(params), inputs)

    def actor(self, params: Params) -> MLPActor:
        return super().actor(self.tilted(params))


Echo.actor = None
Tossing.actor = None
Clamping.actor = None
POLICIES: list[tuple[type, dict[str, Any], str, str]] = [
    (Grudging, {}, "spaces", "ValueError: no. Raise UnfitError"),
    (Plain, {"config": type("Silent", (ComponentConfig,), {"__annotations__": {"x": int}, "x": 1})}, "settings", ": x"),
    (Lucky, {}, "init", "returns from init a different weight.0"),
    (Gambler, {}, "init", "global generator of random in init"),
    (Worthless, {}, "output", "a finite value of shape [3, 1, 4]"),
    (Scribbling, {}, "pure", "writes into the observations in apply"),
    (TwoFaced, {}, "actor", "has an actor whose"),
    (Unclipped, {}, "actions", "to Box"),
    (Tossing, {}, "generators", "draws from the global generator of torch"),
    (Clamping, {}, "sampled-actions", "returns the log-probability of the clipped action"),
    (Herd, {}, "members", "computes different numbers for a seed alone and among 3"),
    (Elephant, {}, "memory", "keeps its memory across the start"),
    (Indiscriminate, {}, "buffers", "updates its buffers with rows that are not valid"),
    (Unbridled, {}, "masks", "takes a masked action"),
    (Amnesiac, {}, "saved", "acts differently after it was saved"),
]


@pytest.mark.parametrize("target", [Plain, Echo, Keeping])
def test_a_correct_policy_passes_all_checks(target: type) -> None:
    assert failing("policy", target) == {}


@pytest.mark.parametrize(("target", "facts", "check", "said"), POLICIES, ids=lambda x: getattr(x, "__name__", ""))
def test_a_policy_with_one_fault_fails_only_the_check_for_it(
    target: type, facts: dict[str, Any], check: str, said: str
) -> None:
    assert_fails(failing("policy", target, **facts), check, said, 'Policy "broken"')


# environment backends


class Envs(SyncEnvs):
    def step(self, actions: Array, live: Any) -> StepResult:
        return self.changed(super().step(actions, live))

    def changed(self, step: StepResult) -> StepResult:
        return step


def backend(envs: type[SyncEnvs]) -> type:
    class Backend(SyncBackend):
        def open(self, request: EnvRequest) -> Any:
            return envs(request)

    return Backend


class Misshapen(Envs):
    def __init__(self, request: EnvRequest) -> None:
        super().__init__(request)
        self.observation_space = Box(-1.0, 1.0, (4,))


class Crowded(Envs):
    def __init__(self, request: EnvRequest) -> None:
        super().__init__(request)
        self.made = request.rows

    def changed(self, step: StepResult) -> StepResult:
        return step._replace(rewards=step.rewards * self.made)


class Paying(Envs):
    def changed(self, step: StepResult) -> StepResult:
        return step._replace(rewards=np.ones_like(step.rewards))


class Reshuffled(Envs):
    def select(self, rows: Any) -> Any:
        return super().select(rows[::-1])


class Stuck(Envs):
    closed = False
    was_reset = False

    def reset(self, seeds: Any) -> Array:
        self.was_reset = True
        return super().reset(seeds)

    def close(self) -> None:
        if not self.was_reset:
            raise OSError("nothing to close")
        super().close()


BACKENDS = [
    (Misshapen, "fits", "has spaces that differ"),
    (Crowded, "rows-independent", "returns different rewards for a row when there are more rows"),
    (Paying, "next-step", "does more than reset"),
    (Reshuffled, "select", "once they are selected"),
    (Stuck, "close", "OSError: nothing to close"),
]


@pytest.mark.parametrize(("envs", "check", "said"), BACKENDS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_backend_with_one_fault_fails_only_the_check_for_it(envs: type[SyncEnvs], check: str, said: str) -> None:
    assert_fails(failing("env_backend", backend(envs)), check, said, 'Env backend "broken"')


# listeners


class Hearing:
    """Receives updates, and no other events."""

    @hookimpl
    def pgzoo_update_done(self, event: UpdateDone) -> None:
        self.heard(event)

    def heard(self, event: UpdateDone) -> None:
        pass


class Deaf:
    """Implements no event hook."""


class Fragile(Hearing):
    """Raises an exception in its hook."""

    def heard(self, event: UpdateDone) -> None:
        raise ConnectionError("no server")


class Scrawling(Hearing):
    """Writes into the events that it receives."""

    def heard(self, event: UpdateDone) -> None:
        event.env_steps[:] = 0


LISTENERS = [
    (Deaf, "creates", "It implements no event hook"),
    (Fragile, "raises-nothing", "ConnectionError: no server in pgzoo_update_done"),
    (Scrawling, "events-unchanged", "writes into UpdateDone.env_steps"),
]


def test_a_correct_listener_passes_all_checks() -> None:
    assert failing("listener", lambda context: Hearing()) == {}


@pytest.mark.parametrize(("listener", "check", "said"), LISTENERS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_listener_with_one_fault_fails_only_the_check_for_it(listener: type, check: str, said: str) -> None:
    assert_fails(failing("listener", lambda context: listener()), check, said, 'Listener "broken"')


# dynamics


def late_end(state: Array, action: int, random: Array, constants: Array) -> tuple[float, bool]:
    return cartpole.step(state, action, random, constants)[0], False


def beyond_the_state(state: Array, random: Array, constants: Array) -> None:
    state[4] = 0.0


DYNAMICS: list[tuple[dict[str, Any], str, str]] = [
    ({"step": late_end}, "equals-gymnasium", "by 1 in end flags"),
    ({"reset": beyond_the_state}, "equals-gymnasium", "IndexError"),
]


@pytest.mark.parametrize(("changes", "check", "said"), DYNAMICS)
def test_dynamics_that_differ_from_gymnasium_or_raise_fail_their_check(
    changes: dict[str, Any], check: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgzoo.ops.jit.available", lambda: False)  # compiling them would take seconds
    info, catalog = PluginInfo("broken", "entry point", "broken", "pgzoo-broken", "1.0"), PluginCatalog()
    registry = Registry(info)
    registry.dynamics("mine", lambda env: replace(cartpole.dynamics(env), **changes), envs=("CartPole-v1",))
    catalog.add(info, object(), registry.entries.values())
    with pytest.raises(CheckFailed, match=f'Dynamics "mine" of plugin "broken".*CartPole-v1.*{said}'):
        CHECKS["dynamics"][check](CheckTarget(info, catalog, catalog.get("dynamics", "mine")))


# plugins


def plugin_failing(info: PluginInfo, register: Callable[[Registry], None]) -> dict[str, str]:
    catalog, registry = PluginCatalog(), Registry(info)
    register(registry)
    builtin = discover(inline=False)
    for kind in ("algorithm", "policy", "estimator"):
        for entry in builtin.entries(kind):
            catalog._entries[entry.kind, entry.name] = entry
    catalog.add(info, object(), registry.entries.values())
    failed = {}
    for name, check in PLUGIN_CHECKS.items():
        try:
            check(CheckTarget(info, catalog))
        except CheckFailed as failure:
            failed[name] = str(failure)
        except NotApplicable:
            pass
    return failed


FINE = PluginInfo("broken", "entry point", "pgzoo_example.plugin", "pgzoo-broken", "1.0")


PLUGINS: list[tuple[PluginInfo, Callable[[Registry], None], str, str]] = [
    (
        PluginInfo("broken", "entry point", "pgzoo_example.plugin", "pgzoo-broken", "1.0", "broken", "it is late"),
        lambda registry: None,
        "registers",
        "is broken: it is late",
    ),
    (
        PluginInfo("broken", "entry point", "pgzoo.types", "pgzoo-broken", "1.0"),
        lambda registry: None,
        "light",
        "imports numpy, torch when it registers",
    ),
    (FINE, lambda r: r.estimator("x", "pgzoo.ops.returns:nothing", summary="x"), "resolves", "nothing"),
    (FINE, lambda r: r.estimator("x", "pgzoo.ops.returns:gae"), "summaries", "has no summary for x"),
    (
        FINE,
        lambda r: r.preset("x", algorithm="reinforce", settings={"gama": 1}, summary="x"),
        "presets",
        'Did you mean "gamma"?',
    ),
]


@pytest.mark.parametrize(("info", "register", "check", "said"), PLUGINS, ids=[p[2] for p in PLUGINS])
def test_a_plugin_with_one_fault_fails_only_the_check_for_it(
    info: PluginInfo, register: Callable[[Registry], None], check: str, said: str
) -> None:
    assert_fails(
        {k: v.replace("Plugin", "P of plugin", 1) for k, v in plugin_failing(info, register).items()}, check, said, "P"
    )


def test_every_check_has_a_component_that_fails_it() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (Path(__file__).parent / "faulty").glob("*.py")]
    faulty = {
        kind: {source.partition('"""\n')[0].split("`")[1] for source in sources if f"registry.{kind}(" in source}
        for kind in CHECKS
    }
    broken = {
        "algorithm": {a[2] for a in ALGORITHMS},
        "estimator": {e[3] for e in ESTIMATORS},
        "policy": {p[2] for p in POLICIES},
        "env_backend": {b[1] for b in BACKENDS},
        "dynamics": {d[1] for d in DYNAMICS},
        "listener": {x[1] for x in LISTENERS},
    }
    found = {kind: broken.get(kind, set()) | faulty[kind] for kind in CHECKS}
    assert {kind: set(checks) for kind, checks in CHECKS.items()} == found
    assert set(PLUGIN_CHECKS) == {p[2] for p in PLUGINS}


def test_causes_of_failures_are_checks_and_are_never_mutual() -> None:
    for kind, causes in CAUSES.items():
        for check, others in causes.items():
            assert {check, *others} <= set(CHECKS[kind])
            assert not any(check in causes.get(other, ()) for other in others)
