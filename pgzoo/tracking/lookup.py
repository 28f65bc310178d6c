"""Finding a run by run id, run key, group or name."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.errors import StoreError, UnknownName, did_you_mean
from pgzoo.files import write_file
from pgzoo.tracking.home import NO_STORE, Home, display_uri, redact, resolve_uri
from pgzoo.tracking.journal import Record, artifact_path, check_run_key
from pgzoo.tracking.ledger import KIND, identity, journal_folders, names_of, read_json, start_of, start_of_seed
from pgzoo.tracking.secrets import reveal_secrets

if TYPE_CHECKING:
    from pgzoo.tracking.store import Store

__all__ = ["Found", "LocalRuns", "find", "find_study", "stored_study"]

STUDY = "pgzoo.study"
"""Tag with the name of a search, of its run and of those of its trials and their seeds."""

PAGE = 1000
"""Runs that are requested from a store at once."""


@dataclass(frozen=True)
class Found:
    """One run. `path` is its folder on this machine, None if only the tracking server knows it."""

    run_key: str
    run_id: str | None
    name: str
    group: str
    seed: int
    algorithm: str
    env: str
    experiment: str
    tracking_uri: str = field(repr=False)  # it may have a password
    path: Path | None
    started: int = 0
    """Milliseconds since 1970."""
    home: Home | None = field(default=None, repr=False, compare=False)
    tags: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Those with which it started."""

    @property
    def names(self) -> tuple[str, str, str]:
        """The names that select it."""
        return names_of(self.name, self.seed, self.tags)

    def artifact(self, path: str) -> Path:
        """Return a local file with the run's artifact, downloaded if need be.

        Raises StoreError if there is none or the store can't be reached, ValueError for a path that leaves the run.
        """
        if self.path is not None:
            local = artifact_path(self.path, path)
            if local.is_file():
                return local
        missing = StoreError(
            f"Run {self.name} ({self.run_id or self.run_key}) has no artifact {path}: it ended before that was saved, "
            "or it was deleted."
        )
        if self.run_id is None or self.home is None:
            raise missing
        folder = self.home.root / "downloads" / check_run_key(self.run_id)
        cached = artifact_path(folder, path)
        if cached.is_file():
            return cached
        found: list[bytes] = []

        def download(client: Any) -> None:
            listed = client.list_artifacts(self.run_id, path.rpartition("/")[0] or None)
            if path in [file.path for file in listed]:
                with tempfile.TemporaryDirectory() as scratch:  # below it, each kind of store has its own layout
                    found.append(Path(client.download_artifacts(self.run_id, path, scratch)).read_bytes())

        query_store(self.tracking_uri, download, f"artifact {path} of run {self.name} ({self.run_id})")
        if not found:
            raise missing
        write_file(cached, found[0])
        return cached


class LocalRuns:
    """The runs in the journals of this machine, each with the tags that it started with."""

    def __init__(self, home: Home) -> None:
        starts = ((folder, start_of(folder)) for folder in journal_folders(home))
        self.all = [(_local(folder, home, start), start.get("tags", {})) for folder, start in starts if start]
        self.seeds = [found for found, tags in self.all if KIND not in tags]


def find(ref: str, home: Home, tracking_uri: str | None = None, local: LocalRuns | None = None) -> list[Found]:
    """Return the runs that `ref` names, by seed: one for a run id or run key, a command's for a group.

    A name means the newest run or group with this name: `reinforce s3` one run, `reinforce` the seeds of the newest
    group.
    Local journals are searched first (those in `local` if they have been read before), then the tracking store. Raises
    UnknownName, and StoreError if the store is unreachable.
    """
    seeds = (local or LocalRuns(home)).seeds
    if chosen := choose(ref, seeds):
        return chosen
    uri = resolve_uri(tracking_uri, home)
    remote: list[Found] = []
    if uri != NO_STORE and (uri != home.default_uri or home.database.exists()):
        query_store(uri, lambda client: remote.extend(remote_runs(client, ref, uri, home)), f'run "{ref}"')
    if chosen := choose(ref, remote):
        return chosen
    known = {k for f in seeds for k in (*f.names, f.group, f.run_key, f.run_id or f.name)}
    where = str(home.root) if uri == NO_STORE else f"{home.root} or {display_uri(uri)}"
    raise UnknownName(
        f'No run "{ref}" in {where}.{did_you_mean(ref, sorted(known))} '
        "Give an MLflow run id, a run key, a group or a name."
    )


def find_study(ref: str, home: Home, local: LocalRuns) -> tuple[str, list[Found]] | None:
    """Return the name and the `local` runs of a study, given its name, or the id or key of its own run.

    The runs are those of the study itself, of its trials and of their seeds. Returns None if it isn't known here.
    """
    own = (tags for found, tags in local.all if tags.get(KIND) == "study" and ref in (found.run_key, found.run_id))
    name = next((tags[STUDY] for tags in own if STUDY in tags), ref)
    runs = [found for found, tags in local.all if tags.get(STUDY) == name]
    folder = home.root / "studies" / name / "workers"  # without runs if each of them was deleted by itself
    return (name, runs) if runs or (Path(name).name == name and folder.is_dir()) else None


