"""The methods that the engine offers to algorithms, such as `ctx.collect` and `ctx.step`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from pgzoo.ops.losses import value_loss, weighted_mean
from pgzoo.ops.optim import flatten, unflatten_candidates
from pgzoo.training.engine import Engine
from pgzoo.training.events import RunEnded, UpdateDone
from pgzoo.training.loop import Control, train
from pgzoo.types import AlgorithmState, Batch, Episodes, Hyper, Loss, Need, Params, Steps, TrainState, Trajectory

MakePlan = Callable[..., Any]


def collected(ctx: Engine) -> tuple[TrainState, Trajectory]:
    state, trajectory = ctx.collect(ctx.state)
    return state, trajectory


# collecting


def test_actions_are_sampled_with_the_given_noise(engine: Any) -> None:
    from pgzoo.types import Inputs

    ctx = engine("ppo", env="Pendulum-v1", seeds=2, num_envs=3, rollout_steps=5)
    noise = ctx.noise("test", ctx.state, (5, 3, 1))
    state, seen = ctx.collect(ctx.state, noise)
    dist = ctx.policy.apply(state.params, Inputs(seen.obs[:, :5])).dist
    torch.testing.assert_close(seen.actions, (dist.mean + dist.log_std.exp() * noise).detach())


def test_noise_of_the_wrong_shape_or_for_whole_episodes_is_refused(engine: Any) -> None:
    ctx = engine("ppo", seeds=2, num_envs=3, rollout_steps=5)
    with pytest.raises(ValueError, match=r"here \[2, 5, 3, 1\]; got \[2, 5, 3, 2\]"):
        ctx.collect(ctx.state, torch.zeros(2, 5, 3, 2))
    ctx = engine("reinforce", seeds=2)
    with pytest.raises(ValueError, match="not for whole episodes"):
        ctx.collect(ctx.state, torch.zeros(2, 5, 3, 1))


# evaluating the policy


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_evaluate_policy_equals_applying_the_policy_step_by_step(engine: Any, critic: str) -> None:
    ctx = engine("ppo", seeds=2, num_envs=3, rollout_steps=7, policy={"hidden": (5,), "critic": critic})
    state, seen = collected(ctx)
    said = ctx.evaluate_policy(state, seen)
    assert said.values.shape == (2, 8, 3) and said.log_probs.shape == (2, 7, 3)
    from pgzoo.types import Inputs

    for t in range(8):
        output = ctx.policy.apply(state.params, Inputs(seen.obs[:, t : t + 1]))
        torch.testing.assert_close(said.values[:, t], output.value[:, 0])
        if t < 7:
            expected = output.dist.log_prob(seen.actions[:, t : t + 1])[:, 0]
            torch.testing.assert_close(said.log_probs[:, t], expected)


def test_next_values_at_episode_ends_are_values_of_the_final_observations(engine: Any) -> None:
    """The observation after the last step of an episode is its true final observation."""
    ctx = engine("a2c", env="probe/Scripted-v0", num_envs=2, rollout_steps=12)
    state, seen = collected(ctx)
    values = ctx.evaluate_policy(state, seen).values
    from pgzoo.types import Inputs

    ends = (seen.terminated | seen.truncated).nonzero()
    assert len(ends) > 3
    for member, t, n in ends.tolist():
        final = seen.obs[member, t + 1, n]
        assert final[1] == seen.timestep[member, t, n] + 1  # a scripted observation ends with its time step
        value = ctx.policy.apply(state.params, Inputs(final[None, None, None])).value
        torch.testing.assert_close(values[member, t + 1, n], value[0, 0, 0])


@pytest.mark.parametrize("minibatches", [1, 4])
def test_the_ratio_is_exactly_one_in_the_first_gradient_step(engine: Any, minibatches: int) -> None:
    ctx = engine("ppo", seeds=3, minibatches=minibatches, num_envs=8, rollout_steps=128)
    state, seen = collected(ctx)
    said = ctx.evaluate_policy(state, seen)
    batch = next(iter(ctx.minibatches(state, seen, ctx.estimate(state, seen, said), said)))
    with torch.no_grad():
        now = ctx.policy.apply(state.params, batch.inputs).dist.log_prob(batch.actions)
    assert torch.equal(now, batch.log_probs)


# estimates


def test_advantages_are_returns_minus_values_if_an_estimator_gives_only_returns(engine: Any) -> None:
    ctx = engine("a2c", estimator="reward-to-go", seeds=2)
    state, seen = collected(ctx)
    said = ctx.evaluate_policy(state, seen)
    targets = ctx.estimate(state, seen, said)
    expected = torch.where(seen.valid, targets.returns - said.values[:, :-1], 0.0)
    assert torch.equal(targets.advantages, expected)


# gradients


def quadratic(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
    return weighted_mean(policy.apply(params, batch.inputs).dist.entropy(), batch.weights)


def test_the_hessian_vector_product_equals_that_of_the_dense_matrix(engine: Any) -> None:
    ctx = engine("a2c", seeds=2, num_envs=2, rollout_steps=8, policy={"hidden": (3,)})
    state, seen = collected(ctx)
    said = ctx.evaluate_policy(state, seen)
    batch = ctx.batch(seen, ctx.estimate(state, seen, said), said)
    product = ctx.hvp(quadratic, state, batch, only="policy.")
    vector = torch.randn(2, flatten(state.params.values()).shape[1], generator=torch.Generator().manual_seed(1))
    found = product(vector)
    names = [name for name in state.params if name.startswith("policy.")]
    for member in range(2):
        sizes = [state.params[name][member].numel() for name in names]

        def of(flat: Tensor, member: int = member, sizes: list[int] = sizes) -> Tensor:
            params = {name: value.clone() for name, value in state.params.items()}
            for name, piece in zip(names, flat.split(sizes), strict=True):
                params[name] = torch.cat(
                    [
                        piece.reshape(1, *params[name].shape[1:]) if s == member else params[name][s : s + 1]
                        for s in (0, 1)
                    ]
                )
            return quadratic(ctx.policy, params, batch, ctx.hyper(state))[member]

        start = torch.cat([state.params[name][member].flatten() for name in names])
        dense = torch.autograd.functional.hessian(of, start)
        own = len(start)
        assert all(name.startswith("critic.") for name in list(state.params)[len(names) :])
        torch.testing.assert_close(found[member, :own], dense @ vector[member, :own], rtol=1e-4, atol=1e-6)
        assert not found[member, own:].any()


def critic_loss(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
    return value_loss(policy.apply(params, batch.inputs).value, batch.returns, batch.weights)


def test_a_step_on_the_critic_alone_leaves_the_policy_unchanged(engine: Any) -> None:
    ctx = engine("a2c", seeds=2)
    state, seen = collected(ctx)
    said = ctx.evaluate_policy(state, seen)
    batch = ctx.batch(seen, ctx.estimate(state, seen, said), said)
    moved = ctx.step(critic_loss, state, batch, only="critic.")
    for name, value in state.params.items():
        assert torch.equal(moved.params[name], value) == name.startswith("policy."), name
    again = ctx.step(critic_loss, moved, batch)
    assert torch.equal(again.params["policy.weight.0"], state.params["policy.weight.0"])  # its optimizer state is 0


# halting, metrics


class Halting:
    """Member 1 halts in the third step of each update; each step reports the number of steps before it."""

    collect, estimator = Steps(8), "reward-to-go"
    defaults: ClassVar[dict[str, Any]] = {"num_envs": 2, "total_steps": 32}

    def init(self, ctx: Engine, rng: np.random.Generator) -> AlgorithmState:
        return AlgorithmState({}, {"halting.steps": torch.zeros(())})

    def update(self, ctx: Engine, state: TrainState, trajectory: Trajectory) -> TrainState:
        batch = ctx.batch(trajectory, ctx.estimate(state, trajectory))
        state = state._replace(buffers={"halting.steps": torch.zeros(2)})
        for _ in range(5):
            state = ctx.step(self.loss, state, batch)
            state = state._replace(buffers={"halting.steps": state.buffers["halting.steps"] + 1})
        return state

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        steps = params["halting.steps"]
        halt = (steps >= 2) & (torch.arange(len(steps)) == 1)
        return Loss(quadratic(policy, params, batch, hyper), {"halting/steps": steps}, halt)


def test_a_member_that_halts_takes_no_further_step_in_this_update(plan: MakePlan, engine: Any) -> None:
    from dataclasses import replace

    events = list(train(replace(plan("windows", seeds=2, num_envs=2, total_steps=32), algorithm=Halting()), Control()))
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    updates = ended.state.updates.tolist()
    assert ended.state.optimizer["step"].tolist() == [5 * updates[0], 2 * updates[1]]
    reports = [event.metrics["halting/steps"].tolist() for event in events if isinstance(event, UpdateDone)]
    assert reports == [[2.0, 0.5]] * updates[0]  # means over the steps that were taken, 0 to 4 and 0 to 1


class HaltingAtOnce(Halting):
    """Halts every member in its first step."""

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        value = quadratic(policy, params, batch, hyper)
        return Loss(value, {}, torch.ones(len(value), dtype=torch.bool))


def test_a_halt_in_a_discarded_state_does_not_prevent_other_steps(plan: MakePlan) -> None:
    ctx = Engine(plan("windows", seeds=2, num_envs=2, total_steps=32))
    state, trajectory = ctx.collect(ctx.state)
    batch = ctx.batch(trajectory, ctx.estimate(state, trajectory))

    halted = ctx.step(HaltingAtOnce().loss, state, batch)
    assert halted.optimizer["step"].tolist() == [0, 0]
    assert ctx.step(quadratic, halted, batch).optimizer["step"].tolist() == [0, 0]
    assert ctx.step(quadratic, state, batch).optimizer["step"].tolist() == [1, 1]
    ctx.close()


def test_halted_members_take_steps_again_in_the_next_update(plan: MakePlan) -> None:
    ctx = Engine(plan("windows", seeds=2, num_envs=2, total_steps=32))
    before = ctx.state
    for steps in (1, 2):
        ctx.begin_update()
        state, trajectory = ctx.collect(ctx.state)
        batch = ctx.batch(trajectory, ctx.estimate(state, trajectory))
        state = ctx.step(quadratic, state, batch)
        ctx.state = ctx.step(HaltingAtOnce().loss, state, batch)
        assert ctx.state.halted is not None and ctx.state.halted.all()
        ctx.state, _ = ctx.end_update(before)
        assert ctx.state.halted is None and ctx.state.optimizer["step"].tolist() == [steps, steps]
    ctx.close()


# an algorithm's own metrics


class Reporting(Halting):
    """Reports its own metrics in its update, and takes no gradient step."""

    def update(self, ctx: Engine, state: TrainState, trajectory: Trajectory) -> TrainState:
        ctx.report({"mine/number": torch.tensor([1.0, 10.0]), "mine/array": np.array([5.0, 6.0])})
        ctx.report({"mine/number": torch.tensor([3.0, 30.0])}, members=torch.tensor([True, False]))
        return state


def test_an_update_can_report_its_own_metrics(plan: MakePlan) -> None:
    from dataclasses import replace

    events = train(replace(plan("windows", seeds=2, num_envs=2, total_steps=32), algorithm=Reporting()), Control())
    metrics = [event.metrics for event in events if isinstance(event, UpdateDone)]
    assert metrics
    for each in metrics:
        assert {name: value.tolist() for name, value in each.items()} == {
            "mine/number": [2.0, 10.0],  # means over the calls that include the member
            "mine/array": [5.0, 6.0],
        }


def test_a_reported_metric_must_have_one_number_per_member(plan: MakePlan) -> None:
    ctx = Engine(plan("windows", seeds=2, num_envs=2, total_steps=32))
    with pytest.raises(ValueError, match=r"metric mine/number is one number per seed, shape \[2\]; got \[3\]"):
        ctx.report({"mine/number": torch.zeros(3)})


# playing episodes with candidate parameters


def test_play_uses_a_different_candidate_in_each_environment(engine: Any) -> None:
    """Three arms pay 0.2, 1.0 and 0.5; each candidate's bias chooses one."""
    ctx = engine("ars", env="probe/Bandit-v0", seeds=2, num_envs=3, policy={"name": "mlp", "hidden": ()})
    size = flatten(ctx.state.params.values()).shape[1]
    vectors = torch.zeros(2, 3, size)
    arms = [[0, 1, 2], [1, 1, 0]]
    for member, chosen in enumerate(arms):
        for n, arm in enumerate(chosen):
            vectors[member, n, 3 + arm] = 1.0
    state, returns = ctx.play(ctx.state, unflatten_candidates(vectors, ctx.state.params))
    assert returns.tolist() == [[0.2, 1.0, 0.5], [1.0, 1.0, 0.2]]
    assert state.env_steps.tolist() == state.episodes.tolist() == [3, 3]


