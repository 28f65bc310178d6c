"""Every check can fail: for each there is a component with one fault, and a message that says what is wrong."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import gymnasium as gym
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
from pgzoo.ops.distributions import Categorical, DiagonalGaussian
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


class Naming(Sound):
    """Collects with named arguments. Source: none."""

    def loop(self, ctx: Any) -> Iterator[None]:
        while ctx.running():
            state, trajectory = ctx.collect(state=ctx.state, noise=None)
            ctx.state = self.update(ctx, state, trajectory)
            yield


def test_an_algorithm_may_collect_with_named_arguments() -> None:
    assert failing("algorithm", Naming) == {}


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

    def map(self, fn: Callable[[Tensor], Tensor]) -> Any:
        return Clamped(fn(self.mean), fn(self.log_std))


class Clamping(Plain):
    """Returns the log-probability of the clipped action, not of the sampled one."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        said = super().apply(params, inputs)
        dist: Any = said.dist
        return said._replace(dist=Clamped(dist.mean, dist.log_std)) if isinstance(dist, DiagonalGaussian) else said


class Raw(Categorical):
    """Has logits for log-probabilities."""

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.logits.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Any:
        return type(self)(fn(self.logits))


class Negated(Raw):
    """Has an entropy of the wrong sign."""

    log_prob = Categorical.log_prob

    def entropy(self) -> Tensor:
        return -super().entropy()


class Cold(Raw):
    """Draws actions of another temperature."""

    log_prob = Categorical.log_prob

    def draw(self, noise: Array) -> Array:
        return Categorical(3 * self.logits).draw(noise)


class Reversed(Raw):
    """Has a KL divergence in the other direction."""

    log_prob = Categorical.log_prob

    def kl(self, other: Categorical) -> Tensor:
        return Categorical(other.logits).kl(Categorical(self.logits))


class Unsummed(Raw):
    """Has a KL divergence for each action."""

    log_prob = Categorical.log_prob

    def kl(self, other: Categorical) -> Tensor:
        return self._log_probs.exp() * (self._log_probs - other._log_probs)


class Undivergent(Raw):
    """Has no KL divergence."""

    log_prob, kl = Categorical.log_prob, None


class Unmapped(Raw):
    """Has no map."""

    log_prob, map = Categorical.log_prob, None


class Unmoved(Raw):
    """Returns itself from map."""

    log_prob = Categorical.log_prob

    def map(self, fn: Callable[[Tensor], Tensor]) -> Any:
        return self


class HalfMapped(DiagonalGaussian):
    """Leaves its standard deviation out of map."""

    def map(self, fn: Callable[[Tensor], Tensor]) -> Any:
        return HalfMapped(fn(self.mean), self.log_std)


class Attached(Raw):
    """Keeps the gradient of its logits in map."""

    log_prob = Categorical.log_prob

    def map(self, fn: Callable[[Tensor], Tensor]) -> Any:
        return Attached(fn(self.logits) + 0 * self.logits[:, :, : fn(self.logits).shape[2]])


class NegatedGaussian(DiagonalGaussian):
    """Has an entropy of the wrong sign."""

    def entropy(self) -> Tensor:
        return -super().entropy()

    def map(self, fn: Callable[[Tensor], Tensor]) -> Any:
        return type(self)(fn(self.mean), fn(self.log_std))


class WideGaussian(NegatedGaussian):
    """Draws actions with twice the standard deviation."""

    entropy = DiagonalGaussian.entropy

    def draw(self, noise: Array) -> Array:
        return super().draw(2 * noise)


class NegativeDivergence(NegatedGaussian):
    """Has a negative KL divergence."""

    entropy = DiagonalGaussian.entropy

    def kl(self, other: DiagonalGaussian) -> Tensor:
        return -super().kl(other)