def stored_study(name: str, home: Home, tracking_uri: str, report: Callable[[int], None]) -> list[Found]:
    """Return the runs of a study that a tracking store has. `report` is called with their number so far.

    Raises StoreError.
    """
    uri, runs = resolve_uri(tracking_uri, home), list[Found]()

    def search(client: Any) -> None:
        query, token = f"tags.`{STUDY}` = '{plain(name)}'", None
        experiments = {one.experiment_id: one.name for one in client.search_experiments()}
        while experiments:
            page = client.search_runs(list(experiments), query, max_results=PAGE, page_token=token)
            runs.extend(_remote(run, experiments, uri, home) for run in page)
            report(len(runs))
            if not (token := page.token):
                break

    query_store(uri, search, f"the runs of study {name}")
    return runs


def plain(text: str) -> str:
    """Return a text without the characters that have a meaning in a query of MLflow."""
    return text.replace("'", "").replace("%", "").replace("\\", "")


def choose(ref: str, runs: list[Found]) -> list[Found]:
    if found := [f for f in runs if ref in (f.run_id, f.run_key)]:
        return found[-1:]
    found = [f for f in runs if f.group == ref]
    if not found:
        found = [f for f in runs if ref in f.names]
        newest = max(found, key=lambda f: f.started, default=None)
        found = [f for f in found if newest and f.group == newest.group]
    return sorted(found, key=lambda f: (f.seed, f.started))


def local_run(folder: Path, home: Home) -> Found | None:
    """Return the run of a seed from its folder; None for other folders."""
    start = start_of_seed(folder)
    return None if start is None else _local(folder, home, start)


def _local(folder: Path, home: Home, start: Record) -> Found:
    shipped = read_json(folder / "run.json")
    return Found(
        **identity(folder, start, shipped),
        tracking_uri=reveal_secrets(str(shipped.get("tracking_uri") or start.get("uri", "")), home),
        home=home,
        tags=start.get("tags", {}),
    )


def remote_runs(client: Any, ref: str, uri: str, home: Home) -> Iterable[Found]:
    """Ask a store for the runs with this id, key, group or name."""
    from pgzoo.tracking.store import is_final

    experiments = client.search_experiments()
    names = {e.experiment_id: e.name for e in experiments}
    runs = []
    try:
        runs = [client.get_run(ref)]
    except Exception as error:  # not an id
        if not is_final(error):
            raise
    quoted = plain(ref)
    queries = [f"tags.`pgzoo.{k}` = '{quoted}'" for k in ("run_key", "group")]
    queries += [f"attributes.run_name = '{quoted}'", f"attributes.run_name LIKE '{quoted} %'"]
    for query in queries:
        if runs or not names:
            break
        runs = list(client.search_runs(list(names), query, order_by=["attributes.start_time DESC"], max_results=1000))
    for run in runs:
        if KIND not in run.data.tags:
            yield _remote(run, names, uri, home)


def _remote(run: Any, experiments: Mapping[str, str], uri: str, home: Home) -> Found:
    """Return a run of a store. `experiments` are the names of experiments by id."""
    from pgzoo.tracking.store import check_run_id

    check_run_id(run.info.run_id)
    tags, params = run.data.tags, run.data.params
    seed = params.get("seed", "0")
    return Found(
        run_key=tags.get("pgzoo.run_key", ""),
        run_id=run.info.run_id,
        name=run.info.run_name,
        group=tags.get("pgzoo.group", ""),
        seed=int(seed) if seed.isdigit() else 0,
        algorithm=params.get("algorithm", ""),
        env=params.get("env", ""),
        experiment=experiments.get(run.info.experiment_id, ""),
        tracking_uri=uri,
        path=None,
        started=run.info.start_time,
        home=home,
        tags=tags,
    )


def query_store(uri: str, question: Callable[[Any], object], what: str) -> None:
    """Call `question(client)` with a client of the store. Imports mlflow. Raises StoreError; `what` is named in it."""
    with garbage_collection_paused():
        from pgzoo.tracking.http_limits import limited
        from pgzoo.tracking.store import Store, known_cause

    try:
        store = STORES.get(uri)
        if store is None or store.vanished:
            store = STORES[uri] = Store(uri)
        with limited(), garbage_collection_paused():
            question(store.client)
    except Exception as error:
        reason = known_cause(error) or (str(error).splitlines()[0][:300] if str(error) else type(error).__name__)
        raise StoreError(f"Couldn't get {what} from {display_uri(uri)}: {redact(reason)}") from error


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause Python's cyclic garbage collector while the body runs.

    Importing mlflow, and reading a thousand runs, makes many objects that all stay; the collector would traverse them
    again and again, which takes a third of the time.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


STORES: dict[str, Store] = {}
"""Clients by URI, because opening a database takes a second."""
