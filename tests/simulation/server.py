"""An MLflow tracking server in memory, and a network between it and MLflow's client that loses and repeats requests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import requests
from requests.adapters import BaseAdapter
from simulation.world import World

ADDRESS = "http://mlflow.simulated"
API = "/api/2.0/mlflow/"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
TIMEOUT = 15.0
"""Seconds after which MLflow's client gives up, as pgzoo.tracking.store sets it."""
Row = tuple[str, float, int, int]


class RejectedError(Exception):
    """An answer with an error code of MLflow."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class StoredRun:
    """A run of the server."""

    info: dict[str, Any]
    rows: set[Row] = field(default_factory=set)
    """Points as (name, value, timestamp, step); MLflow ignores a point that it already has."""
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


class Server:
    """The state of the server. `handle` answers a request immediately and completely."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.unknown: set[str] = set()
        """Requests that this server doesn't know; there should be none."""

    def handle(self, method: str, url: str, body: bytes) -> tuple[int, bytes]:
        """Return the status and the body of the answer."""
        parts = urlsplit(url)
        if parts.path.startswith(ARTIFACTS) and method == "PUT":
            _, run, _, name = unquote(parts.path.removeprefix(ARTIFACTS)).split("/", 3)
            self.runs[run].files[name] = body
            return 200, b"{}"
        asked = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        asked |= json.loads(body) if body else {}
        name = parts.path.removeprefix(API).replace("/", "_").replace("-", "_")
        answer: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = getattr(self, f"do_{name}", None)
        if answer is None:
            self.unknown.add(parts.path)
            return 404, b"Not Found"
        try:
            return 200, json.dumps(answer(asked)).encode()
        except RejectedError as error:
            return error.status, json.dumps({"error_code": error.code, "message": str(error)}).encode()

    def do_experiments_get_by_name(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        for experiment in self.experiments.values():
            if experiment["name"] == asked["experiment_name"]:
                return {"experiment": experiment}
        raise RejectedError(404, "RESOURCE_DOES_NOT_EXIST", "no such experiment")

    def do_experiments_create(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        if any(one["name"] == asked["name"] for one in self.experiments.values()):
            raise RejectedError(400, "RESOURCE_ALREADY_EXISTS", "it exists")
        key = str(len(self.experiments) + 1)
        self.experiments[key] = {"experiment_id": key, "name": asked["name"], "lifecycle_stage": "active", "tags": []}
        return {"experiment_id": key}

    def do_experiments_set_experiment_tag(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        self.experiments[asked["experiment_id"]]["tags"].append({"key": asked["key"], "value": asked["value"]})
        return {}

    def do_runs_create(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        key, experiment = f"{len(self.runs) + 1:032x}", asked["experiment_id"]
        where = f"mlflow-artifacts:/{experiment}/{key}/artifacts"
        info = {"run_id": key, "run_uuid": key, "experiment_id": experiment, "run_name": asked["run_name"]}
        info |= {"status": "RUNNING", "start_time": asked["start_time"], "lifecycle_stage": "active"}
        run = self.runs[key] = StoredRun({**info, "artifact_uri": where})
        run.tags.update({tag["key"]: tag["value"] for tag in asked.get("tags", ())})
        return {"run": self._run(run)}

    def do_runs_get(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"run": self._run(self._find(asked))}

    def do_runs_search(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        found = re.fullmatch(r"tags\.`(.+)` = '(.*)'", asked["filter"])
        assert found is not None, asked
        stages = {"ACTIVE_ONLY": {"active"}, "DELETED_ONLY": {"deleted"}, "ALL": {"active", "deleted"}}
        runs = [
            run
            for run in self.runs.values()
            if run.tags.get(found[1]) == found[2]
            and run.info["experiment_id"] in asked["experiment_ids"]
            and run.info["lifecycle_stage"] in stages[asked.get("run_view_type", "ACTIVE_ONLY")]
        ]
        runs.sort(key=lambda run: (-run.info["start_time"], run.info["run_id"]))
        return {"runs": [self._run(run) for run in runs[: int(asked["max_results"])]]}

    def do_runs_update(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        run = self._active(asked)
        run.info.update({k: asked[k] for k in ("status", "end_time", "run_name") if k in asked})
        return {"run_info": run.info}

    def do_runs_delete(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        self._find(asked).info["lifecycle_stage"] = "deleted"
        return {}

    def do_runs_set_tag(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        self._active(asked).tags[asked["key"]] = asked["value"]
        return {}

    def do_runs_log_batch(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        run = self._active(asked)
        for param in asked.get("params", ()):
            if run.params.setdefault(param["key"], param["value"]) != param["value"]:
                raise RejectedError(400, "INVALID_PARAMETER_VALUE", "a param can't change")
        run.rows.update(
            (one["key"], float(one["value"]), int(one["timestamp"]), int(one.get("step", 0)))
            for one in asked.get("metrics", ())
        )
        run.tags.update({tag["key"]: tag["value"] for tag in asked.get("tags", ())})
        return {}

    def _find(self, asked: Mapping[str, Any]) -> StoredRun:
        run = self.runs.get(asked["run_id"])
        if run is None:
            raise RejectedError(404, "RESOURCE_DOES_NOT_EXIST", "no such run")
        return run

    def _active(self, asked: Mapping[str, Any]) -> StoredRun:
        run = self._find(asked)
        if run.info["lifecycle_stage"] != "active":
            raise RejectedError(400, "INVALID_PARAMETER_VALUE", "the run must be active")
        return run

    def _run(self, run: StoredRun) -> dict[str, Any]:
        def items(of: Mapping[str, str]) -> list[dict[str, str]]:
            return [{"key": key, "value": value} for key, value in of.items()]

        latest: dict[str, dict[str, Any]] = {}
        for name, value, ts, step in sorted(run.rows, key=lambda row: (row[3], row[2])):
            latest[name] = {"key": name, "value": value, "timestamp": ts, "step": step}
        data = {"params": items(run.params), "tags": items(run.tags), "metrics": list(latest.values())}
        return {"info": run.info, "data": data, "inputs": {}, "outputs": {}}


PAGE = b"<!doctype html><title>Sign in</title><p>Please sign in to the network."


class Network(BaseAdapter):
    """Delivers the requests of a world's processes to its server: slowly, not at all, too late, or twice.

    MLflow's client caches its connections for the life of a process, so one network serves one world after another.
    """

    world: World
    server: Server
    down = False
    """Whether no server listens at the moment."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        """Return the answer to a request. Raises the exceptions of `requests`."""
        world, body = self.world, request.body or b""
        call = (str(request.method), str(request.url), body if isinstance(body, bytes) else _read(body))
        world.touch(f"request {call[1]}")
        world.sleep(world.random.uniform(0.001, 0.05))
        if self.down:
            raise self._error("no server", "Connection refused")
        if world.chance(0.01):
            world.fault("slow connection")
            world.sleep(world.random.uniform(1, TIMEOUT - 1))
        if not world.chance(0.08):
            return self._answer(request, *self._handle(*call))
        fault = world.random.choice(FAULTS)
        return fault(self, request, call)

    def close(self) -> None:
        """Do nothing: there are no connections."""

    def _handle(self, method: str, url: str, body: bytes) -> tuple[int, bytes]:
        status, answer = self.server.handle(method, url, body)
        self.world.note(f"{method} {urlsplit(url).path} {body[:400].decode(errors='replace')} -> {status}")
        self.world.touch("answer")
        return status, answer

    def _answer(self, request: requests.PreparedRequest, status: int, body: bytes) -> requests.Response:
        response = requests.Response()
        response.status_code, response.url, response.request = status, str(request.url), request
        response._content = body
        response.iter_content = lambda *sizes, **how: iter([body])  # type: ignore[method-assign]
        return response

    def _error(self, fault: str, message: str) -> requests.ConnectionError:
        self.world.fault(fault)
        return requests.ConnectionError(message)

    def busy(self, request: requests.PreparedRequest, call: tuple[str, str, bytes]) -> requests.Response:
        """The server or a proxy answers with an error; a proxy may do so after the request was carried out."""
        status = self.world.random.choice((429, 500, 502, 503, 504))
        self.world.fault(f"error {status}")
        if status in (502, 504) and self.world.random.random() < 0.5:
            self._handle(*call)
        raise requests.exceptions.RetryError(f"too many {status} error responses")

    def lost(self, request: requests.PreparedRequest, call: tuple[str, str, bytes]) -> requests.Response:
        """The server carries out the request, and the connection ends before its answer arrives."""
        self._handle(*call)
        raise self._error("answer lost", "Remote end closed connection without response")

    def half_open(self, request: requests.PreparedRequest, call: tuple[str, str, bytes]) -> requests.Response:
        """No answer comes, because the other end no longer has the connection."""
        self.world.fault("half-open connection")
        self.world.sleep(TIMEOUT)
        raise requests.exceptions.ReadTimeout("Read timed out.")

    def late(self, request: requests.PreparedRequest, call: tuple[str, str, bytes]) -> requests.Response:
        """The server carries out the request after the client's timeout, as when it waits for a database lock."""
        world, server = self.world, self.server
        delay = world.random.uniform(0, 5)
        world.fault("request obeyed late")

        def obey() -> None:
            world.sleep(TIMEOUT + delay)
            server.handle(*call)
            world.note(f"late {call[0]} {urlsplit(call[1]).path} {call[2][:200].decode(errors='replace')}")

        world.start("late request", obey)
        world.sleep(TIMEOUT)
        raise requests.exceptions.ReadTimeout("Read timed out.")

    def twice(self, request: requests.PreparedRequest, call: tuple[str, str, bytes]) -> requests.Response:
        """A proxy sends the request again, because it has lost the first answer."""
        self.world.fault("request delivered twice")
        self._handle(*call)
        return self._answer(request, *self._handle(*call))

    def page(self, request: requests.PreparedRequest, call: tuple[str, str, bytes]) -> requests.Response:
        """The client gets a sign-in page, such as that of a hotel's network, instead of the server's answer."""
        self.world.fault("HTML in place of an answer")
        return self._answer(request, 200, PAGE)

    def cut(self, request: requests.PreparedRequest, call: tuple[str, str, bytes]) -> requests.Response:
        """The server carries out the request; its answer ends in the middle."""
        self.world.fault("answer cut short")
        status, body = self._handle(*call)
        return self._answer(request, status, body[: len(body) // 2])


FAULTS = (Network.busy, Network.lost, Network.half_open, Network.late, Network.twice, Network.page, Network.cut)


def _read(body: Any) -> bytes:
    """Return the content of a request's body: a text, or an open file."""
    data = body.read() if hasattr(body, "read") else body
    return data.encode() if isinstance(data, str) else bytes(data)