def having(kind: Any) -> type:
    """Return a policy with distributions of this kind in place of those from which it is derived."""

    class Having(Plain):
        actor: Any = property()  # acts through apply

        def apply(self, params: Params, inputs: Inputs) -> Output:
            said = super().apply(params, inputs)
            dist: Any = said.dist
            if isinstance(dist, Categorical) and issubclass(kind, Categorical):
                return said._replace(dist=kind(dist.logits))
            if isinstance(dist, DiagonalGaussian) and issubclass(kind, DiagonalGaussian):
                return said._replace(dist=kind(dist.mean, dist.log_std))
            return said

    Having.actor = None
    Having.__name__ = kind.__name__
    return Having


class Backwards(Plain):
    """Has another network in its `row_policy`."""

    def row_policy(self, params: Params) -> Any:
        made = super().row_policy(params)
        return None if made is None else made._replace(weights=made.weights[:, ::-1])


class Standardizing(Plain):
    """Divides observations by 3; its `row_policy` does that with `moments`."""

    actor: Any = None

    def apply(self, params: Params, inputs: Inputs) -> Output:
        return super().apply(params, inputs if self.encoder.categories else inputs._replace(obs=inputs.obs / 3))

    def row_policy(self, params: Params) -> Any:
        made = super().row_policy(params)
        if made is None or self.encoder.categories:
            return made
        shape = 1, len(made.weights), self.encoder.size
        return made._replace(moments=np.concatenate([np.zeros(shape), np.full(shape, 3)]).astype(np.float32))


def test_the_moments_of_a_row_policy_are_used() -> None:
    assert failing("policy", Standardizing) == {}


class Overreaching(Plain):
    """Sends other actions from its `row_policy` than `to_env`."""

    def row_policy(self, params: Params) -> Any:
        made = super().row_policy(params)
        return None if made is None else made._replace(choose=lambda *given: made.choose(*given) + 1)


def ignoring(need: str) -> type:
    """Return a policy whose factory neither provides nor refuses a need."""

    class Ignoring(Plain):
        def __init__(self, config: Any, spec: Spec, needs: frozenset[str]) -> None:
            super().__init__(config, spec, needs - {need})

    return Ignoring


class Misnaming(Plain):
    """Has a critic whose parameters don't start with `critic.`."""

    def init(self, rng: np.random.Generator) -> Params:
        return {name.replace("critic.", "value."): leaf for name, leaf in super().init(rng).items()}

    def apply(self, params: Params, inputs: Inputs) -> Output:
        return super().apply({name.replace("value.", "critic."): leaf for name, leaf in params.items()}, inputs)

    def row_policy(self, params: Params) -> None:
        return None


class Parasitic(Plain):
    """Has a critic without parameters."""

    def __init__(self, config: Any, spec: Spec, needs: frozenset[str]) -> None:
        super().__init__(config, spec, needs - {"value"})

    def apply(self, params: Params, inputs: Inputs) -> Output:
        said = super().apply(params, inputs)
        return said._replace(value=said.dist.entropy())


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

    def row_policy(self, params: Params) -> Any:
        return super().row_policy(self.tilted(params))


