"""Tracking that never slows, stops or loses training: a durable journal per run, and one process that ships them.

A trainer appends to its journal and imports no mlflow. The uploader process ships every journal of the home to
the tracking store that its start record names, retries for ever, and closes the run even if the trainer was
killed. Importing this package loads the standard library and filelock alone.
"""

from pgzoo.tracking.home import NO_STORE, Home, check_store, display_uri, resolve_uri
from pgzoo.tracking.journal import EndStatus, EpisodeRecord, Journal, records
from pgzoo.tracking.ledger import Pending, ShippingSummary, format_shipping, pending
from pgzoo.tracking.limits import reserve_descriptors
from pgzoo.tracking.lookup import Found, find
from pgzoo.tracking.session import Session

__all__ = [
    "NO_STORE",
    "EndStatus",
    "EpisodeRecord",
    "Found",
    "Home",
    "Journal",
    "Pending",
    "Session",
    "ShippingSummary",
    "check_store",
    "display_uri",
    "find",
    "format_shipping",
    "pending",
    "records",
    "reserve_descriptors",
    "resolve_uri",
]
