"""The notebook of the tutorial runs in a fresh kernel and shows figures, tables and a video."""

from __future__ import annotations

import base64
import itertools
import os
import struct
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from pgzoo.extras import present

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial" / "reinforce-cartpole.ipynb"
SHORTER = {"range(150)": "range(20)", "60_000": "6_000", "20_000": "2_000"}
"""Training lengths in the notebook, and shorter ones for the tests, which check figures and tables, but no scores."""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The outputs of each code cell, by its first line."""
    folder = tmp_path_factory.mktemp("tutorial")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kept = os.environ.get("TUTORIAL_OUT")
    for cell, length in () if kept else itertools.product(notebook.cells, SHORTER):
        cell.source = cell.source.replace(length, SHORTER[length])
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_", "PYTEST"))}
    client.execute(env=env | {"PYTHONPATH": str(NOTEBOOK.parents[2])})
    if kept:
        nbformat.write(notebook, kept)
    assert not list(folder.rglob("mlflow.db"))
    return {cell.source.partition("\n")[0]: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def data(cells: dict[str, list[Any]], first_line: str, kind: str) -> list[str]:
    outputs = cells[next(line for line in cells if line.startswith(first_line))]
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


@pytest.mark.parametrize("first_line", ["import gymnasium", "result.plot()", "other = pgzoo.run("])
def test_figures_are_png_images_of_a_minimum_size(cells: dict[str, list[Any]], first_line: str) -> None:
    [picture] = data(cells, first_line, "image/png")
    content = base64.b64decode(picture)
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width >= 300 and height >= 200 and len(content) > 5_000


def test_results_and_data_frames_are_shown_as_tables(cells: dict[str, list[Any]]) -> None:
    [table] = data(cells, "import pgzoo", "text/html")
    assert table.count("<tr>") == 5 and "reinforce on CartPole-v1: finished" in table
    [frame] = data(cells, "result.evaluate", "text/html")
    assert frame.count("<tr") == 5 and "greedy" in frame
    assert data(cells, "comparison.to_frame()", "text/html")
    [own] = data(cells, "from typing", "text/html")
    assert "EntropyReinforce on CartPole-v1: finished" in own


def test_the_video_is_shown_exactly_if_the_video_extra_is_installed(cells: dict[str, list[Any]]) -> None:
    shown = data(cells, "import importlib.util", "text/html")
    assert any("<video" in page for page in shown) == present("video")


def test_no_cell_prints_a_traceback(cells: dict[str, list[Any]]) -> None:
    for outputs in cells.values():
        assert not [o for o in outputs if o.output_type == "stream" and "Traceback" in o.text]