def test_played_episodes_depend_on_the_index_but_not_on_other_members(engine: Any) -> None:
    """With these parameters, the length of a CartPole episode depends on its initial state."""

    def played(*indices: tuple[int, ...], **settings: Any) -> list[list[list[float]]]:
        ctx = engine("ars", env="CartPole-v1", num_envs=8, policy={"name": "mlp", "hidden": ()}, **settings)
        members, size = flatten(ctx.state.params.values()).shape
        vector = torch.linspace(-1, 1, size).expand(members, 8, size)
        candidates = unflatten_candidates(vector, ctx.state.params)
        return [ctx.play(ctx.state, candidates, *index)[1].tolist() for index in indices]

    first, again, zero, one = played((), (), (0,), (1,), seeds=2)
    assert first == again
    assert len({str(returns) for returns in (first, zero, one)}) == 3
    [alone] = played((1,), seeds=1)
    assert alone[0] == one[0]


def test_inactive_members_do_not_play(engine: Any) -> None:
    ctx = engine("ars", env="probe/Bandit-v0", seeds=2, num_envs=2, policy={"name": "mlp", "hidden": ()})
    size = flatten(ctx.state.params.values()).shape[1]
    state = ctx.state._replace(active=np.array([False, True]))
    state, returns = ctx.play(state, unflatten_candidates(torch.zeros(2, 2, size), state.params))
    assert np.isnan(returns[0]).all() and np.isfinite(returns[1]).all()
    assert state.env_steps.tolist() == [0, 2]


