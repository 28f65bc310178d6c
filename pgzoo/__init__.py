"""pgzoo: a zoo of policy-gradient algorithms in which everything is a plugin.

    import pgzoo
    result = pgzoo.run("reinforce", env="CartPole-v1", seeds=4)

Names are imported when they are first used, so that `import pgzoo` imports nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from pgzoo.analysis.compare import Comparison, compare
    from pgzoo.config import AlgorithmConfig, ComponentConfig, RunConfig
    from pgzoo.errors import PgzooError
    from pgzoo.export.bundle import LoadedPolicy, load_policy
    from pgzoo.markers import hookimpl
    from pgzoo.play.frames import evaluate
    from pgzoo.policies.module import module_policy
    from pgzoo.protocols import UpdateContext
    from pgzoo.runs.result import Result
    from pgzoo.runs.runner import plan, run
    from pgzoo.training.loop import Control, train
    from pgzoo.training.plan import Plan
    from pgzoo.types import Batch, Dynamics, Episodes, Hyper, Inputs, Loss, Output, Steps

_HOMES = {
    "AlgorithmConfig": "pgzoo.config",
    "Batch": "pgzoo.types",
    "Comparison": "pgzoo.analysis.compare",
    "ComponentConfig": "pgzoo.config",
    "Control": "pgzoo.training.loop",
    "Dynamics": "pgzoo.types",
    "Episodes": "pgzoo.types",
    "Hyper": "pgzoo.types",
    "Inputs": "pgzoo.types",
    "LoadedPolicy": "pgzoo.export.bundle",
    "Loss": "pgzoo.types",
    "Output": "pgzoo.types",
    "PgzooError": "pgzoo.errors",
    "Plan": "pgzoo.training.plan",
    "Result": "pgzoo.runs.result",
    "RunConfig": "pgzoo.config",
    "Steps": "pgzoo.types",
    "UpdateContext": "pgzoo.protocols",
    "compare": "pgzoo.analysis.compare",
    "evaluate": "pgzoo.play.frames",
    "hookimpl": "pgzoo.markers",
    "load_policy": "pgzoo.export.bundle",
    "module_policy": "pgzoo.policies.module",
    "plan": "pgzoo.runs.runner",
    "run": "pgzoo.runs.runner",
    "train": "pgzoo.training.loop",
}

__all__ = [
    "AlgorithmConfig",
    "Batch",
    "Comparison",
    "ComponentConfig",
    "Control",
    "Dynamics",
    "Episodes",
    "Hyper",
    "Inputs",
    "LoadedPolicy",
    "Loss",
    "Output",
    "PgzooError",
    "Plan",
    "Result",
    "RunConfig",
    "Steps",
    "UpdateContext",
    "__version__",
    "compare",
    "evaluate",
    "hookimpl",
    "load_policy",
    "module_policy",
    "plan",
    "run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # the one in pyproject.toml

        return version("pgzoo")
    if name not in _HOMES:
        raise AttributeError(f"module 'pgzoo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
