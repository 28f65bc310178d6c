"""The loss is reduced over seeds too, to a single number: `loss-shape`."""

import pgzoo


class WrongShape:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * batch.advantages
        return ((0.5 * (output.value - batch.returns).square() - score) * batch.weights).mean()


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("wrong-shape", WrongShape)
