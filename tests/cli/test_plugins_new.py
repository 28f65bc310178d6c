"""`pgzoo plugins new`: the new packages pass their own tests, ruff and mypy, and a new algorithm learns."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import gymnasium as gym
import pytest
from click.testing import CliRunner, Result

from pgzoo.cli import main
from pgzoo.cli.plugins_new import KINDS, LONGEST, package
from pgzoo.errors import UsageError
from pgzoo.registry import PluginCatalog, discover
from pgzoo.registry.catalog import kind_label
from pgzoo.testing import NotApplicable, check_component, check_plugin

ROOT = Path(__file__).parents[2]
COSTLY = ("actor", "actions", "members", "pure", "saved")
"""Checks of a policy that take seconds; the slow test below runs them."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGZOO_DISABLE_PLUGINS", raising=False)
    return tmp_path


def new(*arguments: str) -> Result:
    return CliRunner().invoke(main.program, ["plugins", "new", *arguments], prog_name="pgzoo")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], PluginCatalog]:
    """Return a function that makes the plugin in a folder importable, with its entry point, and discovers it."""

    def install(folder: Path) -> PluginCatalog:
        source = folder.resolve() / "src"
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        info = source / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
        [(name, module)] = project["entry-points"]["pgzoo"].items()
        (info / "entry_points.txt").write_text(f"[pgzoo]\n{name} = {module}\n")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")]))
        monkeypatch.syspath_prepend(str(source))
        return discover(inline=False)

    return install


def test_a_kind_may_be_written_with_an_underscore() -> None:
    done = new("my-thing", "--kind", "env_backend", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["kind"] == "env-backend"


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_passes_ruff_and_the_plugin_checks(kind: str, installed: Callable[[Path], PluginCatalog]) -> None:
    done = new("my-thing", "--kind", kind, "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    folder = Path(answer["folder"])
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert sorted(files) == sorted(answer["files"]) and folder.name == "pgzoo-my-thing"
    assert {"pyproject.toml", "README.md", ".github/workflows/test.yml", "tests/test_my_thing.py"} <= files.keys()
    for path, file in files.items():
        text = file.read_text()
        assert not any(word in text for word in ("my-plugin", "my_plugin", "MyPlugin")), path
        assert len(text.splitlines()) <= 60 or not path.endswith(".py"), path
    for words in (["check"], ["format", "--check"]):
        ruff = subprocess.run([sys.executable, "-m", "ruff", *words, "."], cwd=folder, capture_output=True, text=True)
        assert ruff.returncode == 0, ruff.stdout
    catalog = installed(folder)
    try:
        entry = catalog.get(KINDS[kind], "my-thing")
        assert entry.plugin.distribution == "pgzoo-my-thing" and entry.load() is not None
        checks = [*check_plugin(entry.plugin, catalog)]
        checks += check_component(entry, catalog)
        ran = 0
        for name, check in checks:
            if kind != "policy" or name not in COSTLY:
                try:
                    check()
                    ran += 1
                except NotApplicable:
                    pass
        assert ran >= 4
    finally:
        gym.registry.pop("MyThing-v0", None)
        for name in [name for name in sys.modules if name.startswith("pgzoo_my_thing")]:
            del sys.modules[name]


def test_an_existing_package_is_not_overwritten() -> None:
    assert new("my-thing").exit_code == 0
    readme = Path("pgzoo-my-thing/README.md")
    readme.write_text("mine")
    done = new("pgzoo-my-thing", "--kind", "policy")  # the prefix may be given
    assert done.exit_code == 2 and readme.read_text() == "mine"
    assert "Error: pgzoo-my-thing exists already, so nothing was written. Choose another name." in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "My_Algo",
            "starts with a letter and consists of at most 40 lowercase letters, digits and hyphens; got 'My_Al",
        ),
        ("My_Algo", 'Did you mean "my-algo"?'),
        ("2step", "starts with a letter"),
        ("../escape", "starts with a letter"),
        ("a--b", "starts with a letter"),
        ("x" * (LONGEST + 1), "at most 40"),
        ("a\x1b[31m", r"got 'a\x1b[31m'"),
        ("lambda", 'can\'t be named "lambda", because its code needs the word lambda itself'),
        ("none", 'can\'t be named "none", because its code needs the word None itself'),
        ("batch", 'can\'t be named "batch", because its code needs the word Batch itself'),
        ("ppo", 'There is already the algorithm "ppo", from plugin "pgzoo.algorithms"'),
    ],
)
def test_invalid_names_are_rejected(name: str, message: str, here: Path) -> None:
    done = new(name)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.startswith("Error: ")
    assert not list(here.iterdir())


