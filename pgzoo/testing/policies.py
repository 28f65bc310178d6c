"""The checks of policies."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Text
from torch import Tensor

from pgzoo.config import Component, ComponentConfig
from pgzoo.envs.spec import make_spec
from pgzoo.errors import UnfitError
from pgzoo.export.bundle import load_policy, pack
from pgzoo.ops.acting import ApplyActor, actor_for, memory_size
from pgzoo.ops.draws import draw_noise
from pgzoo.ops.members import map_leaves, select
from pgzoo.ops.nets import ROW_BLOCK
from pgzoo.ops.normalize import CLIP
from pgzoo.protocols import Policy
from pgzoo.registry.components import resolve_component
from pgzoo.testing.target import Check, CheckTarget, NotApplicable, bitwise_equal, checks_by_name, generators_untouched
from pgzoo.training.plan import make_policy
from pgzoo.types import ActorInputs, Array, Inputs, Output, Params, RowPolicy, Spec

__all__ = ["CHECKS"]

OBSERVATIONS: Mapping[str, gym.Space[Any]] = {
    "a vector": Box(-1.0, 1.0, (3,)),
    "a matrix": Box(-1.0, 1.0, (2, 3)),
    "a small image": Box(0, 255, (36, 36, 3), np.uint8),
    "an image": Box(0, 255, (64, 64, 3), np.uint8),
    "a category": Discrete(5),
    "a category from -2": Discrete(5, start=np.int64(-2)),
}
ACTIONS: Mapping[str, gym.Space[Any]] = {
    "Discrete(2)": Discrete(2),
    "Discrete(4) from 1": Discrete(4, start=np.int64(1)),
    "MultiDiscrete([2, 3])": MultiDiscrete([2, 3]),
    "MultiBinary(3)": MultiBinary(3),
    "Box of one": Box(-1.0, 1.0, (1,)),
    "Box of 2 x 2": Box(-0.5, 2.0, (2, 2)),
}
MEMBERS, STEPS, ROWS = 3, 2, 4
DRAWN_ROWS, DRAWS, DRAWS_OF_IMAGES = 2, 600, 200
"""In how many rows actions are drawn to compare them with the distribution, and how many in each."""

FREQUENCY_MARGIN = 0.01
"""By how much the frequency of an action may differ from its probability, besides six standard errors."""

ENTROPY_MARGIN = 0.3
"""By how much an entropy may differ from its estimate from draws, besides six standard errors; some are estimates."""

NEEDS: Mapping[str, frozenset[str]] = {
    "aux_value": frozenset({"value", "aux_value"}),
    "shift": frozenset({"shift"}),
    "action_values": frozenset({"action_values"}),
}
"""What a policy may be asked for besides a critic, each as algorithms ask for it (see `types.Need`)."""


@dataclass(frozen=True)
class Case:
    """A policy made for some spaces, with parameters `[S, ...]`, and inputs to try it on."""

    where: str
    policy: Policy
    component: Component
    spec: Spec
    params: Params

    def obs(self, *shape: int) -> Array:
        """Return random observations `[*shape, *O]`, the same in every call."""
        space, rng = self.spec.observation_space, np.random.default_rng(0)
        if isinstance(space, Discrete):
            return rng.integers(space.start, space.start + space.n, shape)
        assert isinstance(space, Box)
        if np.issubdtype(space.dtype, np.integer):
            return rng.integers(space.low, space.high + 1, (*shape, *space.shape)).astype(space.dtype)
        return rng.uniform(space.low, space.high, (*shape, *space.shape)).astype(space.dtype)

    def inputs(self, rows: int = ROWS, steps: int = 1, mask: Array | None = None) -> Inputs:
        """Return inputs `[S, T, B, ...]`; episodes start at the first step."""
        obs = torch.from_numpy(self.obs(MEMBERS, steps, rows))
        allowed = None if mask is None else torch.from_numpy(np.broadcast_to(mask, (*obs.shape[:3], len(mask))).copy())
        if not memory_size(self.policy):
            return Inputs(obs, allowed)
        starts = torch.zeros(MEMBERS, steps, rows, dtype=torch.bool)
        starts[:, 0] = True
        return Inputs(obs, allowed, torch.zeros(MEMBERS, rows, memory_size(self.policy)), starts)

    def seen(self, rows: int = ROWS, mask: Array | None = None) -> ActorInputs:
        """Return the actor's inputs at the first step."""
        inputs = self.inputs(rows, mask=mask)
        return ActorInputs(
            inputs.obs[:, 0].numpy(),
            None if inputs.action_mask is None else inputs.action_mask[:, 0].numpy(),
            None if inputs.memory is None else inputs.memory.numpy(),
            None if inputs.starts is None else inputs.starts[:, 0].numpy(),
        )

    def noise(self, rows: int = ROWS) -> Array:
        """Return noise `[S, N, K]`, the same in every call."""
        return draw_noise(self.policy.noise, np.random.default_rng(1), (MEMBERS, rows, self.policy.noise_size))

    def act(self, seen: ActorInputs, noise: Array | None) -> Array:
        """Return actions `[S, N, *A]`."""
        return actor_for(self.policy, self.params)(seen, noise)[0]

    def apply(self, inputs: Inputs) -> Output:
        """Evaluate the policy on a batch."""
        with torch.no_grad():
            return self.policy.apply(self.params, inputs._replace(obs=inputs.obs.clone()))

    def draws(self) -> Array:
        """Return many actions for each of the first observations of `inputs()`, `[S, rows, draws, *A]`."""
        image = self.spec.observation_space.dtype == np.uint8
        count = DRAWS_OF_IMAGES if image else DRAWS
        seen = map_leaves(lambda leaf: np.repeat(leaf[:, :DRAWN_ROWS], count, 1), self.seen())
        acted = self.act(seen, self.noise(DRAWN_ROWS * count))
        return acted.reshape(MEMBERS, DRAWN_ROWS, count, *acted.shape[2:])

    def moved(self) -> Case:
        """Return it with other parameters, because the distributions of initial policies are often nearly uniform.

        Only matrices change: a vector may be a scale, for which not every number has a meaning.
        """
        rng, learned = np.random.default_rng(3), self.policy.init(np.random.default_rng(0))

        def move(leaf: Tensor) -> Tensor:
            fan_in = max(leaf[0].numel() / leaf.shape[1], leaf[0].numel() / leaf.shape[-1])
            return leaf + torch.from_numpy(rng.normal(size=leaf.shape) / fan_in**0.5).to(leaf.dtype)

        params = {k: move(v) if k in learned and v.ndim > 2 and v.numel() else v for k, v in self.params.items()}
        return replace(self, params=params)

    def log_prob(self, output: Output, actions: Array) -> Tensor:
        """Return the log-probabilities of actions `[S, T, B, *A]`."""
        with torch.no_grad():
            return output.dist.log_prob(torch.from_numpy(np.ascontiguousarray(actions)))


