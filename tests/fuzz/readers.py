"""The readers of pgzoo, each as a function of bytes that returns or raises an error of pgzoo.

The fuzzer (`make fuzz`) and the tests of the corpus call them. The first byte of an input chooses the reader.
"""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from pgzoo.analysis.selection import from_journal, read_journal
from pgzoo.config import Layer, read_yaml
from pgzoo.errors import PgzooError
from pgzoo.export.bundle import load_policy
from pgzoo.registry import PluginCatalog, discover
from pgzoo.runs.resolve import compose
from pgzoo.search.space import checked_space, parse_search
from pgzoo.tracking.journal import read_tail
from pgzoo.tracking.ledger import Ledger, pending_of, start_of
from pgzoo.tracking.report import read_history, write_tables
from pgzoo.training import checkpoint


@functools.cache
def plugins() -> PluginCatalog:
    """Return the installed plugins."""
    return discover(inline=False)


def journal(data: bytes, folder: Path) -> None:
    """Call everything that reads a journal."""
    (folder / "journal.jsonl").write_bytes(data)
    read_tail(folder)
    read_history(folder)
    write_tables(folder)
    pending_of([folder])
    start = start_of(folder)
    if start is not None and {"key", "name", "group", "seed"} <= start.keys():
        read_journal(from_journal(folder, start), folder, "m")


def ledger(data: bytes, folder: Path) -> None:
    """Read the state of an upload."""
    (folder / "ack.json").write_bytes(data)
    Ledger.read(folder)


def two_files(data: bytes, folder: Path, names: tuple[str, str]) -> None:
    """Write two files: the first up to the first NUL byte, the second what follows."""
    first, _, second = data.partition(b"\0")
    folder.mkdir()
    for name, content in zip(names, (first, second), strict=True):
        (folder / name).write_bytes(content)


def saved_state(data: bytes, folder: Path) -> None:
    """Read a checkpoint."""
    two_files(data, folder / "step-10", ("state.json", "state.safetensors"))
    checkpoint.load(folder / "step-10")


def policy(data: bytes, folder: Path) -> None:
    """Read a policy."""
    two_files(data, folder / "policy", ("policy.json", "policy.safetensors"))
    load_policy(folder / "policy", plugins())


def settings(data: bytes, folder: Path) -> None:
    """Read a config file."""
    (folder / "run.yaml").write_bytes(data)
    compose(read_yaml(folder / "run.yaml"), plugins())


def preset(data: bytes, folder: Path) -> None:
    """Read hyperparameters in RL Zoo's format."""
    (folder / "ppo.yml").write_bytes(data)
    given = Layer({"algorithm": "ppo", "env": "CartPole-v1"}, ".".join)
    compose(given, plugins(), preset=str(folder / "ppo.yml"))


def space(data: bytes, folder: Path) -> None:
    """Read a search space, as an option and as a file."""
    (folder / "space.yml").write_bytes(data)
    base = compose(Layer({"algorithm": "reinforce", "env": "CartPole-v1"}, ".".join), plugins())
    for text in (data.decode(errors="replace"), str(folder / "space.yml")):
        with contextlib.suppress(PgzooError):
            checked_space(parse_search([text]), base, plugins())


READERS: tuple[Callable[[bytes, Path], None], ...] = (
    journal,
    ledger,
    saved_state,
    policy,
    settings,
    preset,
    space,
)

START = {"t": "start", "ts": 1, "key": "k", "name": "n", "group": "g", "experiment": "e", "uri": "http://h", "seed": 0}
START |= {"algorithm": "a", "env": "E", "params": {}, "tags": {}}
UPDATE = {"t": "update", "ts": 1, "steps": [10], "m": {"m": 1.0}, "e": [[10], [1.0], [5]]}
EVALUATION = {
    "t": "evaluation",
    "ts": 1,
    "step": 10,
    "mode": "sampled",
    "final": True,
    "returns": [1.0],
    "lengths": [5],
}
END = {"t": "end", "ts": 1, "status": "FINISHED", "reason": ""}
SEEDS: Mapping[str, bytes] = {
    "journal": "".join(json.dumps(line) + "\n" for line in (START, UPDATE, EVALUATION, END)).encode(),
    "ledger": b'{"offset": 5, "files": ["a"], "closed": "FINISHED", "reported": true}',
    "saved_state": b'{"format": 1}\0\x08\0\0\0\0\0\0\0{}      ',
    "policy": b'{"format": 1, "policy": {"name": "mlp"}, "tensors": {}}\0\x08\0\0\0\0\0\0\0{}      ',
    "settings": b"algorithm: ppo\nenv: CartPole-v1\npolicy: {name: mlp, hidden: [8]}\nseeds: [1, 2]\n",
    "preset": b"CartPole-v1:\n  n_envs: 8\n  n_timesteps: !!float 1e5\n  learning_rate: lin_0.001\n"
    b'  policy_kwargs: "dict(net_arch=[dict(pi=[8], vf=[8])])"\n',
    "space": b"learning_rate=log:1e-5..1e-2",
}
"""The initial input for each reader, from which the fuzzer starts."""


def read(data: bytes) -> None:
    """Let the reader that the first byte chooses read the rest. Suppresses errors of pgzoo, but no other exceptions."""
    if not data:
        return
    reader = READERS[data[0] % len(READERS)]
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(PgzooError):
        reader(data[1:], Path(folder))
