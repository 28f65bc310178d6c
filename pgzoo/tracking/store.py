"""One MLflow tracking store as the uploader sees it. Imported by processes that may load mlflow, never by a trainer."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

# Before mlflow is imported: fail fast (the uploader retries by itself), print nothing, send no telemetry.
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils import file_utils as _file_utils

from pgzoo.errors import PgzooError, StoreError
from pgzoo.tracking import http_limits  # noqa: F401  (bounds what a server may answer)
from pgzoo.tracking.database import prepare_database
from pgzoo.tracking.experiment_view import EXPERIMENT_TAGS
from pgzoo.tracking.home import redact, sqlite_path
from pgzoo.tracking.journal import MAX_TAG, Record
from pgzoo.tracking.system import SYSTEM, System

__all__ = ["LostRunError", "OpenedRun", "RefusedError", "Store", "TooLargeError", "is_final", "knows_no_models"]

file_utils: Any = _file_utils  # parts of it have no types
T = TypeVar("T")
Reject = Callable[[Any, str], None]

# MLflow error codes after which retrying is useless. ENDPOINT_NOT_FOUND isn't included: it means a wrong server, not a
# bad record.
FINAL = {
    "ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "NOT_FOUND",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
PLAIN = {
    r"(?:error code|status code:?|HTTP) 401|UNAUTHENTICATED": "it asks for credentials (401): set "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    r"(?:error code|status code:?|HTTP) 403|PERMISSION_DENIED": "it refuses access with these credentials (403): check "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    r"(?:error code|status code:?|HTTP) 404": "no MLflow server answers at this address (404): check the tracking URI",
    r"connection refused": "no server listens there: connection refused",
    r"name or service not known|failed to resolve|name resolution": "there is no such host",
    r"timed out|timeout": "it doesn't answer: timed out",
    r"too many (\d+) error responses": r"it answers with error \1; its own log says why",
    r"database is locked": "another program keeps the database locked",
    r"database or disk is full|no space left": "the store's disk is full",
    r"disk i/o error": "the store's files can't be written: disk I/O error",
    r"read-?only (?:database|file system)": "the store can't be written to: it is read-only",
}
"""User-friendly messages for errors, by a regular expression on the original message."""
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
GROUP = re.compile(r"[A-Za-z0-9._-]{1,200}")
"""Groups that can be put into a search query as they are."""
MAX_METRICS, MAX_ITEMS = 1000, 100
CHANGEABLE_PARAMS = ("total_steps",)
"""Params that may change when a run is resumed. MLflow keeps the first value; a tag holds the latest."""
PROBE = "pgzoo.probe"
"""A tag that is written to test whether the store is writable."""
DOUBT = 60.0
"""Seconds for which a server may still obey a request that it hasn't answered."""
MAX_DUPLICATES = 20
"""Number of runs with the same key that are looked at."""
PATIENCE = 3
"""If a batch fails this many times while the store accepts other requests, the batch is considered invalid."""


class RefusedError(Exception):
    """The store will never accept this run."""


class LostRunError(Exception):
    """The store had this run and doesn't know it any more, as after its database was replaced."""


class TooLargeError(StoreError):
    """The server, or a proxy before it, refuses a file because of its size (413)."""


class Backoff:
    """When to try again: 0.5 s after a failure, then twice as long each time, up to a minute."""

    def __init__(self, monotonic: Callable[[], float] = SYSTEM.monotonic) -> None:
        self._monotonic = monotonic
        self.error = ""
        """Why the last attempt failed; empty after a success."""
        self.failures = 0
        self._delay, self._not_before = 0.0, 0.0

    @property
    def ready(self) -> bool:
        return self._monotonic() >= self._not_before

    def failed(self, error: Exception) -> None:
        self.error = short_message(error)
        self.failures += 1
        self._delay = min(60.0, max(0.5, 2 * self._delay))
        self._not_before = self._monotonic() + self._delay

    def succeeded(self) -> None:
        self.__init__(self._monotonic)  # type: ignore[misc]

    def retry_now(self) -> None:
        self._delay, self._not_before = 0.0, 0.0