Echo.actor = None
Tossing.actor = None
Clamping.actor = None
POLICIES: list[tuple[type, dict[str, Any], str, str]] = [
    (Grudging, {}, "spaces", "ValueError: no. Raise UnfitError"),
    (Plain, {"config": type("Silent", (ComponentConfig,), {"__annotations__": {"x": int}, "x": 1})}, "settings", ": x"),
    (Lucky, {}, "init", "returns from init a different weight.0"),
    (Gambler, {}, "init", "global generator of random in init"),
    (Worthless, {}, "output", "a finite value of shape [3, 1, 4]"),
    (Misnaming, {}, "critic", "names parameters of its critic value.bias.0"),
    (Parasitic, {}, "critic", "has a critic without parameters of its own"),
    (ignoring("aux_value"), {}, "needs", 'neither provides nor refuses the need "aux_value"'),
    (ignoring("shift"), {}, "needs", "has no attribute 'shift'. Let the factory raise UnfitError"),
    (ignoring("action_values"), {}, "needs", "has no attribute 'value_of'. Let the factory raise UnfitError"),
    (having(Raw), {}, "log-probabilities", "over all actions, for observations of a vector and actions in Discrete(2)"),
    (having(Negated), {}, "entropy", "for probabilities whose entropy is"),
    (having(NegatedGaussian), {}, "entropy", "but the mean of -log_prob over 600 draws is"),
    (having(WideGaussian), {}, "entropy", "but the mean of -log_prob over 600 draws is"),
    (having(Cold), {}, "draws", "draws an action in"),
    (having(Reversed), {}, "kl", "where Σ p log(p/q) is"),
    (having(Unsummed), {}, "kl", "returns a kl of shape [3, 1, 4, 2], expected [3, 1, 4]"),
    (having(Undivergent), {}, "kl", "has distributions without a method kl"),
    (having(NegativeDivergence), {}, "kl", "returns a negative kl"),
    (having(Unmapped), {}, "mapped", "has distributions without map"),
    (having(Unmoved), {}, "mapped", "has distributions whose map returns another distribution"),
    (having(Attached), {}, "mapped", "has distributions that keep their gradient after map"),
    (having(HalfMapped), {}, "mapped", "fails in dist.map, for observations of a vector and actions in Box"),
    (Backwards, {}, "row-policy", "has a row_policy whose mode differs from that of apply"),
    (Overreaching, {}, "row-policy", "has a row_policy that sends other actions to the environment than to_env"),
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


class Reusing(SyncEnvs):
    """Writes the observations of each step into the same array."""

    def reset(self, seeds: Any) -> Array:
        self.buffer = super().reset(seeds)
        return self.buffer

    def step(self, actions: Array, live: Any) -> StepResult:
        step = super().step(actions, live)
        reused = self.buffer[: len(live)]  # the buffer is longer after `select`
        reused[:] = step.obs
        return step._replace(obs=reused)


class ReusingMasks(SyncEnvs):
    """Writes the action masks of each step into the same array."""

    def step(self, actions: Array, live: Any) -> StepResult:
        before = self.action_mask
        step = super().step(actions, live)
        if before is not None and self.action_mask is not None:
            before[:] = self.action_mask
            self.action_mask = before
        return step


class Unmasked(Envs):
    """Has no action masks, also where the environment has them."""

    def changed(self, step: StepResult) -> StepResult:
        self.action_mask = None
        return step


class AllAllowed(Envs):
    """Allows every action, whatever the environment allows."""

    def changed(self, step: StepResult) -> StepResult:
        self.action_mask = None if self.action_mask is None else np.ones_like(self.action_mask)
        return step


class Maskless(Envs):
    """Lacks the attribute action_mask."""

    def __getattribute__(self, name: str) -> Any:
        if name == "action_mask":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def __init__(self, request: EnvRequest) -> None:
        super().__init__(request)
        del self.__dict__["action_mask"]


class LimitTerminates(Envs):
    """Reports time limits as terminations."""

    def changed(self, step: StepResult) -> StepResult:
        return step._replace(terminated=step.terminated | step.truncated, truncated=np.zeros_like(step.truncated))


class Swapped(Envs):
    """Exchanges the two flags of an end."""

    def changed(self, step: StepResult) -> StepResult:
        return step._replace(terminated=step.truncated, truncated=step.terminated)


class Doubling(Envs):
    """Doubles the rewards."""

    def changed(self, step: StepResult) -> StepResult:
        return step._replace(rewards=2 * step.rewards)


class Paralyzed(SyncEnvs):
    """Ignores the actions."""

    def step(self, actions: Array, live: Any) -> StepResult:
        return super().step(np.zeros_like(actions), live)


class Tupled(Envs):
    """Returns a plain tuple."""

    def changed(self, step: StepResult) -> Any:
        return tuple(step)


class Listed(Envs):
    """Returns rewards as a list."""

    def changed(self, step: StepResult) -> Any:
        return step._replace(rewards=list(step.rewards))  # type: ignore[arg-type]


class Column(Envs):
    """Returns rewards as a column."""

    def changed(self, step: StepResult) -> StepResult:
        return step._replace(rewards=step.rewards[:, None])


class Numbered(Envs):
    """Returns the flags as numbers."""

    def changed(self, step: StepResult) -> StepResult:
        return step._replace(terminated=step.terminated.astype(int))


class Wide(Envs):
    """Returns observations in float64."""

    def changed(self, step: StepResult) -> StepResult:
        return step._replace(obs=step.obs.astype(np.float64))


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
    (Tupled, "results", "returns a tuple from step. Return pgzoo.types.StepResult"),
    (Listed, "results", "returns rewards as a list"),
    (Column, "results", "returns rewards as float64 [3, 1], expected a numpy array floating [3]"),
    (Numbered, "results", "returns the flags terminated as int64 [3], expected a numpy array bool [3]"),
    (Wide, "results", "returns observations from step as float64 [3, 4], expected a numpy array float32 [3, 4]"),
    (Maskless, "results", "without the attribute action_mask"),
    (Reusing, "new-arrays", "changes arrays that it returned in an earlier step: observations"),
    (ReusingMasks, "masks", "changes arrays that it returned in an earlier step: action_mask"),
    (Unmasked, "masks", "has no action_mask of bool [3, 6]"),
    (AllAllowed, "masks", "has another action_mask"),
    (LimitTerminates, "steps", "returns terminated=True, truncated=False in step 12 of an episode"),
    (Swapped, "steps", "returns terminated=False, truncated=True in step 5 of an episode"),
    (Doubling, "steps", "returns the reward -2 in a step of pgzoo/Corridor-v0 where gymnasium's is -1"),
    (Paralyzed, "steps", "returns the observation 0 in a step of pgzoo/Corridor-v0 where gymnasium's is 1"),
    (Crowded, "rows-independent", "returns different rewards for a row when there are more rows"),
    (Paying, "next-step", "does more than reset"),
    (Reshuffled, "select", "once they are selected"),
    (Stuck, "close", "OSError: nothing to close"),
]


