"""Where a project's runs live on this machine, and which tracking store they are shipped to."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pgzoo.errors import StoreError

__all__ = ["Home", "check_store", "display_uri", "resolve_uri"]

DATABASES = ("postgresql", "mysql", "mssql")
SQLITE = re.compile(r"sqlite(\+\w+)?:///(?P<path>[^?]+)(\?.*)?", re.DOTALL)
SQLITE_MAGIC = b"SQLite format 3\0"


@dataclass(frozen=True)
class Home:
    """Three places: `root` (journals, checkpoints), the default SQLite `database` and its `artifacts`."""

    root: Path
    database: Path
    artifacts: Path

    @classmethod
    def find(cls, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Home:
        """Return the home of `PGZOO_HOME`, else that of the working directory: `.pgzoo`, `mlflow.db`, `mlartifacts`.

        Paths are absolute; nothing is created.
        """
        environ = os.environ if environ is None else environ
        base = (cwd or Path.cwd()).resolve()
        if moved := environ.get("PGZOO_HOME"):
            base = base / Path(moved).expanduser()
            return cls(base, base / "mlflow.db", base / "mlartifacts")
        return cls(base / ".pgzoo", base / "mlflow.db", base / "mlartifacts")

    @property
    def runs(self) -> Path:
        """The folder that holds one folder per run."""
        return self.root / "runs"

    @property
    def uploader_lock(self) -> Path:
        """Held by the uploader while it lives."""
        return self.root / "uploader.lock"

    @property
    def uploader_log(self) -> Path:
        """What the uploader met."""
        return self.root / "uploader.log"

    @property
    def status_file(self) -> Path:
        """What the uploader last said about each store."""
        return self.root / "status.json"

    @property
    def poke_file(self) -> Path:
        """Touched to make the uploader try again at once, also what it had given up."""
        return self.root / "poke"

    @property
    def default_uri(self) -> str:
        """The tracking URI of the embedded store."""
        return f"sqlite:///{self.database}"


def resolve_uri(option: str | None, home: Home, environ: Mapping[str, str] | None = None) -> str:
    """Return the tracking URI: the option, else `MLFLOW_TRACKING_URI`, else the home's SQLite store.

    A relative SQLite path is made absolute, since the uploader works in another folder.
    """
    environ = os.environ if environ is None else environ
    uri = (option or "").strip() or environ.get("MLFLOW_TRACKING_URI", "").strip() or home.default_uri
    if (path := sqlite_path(uri)) is not None and not path.is_absolute():
        return uri.replace(f":///{path}", f":///{Path.cwd() / path}", 1)
    return uri.rstrip("/") if uri.startswith(("http://", "https://")) else uri


def sqlite_path(uri: str) -> Path | None:
    """Return the file behind a SQLite URI, or None for any other."""
    found = SQLITE.fullmatch(uri)
    return Path(found["path"]) if found and found["path"] != ":memory:" else None


def display_uri(uri: str) -> str:
    """Return the URI without a password, fit for a terminal or a log."""
    try:
        parts = urlsplit(uri)
        if parts.password is None:
            return uri
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))
    except ValueError:
        return uri


def check_store(uri: str, home: Home) -> None:
    """Raise StoreError if runs can't be written here or `uri` can't be a tracking store.

    Contacts no server, and leaves nothing behind.
    """
    check_folder(home.root, "pgzoo's folder", "set PGZOO_HOME to a folder that you may write to")
    scheme = uri.partition(":")[0].partition("+")[0].lower() if ":" in uri else ""
    if scheme in ("http", "https"):
        try:
            parts = urlsplit(uri)
            usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            usable = False
        if not usable or any(c.isspace() for c in uri):
            raise StoreError(
                f'The tracking URI "{display_uri(uri)}" is malformed: expected http(s)://HOST[:PORT]. '
                "Correct --tracking-uri or MLFLOW_TRACKING_URI."
            )
    elif scheme == "sqlite":
        check_sqlite(uri)
        check_folder(home.artifacts, "the artifact folder", "set PGZOO_HOME to a folder that you may write to")
    elif scheme in DATABASES:
        if "://" not in uri:
            raise StoreError(f'The tracking URI "{display_uri(uri)}" is malformed: expected {scheme}://...')
    elif scheme in ("", "file") or re.fullmatch(r"[A-Za-z]", scheme):
        raise StoreError(
            f'The tracking URI "{uri}" names a folder, and MLflow no longer keeps runs in plain files. '
            f"Use a database: sqlite:///{suggested_database(uri)}"
        )
    else:
        raise StoreError(
            f'The tracking URI "{display_uri(uri)}" has an unsupported scheme "{scheme}". Supported: http://, '
            f"https://, sqlite:///PATH, {', '.join(f'{d}://' for d in DATABASES)}."
        )


def suggested_database(uri: str) -> Path:
    path = Path.cwd() / (urlsplit(uri).path if uri.startswith("file:") else uri)
    return path / "mlflow.db" if path.name != "mlruns" else path.parent / "mlflow.db"


def check_sqlite(uri: str) -> None:
    path = sqlite_path(uri)
    advice = "choose another --tracking-uri or MLFLOW_TRACKING_URI"
    if path is None:
        raise StoreError(
            f'The tracking URI "{uri}" is malformed: expected sqlite:///PATH (four slashes for an absolute path).'
        )
    if path.is_dir():
        raise StoreError(f"The tracking store {path} is a folder, not an SQLite file; {advice}.")
    check_folder(path.parent, "the folder of the tracking store", advice)
    if path.exists():
        try:
            with path.open("r+b") as file:
                start = file.read(len(SQLITE_MAGIC))
        except OSError as error:
            raise StoreError(f"The tracking store {path} can't be written: {error.strerror}; {advice}.") from error
        if start not in (b"", SQLITE_MAGIC):
            raise StoreError(f"The tracking store {path} isn't an SQLite file; {advice}.")


def check_folder(folder: Path, what: str, advice: str) -> None:
    """Try a nameless file in the folder, or in its nearest ancestor that exists."""
    try:
        place = folder
        while not place.exists() and place != place.parent:
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise StoreError(f"Can't write to {what}, {folder}: {error.strerror}; {advice}.") from error