@dataclass(frozen=True)
class OpenedRun:
    """A run of the store, and the params and tags of its start record that the store doesn't have yet."""

    run_id: str
    experiment: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    created: bool
    """Whether the run was created by this call, so that the store has nothing of it yet."""


class Store:
    """A tracking store. Methods raise RefusedError, or mlflow's exceptions if the store is unreachable."""

    def __init__(self, uri: str, address: str = "", system: System = SYSTEM) -> None:
        """Open the store at `address`; `uri`, used in messages and files, has no password. Makes no connection yet."""
        self.uri, self._address, self._system = uri, address or uri, system
        self.successes = 0
        """Number of successful attempts to upload records or files of a run."""
        self.failures = 0
        """How many times the batch that is logged next was logged in vain; set by its run."""
        # an unavailable artifact store must not delay metrics, and model errors must not delay artifacts
        self.records, self.files, self.models = (Backoff(system.monotonic) for _ in range(3))
        self._file = sqlite_path(uri)
        self._inode = -1
        self._client: MlflowClient | None = None
        self._experiments: dict[str, str] = {}
        self._new_groups: dict[tuple[str, str], set[str] | None] = {}
        """By (experiment, group): the keys of the runs that were created here; None if the store had some before."""
        self._doubts: dict[str, float] = {}
        """By run key: when a request failed that creates the run or sets it to RUNNING, and that may be obeyed late."""
        self._parents: dict[str, str] = {}
        """The run ids of parents by run key."""
        self._artifact_folders: dict[str, Path | None] = {}
        """The local artifact folder by run id, None where the artifacts are elsewhere."""

    def retry_now(self) -> None:
        """Forget the backoff and what is known of experiments, which may have been restored."""
        self.records.retry_now()
        self.files.retry_now()
        self.models.retry_now()
        self._experiments.clear()
        self._new_groups.clear()
        self._parents.clear()

    @property
    def vanished(self) -> bool:
        """Return whether the database file was deleted or replaced (this process still writes to the deleted file)."""
        if self._client is None or self._file is None:
            return False
        try:
            return self._file.stat().st_ino != self._inode
        except OSError:
            return True

    @property
    def client(self) -> MlflowClient:
        """The client; the embedded database is made or migrated first."""
        if self._client is None:
            if self._file is not None:
                prepare_database(self._file)
                self._inode = self._file.stat().st_ino
            self._client = MlflowClient(self._address, registry_uri=self._address)
        return self._client

    def experiment(self, start: Record) -> str:
        """Return the id of the run's experiment, made (with its shared view) if need be. Raises RefusedError."""
        name: str = start["experiment"]
        if name in self._experiments:
            return self._experiments[name]
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                self.client.create_experiment(name, artifact_location=artifact_location(start))
            except MlflowException as error:
                if error.error_code == "INVALID_PARAMETER_VALUE":
                    raise RefusedError(f'the store refuses the experiment name "{name}": {error.message}') from error
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process created it in the meantime
                    raise
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise OSError(f'experiment "{name}" was created but can\'t be found')
        if found.lifecycle_stage not in ("active", "deleted"):
            raise StoreError(f'the server\'s answer about the experiment "{name}" is empty. Is it an MLflow server?')
        if found.lifecycle_stage != "active":
            raise RefusedError(
                f'the experiment "{name}" (id {found.experiment_id}) was deleted in the store; restore it there and '
                "run `pgzoo sync`, or train with another --experiment"
            )
        for key, value in EXPERIMENT_TAGS.items():
            if key in found.tags:
                continue
            try:
                self.client.set_experiment_tag(found.experiment_id, key, value)
            except MlflowException as error:  # these tags are optional: some servers reject them
                if not is_final(error):
                    raise
        self._experiments[name] = str(found.experiment_id)
        return self._experiments[name]

    def open_run(self, start: Record, reject: Reject) -> OpenedRun:
        """Return the run with this key, created if need be. Raises RefusedError."""
        experiment = self.experiment(start)
        run = self._find_run(start, experiment)
        created = run is None
        if run is None:
            tags_to_find = identifying_tags(start)
            try:
                run = self.client.create_run(experiment, start["ts"], tags_to_find, run_name=start["name"])
            except MlflowException as error:
                self._experiments.clear()  # deleted since it was looked up?
                if is_final(error):
                    self.experiment(start)
                self._note_doubt(start["key"], error)
                raise
        check_run_id(run.info.run_id)
        self._keep_artifact_folder(run)
        known = run.data.params
        params = {k: v for k, v in start["params"].items() if k not in known}
        tags = dict(start["tags"])
        for k, v in start["params"].items():
            if known.get(k, v) != v and k in CHANGEABLE_PARAMS:
                tags[f"pgzoo.{k}"] = v
            elif known.get(k, v) != v:
                reject({"param": k, "value": v}, f"a resumed run can't change a param; it stays {known[k]!r}")
        return OpenedRun(run.info.run_id, experiment, params, tags, created)

    def parent(self, key: str, experiment: str) -> str:
        """Return the id of the run with this key, which others name as their parent; empty if it isn't there yet."""
        if key not in self._parents:
            runs = self._search(experiment, "run_key", key)
            if not runs:
                return ""
            self._parents[key] = check_run_id(runs[0].info.run_id)
        return self._parents[key]

    def _find_run(self, start: Record, experiment: str) -> Run | None:
        """Return the run with this key, set to RUNNING; None if there is none. Raises RefusedError if it is deleted.

        A group is searched once: if the store has none of its runs, they aren't searched one by one.
        """
        group, key = start["group"], start["key"]
        if GROUP.fullmatch(group):
            if (experiment, group) not in self._new_groups:
                self._new_groups[experiment, group] = None if self._search(experiment, "group", group) else set()
            created = self._new_groups[experiment, group]
            if created is not None and key not in created:
                created.add(key)  # if creating it fails, it is searched the next time: it may exist nevertheless
                return None
        runs = self._search(experiment, "run_key", key, MAX_DUPLICATES)
        if not runs:
            return None
        run = max(runs, key=lambda one: (one.info.lifecycle_stage == "active", bool(one.data.metrics)))
        self._check_alive(run)
        if run.info.status != "RUNNING":
            try:
                self.client.update_run(run.info.run_id, status="RUNNING")
            except MlflowException as error:
                self._note_doubt(key, error)
                raise
        return run

    def _note_doubt(self, key: str, error: MlflowException) -> None:
        if not is_final(error) and "connection refused" not in known_cause(error):
            self._doubts[key] = self._system.monotonic()

    def _search(self, experiment: str, tag: str, value: str, count: int = 1) -> list[Run]:
        query = f"tags.`pgzoo.{tag}` = '{value}'"
        return list(self.client.search_runs([experiment], query, run_view_type=ViewType.ALL, max_results=count))

    def must_wait(self, key: str) -> bool:
        """Return whether the end of this run must wait, because a late request could create it again or reopen it."""
        return self._system.monotonic() - self._doubts.get(key, -DOUBT) < DOUBT

    def delete_duplicates(self, run_id: str, experiment: str, key: str) -> None:
        """Delete the empty runs that a request to create this run has left, if it was obeyed more than once.

        That happens where a server obeys after the client has given up, or a proxy repeats a request.
        """
        if self._file is not None:
            return
        runs = {run.info.run_id: run for run in self._search(experiment, "run_key", key, MAX_DUPLICATES)}
        begun = runs[run_id].info.start_time if run_id in runs else None
        for other, run in runs.items():
            empty = run.info.status == "RUNNING" and not run.data.metrics and run.info.start_time == begun
            if other != run_id and empty and run.info.lifecycle_stage == "active":
                self.client.delete_run(check_run_id(other))

    def log(
        self,
        run_id: str,
        rows: Sequence[tuple[str, float, int, int]],
        params: Mapping[str, str],
        tags: Mapping[str, str],
        reject: Reject,
    ) -> None:
        """Log (name, value, timestamp, step) rows, params and tags; those that the store refuses go to `reject`.

        One request, if there are few of them and all are valid.
        """
        if not rows and not params and not tags:
            return
        if max(len(params), len(tags)) <= MAX_ITEMS and self.failures < PATIENCE:
            first = rows[: MAX_METRICS - len(params) - len(tags)]
            try:
                self.client.log_batch(
                    run_id,
                    metrics=[Metric(*row) for row in first],
                    params=[Param(*item) for item in params.items()],
                    tags=[RunTag(*item) for item in tags.items()],
                )
            except (MlflowException, UnicodeError, OverflowError) as error:
                if not is_final(error):
                    raise
            else:
                rows, params, tags = rows[len(first) :], {}, {}
        self.metrics(run_id, rows, reject)
        self.params(run_id, params, reject)
        self.tags(run_id, tags, reject)

    def metrics(self, run_id: str, rows: Sequence[tuple[str, float, int, int]], reject: Reject) -> None:
        """Log (name, value, timestamp, step) rows; those that the store refuses go to `reject`."""
        for part in chunks(rows, MAX_METRICS):
            self._send_valid(
                run_id,
                part,
                lambda some: self.client.log_batch(run_id, metrics=[Metric(*row) for row in some]),
                lambda row, why: reject(dict(zip(("metric", "value", "ts", "step"), row, strict=True)), why),
            )

    def params(self, run_id: str, params: Mapping[str, str], reject: Reject) -> None:
        """Log params; those that the store refuses go to `reject`."""
        for part in chunks(list(params.items()), MAX_ITEMS):
            self._send_valid(
                run_id,
                part,
                lambda some: self.client.log_batch(run_id, params=[Param(*item) for item in some]),
                lambda item, why: reject({"param": item[0], "value": item[1]}, why),
            )

    def tags(self, run_id: str, tags: Mapping[str, str], reject: Reject) -> None:
        """Set tags; those that the store refuses go to `reject`."""
        for part in chunks(list(tags.items()), MAX_ITEMS):
            self._send_valid(
                run_id,
                part,
                lambda some: self.client.log_batch(run_id, tags=[RunTag(*item) for item in some]),
                lambda item, why: reject({"tag": item[0], "value": item[1]}, why),
            )

    def replace_tag(self, run_id: str, key: str, old: str, new: str) -> None:
        """Set a tag of a run if its value is still `old`."""
        if self.client.get_run(run_id).data.tags.get(key) == old:
            self.client.set_tag(run_id, key, new)

    def upload(self, run_id: str, file: Path, name: str) -> None:
        """Upload a file as the run's artifact `name`, over what may be there; a local artifact folder gets a copy.

        Raises TooLargeError.
        """
        if run_id not in self._artifact_folders:
            self._keep_artifact_folder(self.client.get_run(run_id))
        folder = self._artifact_folders[run_id]
        if folder is None:
            try:
                self.client.log_artifact(run_id, str(file), name.rpartition("/")[0] or None)
            except Exception as error:
                if getattr(getattr(error, "response", None), "status_code", None) != 413:
                    raise
                raise TooLargeError(
                    f"it refuses {name}, which has {file.stat().st_size:,} bytes (413): raise the limit of the server, "
                    "or of the proxy before it (nginx: client_max_body_size)"
                ) from error
            return
        target = folder / PurePosixPath(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)

    def _keep_artifact_folder(self, run: Run) -> None:
        self._artifact_folders[run.info.run_id] = self._local_folder(run.info.artifact_uri)

    def _local_folder(self, artifact_uri: str | None) -> Path | None:
        """Return the folder that a URI names, None unless this process keeps the store itself, as SQLite."""
        if self._file is None or not artifact_uri or urlsplit(artifact_uri).scheme not in ("", "file"):
            return None
        return Path(file_utils.local_file_uri_to_path(artifact_uri))

    def log_model(
        self,
        run_id: str,
        start: Record,
        digest: str,
        write: Callable[[str, Path], object],
        rows: Sequence[tuple[str, float, int, int]],
        first: bool = False,
    ) -> str:
        """Log the model that `write(id, folder)` writes, with metrics (name, value, ts, step); return its id.

        Each part is done once, however often this is called: a policy is identified by the `digest` of its files.
        `first`: the store has no model of this run, so none is searched.
        """
        experiment, client = self.experiment(start), self.client
        query = f"source_run_id = '{run_id}' AND tags.`pgzoo.policy` = '{digest}'"
        found = [] if first else client.search_logged_models([experiment], query, max_results=1)
        tags = {"pgzoo.policy": digest, "pgzoo.run_key": start["key"], "pgzoo.group": start["group"]}
        params = {"algorithm": start["algorithm"], "env": start["env"], "seed": str(start["seed"])}
        model = (
            found[0]
            if found
            else client.create_logged_model(
                experiment, model_name(start), source_run_id=run_id, tags=tags, params=params, model_type="policy"
            )
        )
        id_of_it = str(model.model_id)
        if model.status != LoggedModelStatus.READY:
            folder = self._local_folder(model.artifact_location)
            if folder is not None:
                write(id_of_it, folder)
            else:
                with tempfile.TemporaryDirectory() as scratch:
                    write(id_of_it, Path(scratch) / "model")
                    client.log_model_artifacts(id_of_it, str(Path(scratch) / "model"))
            client.finalize_logged_model(id_of_it, LoggedModelStatus.READY)
        if rows:  # the run already has these metrics; MLflow ignores duplicates
            client.log_batch(run_id, metrics=[Metric(*row, model_id=id_of_it, run_id=run_id) for row in rows])
        outputs = None if first else client.get_run(run_id).outputs
        if id_of_it not in [output.model_id for output in (outputs.model_outputs if outputs else ())]:
            last = max((step for *_, step in rows), default=0)
            client.log_outputs(run_id, [LoggedModelOutput(id_of_it, last)])
        return id_of_it

    def close_run(self, run_id: str, status: str, ended: int) -> None:
        """Set the end status and end time (ms) of the run. Raises RefusedError and LostRunError."""
        try:
            self.client.set_terminated(run_id, status, ended)
        except MlflowException as error:
            if is_final(error):
                self.check_run(run_id)
            raise

    def _send_valid(
        self,
        run_id: str,
        some: Sequence[T],
        send: Callable[[Sequence[T]], object],
        reject: Callable[[T, str], None],
        checked: bool = False,
    ) -> None:
        """Send all items; if they are refused, bisect to find and reject the invalid ones."""
        try:
            send(some)
        except (MlflowException, UnicodeError, OverflowError) as error:
            if not is_final(error) and not self._batch_is_invalid(run_id, error):
                raise
            if not checked:
                self.check_run(run_id)
            if len(some) == 1:
                if is_final(error) or not succeeds(lambda: send(some)):
                    reject(some[0], str(error))
                return
            half = len(some) // 2
            self._send_valid(run_id, some[:half], send, reject, True)
            self._send_valid(run_id, some[half:], send, reject, True)

    def _batch_is_invalid(self, run_id: str, error: Exception) -> bool:
        """Return whether the batch rather than the store is the cause of repeated unexplained failures."""
        passing = ("timeout", "timed out", "locked", "refused", "unavailable", "full", "disk", "space", "readonly")
        message = str(error).lower().replace("read-only", "readonly")
        if self.failures < PATIENCE or any(word in message for word in passing):
            return False
        self.check_run(run_id)
        self.client.set_tag(run_id, PROBE, str(self._system.now()))  # raises if the store is read-only
        return True

    def check_run(self, run_id: str) -> None:
        """Raise RefusedError if a run is deleted in the store, LostRunError if the store doesn't know it any more."""
        try:
            self._check_alive(self.client.get_run(run_id))
        except MlflowException as error:
            if not is_final(error):
                raise
            raise LostRunError(
                f"the run {run_id} is gone from the store ({error.message}); `pgzoo sync` uploads it again from its "
                "beginning"
            ) from error

    def _check_alive(self, run: Run) -> None:
        check_run_id(run.info.run_id)
        if run.info.lifecycle_stage != "active":
            raise RefusedError(
                f"the run {run.info.run_id} was deleted in the store; restore it there and run `pgzoo sync`"
            )


