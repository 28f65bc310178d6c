"""Hooks and registry methods have docstrings and are listed in docs/hooks.md with their exact signatures."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pgzoo.registry import Registry, hookspecs

PAGE = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text()
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("pgzoo_")}
METHODS = {name: method for name, method in vars(Registry).items() if not name.startswith("_")}


def signature(function: Callable[..., Any]) -> str:
    found = inspect.signature(function)
    parameters = [p.replace(annotation=p.empty) for p in found.parameters.values() if p.name != "self"]
    return str(found.replace(parameters=parameters, return_annotation=found.empty))


@cache
def implemented_hooks() -> set[str]:
    """Return the names of all functions in the tests that have the decorator `hookimpl`."""
    texts = [path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].rglob("*.py")]
    nodes = [node for text in texts if "hookimpl" in text for node in ast.walk(ast.parse(text))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    return {f.name for f in functions for one in f.decorator_list if ast.unparse(one).endswith("hookimpl")}


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_is_documented(name: str) -> None:
    assert inspect.getdoc(HOOKS[name])
    assert f"### `{name}{signature(HOOKS[name])}`" in PAGE


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_is_implemented_in_a_test(name: str) -> None:
    assert name in implemented_hooks()


@pytest.mark.parametrize("name", METHODS)
def test_each_registry_method_is_documented(name: str) -> None:
    assert inspect.getdoc(METHODS[name])
    assert f"| `{name}{signature(METHODS[name])}` |" in PAGE


def test_discovery_imports_nothing_heavy() -> None:
    code = "import sys; from pgzoo.registry import discover; discover(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "mlflow", "gymnasium", "numpy", "pydantic", "rich", "click", "matplotlib"}
    assert not heavy & set(done.stdout.split())