def spaces(target: CheckTarget) -> None:
    """It supports at least one pair of spaces, and raises an UnfitError that names the policy for others."""
    pairs = [(obs, action) for obs in OBSERVATIONS.values() for action in (*ACTIONS.values(), Text(3))]
    refusals = [_made(target, make_spec(obs, action)) for obs, action in pairs]
    target.expect(
        any(not isinstance(made, UnfitError) for made in refusals),
        "supports none of the spaces that were tried",
        f"Tried were observations of {', '.join(OBSERVATIONS)} and actions in {', '.join(ACTIONS)}.",
    )
    for made in refusals:
        target.expect(
            not isinstance(made, UnfitError) or target.component.name in str(made),
            f'raises an UnfitError without its name: "{made}"',
            "Start the message with the policy's name.",
        )


def settings(target: CheckTarget) -> None:
    """Every setting has a description."""
    model = target.component.load_config()
    if model is None:
        raise NotApplicable("it has no settings")
    target.expect_described(model, ComponentConfig)


def init(target: CheckTarget) -> None:
    """`init` returns finite tensors, the same for the same generator, and draws from no other generator."""
    for case in _cases(target):
        with generators_untouched(target, "in init"):
            one, again = (case.policy.init(np.random.default_rng(5)) for _ in range(2))
        for name, leaf in one.items():
            target.expect(
                isinstance(leaf, Tensor) and torch.isfinite(leaf).all(),
                f"returns from init a {name} that isn't a finite tensor",
                "Let init return finite torch tensors, without the seed axis.",
            )
            target.expect(
                bitwise_equal(leaf, again[name]),
                f"returns from init a different {name} for the same generator",
                "Draw only from the generator that init is passed.",
            )


def output(target: CheckTarget) -> None:
    """For a batch `[S, T, B]`, log-probabilities, entropies and values are finite and have that shape."""
    for case in (*_cases(target), *_cases(target, needs=frozenset({"value"}))):
        steps = STEPS if memory_size(case.policy) else 1
        inputs = case.inputs(steps=steps)
        output, shape = case.apply(inputs), (MEMBERS, steps, ROWS)
        actions = np.stack([case.act(case.seen(), case.noise())] * steps, 1)
        numbers = {"log-probability": case.log_prob(output, actions), "entropy": output.dist.entropy()}
        if "with a critic" in case.where:
            numbers["value"] = output.value
        for name, value in numbers.items():
            target.expect(
                isinstance(value, Tensor) and tuple(value.shape) == shape and torch.isfinite(value).all(),
                f"doesn't return a finite {name} of shape {list(shape)} for {case.where}",
                f"Tensors have the batch shape [S, T, B] first; got {list(getattr(value, 'shape', ()))}.",
            )


