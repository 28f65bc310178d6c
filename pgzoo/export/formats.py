"""Export a policy: as the bundle that pgzoo loads, an ONNX graph, or a model that MLflow serves."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from pgzoo.errors import ConfigError, StoreError
from pgzoo.export.bundle import LoadedPolicy

__all__ = ["FORMATS", "Format", "export"]

Format = Literal["safetensors", "onnx", "mlflow"]
FORMATS: tuple[Format, ...] = get_args(Format)


def export(
    policy: LoadedPolicy, folder: str | Path, format: Format = "safetensors", *, distributions: Sequence[str] = ()
) -> Path:
    """Write a policy into `folder`, which is created, and return it.

    `safetensors` is what `load_policy` reads. `onnx` is the graph `policy.onnx` (see `export.onnx`). `mlflow` is a
    model for `mlflow models serve -m FOLDER`, which needs `distributions` (see `export.mlflow_model`).

    Raises:
        ConfigError: no such format.
        StoreError: the folder can't be written.
        UsageError: an extra isn't installed, a wheel can't be built, or the policy doesn't fit the format.
    """
    folder = Path(folder)
    if format not in FORMATS:
        raise ConfigError(f'No format "{format}". There are: {", ".join(FORMATS)}.')
    try:
        match format:
            case "safetensors":
                return policy.save(folder)
            case "onnx":
                from pgzoo.export.onnx import NAME, write_onnx

                return write_onnx(policy, folder / NAME).parent
            case "mlflow":
                from pgzoo.export.mlflow_model import write_model

                with tempfile.TemporaryDirectory() as scratch:
                    return write_model(policy.save(scratch), folder, distributions=distributions)
    except OSError as error:
        raise StoreError(f"Can't export to {folder}: {error.strerror or error}.") from error
