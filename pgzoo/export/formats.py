"""Export a policy: as the bundle that pgzoo loads, an ONNX graph, or a model that MLflow serves."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from pgzoo.errors import ConfigError, StoreError, UsageError
from pgzoo.export.bundle import TENSORS, LoadedPolicy, pack

__all__ = ["FORMATS", "Format", "export"]

Format = Literal["safetensors", "onnx", "mlflow"]
FORMATS: tuple[Format, ...] = get_args(Format)
MARKS: dict[Format, str] = {"safetensors": TENSORS, "onnx": "policy.onnx", "mlflow": "MLmodel"}
"""A file that only an export in this format writes."""


def export(
    policy: LoadedPolicy, folder: str | Path, format: Format = "safetensors", *, distributions: Sequence[str] = ()
) -> Path:
    """Write a policy into `folder`, which is created, and return it.

    `safetensors` is what `load_policy` reads. `onnx` is the graph `policy.onnx` (see `export.onnx`). `mlflow` is a
    model for `mlflow models serve -m FOLDER`, which needs `distributions` (see `export.mlflow_model`).

    An earlier export in the same format is overwritten.

    Raises:
        ConfigError: no such format.
        StoreError: the folder can't be written.
        UsageError: an extra isn't installed, a wheel can't be built, the policy doesn't fit the format, or the folder
            has an export in another format that isn't known to be of this policy.
    """
    folder = Path(folder)
    if format not in FORMATS:
        raise ConfigError(f'No format "{format}". There are: {", ".join(FORMATS)}.')
    try:
        _check_folder(policy, folder, format)
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


def _check_folder(policy: LoadedPolicy, folder: Path, format: Format) -> None:
    """Raise UsageError if exports of two policies would lie side by side: only the same format is overwritten."""
    others = [name for other, name in MARKS.items() if other != format and (folder / name).exists()]
    if not others:
        return
    tensors = pack(policy.component, policy.spec, policy.policy, policy.params, 0)[TENSORS]
    bundles = [file for file in (folder / TENSORS, folder / "artifacts" / "policy" / TENSORS) if file.is_file()]
    if not bundles or any(file.read_bytes() != tensors for file in bundles):
        raise UsageError(
            f"{folder} has {' and '.join(others)}, which may be of another policy. Export to another folder, or delete "
            "that first."
        )
