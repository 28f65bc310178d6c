"""Damaged files: each reader succeeds, leaves the damage out, or raises one error of pgzoo."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgzoo.analysis.selection import from_journal, read_journal
from pgzoo.config import read_yaml
from pgzoo.errors import PgzooError
from pgzoo.tracking import Home
from pgzoo.tracking.journal import read_tail
from pgzoo.tracking.ledger import Ledger, pending, start_of
from pgzoo.tracking.lookup import local_run
from pgzoo.tracking.report import read_history, write_tables
from pgzoo.training import checkpoint
from pgzoo.types import TrainState

FEW = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        2**64,
        10**400,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "../../x",
        "\ud800",
        [],
        {},
        [[[]]],
        {"a": 1},
    ]
)
START = {"t": "start", "ts": 1, "key": "k", "name": "n s0", "group": "g", "experiment": "e", "uri": "http://h"}
LINES: list[dict[str, Any]] = [
    START | {"seed": 0, "algorithm": "a", "env": "E", "params": {"x": "1"}, "tags": {"y": "2"}},
    {"t": "update", "ts": 2, "steps": [1, 2], "m": {"m": 0.5}, "e": [[1], [2.0], [3]]},
    {
        "t": "evaluation",
        "ts": 3,
        "step": 2,
        "mode": "sampled",
        "final": True,
        "returns": [1.0],
        "lengths": [2],
        "m": {},
    },
    {"t": "tags", "ts": 4, "tags": {"a": "b"}},
    {"t": "artifact", "ts": 5, "path": "a.txt"},
    {"t": "end", "ts": 6, "status": "FINISHED", "reason": ""},
]


@st.composite
def damaged(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with a part replaced or removed."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 4)):
        copy = dict(value) if isinstance(value, dict) else list(value)
        where = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
        if draw(st.integers(0, 5)) == 0:
            del copy[where]
        else:
            copy[where] = draw(damaged(value[where]))
        return copy
    return draw(ODD)


@st.composite
def cut_or_flipped(draw: st.DrawFn, data: bytes) -> bytes:
    at = draw(st.integers(0, len(data) - 1))
    new = draw(st.sampled_from([b"", b"\0", b"\xff", b"[" * 5000, b"{", b'"', data[at : at + 9]]))
    return data[:at] + new + (data[at + draw(st.integers(0, 3)) :] if draw(st.booleans()) else b"")


@FEW
@given(lines=damaged(LINES), ledger=damaged({"offset": 0, "files": ["a"]}), shipped=damaged({"run_id": "0"}))
def test_a_damaged_run_is_read(tmp_path: Path, lines: Any, ledger: Any, shipped: Any) -> None:
    home = Home.find({"PGZOO_HOME": str(tmp_path)})
    folder = home.runs / "k"
    folder.mkdir(parents=True, exist_ok=True)
    text = [json.dumps(line) for line in (lines if isinstance(lines, list) else [lines])]
    (folder / "journal.jsonl").write_text("".join(f"{line}\n" for line in text))
    (folder / "ack.json").write_text(json.dumps(ledger))
    (folder / "run.json").write_text(json.dumps(shipped))
    home.status_file.write_text(json.dumps(shipped))
    read_tail(folder)
    Ledger.read(folder).done(1)
    pending(home)
    read_history(folder)
    write_tables(folder)
    local_run(folder, home)
    if (start := start_of(folder)) is not None:
        read_journal(from_journal(folder, start), folder, "m")


@FEW
@given(data=st.data())
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    counters = [np.full(1, 5, np.int64) for _ in range(3)]
    state = TrainState(
        {"w": torch.ones(1, 4)}, {}, {}, None, np.ones(1, np.bool_), *counters, np.zeros(1), np.zeros((1, 9))
    )
    path = checkpoint.save(tmp_path, state, {"x": 1})
    name = data.draw(st.sampled_from([checkpoint.TENSORS, checkpoint.DESCRIPTION]))
    before = (path / name).read_bytes()
    if name == checkpoint.DESCRIPTION and data.draw(st.booleans()):
        (path / name).write_text(json.dumps(data.draw(damaged(json.loads(before)))))
    else:
        (path / name).write_bytes(data.draw(cut_or_flipped(before)))
    refused_or_read(lambda: checkpoint.load(path))
    (path / name).write_bytes(before)


@FEW
@given(
    text=cut_or_flipped(b"algorithm: ppo\nseeds: [1, 2]\npolicy: &p {name: mlp, hidden: [8]}\nb: *p\nc: 2020-01-01\n")
)
def test_damaged_yaml_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "run.yaml").write_bytes(text)
    refused_or_read(lambda: read_yaml(tmp_path / "run.yaml"))


def refused_or_read(read: Callable[[], object]) -> None:
    with contextlib.suppress(PgzooError):
        read()
