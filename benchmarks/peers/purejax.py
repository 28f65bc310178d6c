"""PPO as one compiled JAX program, in the manner of PureJaxRL: the environment is in it, and seeds by vmap.

Written here. CartPole-v1 is gymnasium's, equation for equation. Like PureJaxRL it makes no difference between
terminated and truncated. What XLA compiled is kept in the folder JAX_COMPILATION_CACHE_DIR, and found there by the next
process.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import work

Array, Params = jax.Array, dict[str, Any]
GRAVITY, POLE_MASS, TOTAL_MASS, HALF_LENGTH, FORCE, TAU = 9.8, 0.1, 1.1, 0.5, 10.0, 0.02
MAX_ANGLE, MAX_POSITION, MAX_STEPS = 12 * 2 * np.pi / 360, 2.4, 500


class Env(NamedTuple):
    """The state of a CartPole: position, velocity, angle, angular velocity; and the step it is at."""

    physics: Array
    step: Array


def reset(key: Array) -> Env:
    return Env(jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05), jnp.int32(0))


def step(key: Array, env: Env, action: Array) -> tuple[Env, Array]:
    """Return the next state, a fresh one after an end, and whether it ended; the reward is always 1."""
    x, x_dot, theta, theta_dot = env.physics
    force, cos, sin = jnp.where(action == 1, FORCE, -FORCE), jnp.cos(theta), jnp.sin(theta)
    pull = (force + POLE_MASS * HALF_LENGTH * theta_dot**2 * sin) / TOTAL_MASS
    theta_acc = (GRAVITY * sin - cos * pull) / (HALF_LENGTH * (4 / 3 - POLE_MASS * cos**2 / TOTAL_MASS))
    x_acc = pull - POLE_MASS * HALF_LENGTH * theta_acc * cos / TOTAL_MASS
    moved = Env(
        jnp.stack([x + TAU * x_dot, x_dot + TAU * x_acc, theta + TAU * theta_dot, theta_dot + TAU * theta_acc]),
        env.step + 1,
    )
    fallen = (jnp.abs(moved.physics[0]) > MAX_POSITION) | (jnp.abs(moved.physics[2]) > MAX_ANGLE)
    done = fallen | (moved.step >= MAX_STEPS)
    return jax.tree.map(lambda new, old: jnp.where(done, new, old), reset(key), moved), done


def network(key: Array, outputs: int, gain: float) -> Params:
    sizes, gains = (4, work.HIDDEN, work.HIDDEN, outputs), (2**0.5, 2**0.5, gain)
    make, keys = jax.nn.initializers.orthogonal, jax.random.split(key, 3)
    return {
        "weights": [make(g)(k, shape) for g, k, shape in zip(gains, keys, pairwise(sizes), strict=True)],
        "biases": [jnp.zeros(size) for size in sizes[1:]],
    }


def apply(params: Params, x: Array) -> Array:
    *hidden, last = zip(params["weights"], params["biases"], strict=True)
    for weight, bias in hidden:
        x = jnp.tanh(x @ weight + bias)
    return x @ last[0] + last[1]


class Rows(NamedTuple):
    """What was seen, done and thought at every step; `returned` is the return of an episode that ended there, or 0."""

    obs: Array
    action: Array
    log_prob: Array
    value: Array
    done: Array
    returned: Array


def log_prob_of(logits: Array, action: Array) -> Array:
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], -1)[..., 0]


def loss(params: Params, rows: Rows, advantage: Array, target: Array) -> Array:
    logits, value = apply(params["actor"], rows.obs), apply(params["critic"], rows.obs)[..., 0]
    ratio = jnp.exp(log_prob_of(logits, rows.action) - rows.log_prob)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    clipped = jnp.clip(ratio, 1 - work.CLIP_RANGE, 1 + work.CLIP_RANGE)
    policy_loss = -jnp.minimum(ratio * advantage, clipped * advantage).mean()
    moved = rows.value + jnp.clip(value - rows.value, -work.CLIP_RANGE, work.CLIP_RANGE)
    value_loss = 0.5 * jnp.maximum((value - target) ** 2, (moved - target) ** 2).mean()
    entropy = -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(-1).mean()
    return policy_loss + work.VALUE * value_loss - work.ENTROPY * entropy


def advantages_of(rows: Rows, last_value: Array) -> Array:
    """Generalized advantage estimates [T, N]."""

    def back(carry: tuple[Array, Array], row: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        advantage, next_value = carry
        value, goes_on = row
        delta = 1 + work.GAMMA * next_value * goes_on - value
        advantage = delta + work.GAMMA * work.LAMBDA * goes_on * advantage
        return (advantage, value), advantage

    start = (jnp.zeros_like(last_value), last_value)
    return jax.lax.scan(back, start, (rows.value, 1.0 - rows.done), reverse=True, unroll=16)[1]


def train(key: Array, updates: int) -> Array:
    """Train one seed from scratch; return what every ended episode returned, [updates, T, N], 0 elsewhere."""
    steps = updates * work.EPOCHS * (work.ROLLOUT_STEPS * work.NUM_ENVS // work.MINIBATCH)
    optimizer = optax.chain(
        optax.clip_by_global_norm(work.MAX_GRAD_NORM),
        optax.adam(optax.linear_schedule(work.LEARNING_RATE, 0.0, steps), eps=1e-5),
    )

    def act(carry: tuple[Params, Env, Array, Array], key: Array) -> tuple[tuple[Params, Env, Array, Array], Rows]:
        params, env, so_far, _ = carry
        obs, (act_key, env_key) = env.physics, jax.random.split(key)
        logits = apply(params["actor"], obs)
        action = jax.random.categorical(act_key, logits)
        value = apply(params["critic"], obs)[..., 0]
        env, done = jax.vmap(step)(jax.random.split(env_key, work.NUM_ENVS), env, action)
        so_far = so_far + 1
        rows = Rows(obs, action, log_prob_of(logits, action), value, done, so_far * done)
        return (params, env, so_far * ~done, done), rows

    def minibatch(carry: tuple[Params, Any], part: tuple[Rows, Array, Array]) -> tuple[tuple[Params, Any], None]:
        params, state = carry
        change, state = optimizer.update(jax.grad(loss)(params, *part), state)
        return (optax.apply_updates(params, change), state), None

    def epoch(batch: Any, carry: tuple[Params, Any], key: Array) -> tuple[tuple[Params, Any], None]:
        order = jax.random.permutation(key, work.ROLLOUT_STEPS * work.NUM_ENVS)
        parts = jax.tree.map(lambda x: x[order].reshape(-1, work.MINIBATCH, *x.shape[1:]), batch)
        return jax.lax.scan(minibatch, carry, parts)

    def update(carry: Any, key: Array) -> tuple[Any, Array]:
        params, state, env, so_far = carry
        act_key, learn_key = jax.random.split(key)
        (_, env, so_far, _), rows = jax.lax.scan(
            act, (params, env, so_far, jnp.zeros(work.NUM_ENVS, bool)), jax.random.split(act_key, work.ROLLOUT_STEPS)
        )
        advantages = advantages_of(rows, apply(params["critic"], env.physics)[..., 0])
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (rows, advantages, advantages + rows.value))
        (params, state), _ = jax.lax.scan(
            partial(epoch, batch), (params, state), jax.random.split(learn_key, work.EPOCHS)
        )
        return (params, state, env, so_far), rows.returned

    actor_key, critic_key, env_key, key = jax.random.split(key, 4)
    params = {"actor": network(actor_key, 2, 0.01), "critic": network(critic_key, 1, 1.0)}
    env = jax.vmap(reset)(jax.random.split(env_key, work.NUM_ENVS))
    start = (params, optimizer.init(params), env, jnp.zeros(work.NUM_ENVS))
    return jax.lax.scan(update, start, jax.random.split(key, updates))[1]


def watched(returned: np.ndarray[Any, Any], stop_at: float | None) -> work.Returns:
    """What a seed's episodes came to, in the order in which they ended; the program itself doesn't end early."""
    returns = work.Returns(stop_at)
    for row in returned.reshape(-1, work.NUM_ENVS):
        returns.env_steps += work.NUM_ENVS
        for value in row[row > 0]:
            with suppress(work.Solved):
                returns.add(value)
                continue
            return returns
    return returns


def main() -> None:
    options = work.parse(__doc__)
    if options.env != "CartPole-v1":
        sys.exit("purejax.py has CartPole-v1 alone")
    if cache := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    rows = work.ROLLOUT_STEPS * work.NUM_ENVS
    updates = -(-options.total_steps // rows)
    keys = jax.vmap(jax.random.key)(jnp.arange(options.seed, options.seed + options.seeds))

    started = time.perf_counter()
    program = jax.jit(jax.vmap(partial(train, updates=updates))).lower(keys).compile()
    compiled = time.perf_counter()
    returned = np.asarray(jax.block_until_ready(program(keys)))
    ended = time.perf_counter()

    seeds = [watched(seed, options.stop_at) for seed in returned]
    taken = sum(seed.env_steps for seed in seeds) / returned.size  # of the whole; less where `stop_at` was reached
    work.report(seeds, (ended - compiled) * taken, ("jax", "jaxlib", "optax"), compile_seconds=compiled - started)


if __name__ == "__main__":
    main()
