"""Where pgzoo keeps its files, and which stores are refused before anything is created."""

from __future__ import annotations

import os
import socket
import sys
import types
from pathlib import Path

import pytest

from pgzoo.errors import StoreError
from pgzoo.tracking import Home, check_store, display_uri, resolve_uri


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.find({}, tmp_path)


def test_the_default_home_is_in_the_working_directory(tmp_path: Path, home: Home) -> None:
    assert home == Home(tmp_path / ".pgzoo", tmp_path / "mlflow.db", tmp_path / "mlartifacts")


def test_pgzoo_home_moves_everything(tmp_path: Path) -> None:
    place = tmp_path / "there"
    expected = Home(place, place / "mlflow.db", place / "mlartifacts")
    assert Home.find({"PGZOO_HOME": str(place)}) == expected
    assert Home.find({"PGZOO_HOME": "there"}, tmp_path) == expected


def test_the_store_is_given_by_option_then_environment_then_default(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environ = {"MLFLOW_TRACKING_URI": "http://there:5000/"}
    assert resolve_uri("https://here", home, environ) == "https://here"
    assert resolve_uri(None, home, environ) == "http://there:5000"
    assert resolve_uri("", home, {"MLFLOW_TRACKING_URI": " "}) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    assert resolve_uri("sqlite:///mine.db", home, {}) == f"sqlite:///{tmp_path}/mine.db"
    assert resolve_uri("sqlite:////abs/mine.db", home, {}) == "sqlite:////abs/mine.db"


@pytest.mark.parametrize(
    "uri", ["http://host", "https://user:word@host:8080", "postgresql+psycopg2://u:p@h/db", "mysql+pymysql://h/d"]
)
def test_usable_stores_are_accepted_without_contacting_them(
    home: Home, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contact(*_: object, **__: object) -> None:
        pytest.fail("the store is contacted")

    monkeypatch.setattr(socket, "getaddrinfo", contact)
    for driver in ("psycopg2", "pymysql"):
        module = types.ModuleType(driver)
        monkeypatch.setattr(module, "connect", contact, raising=False)
        monkeypatch.setitem(sys.modules, driver, module)
    check_store(uri, home)


def test_a_missing_database_driver_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(
        StoreError, match=r"u:\*\*\*@h/db.*its driver psycopg2 isn't installed: pip install psycopg2-bin"
    ):
        check_store("postgresql+psycopg2://u:p@h/db", home)


def test_checking_an_sqlite_store_creates_nothing_and_does_not_load_mlflow(home: Home, tmp_path: Path) -> None:
    loaded = set(sys.modules)
    check_store(home.default_uri, home)
    check_store(f"sqlite:///{tmp_path}/new/folder/x.db", home)
    assert list(tmp_path.iterdir()) == []
    assert "mlflow" not in set(sys.modules) - loaded


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://", "malformed"),
        ("http://host:port", "malformed"),
        ("http://ho st", "malformed"),
        ("sqlite://", "malformed"),
        ("sqlite:///:memory:", "malformed"),
        ("postgresql:x", "malformed"),
        ("./mlruns", r"Use a database: sqlite:///.*/mlflow.db"),
        ("file:///data/mlruns", "Use a database: sqlite:////data/mlflow.db"),
        ("ftp://host", 'unsupported scheme "ftp"'),
        ("databricks", "Use a database"),
    ],
)
def test_unusable_stores_are_refused_with_advice(home: Home, uri: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=message):
        check_store(uri, home)
    assert list(tmp_path.iterdir()) == []


def test_a_file_as_home_or_a_store_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="set PGZOO_HOME"):
        check_store("http://host", Home.find({"PGZOO_HOME": str(tmp_path / "file")}))
    home = Home.find({}, tmp_path)
    with pytest.raises(StoreError, match="isn't an SQLite file"):
        check_store(f"sqlite:///{tmp_path}/file", home)
    with pytest.raises(StoreError, match="is a folder"):
        check_store(f"sqlite:///{tmp_path}", home)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a folder that nobody can write")
def test_an_unwritable_folder_is_refused(home: Home) -> None:
    with pytest.raises(StoreError, match="Can't write to pgzoo's folder, /proc/"):
        check_store("http://host", Home.find({"PGZOO_HOME": "/proc/pgzoo"}))
    with pytest.raises(StoreError, match="the folder of the tracking store, /proc"):
        check_store("sqlite:////proc/x.db", home)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions bind everybody but root")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="Permission denied"):
        check_store("http://host", Home.find({}, tmp_path))
    tmp_path.chmod(0o700)


def test_a_password_is_hidden_in_a_displayed_uri() -> None:
    assert display_uri("https://me:secret@host:1/x") == "https://me:***@host:1/x"
    assert display_uri("sqlite:////x.db") == "sqlite:////x.db"
