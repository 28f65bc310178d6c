"""Damaged files: each reader succeeds, omits the damaged parts, or raises an error of pgzoo."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import yaml
from gymnasium.spaces import Box, Discrete
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pgzoo.analysis.selection import RunIndex, from_journal, read_journal
from pgzoo.config import Layer, read_yaml
from pgzoo.envs.spec import make_spec
from pgzoo.errors import CheckpointError, PgzooError
from pgzoo.export.bundle import LoadedPolicy, load_policy
from pgzoo.registry import PluginCatalog, discover
from pgzoo.registry.components import resolve_component
from pgzoo.runs.resolve import compose
from pgzoo.search.space import checked_space, parse_search
from pgzoo.tracking import Home
from pgzoo.tracking.journal import read_tail
from pgzoo.tracking.ledger import Ledger, pending, start_of
from pgzoo.tracking.lookup import local_run
from pgzoo.tracking.report import read_history, write_tables
from pgzoo.training import checkpoint
from pgzoo.training.plan import make_policy
from pgzoo.types import TrainState

T = TypeVar("T")
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
def test_reading_a_damaged_run_raises_no_exception(tmp_path: Path, lines: Any, ledger: Any, shipped: Any) -> None:
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
def test_a_damaged_checkpoint_is_refused_or_its_tensors_are_unchanged(tmp_path: Path, data: st.DataObject) -> None:
    counters = [np.full(1, 5, np.int64) for _ in range(3)]
    state = TrainState(
        {"w": torch.ones(1, 4)}, {}, {}, None, np.ones(1, np.bool_), *counters, np.zeros(1), np.zeros((1, 9))
    )
    path = checkpoint.save(tmp_path, state, {"x": 1})
    tensors = (path / checkpoint.TENSORS).read_bytes()
    name = data.draw(st.sampled_from([checkpoint.TENSORS, checkpoint.DESCRIPTION]))
    before = (path / name).read_bytes()
    if name == checkpoint.DESCRIPTION and data.draw(st.booleans()):
        (path / name).write_text(json.dumps(data.draw(damaged(json.loads(before)))))
    else:
        (path / name).write_bytes(data.draw(cut_or_flipped(before)))
    undamaged = (path / name).read_bytes() == before
    loaded = refused_or_read(lambda: checkpoint.load(path), path, CheckpointError)
    assert loaded is not None or not undamaged
    if loaded is not None:  # only parts of the description without a digest are damaged
        again = checkpoint.save(tmp_path / "again", loaded.state._replace(environments=None), {})
        assert (again / checkpoint.TENSORS).read_bytes() == tensors
    (path / name).write_bytes(before)


YAML = b"algorithm: ppo\nseeds: [1, 2]\npolicy: &p {name: mlp, hidden: [8]}\nb: *p\nc: 2020-01-01\n"


@FEW
@given(text=cut_or_flipped(YAML))
@example(text=YAML)
def test_damaged_yaml_is_refused_or_read_as_pyyaml_reads_it(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(text)
    layer = refused_or_read(lambda: read_yaml(path), path)
    assert layer is not None or text != YAML
    if layer is not None:
        expected = yaml.safe_load(text)
        assert layer.values == ({} if expected is None else expected)


@FEW
@given(data=st.data())
def test_a_damaged_policy_is_refused_or_acts_within_its_action_space(tmp_path: Path, data: st.DataObject) -> None:
    component, factory = resolve_component("policy", {"name": "mlp", "hidden": [5]}, plugins())
    spec = make_spec(Box(-1.0, 1.0, (3,)), Discrete(2))
    policy = make_policy(factory, component.settings, spec, frozenset({"value"}), False)
    params = {name: value[None] for name, value in policy.init(np.random.default_rng(3)).items()}
    shapes = {name: leaf.shape for name, leaf in params.items() if not name.startswith("critic.")}
    folder = LoadedPolicy(component, spec, policy, params).save(tmp_path / "policy")
    file = folder / data.draw(st.sampled_from(["policy.json", "policy.safetensors"]))
    before = file.read_bytes()
    if file.suffix == ".json" and data.draw(st.booleans()):
        file.write_text(json.dumps(data.draw(damaged(json.loads(before)))))
    else:
        file.write_bytes(data.draw(cut_or_flipped(before)))
    undamaged = file.read_bytes() == before
    loaded = refused_or_read(lambda: load_policy(folder, plugins()))
    assert loaded is not None or not undamaged
    if loaded is not None:
        assert {name: leaf.shape for name, leaf in loaded.params.items()} == shapes
        assert loaded.spec.action_space.contains(loaded.act(np.zeros(3, np.float32)))


RL_ZOO = {
    "CartPole-v1": {
        "normalize": "{'norm_obs': True, 'norm_reward': False}",
        "n_envs": 8,
        "n_timesteps": 1e5,
        "env_wrapper": [{"rl_zoo3.wrappers.HistoryWrapper": {"horizon": 2}}],
        "policy_kwargs": "dict(log_std_init=-2, activation_fn=nn.ReLU, net_arch=[dict(pi=[8, 8], vf=[8])])",
        "learning_rate": "lin_0.001",
        "batch_size": 64,
    }
}
MALICIOUS = b"__import__('os').abort()", b"dict(net_arch=[" + b"9" * 5000 + b"])", b"-" * 5000 + b"1"


@FEW
@given(file=damaged(RL_ZOO), text=cut_or_flipped(RL_ZOO["CartPole-v1"]["policy_kwargs"].encode()))  # type: ignore[attr-defined]
@example(file=RL_ZOO, text=b"")
@example(file=RL_ZOO, text=MALICIOUS[0])
@example(file=RL_ZOO, text=MALICIOUS[1])
@example(file=RL_ZOO, text=MALICIOUS[2])
@example(file={"CartPole-v1": {"learning_rate": "lin_1e999"}}, text=b"")
@example(file={"CartPole-v1": {"n_envs": 10**400}}, text=b"")
@example(file={"CartPole-v1": {"n_envs": float("inf")}}, text=b"")
@example(file={"CartPole-v1": {"n_envs": 1e308}}, text=b"")
@example(file={"CartPole-v1": {"batch_size": 1e-320}}, text=b"")
@example(file={"CartPole-v1": {"batch_size": "nan"}}, text=b"")
def test_damaged_hyperparameters_of_rl_zoo_are_refused_or_their_numbers_are_read(
    tmp_path: Path, file: Any, text: bytes
) -> None:
    section = file.get("CartPole-v1") if isinstance(file, dict) else None
    if isinstance(section, dict) and text:
        section = section | {"policy_kwargs": text.decode(errors="replace")}
        file = file | {"CartPole-v1": section}
    path = tmp_path / "ppo.yml"
    path.write_text(json.dumps(file))  # JSON is YAML
    given = Layer({"algorithm": "ppo", "env": "CartPole-v1"}, ".".join)
    config = refused_or_read(lambda: compose(given, plugins(), preset=str(path)))
    assert config is not None or file != RL_ZOO
    assert config is None or section is None or text not in MALICIOUS
    if config is not None and section is not None:
        numbers = {"n_envs": config.num_envs, "n_timesteps": config.total_steps}
        assert {key: section.get(key, value) for key, value in numbers.items()} == numbers


KEYS = ("learning_rate", "gamma", "estimator", "policy.hidden", "num_envs", "normalize_obs", "")
TEXTS = st.text(st.sampled_from("0123456789.,|:=-+e logNainf[]{}\ud800\0é"), max_size=12)


@FEW
@given(key=st.sampled_from(KEYS), text=TEXTS, in_file=st.booleans(), odd=ODD)
@example(key="learning_rate", text="log:1e-400..1", in_file=False, odd=None)
@example(key="num_envs", text="1..1e400", in_file=False, odd=None)
@example(key="policy.hidden", text="64,64|128,128", in_file=False, odd=None)
@example(key="gamma", text="0.9", in_file=True, odd={"low": [], "high": None})
@example(key="gamma", text="0.9", in_file=True, odd={"low": 0, "high": 10**400})
def test_a_search_space_is_read_or_refused(tmp_path: Path, key: str, text: str, in_file: bool, odd: Any) -> None:
    path = tmp_path / "space.yml"
    path.write_text(json.dumps({key: odd if odd else text}))
    search = [str(path) if in_file else f"{key}={text}"]
    base = compose(Layer({"algorithm": "reinforce", "env": "CartPole-v1"}, ".".join), plugins())
    refused_or_read(lambda: checked_space(parse_search(search), base, plugins()))


@FEW
@given(selector=st.text(st.sampled_from("abk:=*%'\"\\`;- \0\ud800é(" + "tagparm"), max_size=20))
@example(selector="tag:pgzoo.status=' OR 1=1 --")
@example(selector="param:gamma=nan")
@example(selector="../../etc/passwd")
def test_a_selector_is_resolved_or_refused(store: Home, selector: str) -> None:
    refused_or_read(lambda: RunIndex(store, None, lambda *_: None).select(selector))


@pytest.fixture
def store(home: Home, empty_database: Path) -> Home:
    """A home with a database, so that a selector is also sent to it as a query."""
    home.database.parent.mkdir(parents=True, exist_ok=True)
    home.database.write_bytes(empty_database.read_bytes())
    return home


@functools.cache
def plugins() -> PluginCatalog:
    """Return the installed plugins. Not a fixture, because a failing example would print all of them."""
    return discover(inline=False)


def refused_or_read(read: Callable[[], T], path: Path | None = None, error: type[PgzooError] = PgzooError) -> T | None:
    """Return what is read, or None if it is refused with an error of this type, whose message names the path."""
    try:
        return read()
    except error as refusal:
        message = str(refusal)
    assert path is None or str(path) in message
    return None