def critic(target: CheckTarget) -> None:
    """The names of the critic's parameters, which it has if a value is needed, start with `critic.`."""
    cases = list(_cases(target, needs=frozenset({"value"})))
    if not cases:
        raise NotApplicable("it has no critic")
    for case in cases:
        plain = _made(target, case.spec)
        own = set() if isinstance(plain, UnfitError) else set(plain.init(np.random.default_rng(0)))
        names = set(case.policy.init(np.random.default_rng(0)))
        strange = sorted(name for name in names - own if not name.startswith("critic."))
        advice = (
            'Rename them to "critic.NAME": algorithms train the critic by the names of its parameters, in a gradient '
            "step of its own or with a learning rate of its own."
        )
        if not isinstance(plain, UnfitError):
            target.expect(not strange, f"names parameters of its critic {', '.join(strange)}", advice)
        target.expect(
            any(name.startswith("critic.") for name in names),
            f"has a critic without parameters of its own, for {case.where}",
            advice,
        )


def needs(target: CheckTarget) -> None:
    """It provides whatever else an algorithm may need (`types.Need`), or its factory raises UnfitError."""
    for need, all_needs in NEEDS.items():
        for case in _cases(target, needs=all_needs):
            output, shape = case.apply(case.inputs()), (MEMBERS, 1, ROWS)
            taken = torch.from_numpy(case.act(case.seen(), case.noise())[:, None].copy())
            advice = (
                "Let the factory raise UnfitError for a need that the policy doesn't provide, for example "
                '`if needs - {"value"}: raise UnfitError(...)`: else an algorithm would fail in the middle of a run. '
                "See pgzoo.types.Need."
            )
            with target.errors_fail_check(f'to provide the need "{need}", for {case.where}', advice), torch.no_grad():
                given = _provided(need, output, taken)
            target.expect(
                all(isinstance(x, Tensor) and tuple(x.shape) == shape and torch.isfinite(x).all() for x in given),
                f'neither provides nor refuses the need "{need}", finite numbers {list(shape)}, for {case.where}',
                advice,
            )


def log_probabilities(target: CheckTarget) -> None:
    """In a finite action space, the probabilities of all actions sum to 1."""
    found = False
    for case, _, _, log_probs in _finite(target):
        found = True
        total = log_probs.exp().sum(0)
        worst = total.flatten()[(total - 1).abs().argmax()]
        target.expect(
            (total - 1).abs().max() < 1e-3,
            f"returns log-probabilities of probabilities that sum to {worst:.4g} over all actions, for {case.where}",
            "Normalize them: logits.log_softmax(-1) for one choice; several choices are added.",
        )
    if not found:
        raise NotApplicable("it supports no finite action space, or stores actions in a form of its own")


def entropy(target: CheckTarget) -> None:
    """The entropy is the mean of minus the log-probability: over all actions, or within a margin over draws."""
    advice = (
        "The entropy is -sum(p * log p) over all actions of the row, in nats, for a Box the differential entropy of "
        "what `draw` draws and `log_prob` returns the density of."
    )
    for case, _, output, log_probs in _finite(target):
        own = output.dist.entropy()
        wanted = -(log_probs.exp() * log_probs).nan_to_num().sum(0)
        target.expect(
            torch.allclose(own, wanted, rtol=1e-3, atol=1e-3),
            f"returns the entropy {own.flatten()[0]:.4g} for probabilities whose entropy is {wanted.flatten()[0]:.4g}, "
            f"for {case.where}",
            advice,
        )
    for case in _cases(target):
        if not isinstance(case.spec.action_space, Box):
            continue
        case = case.moved()
        output, drawn = case.apply(case.inputs()), np.moveaxis(case.draws(), 2, 0)
        rest = np.zeros((MEMBERS, ROWS - DRAWN_ROWS, *drawn.shape[3:]), drawn.dtype)  # log_prob takes all rows
        minus = -torch.stack([case.log_prob(output, np.concatenate([one, rest], 1)[:, None]) for one in drawn])
        minus = minus[..., :DRAWN_ROWS]
        own, wanted = output.dist.entropy()[..., :DRAWN_ROWS], minus.mean(0)
        error = (own - wanted).abs() - 6 * minus.std(0) / len(drawn) ** 0.5
        worst = int(error.argmax())
        target.expect(
            error.max() < ENTROPY_MARGIN,
            f"returns the entropy {own.flatten()[worst]:.4g}, but the mean of -log_prob over {len(drawn)} draws is "
            f"{wanted.flatten()[worst]:.4g}, for {case.where}",
            advice,
        )


