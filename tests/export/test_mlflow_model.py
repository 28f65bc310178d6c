"""A policy as an MLflow model: its files, and its predictions when MLflow loads it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from packaging.requirements import Requirement

from pgzoo.errors import ConfigError, StoreError, UsageError
from pgzoo.export import mlflow_model
from pgzoo.export.bundle import LoadedPolicy, load_policy
from pgzoo.export.formats import export
from pgzoo.export.mlflow_model import STUB

Make = Callable[..., LoadedPolicy]

POINT = Box(-1.0, 1.0, (3,))
CASES: dict[str, tuple[gym.Space[Any], gym.Space[Any], dict[str, Any]]] = {
    "flat": (POINT, Discrete(3), {}),
    "discrete": (Discrete(4, start=-2), Box(-2.0, 2.0, (2,)), {"policy": {"name": "tabular"}}),
    "flattened": (Dict({"a": Discrete(3), "b": Box(-1.0, 1.0, (2,))}), MultiDiscrete([2, 3], start=[1, -1]), {}),
    "bits": (Box(0, 255, (2, 2), np.uint8), MultiBinary(2), {}),
    "normalized": (Box(-9.0, 9.0, (2,), np.float64), Box(-1.0, 1.0, (2, 2)), {"normalize_obs": True}),
    "masked": (POINT, MultiDiscrete([2, 3]), {"masked": True}),
    "memory": (POINT, Discrete(3, start=5), {"policy": {"name": "gru", "memory": 7}}),
    "memory, masked": (POINT, Discrete(3), {"policy": {"name": "lstm", "memory": 3}, "masked": True}),
}
LOAD = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
import mlflow.pyfunc
from mlflow.models import Model
answers = {}
for name, (folder, request) in json.load(open(sys.argv[1])).items():
    model = mlflow.pyfunc.load_model(folder)
    inputs = request if isinstance(request, dict) else np.array(request)
    types = {t.name: t.type for t in model.metadata.signature.inputs.inputs}
    if isinstance(request, dict):
        inputs = {key: np.array(value, types[key]) for key, value in request.items()}
    else:
        inputs = np.array(request, types[None])
    example = Model.load(folder).load_input_example(folder)
    out = model.predict(inputs)
    answers[name] = [out.tolist(), str(out.dtype), len(model.predict(example))]
print(json.dumps(answers))
"""


def known(policy: LoadedPolicy, rng: np.random.Generator) -> tuple[Any, Any]:
    """Return a request, and the greedy actions that the policy itself takes for it, step by step."""
    space, count, steps = policy.spec.observation_space, 4, 5
    space.seed(1)
    views = np.stack([[space.sample() for _ in range(steps)] for _ in range(count)])
    mask = None
    if policy.spec.masked:
        choices = sum(getattr(policy.spec.action_space, "nvec", [3]))
        mask = np.ones((count, choices), np.bool_)
        mask[:, 1] = rng.random(count) < 0.5
    if policy.memory:
        memory = None
        for t in range(steps):
            actions, memory = policy.step(views[:, t], memory, action_mask=mask)
    else:
        views = views[:, 0]
        actions, _ = policy.step(views, action_mask=mask)
    request = views.tolist() if mask is None else {"obs": views.tolist(), "action_mask": mask.tolist()}
    return request, actions


