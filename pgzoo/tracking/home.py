"""Where a project's runs live on this machine, and which tracking store they are uploaded to."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pgzoo.errors import StoreError

__all__ = ["NO_STORE", "Home", "check_store", "display_uri", "missing_driver", "resolve_uri"]

NO_STORE = "none"
"""The tracking URI of runs without MLflow: their journals, checkpoints and artifacts stay on this machine."""

DATABASES = ("postgresql", "mysql", "mssql")
DRIVERS = {"psycopg2": "psycopg2-binary", "psycopg": '"psycopg[binary]"', "MySQLdb": "mysqlclient"}
"""Packages of database drivers whose name isn't that of their module."""
SQLITE = re.compile(r"sqlite(\+\w+)?:///(?P<path>[^?]+)(\?.*)?", re.DOTALL)
SQLITE_MAGIC = b"SQLite format 3\0"
ACCOUNT = re.compile(r"(\b[a-z][a-z0-9+.-]*://)([^/\s@\"']+(?:@[^/\s@\"']+)*)@", re.IGNORECASE)
SECRET_PARAMETER = re.compile(
    r"([?&]\w*(?:password|passwd|pwd|secret|token|odbc_connect)\w*=)[^&\s\"']+", re.IGNORECASE
)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
NOT_IN_A_URI = re.compile(r"\?|%[0-9A-Fa-f]{2}")
"""Parts of a path that a URI parser would read as a query or an escape, and open another file."""
PATH_LIMIT, PATH_RESERVE = 4096, 1000
"""Maximum length of a path in bytes, and the length reserved for files below the home."""
BROKEN_MARK = ".broken-"
"""Separates the name of a broken database from the time at which it was renamed."""


@dataclass(frozen=True)
class Home:
    """The folders of a project: `root` (journals, checkpoints), the default SQLite `database` and its `artifacts`."""

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
    def paths(self) -> list[str]:
        """The three paths, of which another process makes the same home: `Home(*map(Path, paths))`."""
        return [str(path) for path in (self.root, self.database, self.artifacts)]

    @property
    def runs(self) -> Path:
        """The folder that holds one folder per run."""
        return self.root / "runs"

    @property
    def uploader_lock(self) -> Path:
        """The lock that the uploader process holds."""
        return self.root / "uploader.lock"

    @property
    def prepared_lock(self) -> Path:
        """The lock of the process that will be the uploader when it is asked to."""
        return self.root / "prepared.lock"

    @property
    def successor_lock(self) -> Path:
        """The lock of the process with which `pgzoo sync` asks to retry, and which may be the next uploader."""
        return self.root / "successor.lock"

    @property
    def uploader_log(self) -> Path:
        """The log of the uploader process."""
        return self.root / "uploader.log"

    @property
    def status_file(self) -> Path:
        """The uploader's process id and the last error of each store."""
        return self.root / "status.json"

    @property
    def retry_file(self) -> Path:
        """Written to make the uploader retry everything at once, refused runs included."""
        return self.root / "retry"

    @property
    def secrets_file(self) -> Path:
        """The tracking URIs that have a password, readable only by their owner."""
        return self.root / "secrets.json"

    @property
    def default_uri(self) -> str:
        """The tracking URI of the embedded store."""
        return sqlite_uri(self.database)


def resolve_uri(option: str | None, home: Home, environ: Mapping[str, str] | None = None) -> str:
    """Return the tracking URI: the option, else `MLFLOW_TRACKING_URI`, else the home's SQLite store.

    A relative SQLite path is made absolute, since the uploader works in another folder. "none" means no store.
    """
    environ = os.environ if environ is None else environ
    uri = (option or "").strip() or environ.get("MLFLOW_TRACKING_URI", "").strip() or home.default_uri
    if uri.lower() == NO_STORE:
        return NO_STORE
    if (path := sqlite_path(uri)) is not None and not path.is_absolute():
        return uri.replace(f":///{path}", f":///{Path.cwd() / path}", 1)
    return uri.rstrip("/") if uri.startswith(("http://", "https://")) else uri


