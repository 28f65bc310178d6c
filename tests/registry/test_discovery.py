"""Plugins from real entry points, files and imports; one that fails doesn't affect the others."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgzoo.errors import PluginError, UnknownName, UsageError
from pgzoo.registry import API_VERSION, PluginCatalog, PluginInfo, discover

Install = Callable[..., None]
GOOD = """
from pgzoo.registry import hookimpl

@hookimpl
def pgzoo_register(registry):
    registry.algorithm("{name}", "good_parts:Algorithm", config="good_parts:Config", summary="An algorithm.")
"""
SETTINGS = """
import pgzoo

class Config(pgzoo.AlgorithmConfig):
"""
PARTS = "class Algorithm: pass\nclass Config: pass\n"


def plugin(catalog: PluginCatalog, name: str) -> PluginInfo:
    return next(info for info in catalog.plugins if info.name == name)


def install_good(install: Install, name: str = "good", distribution: str = "zoo-good", version: str = "1.2") -> None:
    module = distribution.replace("-", "_")
    install(distribution, version, {module: GOOD.format(name=name), "good_parts": PARTS}, **{name: module})


def test_an_entry_point_is_found_and_its_components_are_imported_on_loading(install: Install) -> None:
    install_good(install)
    entry = discover().get("algorithm", "good")
    assert (entry.summary, str(entry.plugin)) == ("An algorithm.", '"good" (zoo-good 1.2)')
    assert "good_parts" not in sys.modules
    assert entry.load().__name__ == "Algorithm"
    assert entry.load_config().__name__ == "Config"


def test_built_in_plugins_are_discovered_and_none_is_broken() -> None:
    catalog = discover(inline=False)
    assert {"run", "algorithms", "doctor"} <= set(catalog.names("command"))
    assert catalog.get("command", "run").plugin.source == "built-in"
    assert [info.name for info in catalog.broken if info.source == "built-in"] == []


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("1 +", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (GOOD.format(name="late") + "    raise ValueError('oh')", "ValueError: oh"),
        (GOOD.format(name="x").replace("pgzoo_register", "pgzoo_registr"), 'Did you mean "pgzoo_register"?'),
        (GOOD.format(name="x").replace("@hookimpl", ""), '"pgzoo_register" is not marked as a hook'),
        (
            GOOD.format(name="x").replace("(registry)", "(registry, extra)"),
            '"pgzoo_register" takes registry, not extra.',
        ),
        (
            GOOD.format(name="x") + "@hookimpl\ndef pgzoo_update_done(event, contrl): pass\n",
            '"pgzoo_update_done" takes event and control, not contrl. Did you mean "control"?',
        ),
        (
            GOOD.format(name="x").replace("registry.algorithm(", "registry.algorithms("),
            'The registry has no method "algorithms". Did you mean "algorithm"?',
        ),
        (SETTINGS + "    c: object() = 1.0", "a setting can't be of type"),
        (
            SETTINGS + "    c: slice = slice(1)",
            "a setting can't be of type slice. A setting is a bool, int, float, str, Lit",
        ),
        (
            SETTINGS + "    c = 0.5",
            "the setting c has no type. A setting is a bool, int, float, str, Literal, tuple or",
        ),
        (SETTINGS + "    c = 0.5", "write c: Annotated[float, Field(description=...)] = 0.5"),
        ("X = 1", "implements no hook of pgzoo"),
        (GOOD.format(name="Bad_Name"), "lowercase letters, digits and hyphens"),
        (GOOD.format(name="x").replace("good_parts:Algorithm", "good_parts.Algorithm"), '"pkg.module:attr"'),
        (GOOD.format(name="x") + "    registry.algorithm('x', 'a:B')", "registered twice by this plugin"),
        (
            GOOD.format(name="x") + 'pgzoo_api = "9"',
            f"plugin API 9; pgzoo 0.1.0 has plugin API {API_VERSION}",
        ),
    ],
)
def test_a_plugin_that_fails_is_listed_with_its_error_and_others_work(
    install: Install, source: str, error: str
) -> None:
    install_good(install)
    install("zoo-bad", "0.3", {"zoo_bad": source}, bad="zoo_bad")
    catalog = discover()
    assert plugin(catalog, "bad").status == "broken"
    assert error in plugin(catalog, "bad").error
    assert catalog.names("algorithm")[-1] == "good"
    assert not {"late", "x"} & set(catalog.names("algorithm"))
    with pytest.raises(UnknownName, match=r'Plugin "bad" \(zoo-bad 0.3\) failed to load') as caught:
        catalog.get("algorithm", "late")
    assert error in str(caught.value)


def test_a_plugin_for_the_current_api_version_is_accepted(install: Install) -> None:
    install("zoo-api", "1", {"zoo_api": GOOD.format(name="api") + f'pgzoo_api = "{API_VERSION}"'}, api="zoo_api")
    assert plugin(discover(), "api").status == "ok"


def test_an_unknown_hook_can_be_marked_optional(install: Install) -> None:
    source = GOOD.format(name="new") + "\n@hookimpl(optionalhook=True)\ndef pgzoo_of_tomorrow(event): pass\n"
    install("zoo-new", "1", {"zoo_new": source}, new="zoo_new")
    assert plugin(discover(), "new").status == "ok"


def test_a_plugin_that_registers_a_taken_name_is_rejected_entirely(install: Install) -> None:
    install_good(install)
    source = GOOD.format(name="only-here") + "    registry.algorithm('good', 'a:B')"
    install("zoo-second", "2.0", {"zoo_second": source}, second="zoo_second")
    catalog = discover()
    assert catalog.get("algorithm", "good").plugin.distribution == "zoo-good"
    assert "only-here" not in catalog.names("algorithm")
    assert plugin(catalog, "second").error == (
        'The algorithm "good" of plugin "second" (zoo-second 2.0) is taken by plugin "good" (zoo-good 1.2). '
        "Rename it in zoo_second, or block one: --no-plugin second or --no-plugin good "
        "(or PGZOO_DISABLE_PLUGINS=second)."
    )
    assert discover(blocked=["good"]).get("algorithm", "good").plugin.distribution == "zoo-second"


def test_a_plugin_that_registers_a_built_in_name_is_rejected(install: Install) -> None:
    install(
        "zoo-run",
        "1",
        {"zoo_run": GOOD.format(name="x").replace('algorithm("x"', 'policy("mlp"')},
        run="zoo_run",
    )
    assert (
        'taken by plugin "pgzoo.policies" (pgzoo 0.1.0). Rename it in zoo_run, or block the plugin: --no-plugin run'
        in plugin(discover(), "run").error
    )


def test_a_plugin_with_a_taken_name_can_be_blocked_by_its_distribution(install: Install) -> None:
    install_good(install)
    install_good(install, distribution="zoo-other")
    catalog = discover()
    assert 'taken by plugin "good" (zoo-good 1.2)' in catalog.broken[-1].error
    assert "Rename the entry point in its pyproject.toml, or block one" in catalog.broken[-1].error
    assert "--no-plugin zoo-other" in catalog.broken[-1].error
    assert not discover(blocked=["zoo_other"]).broken


@pytest.mark.parametrize("name", ["good", "zoo-good", "Zoo_Good"])
def test_a_plugin_can_be_blocked_by_its_name_or_its_distribution(
    install: Install, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_good(install)
    for catalog in (discover(blocked=[name]), discover_with(monkeypatch, f"nothing, {name}")):
        assert plugin(catalog, "good").status == "blocked"
        with pytest.raises(UnknownName, match=r'Disabled plugins: "good" \(zoo-good 1.2\)'):
            catalog.get("algorithm", "good")
    assert "zoo_good" not in sys.modules


def discover_with(monkeypatch: pytest.MonkeyPatch, disabled: str) -> PluginCatalog:
    monkeypatch.setenv("PGZOO_DISABLE_PLUGINS", disabled)
    return discover()


def test_blocking_an_unknown_or_built_in_plugin_is_an_error(install: Install) -> None:
    install_good(install)
    with pytest.raises(UnknownName, match=r'No plugin "goood" to block\. Did you mean "good"'):
        discover(blocked=["goood"])
    with pytest.raises(PluginError, match="built in and can't be blocked"):
        discover(blocked=["pgzoo.algorithms"])
    discover(blocked=["local"])  # no error, because another folder may have an inline plugin


def test_an_inline_plugin_is_loaded_reloaded_after_changes_and_can_be_disabled(install: Install) -> None:
    Path("helper_beside_it.py").write_text("")
    here = Path("pgzoo_plugin.py")
    here.write_text(INLINE.format(name="first"))
    entry = discover().get("algorithm", "first")
    assert (entry.plugin.name, entry.plugin.source, entry.plugin.origin) == (
        "local",
        "inline",
        "./pgzoo_plugin.py",
    )
    assert entry.summary == "An idea."
    assert entry.load() is discover().get("algorithm", "first").load()  # the file is unchanged, so it isn't run again
    assert sys.modules[entry.load().__module__].Idea is entry.load()  # pydantic and pickle need this
    here.write_text(INLINE.format(name="second"))
    assert "second" in discover().names("algorithm")
    assert "second" not in discover(inline=False).names("algorithm")
    assert "second" not in discover(blocked=["local"]).names("algorithm")


INLINE = '''
import helper_beside_it
from pgzoo.registry import hookimpl

class Idea:
    """An idea.

    More of it.
    """

@hookimpl
def pgzoo_register(registry):
    registry.algorithm("{name}", Idea)
'''


def test_a_broken_inline_plugin_is_listed_with_its_error_and_other_plugins_are_loaded(install: Install) -> None:
    install_good(install)
    names = discover().names("algorithm")
    Path("pgzoo_plugin.py").write_text("1/0")
    catalog = discover()
    assert plugin(catalog, "local").error == "ZeroDivisionError: division by zero (pgzoo_plugin.py, line 1)"
    assert "good" in names and catalog.names("algorithm") == names


def test_an_error_of_an_inline_plugin_names_its_line(install: Install) -> None:
    Path("pgzoo_plugin.py").write_text(GOOD.format(name="x").replace("algorithm(", "algorithms("))
    assert plugin(discover(), "local").error.endswith(' Did you mean "algorithm"? (pgzoo_plugin.py, line 6)')


def test_settings_whose_annotation_is_not_defined_are_refused_when_they_are_loaded(install: Install) -> None:
    source = GOOD.format(name="later").replace("good_parts", "later_parts")
    parts = 'import pgzoo\nclass Algorithm: pass\nclass Config(pgzoo.AlgorithmConfig):\n    c: "Foo" = 1.0\n'
    install("zoo-later", "1", {"zoo_later": source, "later_parts": parts}, later="zoo_later")
    with pytest.raises(
        PluginError, match=r'^The settings Config of algorithm "later" of plugin "later" \(zoo-later 1\)'
    ) as e:
        discover().get("algorithm", "later").load_config()
    assert "name 'Foo' is not defined. A setting is a bool, int," in str(e.value)


def test_an_inline_plugin_that_adds_a_command_is_an_error(install: Install) -> None:
    Path("helper_beside_it.py").write_text("")
    Path("pgzoo_plugin.py").write_text(INLINE.format(name="x").replace("algorithm(", "command("))
    assert "Only an installed plugin can add a command" in plugin(discover(), "local").error


def test_plugins_can_be_imported_by_module_name_and_by_path(install: Install) -> None:
    Path("helper_beside_it.py").write_text("")
    Path("mine.py").write_text(INLINE.format(name="by-name"))
    Path("deep").mkdir()
    Path("deep/other.py").write_text(INLINE.format(name="by-path"))
    Path("only_envs.py").write_text("")
    catalog = discover(imports=["mine", "deep/other.py", "only_envs", "mine"])
    assert catalog.names("algorithm")[-2:] == ["by-name", "by-path"]
    assert catalog.get("algorithm", "by-path").plugin.origin == "deep/other.py"
    alone: Any
    for alone in ("deep/other.py", Path("deep/other.py"), [Path("deep/other.py")]):
        assert discover(imports=alone).names("algorithm")[-1] == "by-path"
    with pytest.raises(UsageError, match="imports: expected names or paths, not module"):
        discover(imports=[pytest])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("not_there", "--import not_there failed. ModuleNotFoundError"),
        ("not_there.py", "There is no file"),
        ("json.py", 'has the name of another module, "json"; rename the file'),
        ("broken.py", "broken.py can.t be run. ZeroDivisionError: division by zero .*broken.py, line 1"),
    ],
)
def test_an_import_that_fails_is_an_error(install: Install, module: str, message: str) -> None:
    Path("json.py").write_text("")
    Path("broken.py").write_text("1/0")
    with pytest.raises(PluginError, match=message):
        discover(imports=[module])


def test_importing_an_installed_plugin_is_harmless(install: Install) -> None:
    install_good(install)
    assert "good" in discover(imports=["zoo_good"]).names("algorithm")


def test_heavy_modules_that_a_plugin_imports_are_recorded(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    install("tensorflow", "0", {"tensorflow": ""})
    install("zoo-heavy", "1", {"zoo_heavy": "import tensorflow" + GOOD.format(name="h")}, heavy="zoo_heavy")
    assert plugin(discover(), "heavy").heavy == ("tensorflow",)


def test_an_instance_can_be_a_plugin_but_a_class_cannot(install: Install) -> None:
    source = """
        from pgzoo.registry import hookimpl

        class Plugin:
            @hookimpl
            def pgzoo_register(self, registry):
                registry.algorithm("from-instance", "a:B")

        plugin = Plugin()
    """
    install("zoo-object", "1", {"zoo_object": source}, good="zoo_object:plugin", bad="zoo_object:Plugin")
    catalog = discover()
    assert "from-instance" in catalog.names("algorithm")
    assert "is a class, not an instance. Did you forget the ()?" in plugin(catalog, "bad").error


def test_text_that_a_plugin_prints_goes_to_stderr(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("zoo-loud", "1", {"zoo_loud": "print('hi')" + GOOD.format(name="loud")}, loud="zoo_loud")
    assert "loud" in discover().names("algorithm")
    assert capsys.readouterr() == ("", "hi\n")


@pytest.mark.parametrize(
    ("mode_of_file", "mode_of_folder", "why"),
    [
        (0o644, 0o755, ""),
        (0o600, 0o700, ""),
        (0o666, 0o755, "everybody may write to .*pgzoo_plugin.py: chmod o-w .*pgzoo_plugin.py"),
        (0o644, 0o777, "everybody may write to .*: chmod o-w"),
        (0o644, 0o1777, "everybody may write to .*: chmod o-w"),  # anybody may put a file into a folder like /tmp
    ],
)
def test_an_inline_plugin_that_others_can_write_is_not_run(
    tmp_path: Path, mode_of_file: int, mode_of_folder: int, why: str
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    path = folder / "pgzoo_plugin.py"
    path.write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n" + INLINE_HOOK)
    path.chmod(mode_of_file)
    folder.chmod(mode_of_folder)
    (plugin,) = (p for p in discover(cwd=folder).plugins if p.source == "inline")
    assert (folder / "ran").exists() == (not why)
    assert plugin.status == ("broken" if why else "ok")
    assert re.search(why, plugin.error) and "\n" not in plugin.error


INLINE_HOOK = """
import pgzoo