def test_mlflow_predicts_the_greedy_actions_of_every_kind_of_policy(make: Make, tmp_path: Path) -> None:
    asked, answers = {}, {}
    for name, (observation, action, options) in CASES.items():
        policy = make(observation, action, **options)
        folder = export(policy, tmp_path / name, "mlflow")
        request, answers[name] = known(policy, np.random.default_rng(2))
        asked[name] = (str(folder), request)
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    command = [sys.executable, "-c", LOAD, str(tmp_path / "asked.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name, actions in answers.items():
        given, dtype, examples = found[name]
        assert np.array_equal(np.array(given, dtype), actions), name
        assert dtype == str(actions.dtype) and examples == 2, name


def test_a_served_policy_refuses_masks_that_allow_no_action_or_have_another_shape(make: Make) -> None:
    with warnings.catch_warnings(record=True):  # MLflow's warning about type hints passes every filter
        from pgzoo.export.mlflow_serving import PolicyModel

    for options in ({}, {"policy": {"name": "gru", "memory": 3}}):
        model = PolicyModel()
        model.policy = make(POINT, Discrete(3), masked=True, **options)
        obs = np.zeros((2, 4, 3) if options else (2, 3), np.float32)
        answer = model.predict(None, {"obs": obs, "action_mask": np.array([[0, 1, 0], [0, 0, 1]], np.bool_)})
        assert answer.tolist() == [1, 2]
        for mask, said in ((np.zeros((2, 3), np.bool_), "allows no action"), (np.ones((2, 2)), "3 entries")):
            with pytest.raises(ValueError, match=said):
                model.predict(None, {"obs": obs, "action_mask": mask})


def test_a_model_has_fixed_code_with_two_imports_and_no_local_paths(make: Make, tmp_path: Path) -> None:
    folder = export(make(POINT, Discrete(2)), tmp_path / "model", "mlflow")
    assert (folder / "model.py").read_text() == STUB
    body = [node for node in ast.parse(STUB).body if not isinstance(node, ast.Expr)]
    assert [ast.unparse(node) for node in body] == [
        "from mlflow.models import set_model",
        "from pgzoo.export.mlflow_serving import PolicyModel",
    ]
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "MLmodel",
        "artifacts/policy/policy.json",
        "artifacts/policy/policy.safetensors",
        "input_example.json",
        "model.py",
        "python_env.yaml",
        "requirements.txt",
        "serving_input_example.json",
    }
    text = (folder / "MLmodel").read_text()
    assert yaml.safe_load(text)["flavors"]["python_function"]["model_code_path"] == "model.py"
    assert str(tmp_path) not in text  # no path of this machine


def test_writing_a_model_imports_neither_torch_nor_the_serving_code(make: Make, tmp_path: Path) -> None:
    bundle = make(POINT, Discrete(2)).save(tmp_path / "bundle")
    code = (
        "import sys\nfrom pathlib import Path\nfrom pgzoo.export.mlflow_model import write_model\n"
        f"write_model(Path({str(bundle)!r}), Path({str(tmp_path / 'model')!r}))\n"
        "assert not {'torch', 'pgzoo.export.mlflow_serving', 'pgzoo.export.bundle'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_export_in_an_unknown_format_or_to_an_invalid_folder_is_refused(make: Make, tmp_path: Path) -> None:
    policy: Any = make(POINT, Discrete(2))
    with pytest.raises(ConfigError, match=r'No format "pickle"\. There are: safetensors, onnx, mlflow'):
        export(policy, tmp_path, "pickle")  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    for format in ("safetensors", "mlflow"):
        with pytest.raises(StoreError, match="Can't export to"):
            export(policy, tmp_path / "file" / "below", format)  # type: ignore[arg-type]


def test_exports_of_two_policies_in_different_formats_are_not_mixed(make: Make, tmp_path: Path) -> None:
    one, other, to = make(POINT, Discrete(2)), make(POINT, Discrete(3)), tmp_path / "to"
    export(one, to)
    assert export(one, to, "mlflow") == export(one, to)  # the same policy in two formats
    for format in ("safetensors", "mlflow", "onnx"):
        with pytest.raises(UsageError, match=r"to has .*, which may be of another policy. Export to another folder"):
            export(other, to, format)  # type: ignore[arg-type]
    export(one, tmp_path / "single")
    assert load_policy(export(other, tmp_path / "single")).spec.action_space == Discrete(3)
    (tmp_path / "graph").mkdir()
    (tmp_path / "graph" / "policy.onnx").touch()
    with pytest.raises(UsageError, match=r"graph has policy\.onnx, which may be of another policy"):
        export(one, tmp_path / "graph")


@pytest.mark.parametrize("source", ["", "file:///home/me/pgzoo"])
def test_pgzoo_is_required_only_if_its_version_is_from_an_index(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(mlflow_model, "source_of", lambda distribution: source)
    folder = export(make(POINT, Discrete(2)), tmp_path / "model", "mlflow")
    lines = (folder / "requirements.txt").read_text().splitlines()
    required = [Requirement(line) for line in lines if not line.startswith("#")]
    assert [one.name for one in required] == (["mlflow"] if source else ["pgzoo", "mlflow"])
    assert any("pgzoo export RUN_ID --format mlflow" in line for line in lines) == bool(source)
