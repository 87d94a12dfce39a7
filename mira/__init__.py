"""MIRA-Net's library: DICOM, low-dose physics, image quality and the Triton client.

It imports neither torch nor kfp nor mlflow, so that an application can install it alone.
"""

from mira.no_telemetry import silence

__version__ = "0.1.0"

silence()
