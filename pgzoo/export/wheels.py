"""Wheels of installed distributions that no package index has, for the folder of a served model."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pgzoo.errors import UsageError

__all__ = ["requirement", "source_of"]

LEFT_OUT = ("INSTALLER", "REQUESTED", "direct_url.json", "RECORD")
"""Files of a `.dist-info` folder that an installer adds."""


def requirement(name: str, folder: Path) -> str:
    """Return the requirement of an installed distribution, relative to `folder`.

    That is `name==version` if it was installed from a package index. Otherwise its wheel is written to
    `folder/wheels`: packed from the installed files or, for an editable install, built from its source.

    Raises:
        UsageError: the wheel can't be built.
        OSError: it can't be written.
    """
    installed = _installed(name)
    if not source_of(installed):
        return f"{installed.metadata['Name']}=={installed.version}"
    file, content = _wheel(name)
    (folder / "wheels").mkdir(parents=True, exist_ok=True)
    (folder / "wheels" / file).write_bytes(content)
    return f"wheels/{file}"


def _installed(name: str) -> Distribution:
    """Return an installed distribution; what pip installed, rather than an `.egg-info` in the working directory."""
    found = list(distributions(name=name))
    return next((one for one in found if one.read_text("RECORD")), None) or distribution(name)


def source_of(installed: Distribution) -> str:
    """Return where a distribution was installed from, such as a folder or a repository; "" for a package index."""
    text = installed.read_text("direct_url.json")
    return str(json.loads(text)["url"]) if text else ""


@cache
def _wheel(name: str) -> tuple[str, bytes]:
    """Return the file name and the content of a distribution's wheel."""
    installed = _installed(name)
    described = json.loads(installed.read_text("direct_url.json") or "{}")
    if not described.get("dir_info", {}).get("editable"):
        return _pack(installed)
    return _build(installed.metadata["Name"], Path(url2pathname(urlsplit(described["url"]).path)))


def _build(name: str, source: Path) -> tuple[str, bytes]:
    """Build the wheel of a source folder with pip, without writing to the folder."""
    with tempfile.TemporaryDirectory() as scratch:
        config, made = Path(scratch, "setup.cfg"), Path(scratch, "made")
        config.write_text(f"[build]\nbuild_base={scratch}/build\n[egg_info]\negg_base={scratch}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(made), str(source)]
        command.append("--disable-pip-version-check")
        env = {**os.environ, "DIST_EXTRA_CONFIG": str(config)}
        # Without isolation the build tools of this environment are used; otherwise pip downloads them.
        for options in (["--no-build-isolation"], []):
            done = subprocess.run([*command, *options], capture_output=True, text=True, env=env, check=False)
            if done.returncode == 0:
                built = next(made.glob("*.whl"))
                return built.name, built.read_bytes()
    reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
    raise UsageError(
        f"The wheel of {name} can't be built from {source}: {reason}\nTo see why: {' '.join(command[1:5])} {source}"
    )


def _pack(installed: Distribution) -> tuple[str, bytes]:
    """Pack the installed files of a distribution into a wheel again."""
    tags = re.findall(r"^Tag: *(\S+)", installed.read_text("WHEEL") or "", re.MULTILINE)
    parts = [sorted({tag.split("-")[place] for tag in tags}) for place in range(3)]
    name = re.sub(r"[-_.]+", "_", installed.metadata["Name"])
    file_name = f"{name}-{installed.version}-{'-'.join('.'.join(part) for part in parts)}.whl"
    record, record_path = [], f"{name}-{installed.version}.dist-info/RECORD"
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in installed.files or []:
            path = file.as_posix()
            if path.endswith(".dist-info/RECORD"):
                record_path = path
            in_info = ".dist-info/" in path and file.name in LEFT_OUT
            if in_info or path.startswith("..") or "__pycache__" in file.parts:  # scripts come from entry points
                continue
            data = file.read_binary()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            archive.writestr(path, data)
            record.append(f"{path},sha256={digest},{len(data)}\n")
        archive.writestr(record_path, "".join([*record, f"{record_path},,\n"]))
    return file_name, wheel.getvalue()