def draws(target: CheckTarget) -> None:
    """In a finite action space, actions are drawn as often as their probabilities say."""
    found = False
    for case, every, _, log_probs in _finite(target):
        found, drawn = True, case.draws()
        count = drawn.shape[2]
        same = drawn[:, :, :, None] == every
        frequency = same.reshape(*same.shape[:4], -1).all(-1).mean(2)  # [S, B, K]
        wanted = np.moveaxis(log_probs.exp()[:, :, 0, :DRAWN_ROWS].numpy(), 0, -1)
        error = np.abs(frequency - wanted) - 6 * np.sqrt(np.maximum(wanted * (1 - wanted), 0) / count)
        worst = np.unravel_index(error.argmax(), error.shape)
        target.expect(
            error.max() < FREQUENCY_MARGIN,
            f"draws an action in {frequency[worst]:.0%} of {count} draws whose probability is {wanted[worst]:.0%}, for "
            f"{case.where}",
            "Draw from the distribution of which log_prob returns the log-probabilities, else gradients are wrong. For "
            "uniform noise u, the action is the number of cumulative probabilities below u; adding noise to logits "
            "takes Gumbel noise, -log(-log(u)); pgzoo's Categorical takes logistic noise for two actions, uniform for "
            "more.",
        )
    if not found:
        raise NotApplicable("it supports no finite action space, or stores actions in a form of its own")


def kl(target: CheckTarget) -> None:
    """`kl` is `[S, T, B]`, 0 from a distribution to itself, never negative, and Σ p log(p/q) in a finite space."""
    advice = (
        "dist.kl(other) is KL(dist || other), the mean of log p - log q under dist, summed over action dimensions; "
        "algorithms with a KL limit or penalty call it."
    )
    for case in _cases(target):
        p: Any = case.moved().apply(case.inputs()).dist
        q = case.apply(case.inputs()).dist
        target.expect(
            callable(getattr(p, "kl", None)), f"has distributions without a method kl, for {case.where}", advice
        )
        with torch.no_grad(), target.errors_fail_check(f"in dist.kl, for {case.where}", advice):
            own, other = p.kl(p), p.kl(q)
        shape = MEMBERS, 1, ROWS
        for value in (own, other):
            target.expect(
                isinstance(value, Tensor) and tuple(value.shape) == shape,
                f"returns a kl of shape {list(getattr(value, 'shape', ()))}, expected {list(shape)}, for {case.where}",
                advice,
            )
        target.expect(
            own.abs().max() < 1e-3, f"returns a kl of {own.abs().max():.3g} from itself, for {case.where}", advice
        )
        target.expect((other > -1e-3).all(), f"returns a negative kl, {other.min():.3g}, for {case.where}", advice)
        if (every := _every_action(case)) is not None:
            log_p, log_q = (_log_probs(one, one.apply(one.inputs()), every) for one in (case.moved(), case))
            wanted = (log_p.exp() * (log_p - log_q)).nan_to_num().sum(0)
            target.expect(
                torch.allclose(other, wanted, rtol=1e-3, atol=1e-4),
                f"returns the kl {other.flatten()[0]:.4g} where Σ p log(p/q) is {wanted.flatten()[0]:.4g}, for "
                f"{case.where}",
                advice,
            )


def mapped(target: CheckTarget) -> None:
    """`map` of a distribution applies a function to each of its tensors, and returns such a distribution."""
    advice = (
        "dist.map(fn) returns a distribution with fn(x) in place of each of its tensors x, all [S, T, B, ...]: runs "
        "select rows with it, and keep the distribution before an update without its gradient."
    )
    for case in _cases(target):
        inputs, actions = case.inputs(), torch.from_numpy(case.act(case.seen(), case.noise())[:, None].copy())
        params = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in case.moved().params.items()}
        dist: Any = case.policy.apply(params, inputs._replace(obs=inputs.obs.clone())).dist
        target.expect(callable(getattr(dist, "map", None)), f"has distributions without map, for {case.where}", advice)
        with target.errors_fail_check(f"in dist.map, for {case.where}", advice):
            part, fixed = dist.map(lambda x: x[:, :, 1:3]), dist.map(lambda x: x.detach())
            whole, some = (dist.log_prob(actions), dist.entropy()), (part.log_prob(actions[:, :, 1:3]), part.entropy())
            traced = fixed.log_prob(actions).requires_grad or fixed.entropy().requires_grad
        same = all(
            one.shape == other[:, :, 1:3].shape and torch.allclose(one, other[:, :, 1:3], rtol=1e-4, atol=1e-5)
            for one, other in zip(some, whole, strict=True)
        )
        target.expect(same, f"has distributions whose map returns another distribution, for {case.where}", advice)
        target.expect(
            not traced, f"has distributions that keep their gradient after map(Tensor.detach), for {case.where}", advice
        )


def pure(target: CheckTarget) -> None:
    """`apply` returns the same when called again, and changes neither parameters nor inputs."""
    for case in _cases(target):
        inputs, actions = case.inputs(), case.act(case.seen(), case.noise())[:, None]
        before = {name: leaf.clone() for name, leaf in case.params.items()}
        obs = inputs.obs.clone()
        with torch.no_grad():
            first, again = (case.log_prob(case.policy.apply(case.params, inputs), actions) for _ in range(2))
        changed = [name for name, leaf in case.params.items() if not bitwise_equal(leaf, before[name])]
        changed += [] if bitwise_equal(obs, inputs.obs) else ["the observations"]
        target.expect(not changed, f"writes into {', '.join(changed)} in apply", "Work on copies.")
        target.expect(
            bitwise_equal(first, again), "returns something else when called again", "Keep nothing between calls."
        )


