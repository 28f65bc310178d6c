"""The wheels in the folder of an MLflow model, and a virtual environment made from that folder alone."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from gymnasium.spaces import Box, Discrete

from pgzoo.errors import UsageError
from pgzoo.export import wheels
from pgzoo.export.bundle import LoadedPolicy
from pgzoo.export.formats import export
from pgzoo.export.wheels import requirement

Make = Callable[..., LoadedPolicy]


def install(folder: Path, source: dict[str, object] | None) -> None:
    """Write the files of an installed distribution "a-plugin" into a folder, as pip does."""
    info = folder / "a_plugin-1.5.dist-info"
    info.mkdir(parents=True)
    (folder / "a_plugin.py").write_text("NAME = 'a'\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a-plugin\nVersion: 1.5\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py2-none-any\nTag: py3-none-any\n")
    (info / "INSTALLER").write_text("pip\n")
    names = ["a_plugin.py", "__pycache__/a_plugin.pyc", "../../../bin/a-plugin"]
    names += [f"{info.name}/{name}" for name in ("METADATA", "WHEEL", "INSTALLER", "RECORD", "direct_url.json")]
    if source:
        (info / "direct_url.json").write_text(json.dumps(source))
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))


@pytest.fixture(autouse=True)
def forget() -> None:
    wheels._wheel.cache_clear()


def test_a_distribution_from_an_index_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", None)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert requirement("a-plugin", tmp_path / "model") == "a-plugin==1.5"
    assert not (tmp_path / "model").exists()


def test_a_distribution_that_no_index_has_is_packed_from_its_installed_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", {"url": "https://git.example/a", "vcs_info": {"vcs": "git"}})
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert requirement("a-plugin", tmp_path / "model") == "wheels/a_plugin-1.5-py2.py3-none-any.whl"
    info = "a_plugin-1.5.dist-info"
    with zipfile.ZipFile(tmp_path / "model" / "wheels" / "a_plugin-1.5-py2.py3-none-any.whl") as wheel:
        assert wheel.namelist() == ["a_plugin.py", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD"]
        data, record = wheel.read("a_plugin.py"), wheel.read(f"{info}/RECORD").decode().splitlines()
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    assert record[0] == f"a_plugin.py,sha256={digest},{len(data)}"
    assert record[-1] == f"{info}/RECORD,,"


def test_a_missing_source_folder_is_named_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    install(tmp_path / "site", {"url": gone.as_uri(), "dir_info": {"editable": True}})
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(UsageError, match=r"The wheel of a-plugin can't be built from .*gone"):
        requirement("a-plugin", tmp_path / "model")


@pytest.mark.slow
def test_a_server_installed_from_the_model_folder_answers_a_request(make: Make, tmp_path: Path) -> None:
    """Takes the steps of a container without Docker: a new virtual environment, pip install, a server, a POST request.

    No package index is used: the new environment has links to the packages of this one, except pgzoo.
    """
    policy = make(Box(-1.0, 1.0, (3,)), Discrete(3))
    model = export(policy, tmp_path / "model", "mlflow", distributions=["pgzoo"])
    assert (model / "requirements.txt").read_text() == (
        f"wheels/pgzoo-{version('pgzoo')}-py3-none-any.whl\nmlflow=={version('mlflow')}\n"
    )
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    links = tmp_path / "links"
    links.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("pgzoo", "__editable__", "pip")) and path.suffix != ".pth":
            (links / path.name).symlink_to(path)
    [packages] = (tmp_path / "env" / "lib").glob("*/site-packages")
    for old in packages.glob("setuptools*"):  # Python 3.11 installs an older one than torch needs
        shutil.rmtree(old)
    (packages / "links.pth").write_text(f"{links}\n")
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    pip = [python, "-m", "pip", "install", "--quiet", "--no-index", "-r", "requirements.txt"]
    done = subprocess.run(pip, cwd=model, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    where = subprocess.run(
        [python, "-c", "import pgzoo; print(pgzoo.__file__)"], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert where.stdout.startswith(str(packages)), where.stderr

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    # What `mlflow models serve` starts:
    command = [python, "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "mlflow.pyfunc.scoring_server.app:app"],
            cwd=tmp_path,
            env={**clean, "__pyfunc_model_path__": str(model)},
            stdout=log,
            stderr=log,
        )
    try:
        obs = [[0.5, -0.25, 1.0], [-1.0, 0.0, 0.75]]
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"inputs": obs}).encode(),
            {"Content-Type": "application/json"},
        )
        while True:
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    found = json.load(answer)
                break
            except urllib.error.URLError:
                time.sleep(0.3)
    finally:
        server.kill()
        server.wait()
    assert found == {"predictions": policy.act(obs, deterministic=True).tolist()}