def test_placing_a_non_finite_vector_fails_its_member_and_names_the_parameter(engine: Any) -> None:
    ctx = engine("ars", env="probe/Bandit-v0", seeds=2, num_envs=2, policy={"name": "mlp", "hidden": ()})
    vector = flatten(ctx.state.params.values()) + 1.0
    vector[1, 0] = torch.nan
    moved = ctx.place(ctx.state, vector)
    assert ctx.failures == {1: "parameter policy.weight.0: not finite"}
    assert torch.equal(moved.params["policy.bias.0"][1], ctx.state.params["policy.bias.0"][1])
    assert torch.equal(moved.params["policy.bias.0"][0], ctx.state.params["policy.bias.0"][0] + 1.0)


# the loop


class Stopping:
    """A loop that ends before its members do."""

    collect, estimator = Episodes(), "reward-to-go"
    defaults: ClassVar[dict[str, Any]] = {}
    needs: ClassVar[frozenset[Need]] = frozenset()

    def loop(self, ctx: Engine) -> Any:
        ctx.state, _ = ctx.collect(ctx.state)
        yield


def test_a_loop_that_ends_before_its_members_fails_the_run(plan: MakePlan) -> None:
    from dataclasses import replace

    from pgzoo.errors import RunFailed

    with pytest.raises(RunFailed, match=r'The loop of algorithm "reinforce" ended before its members did'):
        list(train(replace(plan(), algorithm=Stopping()), Control()))


