"""The public Python names are those in tests/public_names.txt; examples and plugins import only public modules.

After a deliberate change, run `python tests/test_public_names.py` to rewrite the file.
"""

from __future__ import annotations

import ast
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = Path(__file__).with_name("public_names.txt")
PAGE = (ROOT / "docs" / "public-api.md").read_text(encoding="utf-8")
MODULES = [
    name for row in re.findall(r"^\| (`pgzoo.*?) \|", PAGE, re.MULTILINE) for name in re.findall(r"`(.*?)`", row)
]


def public_names(module: str) -> list[str]:
    """Return what a module lists in `__all__`, or otherwise what it defines without a leading underscore."""
    if (listed := getattr(import_module(module), "__all__", None)) is not None:
        return sorted(listed)
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    names: list[str] = []
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return sorted(name for name in names if not name.startswith("_"))


def all_names() -> list[str]:
    return [f"{module} {name}" for module in sorted(MODULES) for name in public_names(module)]


def test_the_public_names_match_public_names_txt() -> None:
    kept, found = KEPT.read_text(encoding="utf-8").splitlines(), all_names()
    how = "docs/public-api.md says how a name is removed; `python tests/test_public_names.py` writes the list anew."
    assert found == kept, f"gone: {sorted({*kept} - {*found})}; new: {sorted({*found} - {*kept})}. {how}"


def test_each_public_name_exists() -> None:
    for name in all_names():
        module, _, attribute = name.partition(" ")
        assert hasattr(import_module(module), attribute), name


def test_examples_and_plugins_import_public_modules_only() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")}
    for folder in ("docs/tutorial", "pgzoo/templates", "plugins"):
        places = [p for p in (ROOT / folder).rglob("*") if p.suffix in {".py", ".txt", ".md", ".template"}]
        texts |= {path: path.read_text(encoding="utf-8") for path in places if "/tests/" not in path.as_posix()}
    found = [
        f"{path.relative_to(ROOT)}: {module}"
        for path, text in texts.items()
        for module in re.findall(r"^\s*(?:from|import) (pgzoo(?:\.[a-z_]+)*)\b", text, re.MULTILINE)
        if module not in MODULES
    ]
    assert found == []


if __name__ == "__main__":
    KEPT.write_text("\n".join(all_names()) + "\n", encoding="utf-8")
