"""Hints for errors of an algorithm that uses a field which a batch or an output lacks.

They are found after the error, from its traceback, so that losses cost nothing more and can be traced and vectorized.
"""

from __future__ import annotations

import traceback

from pgzoo.training.plan import PolicyView
from pgzoo.types import Batch, Output, PolicyEvaluation

__all__ = ["field_hint"]

EVALUATED = "and pass `evaluated` to ctx.batch or ctx.minibatches"
NEEDS = {
    (Batch, "values"): f'declare needs = {{"value"}} {EVALUATED}',
    (Batch, "log_probs"): f'declare needs = {{"log_probs"}} {EVALUATED}',
    (Batch, "old"): f'declare needs = {{"old"}} {EVALUATED}',
    (Batch, "info"): 'declare a need such as "info:cost"',
    (Batch, "extra"): "pass extra={...} to ctx.minibatches",
    (Output, "value"): 'declare needs = {"value"}',
    (Output, "aux_value"): 'declare needs = {"aux_value"}',
    (PolicyEvaluation, "values"): 'declare needs = {"value"}, or pass the values of the algorithm\'s own critic',
}
"""What an algorithm does to get a field that is None otherwise."""


def field_hint(error: Exception) -> str:
    """Return a sentence on the missing field that caused an error, with a leading ". ", or an empty string."""
    if isinstance(error, AttributeError) and (fields := getattr(error.obj, "_fields", ())):
        return f". {type(error.obj).__name__} has the fields: {', '.join(fields)}"
    if isinstance(error, AttributeError | TypeError) and "NoneType" in str(error):
        for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
            if frame.f_globals.get("__name__", "").startswith("pgzoo.training."):
                continue  # handles batches of any kind
            for name, value in frame.f_locals.items():
                for (kind, field), remedy in NEEDS.items():
                    if type(value) is kind and getattr(value, field) is None and field in frame.f_code.co_names:
                        return f". {name}.{field} is None: {remedy}"
            policies = {name: policy for name, policy in frame.f_locals.items() if isinstance(policy, PolicyView)}
            for name, policy in policies.items():  # policy.apply(...).value, in no variable
                for field in ("value", "aux_value"):
                    if field not in policy.needs and field in frame.f_code.co_names:
                        return f". The {field} that {name}.apply returns is None: {NEEDS[Output, field]}"
    return ""
