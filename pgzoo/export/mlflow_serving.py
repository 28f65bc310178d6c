"""The model class that an MLflow server runs. Only the stub in a served model imports it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pgzoo.export.bundle import LoadedPolicy, load_policy

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about missing type hints but doesn't support arrays
    from mlflow.pyfunc.model import PythonModel

    class PolicyModel(PythonModel):
        """Answers observations with the modes of a policy; keeps nothing from one request to the next."""

        policy: LoadedPolicy

        def load_context(self, context: Any) -> None:
            """Load the bundle. Raises ConfigError as `load_policy` does."""
            self.policy = load_policy(Path(context.artifacts["policy"]))

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # mlflow rejects hints
            """`[N, *O]`, histories `[N, T, *O]` for a policy with memory -> actions `[N, *A]`; see `mlflow_model`."""
            mask = None
            if isinstance(model_input, dict):
                mask, model_input = model_input["action_mask"], model_input["obs"]
            obs = np.asarray(model_input)
            if not self.policy.memory:
                return self.policy.step(obs, action_mask=mask)[0]
            memory = actions = None
            for t in range(obs.shape[1]):
                actions, memory = self.policy.step(obs[:, t], memory, action_mask=mask)
            return actions
