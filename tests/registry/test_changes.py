"""Reports of plugins that have changed since a run was trained, and of imports that are missing now."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pgzoo.registry import PluginCatalog, discover
from pgzoo.registry.changes import changes, missing_imports, plugin_tags

HOOK = "import pgzoo\n@pgzoo.hookimpl\ndef pgzoo_register(registry): pass\n"


def found_in(folder: Path, *imports: str) -> PluginCatalog:
    return discover(cwd=folder, imports=imports)


def test_a_changed_or_missing_inline_plugin_is_reported(tmp_path: Path) -> None:
    (tmp_path / "pgzoo_plugin.py").write_text(HOOK)
    catalog = found_in(tmp_path)
    tags = plugin_tags(catalog)
    assert tags["plugin.local"] == "./pgzoo_plugin.py"
    assert tags["plugin.local.sha256"] == hashlib.sha256(HOOK.encode()).hexdigest()
    assert changes(tags, catalog) == []
    (tmp_path / "pgzoo_plugin.py").write_text(f"{HOOK}# another loss\n")
    (said,) = changes(tags, found_in(tmp_path))
    assert said.startswith('Plugin "local" (./pgzoo_plugin.py) has changed since the run was trained')
    (tmp_path / "pgzoo_plugin.py").unlink()
    (said,) = changes(tags, found_in(tmp_path))
    assert '"local" (./pgzoo_plugin.py), which isn\'t loaded now' in said
    assert missing_imports(tags, found_in(tmp_path)) == []


def test_missing_imports_of_a_run_are_reported_but_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "my envs.py").write_text("import pathlib\n(pathlib.Path(__file__).parent / 'ran').touch()\n")
    tags = plugin_tags(found_in(tmp_path, "my envs.py"))
    assert tags["pgzoo.imports"] == "'my envs.py'" and len(tags["plugin.my envs.py.sha256"]) == 64
    (tmp_path / "ran").unlink()
    catalog = found_in(tmp_path)
    rule = "but pgzoo imports the code of a run only if you name it"
    expected = [f"The run was started with --import 'my envs.py', {rule}: "]
    assert [f"{s.partition(': ')[0]}: " for s in missing_imports(tags, catalog)] == expected
    assert changes(tags, catalog) == missing_imports(tags, catalog) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("then", ["zoo-probes 0.9", "zoo-probes 1.0"])
def test_a_changed_version_of_a_distribution_is_reported(catalog: PluginCatalog, then: str) -> None:
    said = changes({"plugin.probes": then, "torch.version": "1"}, catalog)
    expected = 'Plugin "probes" was zoo-probes 0.9 and is zoo-probes 1.0: the numbers may differ.'
    assert said == ([] if then == "zoo-probes 1.0" else [expected])


def test_a_plugin_without_a_recorded_hash_is_not_reported_as_changed(tmp_path: Path) -> None:
    (tmp_path / "pgzoo_plugin.py").write_text(HOOK)
    assert changes({"plugin.local": "./pgzoo_plugin.py"}, found_in(tmp_path)) == []
