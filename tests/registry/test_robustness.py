"""Plugins that hang, have hostile names or damaged metadata, are very many, or are no longer installed."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import pgzoo
from pgzoo.errors import PluginError, UnknownName, visible
from pgzoo.registry import PluginInfo, Registry, discover, watch
from pgzoo.registry.catalog import describe_error
from pgzoo.registry.changes import changes, missing_plugins
from pgzoo.registry.trace import TRACE_VARIABLE
from pgzoo.runs.resume import resume
from pgzoo.tracking import Home, find

Install = Callable[..., None]
GOOD = """
from pgzoo.registry import hookimpl

@hookimpl
def pgzoo_register(registry):
    registry.algorithm("{name}", "{name}_parts:Algorithm", summary="An algorithm.")
"""


def test_a_plugin_that_hangs_is_named_while_it_loads(
    install: Install, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The import of the plugin ends only after the warning, so this test doesn't depend on timing."""
    monkeypatch.setattr(watch, "PATIENCE", 0.01)
    named = threading.Event()
    monkeypatch.setattr(logging, "zoo_slow_was_named", named, raising=False)

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "zoo-slow" in record.getMessage():
                named.set()

    handler = Handler()
    logging.getLogger("pgzoo").addHandler(handler)  # before the module is imported: the warning may come at once
    slow = """
        import logging

        if not logging.zoo_slow_was_named.wait(timeout=300):
            raise RuntimeError("no warning")
    """
    install(
        "zoo-slow", "1.0", {"zoo_slow": slow + GOOD.format(name="slow").replace("\n", "\n" + 8 * " ")}, slow="zoo_slow"
    )
    with caplog.at_level(logging.WARNING, "pgzoo"):
        catalog = discover()
    logging.getLogger("pgzoo").removeHandler(handler)
    assert "slow" in catalog.names("algorithm")
    (message,) = [m for m in caplog.messages if "zoo-slow" in m]
    assert message == (
        'Plugin "slow" (zoo-slow 1.0) is still loading after 0.01 seconds. If it never ends, press Ctrl-C and disable '
        "it: PGZOO_DISABLE_PLUGINS=slow"
    )


@pytest.mark.parametrize("name", ["a\x1b[31mb", "../../etc/passwd", "é-plugin", "x" * 65, "two words", "-option"])
def test_a_plugin_with_a_hostile_name_is_rejected_and_the_others_load(install: Install, name: str) -> None:
    install("zoo-good", "1", {"zoo_good": GOOD.format(name="good")}, good="zoo_good")
    install("zoo-bad", "1", {"zoo_bad": "raise AssertionError('must not be imported')"}, **{name: "zoo_bad"})
    catalog = discover()
    (broken,) = catalog.broken
    assert broken.error.startswith("The name of an entry point consists of at most 64 ASCII letters, digits, dots, ")
    assert visible(str(broken)) == str(broken) and len(broken.name) <= 40
    assert "good" in catalog.names("algorithm")
    assert not discover(blocked=["zoo-bad"]).broken


@pytest.mark.parametrize("name", ["Bad", "a\nb", "a\x1b[2Jb", "a/b", "ünï", "", "-a", "a" * 65, None])
def test_a_hostile_component_name_is_rejected(name: str) -> None:
    registry = Registry(PluginInfo("mine", "entry point", "mine"))
    with pytest.raises(PluginError, match="at most 64 lowercase letters, digits and hyphens; got") as caught:
        registry.algorithm(name, "a:B")
    assert visible(str(caught.value)) == str(caught.value) and len(str(caught.value)) < 200


def test_a_summary_becomes_one_line_with_escaped_control_characters() -> None:
    registry = Registry(PluginInfo("mine", "entry point", "mine"))
    registry.policy("mine", "a:B", summary="One\x1b[31m\nline")
    assert registry.entries["policy", "mine"].summary == "One\\x1b[31m line"


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("[pgzoo]\nbad = not a module!\n", 'expected "pkg.module" or "pkg.module:object"'),
        ("[pgzoo]\nbad\n", "Its entry_points.txt can't be read: "),
    ],
)
def test_a_damaged_entry_point_breaks_only_its_own_plugin(
    install: Install, tmp_path: Path, lines: str, error: str
) -> None:
    install("zoo-good", "1", {"zoo_good": GOOD.format(name="good")}, good="zoo_good")
    install("zoo-bad", "1", {})
    (tmp_path / "site" / "zoo_bad-1.dist-info" / "entry_points.txt").write_text(lines)
    catalog = discover()
    (broken,) = catalog.broken
    assert broken.distribution == "zoo-bad" and error in broken.error
    assert "good" in catalog.names("algorithm")