def actor(target: CheckTarget) -> None:
    """The actor agrees with `apply`: the same mode, and the same action for the same noise, up to rounding."""
    compared = 0
    for case in _cases(target):
        seen, dist = case.seen(64), case.apply(case.inputs(64)).dist
        if not hasattr(case.policy, "actor") or not (hasattr(dist, "mode") and hasattr(dist, "draw")):
            continue
        compared += 1
        for what, noise in {"mode": None, "sample": case.noise(64)}.items():
            acted, learned = case.act(seen, noise), ApplyActor(case.policy, case.params)(seen, noise)[0]
            target.expect(
                acted.shape == learned.shape and np.allclose(acted, learned, rtol=1e-4, atol=1e-5),
                f"has an actor whose {what} differs from that of apply, for {case.where}",
                "Let both compute the same network; they may differ by rounding.",
            )
    if not compared:
        raise NotApplicable("it has no `actor`, or its distributions have no `mode` and `draw` to compare with")


def row_policy(target: CheckTarget) -> None:
    """`row_policy` chooses the same actions as the actor, row by row, up to rounding."""
    compared = 0
    for case in _cases(target):
        case = case.moved()
        make: Any = getattr(case.policy, "row_policy", None)
        advice = "Let `forward` and `choose` compute what `apply` and the distribution do: see pgzoo.types.RowPolicy."
        with target.errors_fail_check(f"in row_policy, for {case.where}", advice), np.errstate(all="ignore"):
            rows: RowPolicy | None = make(case.params) if make else None
            if rows is None:
                continue
            compared += 1
            for what, noise in {"mode": None, "sample": case.noise()}.items():
                stored, sent = _chosen(case, rows, noise)
                wanted = case.act(case.seen(), noise)
                target.expect(
                    stored.shape == wanted.shape and np.allclose(stored, wanted, rtol=1e-3, atol=1e-4),
                    f"has a row_policy whose {what} differs from that of apply, for {case.where}",
                    advice,
                )
                target.expect(
                    np.allclose(sent, case.policy.to_env(stored).reshape(sent.shape), rtol=1e-3, atol=1e-4),
                    f"has a row_policy that sends other actions to the environment than to_env, for {case.where}",
                    advice,
                )
    if not compared:
        raise NotApplicable("it has no row_policy, which lets it act in compiled code")


def actions(target: CheckTarget) -> None:
    """Actions sent to the environment are in its action space."""
    for case in _cases(target):
        for noise in (None, case.noise(64)):
            sent = case.policy.to_env(case.act(case.seen(64), noise))
            strange = [action for member in sent for action in member if not case.spec.action_space.contains(action)]
            target.expect(
                not strange, f"sends {strange[:1]} to {case.spec.action_space}", "Let to_env clip, shift and cast."
            )


def generators(target: CheckTarget) -> None:
    """Neither `apply` nor acting draws from a global random generator."""
    for case in _cases(target):
        with generators_untouched(target, f"for {case.where}"):
            case.act(case.seen(), case.noise())
            case.apply(case.inputs())


def sampled_actions(target: CheckTarget) -> None:
    """Actions outside of a Box are kept as they were sampled, and their log-probabilities are those of the samples."""
    clipped = [case for case in _cases(target) if isinstance(case.spec.action_space, Box)]
    if not clipped:
        raise NotApplicable("it doesn't support Box actions")
    for case in clipped:
        rows, space = 256, case.spec.action_space
        assert isinstance(space, Box)
        low, high = space.low.ravel(), space.high.ravel()
        acted = case.act(case.seen(rows), case.noise(rows))
        flat = acted.reshape(MEMBERS, rows, -1)
        at_bounds = ((flat == low) | (flat == high)).mean()
        advice = (
            "A clipped action has another density than the sample, so the gradient would be wrong. Clip in `to_env` "
            "only: the sampled action is stored, and the environment gets the clipped one."
        )
        target.expect(at_bounds < 0.02, f"clips its actions when it acts, for {case.where}", advice)
        outside = ((flat < low) | (flat > high)).any(-1)
        if not outside.any():
            continue
        inside = np.clip(flat, low, high).astype(flat.dtype).reshape(acted.shape)
        output = case.apply(case.inputs(rows))
        given, changed = (case.log_prob(output, actions[:, None])[:, 0].numpy() for actions in (acted, inside))
        target.expect(
            (given[outside] != changed[outside]).any(),
            f"returns the log-probability of the clipped action, for {case.where}",
            advice,
        )