def succeeds(request: Callable[[], object]) -> bool:
    """Make a request again, whose failure may have been of the moment; return whether it succeeds now."""
    try:
        request()
    except (MlflowException, UnicodeError, OverflowError):
        return False
    return True


def is_final(error: Exception) -> bool:
    """Return whether retrying is useless, because the store understood the request and refuses it."""
    if isinstance(error, MlflowException) and "failed with error code" in error.message:
        return False  # not in the form in which MLflow answers: a proxy, or another kind of server
    return not_encodable(error) or (isinstance(error, MlflowException) and error.error_code in FINAL)


def not_encodable(error: BaseException) -> bool:
    """Return whether a text or a number can never be encoded for the store."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UnicodeError | OverflowError) or "surrogates not allowed" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def knows_no_models(error: Exception) -> bool:
    """Return whether the server is too old to support logged models."""
    return isinstance(error, MlflowException) and error.error_code in ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED")


def identifying_tags(start: Record) -> dict[str, str]:
    """Return the tags by which a run is found, which it gets when it is created."""
    return {"pgzoo.run_key": start["key"], "pgzoo.group": str(start["group"])[:MAX_TAG]}


def model_name(start: Record) -> str:
    """Return the run name without characters that MLflow forbids in model names."""
    return re.sub(r"[/:.%\"'\s]+", "-", start["name"]).strip("-")[:200] or "policy"


def one_line(error: Exception) -> str:
    """Return the error without the query and the link that SQLAlchemy adds; one of pgzoo's own without its type."""
    text = str(error) if isinstance(error, PgzooError) else f"{type(error).__name__}: {error}"
    return redact(text.splitlines()[0])[:500]


def short_message(error: Exception) -> str:
    """Return a short description of a store's error: the known cause, otherwise the exception."""
    return known_cause(error) or one_line(error)


def known_cause(error: Exception) -> str:
    """Return the known cause of a store's error in a few words; an empty string if it isn't known."""
    text = one_line(error)
    found = ((re.search(pattern, text, re.IGNORECASE), meaning) for pattern, meaning in PLAIN.items())
    return next((match.expand(meaning) for match, meaning in found if match), "")


def check_run_id(run_id: str) -> str:
    """Return the id of a run that a server gave. Raises StoreError if it can't be one, as in an empty answer."""
    if not RUN_ID.fullmatch(str(run_id)):
        raise StoreError(
            f"the server gave a run the id {str(run_id)[:80]!r}, which isn't valid. Is it an MLflow server?"
        )
    return run_id


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def artifact_location(start: Record) -> str | None:
    """Return the folder for the artifacts of an SQLite store's experiment; None for a server, which chooses it."""
    if "artifacts" not in start:
        return None
    folder = "".join(c if c.isalnum() or c in "-_." else "-" for c in start["experiment"]).strip(".-")
    return f"{start['artifacts']}/{folder or 'experiment'}"
