"""A policy as a folder that MLflow serves: the bundle, a signature, an example, and a stub that imports pgzoo.

Nothing of it is executed here, and no policy is built: signature and example come from the bundle's description. So it
imports neither torch nor the policy's plugin.
"""

from __future__ import annotations

import json
import platform
import shutil
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from pgzoo.envs.checks import mask_size
from pgzoo.export import spaces

__all__ = ["STUB", "source_of_pgzoo", "write_model"]

STUB = '''"""Written by pgzoo, the same for every policy: the policy is in the folder beside it, as data."""

from mlflow.models import set_model

from pgzoo.export.mlflow_serving import PolicyModel

set_model(PolicyModel())
'''
CODE, BUNDLE, EXAMPLE, SERVED_EXAMPLE = "model.py", "policy", "input_example.json", "serving_input_example.json"


def write_model(bundle: Path, folder: Path, *, model_id: str | None = None, run_id: str | None = None) -> Path:
    """Write the model of the policy in `bundle` into `folder`, which is made, and return it.

    It takes observations `[N, *O]` as the policy sees them (flattened) and answers with its modes, as the environment
    takes them. A policy with memory takes histories `[N, T, *O]` and answers with the action after the last. Where
    actions can be forbidden it takes {"obs": ..., "action_mask": `[N, K]`}. `model_id` and `run_id` are MLflow's.

    Raises:
        OSError: it can't be written.
        ValueError, KeyError, TypeError: the bundle's description is damaged.
    """
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    said = json.loads((bundle / "policy.json").read_text(encoding="utf-8"))
    shown, acts = spaces.from_json(said["observation_space"]), spaces.from_json(said["action_space"])
    seen = shown if isinstance(shown, gym.spaces.Box | gym.spaces.Discrete) else gym.spaces.flatten_space(shown)
    seen.seed(0)
    steps = (-1,) if said.get("memory") else ()
    example = np.asarray([seen.sample() for _ in range(2)]).reshape(2, *[1] * len(steps), *(seen.shape or ()))
    inputs: list[Any] = [
        TensorSpec(example.dtype, (-1, *steps, *(seen.shape or ())), "obs" if said.get("masked") else None)
    ]
    fed: Any = example.tolist()
    if said.get("masked"):
        choices = mask_size(acts)
        inputs.append(TensorSpec(np.dtype(np.bool_), (-1, choices), "action_mask"))
        fed = {"obs": fed, "action_mask": np.ones((2, choices), np.bool_).tolist()}
    outputs: list[Any] = [TensorSpec(np.dtype(acts.dtype), (-1, *(acts.shape or ())))]
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "artifacts" / BUNDLE
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("policy.json", "policy.safetensors"):
        shutil.copyfile(bundle / name, kept / name)
    texts = {
        CODE: STUB,
        EXAMPLE: json.dumps(fed),
        SERVED_EXAMPLE: json.dumps({"inputs": fed}),
        "requirements.txt": f"{_requirement()}\nmlflow=={version('mlflow')}\n",
        "python_env.yaml": f"python: {platform.python_version()}\ndependencies:\n- -r requirements.txt\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    model = Model(
        run_id=run_id,
        model_id=model_id,
        signature=ModelSignature(Schema(inputs), Schema(outputs)),
        saved_input_example_info={
            "artifact_path": EXAMPLE,
            "type": "ndarray",
            "serving_input_path": SERVED_EXAMPLE,
        },
    )
    model.add_flavor(
        "python_function",
        loader_module="mlflow.pyfunc.model",
        model_code_path=CODE,
        artifacts={BUNDLE: {"path": f"artifacts/{BUNDLE}", "uri": BUNDLE}},
        env={"virtualenv": "python_env.yaml"},
        python_version=platform.python_version(),
        streamable=False,
    )
    model.save(str(folder / "MLmodel"))
    return folder


def source_of_pgzoo() -> str:
    """Return where pgzoo was installed from, such as a folder or a repository; "" for a package index."""
    text = distribution("pgzoo").read_text("direct_url.json")
    return str(json.loads(text)["url"]) if text else ""


def _requirement() -> str:
    """Return the line on pgzoo in a model's requirements: a version can be pinned only if an index has it."""
    if not source_of_pgzoo():
        return f"pgzoo=={version('pgzoo')}"
    return (
        f"# pgzoo {version('pgzoo')} was not installed from a package index, so it is not required here.\n"
        "# Install the same pgzoo before serving with --env-manager local, or replace these lines by the path of its\n"
        "# wheel (made by: pip wheel --no-deps SOURCE)."
    )