def rows_independent(target: CheckTarget) -> None:
    """The outputs for a row of a batch don't depend on the other rows."""
    for case in _cases(target):
        inputs, actions = case.inputs(), case.act(case.seen(), case.noise())[:, None]
        few = inputs._replace(
            obs=inputs.obs[:, :, :2],
            memory=None if inputs.memory is None else inputs.memory[:, :2],
            starts=None if inputs.starts is None else inputs.starts[:, :, :2],
        )
        among = case.log_prob(case.apply(inputs), actions)[:, :, :2]
        target.expect(
            torch.allclose(case.log_prob(case.apply(few), actions[:, :, :2]), among, rtol=1e-4, atol=1e-5),
            f"computes different numbers for a row of a batch if the other rows change, for {case.where}",
            "Rows are steps of different environments, and batches differ between acting and learning, so that the "
            "probabilities of actions would be wrong. Don't reduce over the axis B: no batch statistics, no centering.",
        )


def acting_has_no_effect(target: CheckTarget) -> None:
    """Acting changes no parameter and no buffer, and the next action doesn't depend on earlier ones."""
    for case in _cases(target):
        before = {name: leaf.clone() for name, leaf in case.params.items()}
        seen, act = case.seen(), actor_for(case.policy, case.params)
        other = map_leaves(lambda leaf: np.flip(leaf, 1).copy(), seen)
        first, _, again = (act(inputs, case.noise())[0].copy() for inputs in (seen, other, seen))
        changed = [name for name, leaf in case.params.items() if not bitwise_equal(leaf, before[name])]
        advice = (
            "Evaluations act, too, and must not change what is trained. Change buffers in `absorb` only, which is "
            "called once after each update; keep nothing in the actor."
        )
        target.expect(not changed, f"changes {', '.join(changed)} when it acts, for {case.where}", advice)
        target.expect(np.array_equal(first, again), f"acts differently after other actions, for {case.where}", advice)


def members(target: CheckTarget) -> None:
    """Actions and log-probabilities of one seed are bit-equal alone and in a batch with other seeds."""
    for case in _cases(target):
        rows = ROW_BLOCK  # what the engine pads batches to
        inputs, seen, noise = case.inputs(rows), case.seen(), case.noise()
        taken = case.act(case.seen(rows), case.noise(rows))[:, None]
        one = Case(case.where, case.policy, case.component, case.spec, select(case.params, [1]))
        among = case.log_prob(case.apply(inputs), taken)[1:2].contiguous()
        alone = one.log_prob(one.apply(map_leaves(lambda leaf: leaf[1:2], inputs)), taken[1:2])
        acted = case.act(seen, noise)[1:2]
        acted_alone = one.act(map_leaves(lambda leaf: leaf[1:2], seen), noise[1:2])
        target.expect(
            bitwise_equal(among, alone) and np.array_equal(acted, acted_alone),
            f"computes different numbers for a seed alone and among {MEMBERS}, for {case.where}",
            "Use the layers of pgzoo.ops.nets, whose results don't depend on the number of seeds.",
        )


def memory(target: CheckTarget) -> None:
    """The memory has `memory_size` numbers, is reset at a start, and is the same for a sequence as step by step."""
    remembering = [case for case in _cases(target) if memory_size(case.policy)]
    if not remembering:
        raise NotApplicable("it has no memory")
    for case in remembering:
        size, steps = memory_size(case.policy), 5
        inputs = case.inputs(steps=steps)
        assert inputs.starts is not None and inputs.memory is not None
        inputs.starts[:, 3, ::2] = True
        output = case.apply(inputs)
        target.expect(
            output.memory is not None and tuple(output.memory.shape) == (MEMBERS, ROWS, size),
            f"doesn't return a memory of shape {[MEMBERS, ROWS, size]}, as required by its memory_size",
            "Return the memory after the last step, [S, B, M].",
        )
        other = case.apply(inputs._replace(memory=torch.full_like(inputs.memory, 3.0))).memory
        target.expect(
            output.memory is not None and other is not None and bitwise_equal(output.memory, other),
            "keeps its memory across the start of an episode",
            "It would act on what it saw in an earlier episode. Reset the memory to zeros where `starts` is True.",
        )
        memory, taken = inputs.memory, []
        for t in range(steps):
            step = case.apply(Inputs(inputs.obs[:, t : t + 1], None, memory, inputs.starts[:, t : t + 1]))
            memory = memory if step.memory is None else step.memory
            taken.append(step.dist.entropy())
        same = output.memory is not None and torch.allclose(memory, output.memory, atol=1e-5)
        target.expect(
            same and torch.allclose(torch.cat(taken, 1), output.dist.entropy(), atol=1e-5),
            "computes different numbers for a sequence and step by step",
            "Process the T steps in order, and reset the memory where `starts` is True.",
        )


