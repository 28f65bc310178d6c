"""Errors of a store as MLflow reports them, and the short messages that pgzoo makes of them."""

from __future__ import annotations

import subprocess
import sys

SAID = {
    "HTTPConnectionPool(host='h', port=1): Max retries exceeded [Errno 111] Connection refused": (
        "no server listens there: connection refused"
    ),
    "HTTPConnectionPool(host='h', port=1): Read timed out. (read timeout=15)": "it doesn't answer: timed out",
    "ResponseError('too many 503 error responses')": "it answers with error 503; its own log says why",
    "(sqlite3.OperationalError) database is locked": "another program keeps the database locked",
    "(sqlite3.OperationalError) database or disk is full": "the store's disk is full",
    "(sqlite3.OperationalError) attempt to write a readonly database": "the store can't be written to: it is read-only",
    "[Errno 30] Read-only file system: '/a'": "the store can't be written to: it is read-only",
    "strange\n[SQL: SELECT 1]": "OSError: strange",
}


def test_errors_of_a_store_become_short_messages() -> None:
    code = f"from pgzoo.tracking import store\nfor text in {list(SAID)!r}: print(store.short_message(OSError(text)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == list(SAID.values())
