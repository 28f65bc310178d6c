"""The plugin and its listener pass pgzoo's conformance checks while W&B's offline mode is on."""

from __future__ import annotations

from pathlib import Path

import pytest

import pgzoo.testing


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PGZOO_WANDB", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))


class TestPlugin(pgzoo.testing.PluginSuite):
    name = "wandb"


class TestListener(pgzoo.testing.ListenerSuite):
    name = "wandb"