def buffers(target: CheckTarget) -> None:
    """`absorb` returns all buffers in their shapes, and ignores rows that are not valid."""
    keeping = [case for case in _cases(target) if hasattr(case.policy, "absorb") or hasattr(case.policy, "buffers")]
    if not keeping:
        raise NotApplicable("it has no buffers")
    for case in keeping:
        policy: Any = case.policy
        kept = {name: case.params[name] for name in policy.buffers()}
        if not hasattr(policy, "absorb"):
            continue
        before = {name: leaf.clone() for name, leaf in kept.items()}
        obs = torch.from_numpy(case.obs(MEMBERS, 6, ROWS))
        valid = torch.ones(MEMBERS, 6, ROWS, dtype=torch.bool)
        valid[:, 4:] = False
        after = policy.absorb(kept, obs, valid)
        target.expect(
            {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in before.items()},
            "changes the names or shapes of its buffers",
            "Let absorb return all buffers, with the same names and shapes.",
        )
        target.expect(
            all(bitwise_equal(leaf, before[name]) for name, leaf in kept.items()),
            "changes its buffers in place",
            "Copy them.",
        )
        littered = torch.where(valid.reshape(*valid.shape, *[1] * (obs.ndim - 3)), obs, obs.flip(1))
        again = policy.absorb(before, littered, valid)
        target.expect(
            all(bitwise_equal(leaf, again[name]) for name, leaf in after.items()),
            "updates its buffers with rows that are not valid",
            "Give those rows weight 0.",
        )


def masks(target: CheckTarget) -> None:
    """A masked action is never taken and has probability 0; log-probabilities and entropies stay finite."""
    maskable = [c for c in _cases(target, masked=True) if not isinstance(c.spec.action_space, Box)]
    if not maskable:
        raise NotApplicable("it supports no action space that can be masked")
    for case in maskable:
        mask, forbidden = _one_forbidden(case.spec.action_space)
        seen, rows = case.seen(64, mask), 64
        for noise in (None, case.noise(rows)):
            taken = case.act(seen, noise)
            target.expect(
                not forbidden(taken).any(),
                f"takes a masked action, for {case.where}",
                "Give its logit -1e9: pgzoo.ops.families.",
            )
        output, allowed = case.apply(case.inputs(rows, mask=mask)), case.act(seen, case.noise(rows))[:, None]
        wrong = _forbidden_action(case.spec.action_space, allowed)
        target.expect(
            torch.isfinite(case.log_prob(output, allowed)).all()
            and torch.isfinite(output.dist.entropy()).all()
            and (case.log_prob(output, wrong).exp() == 0).all(),
            f"gives a masked action a probability above 0 in apply, for {case.where}",
            "Give its logit -1e9, in apply as in the actor.",
        )


def saved(target: CheckTarget) -> None:
    """Saved and loaded, it acts as before."""
    for case in _cases(target):
        with (
            tempfile.TemporaryDirectory() as folder,
            target.errors_fail_check("to be saved and loaded", "See export.bundle."),
        ):
            for name, data in pack(case.component, case.spec, case.policy, case.params, 1).items():
                (Path(folder) / name).write_bytes(data)
            loaded = load_policy(folder, target.catalog)
        obs = case.obs(ROWS)
        seen = ActorInputs(obs[None], None, *_first_memory(case, ROWS))
        one = Case(case.where, case.policy, case.component, case.spec, select(case.params, [1]))
        expected = case.policy.to_env(one.act(seen, None)[0])
        target.expect(
            np.allclose(loaded.act(obs, deterministic=True), expected, rtol=1e-5, atol=1e-6),
            f"acts differently after it was saved and loaded, for {case.where}",
            "Its actions may depend only on parameters, buffers and settings.",
        )


CHECKS: Mapping[str, Check] = checks_by_name(
    (
        spaces,
        settings,
        init,
        output,
        critic,
        needs,
        log_probabilities,
        entropy,
        draws,
        kl,
        mapped,
        pure,
        actor,
        row_policy,
        actions,
        generators,
        sampled_actions,
        rows_independent,
        acting_has_no_effect,
        members,
        memory,
        buffers,
        masks,
        saved,
    )
)


def _made(target: CheckTarget, spec: Spec, needs: frozenset[str] = frozenset()) -> Policy | UnfitError:
    component, factory = resolve_component("policy", target.component.name, target.catalog)
    with target.errors_fail_check(
        f"on {spec.observation_space} and {spec.action_space}", "Raise UnfitError for spaces that it doesn't support."
    ):
        try:
            return make_policy(factory, component.settings, spec, needs, normalize_obs=False)
        except UnfitError as error:
            return error


def _cases(target: CheckTarget, *, masked: bool = False, needs: frozenset[str] = frozenset()) -> Iterator[Case]:
    """Yield the policy on the spaces that it supports: one observation space with all actions, the others with one.

    Images are only tried if nothing smaller is supported, the larger one only if the small one isn't.
    """
    component, _ = resolve_component("policy", target.component.name, target.catalog)
    flat = 0
    for seen, observation in sorted(OBSERVATIONS.items(), key=lambda item: "image" in item[0]):
        if "image" in seen and flat:
            continue
        one_action_is_enough = flat > 0
        for taken, action in ACTIONS.items():
            spec = make_spec(observation, action, masked=masked)
            policy = _made(target, spec, needs)
            if isinstance(policy, UnfitError):
                continue
            flat += 1
            where = f"observations of {seen} and actions in {taken}" + (" with a critic" if "value" in needs else "")
            key = f"initial parameters for {where}{' that are masked' if masked else ''}, {sorted(needs)}"
            if key not in target.remembered:
                own: Params = getattr(policy, "buffers", dict)()
                each = [policy.init(np.random.default_rng(seed)) | own for seed in range(MEMBERS)]
                target.remembered[key] = {name: torch.stack([one[name] for one in each]) for name in each[0]}
            params = {name: leaf.clone() for name, leaf in target.remembered[key].items()}
            yield Case(where, policy, component, spec, params)
            if one_action_is_enough:
                break