# learning rates of networks, noise, and initial parameters


def test_networks_may_have_their_own_learning_rates(engine: Any) -> None:
    """With SGD, a step is proportional to the learning rate, which differs between networks and members."""
    ctx = engine("a2c", seeds=2, optimizer="sgd", learning_rate=0.5, max_grad_norm=None)
    state, seen = collected(ctx)
    said = ctx.evaluate_policy(state, seen)
    batch = ctx.batch(seen, ctx.estimate(state, seen, said), said)
    plain = ctx.step(ctx.algorithm.loss, state, batch)
    rates = {"critic.": torch.tensor([0.25, 0.0])}
    own = ctx.step(ctx.algorithm.loss, state, batch, learning_rates=rates)
    for name, start in state.params.items():
        step, expected = own.params[name] - start, plain.params[name] - start
        if name.startswith("critic."):
            expected = expected * torch.tensor([0.5, 0.0]).reshape(2, *[1] * (start.ndim - 1))
        assert torch.allclose(step, expected, atol=1e-6), name


def test_noise_of_a_member_does_not_depend_on_the_others(engine: Any) -> None:
    among, alone = engine("a2c", seeds=[3, 5]), engine("a2c", seeds=[5])
    for kind in ("normal", "uniform", "logistic"):
        noise = among.noise("mine", among.state, (4, 3), 2, kind=kind)
        assert noise.shape == (2, 4, 3) and noise.dtype == torch.float32
        assert torch.equal(noise[1:], alone.noise("mine", alone.state, (4, 3), 2, kind=kind))
        assert not torch.equal(noise[0], noise[1])
    rng = among.rng("mine", 1, among.state)
    assert torch.equal(among.noise("mine", among.state, (5,))[1], torch.from_numpy(rng.standard_normal(5, np.float32)))


