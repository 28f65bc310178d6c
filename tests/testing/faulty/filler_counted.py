"""The loss is a plain mean, which counts steps that only reset, and padding: `padding`."""

import pgzoo


class FillerCounted:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * batch.advantages
        return 0.5 * (output.value - batch.returns).square().mean((-2, -1)) - score.mean((-2, -1))


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("filler-counted", FillerCounted)
