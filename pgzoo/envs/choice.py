"""Before a run: which backend plays it, and what one environment of it shows, takes and remembers."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import Any, Literal, Protocol

import numpy as np

from pgzoo.envs import info
from pgzoo.envs.single import allowed, make_single
from pgzoo.envs.spec import make_spec
from pgzoo.envs.state import forgets
from pgzoo.errors import EnvError, UnfitError
from pgzoo.protocols import EnvBackend
from pgzoo.types import EnvRequest, Spec

__all__ = ["choose_backend", "foreign_backends", "forgetful", "look"]


class BackendEntry(Protocol):
    """A registered backend: `load()` imports its class."""

    @property
    def name(self) -> str:
        """Its name, as in `--backend NAME`."""
        ...

    def load(self) -> Any:
        """Return the class."""
        ...


class BackendCatalog(Protocol):
    """What choosing a backend needs of the plugin catalog."""

    def get(self, kind: Literal["env_backend"], name: str) -> BackendEntry:
        """Return the backend of this name. Raises UnknownName."""
        ...

    def entries(self, kind: Literal["env_backend"]) -> Iterable[BackendEntry]:
        """Return all backends."""
        ...


def choose_backend(name: str, catalog: BackendCatalog, request: EnvRequest) -> tuple[str, EnvBackend]:
    """Return a backend that runs the environment, with its name.

    `auto` takes the first that says of itself that it is to be preferred, else sync. The request is that of one member:
    the choice doesn't depend on the number of seeds.

    Raises:
        EnvError: gymnasium can't make the environment. A backend that can is named, and only taken if it is asked for.
        UnfitError: the named backend can't run it.
    """
    backend: EnvBackend = catalog.get("env_backend", "sync" if name == "auto" else name).load()()
    if not getattr(backend, "foreign", False):
        try:
            info.check(request.id, request.kwargs)
        except EnvError as error:
            ways = " or ".join(f"--backend {way}" for way in foreign_backends(catalog, request))
            said = str(error)
            raise EnvError(f"{said.removesuffix('.')}. As it is, it runs with {ways}." if ways else said) from error
    if name == "auto":
        for entry in catalog.entries("env_backend"):
            other = entry.load()()
            if hasattr(other, "preferred") and other.preferred(request) and not other.fits(request):
                return entry.name, other
        return "sync", backend
    if reason := backend.fits(request):
        raise UnfitError(f'Backend "{name}" can\'t run {request.id}: {reason}. Use --backend auto.')
    return name, backend


def foreign_backends(catalog: BackendCatalog, request: EnvRequest) -> list[str]:
    """The names of the backends that run an environment which gymnasium can't make."""
    backends = {entry.name: entry.load()() for entry in catalog.entries("env_backend")}
    return [name for name, one in backends.items() if getattr(one, "foreign", False) and not one.fits(request)]


def look(request: EnvRequest, backend: EnvBackend | None = None) -> Spec:
    """Make one environment and see what it shows and takes: gymnasium's, or the backend's where there is none."""
    if backend is not None and getattr(backend, "foreign", False):
        envs = backend.open(request._replace(rows=1))
        try:
            envs.reset(np.zeros(1, np.int64))
            return make_spec(envs.observation_space, envs.action_space, masked=envs.action_mask is not None)
        finally:
            envs.close()
    env = make_single(request, flatten=False)
    try:
        _, first = env.reset(seed=0)
        return make_spec(env.observation_space, env.action_space, masked=allowed(env, first) is not None)
    finally:
        env.close()


def forgetful(request: EnvRequest) -> bool:
    """Make one environment and try whether a reset by a seed forgets the episodes before."""
    try:
        with closing(make_single(request)) as env:
            return forgets(env, request.states)
    except Exception:  # whatever it raises it will raise in the run, too
        return True
