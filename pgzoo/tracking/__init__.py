"""Tracking that never slows or stops training and loses no records: a journal per run, and one uploader process.

A trainer appends to its journal and doesn't import mlflow. The uploader process uploads every journal of the home to
the tracking store named in its start record, retries forever, and closes the run even if the trainer was
killed. Importing this package loads the standard library and filelock only.
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
