"""The test kit reports each of many classic mistakes with exactly one check, and passes correct plugins."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from failing_checks import ALL_CHECKS

from pgzoo.registry import PluginCatalog, PluginInfo, Registry, discover
from pgzoo.registry.catalog import kind_label
from pgzoo.testing import listeners
from pgzoo.testing.checks import CHECKS, CheckFailed, KnownException, NotApplicable, check_component

INSTALLED = discover(inline=False)
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FAULTY = sorted((HERE / "faulty").glob("*.py"))
CORRECT = sorted((HERE / "correct").glob("*.py"))


def load(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def register(name: str, hook: Callable[[Registry], None]) -> tuple[Registry, PluginCatalog]:
    """Return the registry of a plugin, and a catalog with its components."""
    registry, catalog = Registry(PluginInfo(name, "import", name, "third-party", "1.0")), INSTALLED.copy()
    hook(registry)
    catalog.add(registry.plugin, object(), registry.entries.values())
    return registry, catalog


def outcomes(
    name: str, hook: Callable[[Registry], None], only: str | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the messages of the failed checks, and the reasons of the known exceptions.

    `only` runs just the check of this name.
    """
    registry, catalog = register(name, hook)
    failed, known = {}, {}
    for kind, component in registry.entries:
        for check_name, check in check_component(catalog.get(kind, component), catalog):
            if only not in (None, check_name):
                continue
            try:
                check()
            except KnownException as reason:
                known[check_name] = str(reason)
            except NotApplicable:
                pass
            except CheckFailed as failure:
                failed[check_name] = str(failure)
    return failed, known


def expected(path: Path) -> str:
    """Return the check that a faulty plugin's docstring names at its end."""
    found = re.search(r": `([\w-]+)`\.$", (load(path).__doc__ or "").strip())
    assert found, path
    return found[1]


SLOW = ("neighbor_noise", "lost_state", "shared_rng", "ends_merged_by_algorithm", "termination_bootstrapped")
"""Faults that are slow tests, because their check also reports another plugin of the folder."""


@ALL_CHECKS
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else []) for path in FAULTY],
)
def test_a_faulty_plugin_fails_only_the_check_that_its_docstring_names(
    path: Path, all_checks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "PATIENCE", 0.3)
    failed, _ = outcomes(path.stem, load(path).pgzoo_register, None if all_checks else expected(path))
    assert list(failed) == [expected(path)], failed
    (message,) = failed.values()
    assert message.startswith(tuple(kind_label(kind).capitalize() for kind in CHECKS))
    assert message.count(". ") >= 2  # what is wrong, why it matters, what to do


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow if k % 4 else (), id=path.stem) for k, path in enumerate(CORRECT)],
)
def test_correct_plugins_pass_all_checks_or_declare_an_exception(path: Path) -> None:
    failed, known = outcomes(path.stem, load(path).pgzoo_register)
    assert failed == {}
    assert set(known) == ({"gamma"} if path.stem == "negative_zero" else set())


def test_the_example_in_the_readme_passes_all_checks() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(
        compile(next(block for block in blocks if "pgzoo_register" in block), "README.md", "exec", dont_inherit=True),
        names,
    )
    assert outcomes("readme", names["pgzoo_register"]) == ({}, {})


def test_every_fault_is_listed_in_the_docs_with_its_check() -> None:
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| `([\w-]+)` \|$", page, re.MULTILINE)
    sentences = [(load(path).__doc__ or "").strip() for path in FAULTY]
    assert sorted(rows) == sorted(
        (text.partition(": `")[0].replace("|", "\\|"), expected(path))
        for text, path in zip(sentences, FAULTY, strict=True)
    )
    assert len(FAULTY) >= 20
