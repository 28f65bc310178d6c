"""The diagnostic replaces the loss of the algorithm, to measure its own: `changes-nothing`."""

import pgzoo
from pgzoo.ops.losses import weighted_mean


class PolicyGradient:
    """The norm of the gradient of the policy's loss alone."""

    def measure(self, ctx, state, trajectory):
        ctx.algorithm.loss = self.loss
        targets = ctx.estimate(state, trajectory, ctx.evaluate_policy(state, trajectory))
        return ctx.gradient(ctx.algorithm.loss, state, ctx.batch(trajectory, targets))[1].norm(dim=1)

    def loss(self, policy, params, batch, hyper):
        log_probs = policy.apply(params, batch.inputs).dist.log_prob(batch.actions)
        return -weighted_mean(log_probs * batch.advantages, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.diagnostic("policy-gradient", PolicyGradient)