def sqlite_path(uri: str) -> Path | None:
    """Return the file behind a SQLite URI, or None for any other."""
    found = SQLITE.fullmatch(uri)
    return Path(found["path"]) if found and found["path"] != ":memory:" else None


def sqlite_uri(path: Path) -> str:
    """Return the URI of an SQLite file."""
    return f"sqlite:///{path}"


def broken_databases(uri: str) -> list[Path]:
    """Return the databases that were set aside as broken beside the one that `uri` names."""
    path = sqlite_path(uri)
    return sorted(path.parent.glob(f"{path.name}{BROKEN_MARK}*")) if path else []


def display_uri(uri: str) -> str:
    """Return the URI with `***` in place of its secrets, fit for a terminal, a log or a file that others may read.

    Secrets are the password, the user name of an `http(s)` URI without a password (a token), and parameters such as
    `?password=`.
    """
    return redact(uri)


def redact(text: str) -> str:
    """Return a message or a traceback with `***` in place of the secrets of the URIs in it."""

    def hide(found: re.Match[str]) -> str:
        scheme, account = found.groups()
        if ":" in account:
            return f"{scheme}{account.partition(':')[0]}:***@"
        return f"{scheme}***@" if scheme.lower().startswith("http") else found[0]

    return SECRET_PARAMETER.sub(r"\1***", ACCOUNT.sub(hide, text))


def check_store(uri: str, home: Home) -> None:
    """Raise StoreError if runs can't be written here or `uri` can't be a tracking store.

    Contacts no server, and leaves nothing behind.
    """
    if not_utf8(os.environ.get("MLFLOW_EXPERIMENT_NAME", "")):
        raise StoreError("MLFLOW_EXPERIMENT_NAME isn't valid UTF-8, which no tracking store accepts. Fix or unset it.")
    check_path(home, uri)
    check_folder(home.root, "pgzoo's folder", "set PGZOO_HOME to a folder that you may write to")
    if uri == NO_STORE:
        return
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
        if missing := missing_driver(uri):
            raise StoreError(f'The tracking URI "{display_uri(uri)}" can\'t be used: {missing}.')
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


def missing_driver(uri: str) -> str:
    """Return what to install for a database's URI, such as "its driver psycopg2 isn't installed: pip install ...".

    Empty if the driver is there, or if the URI can't be read, which the database's client reports later.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except ImportError as error:
        module = error.name or uri.partition(":")[0]
        return f"its driver {module} isn't installed: pip install {DRIVERS.get(module, module)}"
    except SQLAlchemyError:
        pass
    return ""


def not_utf8(text: str) -> bool:
    """Return whether a text can't be encoded as UTF-8 (it contains undecodable bytes)."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def check_path(home: Home, uri: str) -> None:
    """Raise StoreError if the path of the home or database is too long or has characters that MLflow can't handle."""
    advice = "Work in another folder, or set PGZOO_HOME to one."
    root = str(home.root)
    if len(os.fsencode(root)) > PATH_LIMIT - PATH_RESERVE:
        raise StoreError(
            f"The path of pgzoo's folder has {len(os.fsencode(root)):,} bytes; those of the files in it would exceed "
            f"the system's limit of {PATH_LIMIT:,}. {advice}"
        )
    own = uri == home.default_uri
    for path in (str(home.database if own else sqlite_path(uri) or ""), root, str(home.artifacts) if own else ""):
        if not_utf8(path):
            raise StoreError(f"The path {path!a} isn't valid UTF-8, which a tracking store can't keep. {advice}")
        if found := CONTROL.search(path):
            raise StoreError(f"The path {path!a} has the control character {found[0]!a}. {advice}")
    path = str(home.database if own else sqlite_path(uri) or "")
    if found := NOT_IN_A_URI.search(path):
        raise StoreError(
            f'The path of the tracking store, {path}, has "{found[0]}", which means something else in the URI of a '
            f"database. {advice}"
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
    """Raise StoreError if no file can be created in the folder or in its nearest existing ancestor."""
    try:
        place = folder
        while not place.exists() and place != place.parent:
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise StoreError(f"Can't write to {what}, {folder}: {error.strerror}; {advice}.") from error
