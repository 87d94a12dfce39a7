"""The client: restore arrays, files and whole DICOM series through Triton, or in process without one."""

from mira.client.arrays import LocalRestorer, RestorationClient, Restored, Restorer

__all__ = ["LocalRestorer", "RestorationClient", "Restored", "Restorer"]