@pytest.mark.parametrize(("envs", "check", "said"), BACKENDS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_backend_with_one_fault_fails_only_the_check_for_it(envs: type[SyncEnvs], check: str, said: str) -> None:
    assert_fails(failing("env_backend", backend(envs)), check, said, 'Env backend "broken"')


def test_a_correct_backend_passes_all_checks() -> None:
    assert failing("env_backend", SyncBackend) == {}


@pytest.mark.parametrize("returned", [None, True])
def test_a_backend_whose_fits_returns_no_text_fails_only_fits(returned: Any) -> None:
    class Backend(SyncBackend):
        def fits(self, request: EnvRequest) -> Any:
            return returned

    said = f"returns {returned} from fits for CartPole-v1. Return the reason"
    assert_fails(failing("env_backend", Backend), "fits", said, 'Env backend "broken"')


class Limp(SyncEnvs):
    """Ignores the actions in Pendulum, so that only a comparison of Box actions can notice it."""

    def step(self, actions: Array, live: Any) -> StepResult:
        return super().step(np.zeros_like(actions) if isinstance(self.action_space, Box) else actions, live)


def test_a_backend_that_ignores_only_box_actions_fails_only_the_comparison_of_steps() -> None:
    assert_fails(failing("env_backend", backend(Limp)), "steps", "in a step of Pendulum-v1", 'Env backend "broken"')


# environment states


class Walk(gym.Env[Any, Any]):
    """A random walk whose rewards grow with the number of steps."""

    observation_space, action_space = Box(-100.0, 100.0, (1,)), gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.path = self.np_random.normal(), [0.0]
        return np.array([self.place], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place += float(action) - 0.5 + self.np_random.normal()
        self.path.append(self.place)
        return np.array([self.place], np.float32), float(len(self.path)), len(self.path) > 30, False, {}


class SaveWalk:
    """Saves and restores a `Walk`."""

    def fits(self, env: Any) -> bool:
        return isinstance(env.unwrapped, Walk)

    def get(self, env: Any) -> Any:
        return {"place": env.unwrapped.place, "path": env.unwrapped.path}

    def put(self, env: Any, state: Any) -> None:
        vars(env.unwrapped).update(state)


class SavesPlaceOnly(SaveWalk):
    def get(self, env: Any) -> Any:
        return {"place": env.unwrapped.place}


class SavesSet(SaveWalk):
    def get(self, env: Any) -> Any:
        return set(env.unwrapped.path)


class FailsForOthers(SaveWalk):
    def fits(self, env: Any) -> bool:
        return bool(env.unwrapped.path is not None)


@pytest.fixture
def walk() -> Iterator[None]:
    gym.register("Walk-v0", Walk, max_episode_steps=20)
    yield
    gym.registry.pop("Walk-v0")


@pytest.mark.usefixtures("walk")
def test_an_environment_state_that_saves_everything_passes_all_checks() -> None:
    assert failing("env_state", SaveWalk) == {}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (SavesPlaceOnly, "restores Walk-v0, saved after step 1, to another state: another reward in step 1"),
        (SavesSet, "fails to save and restore Walk-v0: TypeError: builtins.set can't be saved: not plain data"),
        (FailsForOthers, "AttributeError"),
        (SaveWalk(), 'fails to be created: The environment state "broken" can\'t be created: TypeError'),
    ],
)
@pytest.mark.usefixtures("walk")
def test_an_environment_state_with_one_fault_fails_only_the_check_for_it(target: Any, said: str) -> None:
    assert_fails(failing("env_state", target), "continues-exactly", said, 'Env state "broken"')


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


