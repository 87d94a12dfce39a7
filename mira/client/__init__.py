"""The client: restore arrays, files and whole DICOM series through Triton, or in process without one."""

from mira.client.arrays import LocalRestorer, RestorationClient, Restorer
from mira.client.asynchronous import AsyncRestorationClient
from mira.client.plan import Restored
from mira.client.stream import RestoredSlice
from mira.client.tls import Tls

__all__ = [
    "AsyncRestorationClient",
    "LocalRestorer",
    "RestorationClient",
    "Restored",
    "RestoredSlice",
    "Restorer",
    "Tls",
]
