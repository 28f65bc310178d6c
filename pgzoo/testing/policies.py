"""The checks of policies. Those of their distributions are in `distributions`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Text
from torch import Tensor

from pgzoo.config import ComponentConfig
from pgzoo.envs.spec import make_spec
from pgzoo.errors import UnfitError
from pgzoo.export.bundle import load_policy, pack
from pgzoo.ops.acting import ApplyActor, actor_for, memory_size
from pgzoo.ops.members import map_leaves, select
from pgzoo.ops.nets import ROW_BLOCK
from pgzoo.ops.normalize import CLIP
from pgzoo.testing.policy_cases import ACTIONS, MEMBERS, OBSERVATIONS, ROWS, Case, policy_cases, policy_or_refusal
from pgzoo.testing.target import Check, CheckTarget, NotApplicable, bitwise_equal, checks_by_name, generators_untouched
from pgzoo.types import ActorInputs, Array, Inputs, Output, RowPolicy

__all__ = ["CHECKS"]

NEEDS: Mapping[str, frozenset[str]] = {
    "aux_value": frozenset({"value", "aux_value"}),
    "shift": frozenset({"shift"}),
    "action_values": frozenset({"action_values"}),
}
"""What a policy may be asked for besides a critic, each as algorithms ask for it (see `types.Need`)."""


def spaces(target: CheckTarget) -> None:
    """It supports at least one pair of spaces, and raises an UnfitError that names the policy for others."""
    pairs = [(obs, action) for obs in OBSERVATIONS.values() for action in (*ACTIONS.values(), Text(3))]
    refusals = [policy_or_refusal(target, make_spec(obs, action)) for obs, action in pairs]
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
    for case in policy_cases(target):
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
    for case in (*policy_cases(target), *policy_cases(target, needs=frozenset({"value"}))):
        steps = 2 if memory_size(case.policy) else 1
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
    cases = list(policy_cases(target, needs=frozenset({"value"})))
    if not cases:
        raise NotApplicable("it has no critic")
    for case in cases:
        plain = policy_or_refusal(target, case.spec)
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
        for case in policy_cases(target, needs=all_needs):
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


def pure(target: CheckTarget) -> None:
    """`apply` returns the same when called again, and changes neither parameters nor inputs."""
    for case in policy_cases(target):
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
    for case in policy_cases(target):
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
    for case in policy_cases(target):
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
    for case in policy_cases(target):
        for noise in (None, case.noise(64)):
            sent = case.policy.to_env(case.act(case.seen(64), noise))
            strange = [action for member in sent for action in member if not case.spec.action_space.contains(action)]
            target.expect(
                not strange, f"sends {strange[:1]} to {case.spec.action_space}", "Let to_env clip, shift and cast."
            )


def generators(target: CheckTarget) -> None:
    """Neither `apply` nor acting draws from a global random generator."""
    for case in policy_cases(target):
        with generators_untouched(target, f"for {case.where}"):
            case.act(case.seen(), case.noise())
            case.apply(case.inputs())


def sampled_actions(target: CheckTarget) -> None:
    """Actions outside of a Box are kept as they were sampled, and their log-probabilities are those of the samples."""
    clipped = [case for case in policy_cases(target) if isinstance(case.spec.action_space, Box)]
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
    for case in policy_cases(target):
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
    for case in policy_cases(target):
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
    for case in policy_cases(target):
        rows = ROW_BLOCK  # what the engine pads batches to
        inputs, seen, noise = case.inputs(rows), case.seen(), case.noise()
        taken = case.act(case.seen(rows), case.noise(rows))[:, None]
        one = replace(case, params=select(case.params, [1]))
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
    remembering = [case for case in policy_cases(target) if memory_size(case.policy)]
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
    keeping = [
        case for case in policy_cases(target) if hasattr(case.policy, "absorb") or hasattr(case.policy, "buffers")
    ]
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
    maskable = [c for c in policy_cases(target, masked=True) if not isinstance(c.spec.action_space, Box)]
    if not maskable:
        raise NotApplicable("it supports no action space that can be masked")
    for case in maskable:
        mask, forbidden = _one_forbidden(case.spec.action_space)
        rows = 64
        seen = case.seen(rows, mask)
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
    for case in policy_cases(target):
        with (
            tempfile.TemporaryDirectory() as folder,
            target.errors_fail_check("to be saved and loaded", "See export.bundle."),
        ):
            for name, data in pack(case.component, case.spec, case.policy, case.params, 1).items():
                (Path(folder) / name).write_bytes(data)
            loaded = load_policy(folder, target.catalog)
        obs = case.obs(ROWS)
        seen = ActorInputs(obs[None], None, *_first_memory(case, ROWS))
        one = replace(case, params=select(case.params, [1]))
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