def test_packages_with_the_longest_name_pass_ruff(here: Path) -> None:
    for kind in KINDS:
        for path, text in package("a" * LONGEST, kind).items():
            (here / kind / path).parent.mkdir(parents=True, exist_ok=True)
            (here / kind / path).write_text(text)
    for words in (["check"], ["format", "--check"]):
        ruff = subprocess.run([sys.executable, "-m", "ruff", *words, "."], capture_output=True, text=True)
        assert ruff.returncode == 0, ruff.stdout
    with pytest.raises(UsageError):
        package("a" * (LONGEST + 1), "algorithm")


@pytest.mark.slow
def test_new_packages_pass_their_tests_and_learn_in_a_new_virtual_environment(here: Path) -> None:
    """pgzoo is installed from a wheel. No package index is used: the other packages are links to those of this one."""
    python, environment = _environment(here / "env")

    def run(*words: str | Path, cwd: Path = here) -> str:
        done = subprocess.run(
            [python, "-m", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    _copy_source(here / "source")
    run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", "./source")
    run("pip", "install", "--quiet", "--no-deps", *(str(path) for path in (here / "dist").iterdir()))
    for kind in KINDS:
        name = f"my-{kind}"
        run("pgzoo", "plugins", "new", name, "--kind", kind)
        shown = run("pgzoo", "plugins", "install", f"./pgzoo-{name}", "--yes")
        assert f"Added plugin {name} (pgzoo-{name} 0.1.0): {kind_label(KINDS[kind])}: {name}" in shown
        folder = here / f"pgzoo-{name}"
        run("ruff", "check", ".", cwd=folder)
        run("ruff", "format", "--check", ".", cwd=folder)
        run("mypy", "--cache-dir", here / "mypy", cwd=folder)
        run("pytest", "-q", "-p", "no:cacheprovider", cwd=folder)
    options = "--env CartPole-v1 --eval-episodes 20 --total-steps 60000 --json --no-progress --tracking-uri none"
    options += " --policy my-policy --backend my-env-backend"
    result = json.loads(run("pgzoo", "run", "my-algorithm", *options.split()).splitlines()[-1])
    assert result["seeds"][0]["return_mean"] > 150  # a random policy gets about 22
    checked = run("pgzoo", "plugins", "check", "my-algorithm")
    assert "failed" not in checked
    assert "Removed plugin my-policy" in run("pgzoo", "plugins", "uninstall", "my-policy", "--yes")


@pytest.mark.slow
def test_a_new_package_passes_mypy_with_pgzoo_installed_as_editable(here: Path) -> None:
    python, environment = _environment(here / "env")

    def run(*words: str | Path, cwd: Path = here) -> None:
        done = subprocess.run(
            [python, "-m", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"

    _copy_source(here / "source")
    run("pip", "install", "--quiet", "--no-deps", "--editable", "./source")
    run("pgzoo", "plugins", "new", "my-thing")
    run("mypy", "--cache-dir", here / "mypy", cwd=here / "pgzoo-my-thing")


def test_an_editable_installation_adds_a_path_file_not_an_import_hook(here: Path) -> None:
    """By default, setuptools would install an import hook for this layout, which mypy doesn't run."""
    (here / "source" / "pgzoo").mkdir(parents=True)
    (here / "source" / "pgzoo" / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, here / "source")
    build = f"from setuptools import build_meta; build_meta.build_editable({str(here)!r})"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=here / "source", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [wheel] = here.glob("pgzoo-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [link] = [name for name in archive.namelist() if "dist-info" not in name]
        assert link.endswith(".pth") and Path(archive.read(link).decode().strip()) == (here / "source").resolve()


def _copy_source(folder: Path) -> None:
    """Copy the files that pgzoo is built from."""
    shutil.copytree(ROOT / "pgzoo", folder / "pgzoo", ignore=shutil.ignore_patterns(".*", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)


def _environment(folder: Path) -> tuple[Path, Mapping[str, str]]:
    """Make an environment with links to the packages of this one except pgzoo; return its Python and its variables."""
    venv.create(folder, with_pip=True)
    links = folder / "links"
    links.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("pgzoo", "__editable__", "pip")) and path.suffix != ".pth":
            (links / path.name).symlink_to(path)
    [packages] = (folder / "lib").glob("*/site-packages")
    for old in packages.glob("setuptools*"):  # Python 3.11 includes one that is too old for the build
        shutil.rmtree(old)
    (packages / "links.pth").write_text(f"{links}\n")
    (folder / "bin" / "ruff").symlink_to(Path(sysconfig.get_path("scripts")) / "ruff")
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PGZOO_HOME")}
    variables = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return folder / "bin" / "python", {**clean, **variables}