@pgzoo.hookimpl
def pgzoo_register(registry):
    pass
"""


@pytest.mark.parametrize("place", ["file", "folder"])
def test_an_inline_plugin_owned_by_another_user_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    path = tmp_path / "pgzoo_plugin.py"
    path.write_text("raise AssertionError('this must not be run')")
    other = os.geteuid() + 1
    real = Path.stat

    def owned(self: Path, **kwargs: Any) -> os.stat_result:
        found = real(self, **kwargs)
        mine = self != (path if place == "file" else tmp_path)
        return found if mine else os.stat_result([*found[:4], other, *found[5:10]])

    monkeypatch.setattr(Path, "stat", owned)
    (plugin,) = (p for p in discover(cwd=tmp_path).plugins if p.source == "inline")
    assert plugin.status == "broken" and "belongs to user" in plugin.error
    assert "--import pgzoo_plugin.py" in plugin.error


def test_only_the_private_group_of_the_user_may_write_to_an_inline_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import grp
    import pwd

    path = tmp_path / "pgzoo_plugin.py"
    path.write_text(INLINE_HOOK)
    path.chmod(0o664)
    user, number = pwd.getpwuid(os.geteuid()), path.stat().st_gid
    if number != user.pw_gid:
        pytest.skip("files get another group here")

    def is_ok(name: str, members: list[str]) -> bool:
        monkeypatch.setattr(grp, "getgrgid", lambda _: grp.struct_group((name, "x", number, members)))
        (plugin,) = (p for p in discover(cwd=tmp_path).plugins if p.source == "inline")
        assert plugin.status == "ok" or "a group may write to" in plugin.error
        return plugin.status == "ok"

    assert is_ok(user.pw_name, []) and is_ok(user.pw_name, [user.pw_name])
    assert not is_ok(user.pw_name, ["somebody"]) and not is_ok("staff", [])
