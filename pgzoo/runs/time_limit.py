"""The messages about environments without a time limit, whose episodes may never end."""

from __future__ import annotations

import logging

from pgzoo.config import RunConfig
from pgzoo.play.evaluation import cut_episodes
from pgzoo.training.events import Evaluated
from pgzoo.training.plan import Plan
from pgzoo.training.rollout import EPISODE_LIMIT
from pgzoo.types import Episodes

__all__ = ["has_time_limit", "note_on_evaluation", "warn_of_cut_episodes", "warn_of_endless_episodes"]

_log = logging.getLogger("pgzoo")


def has_time_limit(plan: Plan) -> bool:
    """Return False if nothing is known to end an episode after some number of steps but the environment itself."""
    c = plan.config
    if c.max_episode_steps is not None or c.backend not in ("sync", "async"):
        return True  # other backends have time limits of their own
    return plan.spec.time_limited


def warn_of_endless_episodes(plan: Plan) -> None:
    """Warn where whole episodes are collected for training, and nothing limits how long they are."""
    c = plan.config
    if isinstance(plan.collection, Episodes) and not has_time_limit(plan):
        _log.warning(
            '%s declares no time limit, and algorithm "%s" collects whole episodes. If one has not ended after %s '
            "steps, the run fails. Limit them with --max-episode-steps.",
            *(c.env, c.algorithm, f"{EPISODE_LIMIT:,}"),
        )


def note_on_evaluation(plan: Plan) -> str:
    """Return a note on how the evaluation ends in an environment without a time limit; "" for all others."""
    if has_time_limit(plan):
        return ""
    limit = f"evaluation episodes are cut after {plan.config.eval_max_steps:,} steps (--eval-max-steps)"
    return f"{plan.config.env} declares no time limit: {limit}."


def warn_of_cut_episodes(event: Evaluated, config: RunConfig) -> bool:
    """Warn if evaluation episodes were cut; return whether that is so."""
    if event.cut is None:
        return False
    played = cut_episodes(int(event.cut.sum()), sum(map(len, event.returns)), config.eval_max_steps)
    how = "sampled actions" if event.mode == "sampled" else "greedy actions"
    _log.warning(
        "%s: %s (%s). Their returns count up to there. To play longer: --eval-max-steps", config.env, played, how
    )
    return True