class Arrayed(Hearing):
    """Has an array in its snapshot."""

    def snapshot(self, member: int) -> Any:
        return {"steps": np.zeros(1)}


class Unready(Hearing):
    """Has a snapshot of what no event has set."""

    def snapshot(self, member: int) -> Any:
        return self.steps  # type: ignore[attr-defined]


class Indexed(Hearing):
    """Has numbers as keys in its snapshot."""

    def snapshot(self, member: int) -> Any:
        return {"best": [{member: 1.0}]}


class Unclosable(Hearing):
    """Raises in close."""

    def close(self) -> None:
        raise OSError("no connection")


class Lingering(Hearing):
    """Waits in close."""

    def close(self) -> None:
        threading.Event().wait()


class Orderly(Hearing):
    """Has a snapshot, and is closed."""

    closed = 0

    def snapshot(self, member: int) -> Any:
        return {"seen": [1, 2.0, None, True, "x"], "member": member}

    def close(self) -> None:
        type(self).closed += 1


LISTENERS = [
    (Deaf, "creates", "It implements no event hook"),
    (Fragile, "raises-nothing", "ConnectionError: no server in pgzoo_update_done"),
    (Scrawling, "events-unchanged", "writes into UpdateDone.env_steps"),
    (Arrayed, "snapshots", "can't be saved: TypeError: Object of type ndarray is not JSON serializable"),
    (Unready, "snapshots", "can't be saved: AttributeError"),
    (Indexed, "snapshots", "can't be saved: 0 is a key, which JSON turns into a text"),
    (Unclosable, "closes", "raises OSError: no connection in close. close ends threads and connections"),
    (Lingering, "closes", "hasn't returned after 0.2 s in close"),
]


def test_a_correct_listener_passes_all_checks() -> None:
    assert failing("listener", lambda context: Hearing()) == {}
    assert failing("listener", lambda context: Orderly()) == {}
    assert Orderly.closed == 1


@pytest.mark.parametrize(("listener", "check", "said"), LISTENERS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_listener_with_one_fault_fails_only_the_check_for_it(
    listener: type, check: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if listener is Lingering:
        monkeypatch.setattr("pgzoo.testing.listeners.END_PATIENCE", 0.2)
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