def test_init_may_take_the_initial_parameters_of_the_policy(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pgzoo.algorithms.a2c import A2C

    def init(self: Any, ctx: Any, rng: Any, params: Any) -> AlgorithmState:
        return AlgorithmState({}, {"copy." + name: leaf for name, leaf in params.items()})

    monkeypatch.setattr(A2C, "init", init, raising=False)
    state = engine("a2c", seeds=2).state
    assert all(torch.equal(state.buffers["copy." + name], leaf) for name, leaf in state.params.items())


@pytest.mark.parametrize("algorithm", ["a2c", "reinforce"])
def test_each_collection_of_an_update_has_its_own_noise_and_episodes(engine: Any, algorithm: str) -> None:
    among, alone = engine(algorithm, seeds=[3, 5], num_envs=2), engine(algorithm, seeds=[5], num_envs=2)

    def collections(ctx: Engine) -> list[Trajectory]:
        ctx.begin_update()
        state, first = ctx.collect(ctx.state)
        _, second = ctx.collect(state)
        return [first, second]

    (first, second), (own_first, own_second) = collections(among), collections(alone)
    steps = min(first.actions.shape[1], second.actions.shape[1])
    assert not torch.equal(first.actions[1, :steps], second.actions[1, :steps])
    assert not torch.equal(first.obs[1, 0], second.obs[1, 0])
    for mixed, own in ((first, own_first), (second, own_second)):
        assert torch.equal(mixed.actions[1:, : own.actions.shape[1]], own.actions)