def _first_memory(case: Case, rows: int) -> tuple[Array | None, Any]:
    size = memory_size(case.policy)
    return (np.zeros((1, rows, size), np.float32), np.ones((1, rows), np.bool_)) if size else (None, None)


def _provided(need: str, output: Output, taken: Tensor) -> list[Any]:
    """Return what a policy provides for a need, `[S, T, B]` each, given actions that were taken."""
    dist: Any = output.dist
    if need == "aux_value":
        return [output.aux_value]
    if need == "shift":
        return [dist.shift(torch.zeros(taken.shape)).log_prob(taken)]
    return [dist.value_of(taken), dist.state_value()]


def _every_action(case: Case) -> Array | None:
    """Return all actions `[K, *A]` of a finite space as policies store them, counted from 0.

    None for a Box, and if the policy stores actions in a form of its own.
    """
    space, acted = case.spec.action_space, case.act(case.seen(64), case.noise(64))
    if isinstance(space, Discrete):
        every = np.arange(space.n)
    elif isinstance(space, MultiDiscrete | MultiBinary):
        every = np.array(list(np.ndindex(*(space.nvec if isinstance(space, MultiDiscrete) else [2] * space.shape[0]))))
    else:
        return None
    usual = acted.shape[2:] == every.shape[1:] and bool((acted >= 0).all() and (acted <= every.max(0)).all())
    return every.astype(acted.dtype) if usual else None


def _log_probs(case: Case, output: Output, every: Array) -> Tensor:
    """Return the log-probability of each action in each row, `[K, S, T, B]`."""
    shape = MEMBERS, 1, ROWS
    return torch.stack([case.log_prob(output, np.broadcast_to(one, (*shape, *one.shape)).copy()) for one in every])


def _finite(target: CheckTarget) -> Iterator[tuple[Case, Array, Output, Tensor]]:
    """Yield the policy on finite action spaces, all actions, its output for a batch, and their log-probabilities."""
    for case in _cases(target):
        if (every := _every_action(case)) is not None:
            moved = case.moved()
            output = moved.apply(moved.inputs())
            yield moved, every, output, _log_probs(moved, output, every)


def _chosen(case: Case, rows: RowPolicy, noise: Array | None) -> tuple[Array, Array]:
    """Return the actions that a row policy stores and those that it sends, as in `envs.kernel.collect_rows`."""
    space, seen = case.spec.action_space, case.seen().obs
    stored = np.zeros((*seen.shape[:2], *rows.stored.shape), rows.stored.dtype)
    sent = np.zeros((*seen.shape[:2], *(space.shape or ())), space.dtype)
    scratch, outputs = np.zeros((2, rows.width), np.float32), np.zeros(rows.outputs, np.float32)
    for member, row in np.ndindex(*seen.shape[:2]):
        features = seen[member, row].astype(np.float32).reshape(-1)
        if rows.moments.shape[2]:
            mean, std = rows.moments[:, member]
            features = np.clip((features - mean) / std, -CLIP, CLIP).astype(np.float32)
        rows.forward(features, rows.weights[member], rows.sizes, scratch, outputs)
        action = np.zeros(int(np.prod(space.shape or (1,))), space.dtype)
        drawn = np.zeros(1, np.float32) if noise is None else noise[member, row]
        into = stored[member, row : row + 1].reshape(-1)
        chosen = rows.choose(outputs, rows.scale[member], rows.bounds, drawn, noise is None, into, action)
        sent[member, row] = np.reshape(chosen, space.shape or ())
    return stored, sent


def _one_forbidden(space: gym.Space[Any]) -> tuple[Array, Any]:
    """Return a mask that forbids the first action (or bit), and a test for it on actions `[..., *A]`."""
    if isinstance(space, Discrete):
        return np.arange(space.n) != 0, lambda taken: taken == 0
    if isinstance(space, MultiDiscrete):
        return np.arange(space.nvec.sum()) != 0, lambda taken: taken[..., 0] == 0
    assert isinstance(space, MultiBinary)
    return np.arange(int(space.shape[0])) != 0, lambda taken: taken[..., 0] == 1


def _forbidden_action(space: gym.Space[Any], allowed: Array) -> Array:
    """Return the actions with the forbidden one in place of the first."""
    wrong = allowed.copy()
    if isinstance(space, Discrete):
        wrong[...] = 0
    else:
        wrong[..., 0] = 1 if isinstance(space, MultiBinary) else 0
    return wrong