def test_an_exception_is_described_in_one_short_line() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert describe_error(ValueError("one\n  two.")) == "ValueError: one two"
    assert describe_error(Silent()) == "Silent"
    assert len(describe_error(ValueError("x" * 10_000))) == 500


def test_200_plugins_are_discovered_without_importing_their_components(install: Install) -> None:
    for k in range(200):
        install(f"zoo-many{k}", "1", {f"zoo_many{k}": GOOD.format(name=f"many{k}")}, **{f"many{k}": f"zoo_many{k}"})
    discover(inline=False, blocked=[f"many{k}" for k in range(200)])
    before = set(sys.modules)
    first = discover(inline=False)
    assert {f"many{k}" for k in range(200)} <= set(first.names("algorithm")) and not first.broken
    assert set(sys.modules) - before == {f"zoo_many{k}" for k in range(200)}
    Path("pgzoo_plugin.py").write_text(GOOD.format(name="inline"))
    both = discover(base=first)
    assert both.names("algorithm") == [*first.names("algorithm"), "inline"]
    assert [p.name for p in both.plugins] == [*(p.name for p in first.plugins), "local"]


def test_hook_calls_are_traced(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install("zoo-good", "1", {"zoo_good": GOOD.format(name="good")}, good="zoo_good")
    install("zoo-bad", "1", {"zoo_bad": GOOD.format(name="bad") + "    raise ValueError('oh')"}, bad="zoo_bad")
    discover()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv(TRACE_VARIABLE, "1")
    discover()
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith('[hook] pgzoo_register -> plugin "good" (zoo-good 1): ') for line in lines)
    (failed,) = [line for line in lines if "zoo-bad" in line]
    assert failed.endswith(" ms, raised ValueError")


def test_a_missing_plugin_is_reported_with_what_to_install(install: Install) -> None:
    tags = {"plugin.mine": "zoo-mine 1.2", "plugin.odd": "zoo mine; rm -rf 1", "plugin.local": "./pgzoo_plugin.py"}
    assert missing_plugins(tags, discover()) == [
        'The run was trained with plugin "mine" (zoo-mine 1.2), which isn\'t loaded now. '
        "Install it: pgzoo plugins install zoo-mine==1.2",
        'The run was trained with plugin "odd" (zoo mine; rm -rf 1), which isn\'t loaded now.',
        'The run was trained with plugin "local" (./pgzoo_plugin.py), which isn\'t loaded now.',
    ]
    install("zoo-mine", "1.2", {"zoo_mine": "import not_there"}, mine="zoo_mine")
    (sentence,) = missing_plugins({"plugin.mine": "zoo-mine 1.2"}, discover())
    assert "because it fails to load: ModuleNotFoundError: No module named 'not_there' (" in sentence
    (sentence,) = changes({"plugin.mine": "zoo-mine 1.2"}, discover(blocked=["mine"]))
    assert sentence.endswith("which isn't loaded now, because it is disabled.")


NET = """
from pgzoo.registry import hookimpl

@hookimpl
def pgzoo_register(registry):
    registry.policy("zoo-net", "zoo_net_parts:net")
"""
NET_PARTS = """
import pgzoo
from torch import nn

net = pgzoo.module_policy(lambda inputs, outputs: nn.Linear(inputs, outputs))
"""


def test_evaluate_and_resume_say_what_to_install_if_a_plugin_is_missing(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PGZOO_HOME", str(tmp_path / "home"))
    install("zoo-net", "1.2", {"zoo_net": NET, "zoo_net_parts": NET_PARTS}, net="zoo_net")
    settings = {"total_steps": 50, "num_envs": 2, "eval_episodes": 2, "tracking_uri": "none"}
    key = pgzoo.run("reinforce", env="CartPole-v1", policy="zoo-net", **settings).runs[0].run_key
    shutil.rmtree(tmp_path / "site" / "zoo_net-1.2.dist-info")
    advice = "isn't loaded now. Install it: pgzoo plugins install zoo-net==1.2"
    with pytest.raises(UnknownName, match='No policy "zoo-net"') as caught:
        pgzoo.evaluate(key)
    assert advice in str(caught.value)
    with pytest.raises(UnknownName, match='No policy "zoo-net"') as caught:
        resume(find(key, Home.find()), discover(), total_steps=100)
    assert advice in str(caught.value) and advice not in caplog.text  # not logged as well
