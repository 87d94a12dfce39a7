"""Nothing leaves a hospital unasked: the libraries' reports of their use are off wherever the project runs.

MLflow, ONNX Runtime, NNCF, Great Expectations and DVC report to their makers unless told otherwise, ONNX Runtime with
an identifier of the machine that it keeps below the home folder. Each has an environment variable against it, which
counts when the library is imported; so they are set when `mira` is, which every process of the project imports first.
"""

import os

VARIABLES = {
    "ORT_DISABLE_TELEMETRY": "1",
    "NNCF_CI": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",  # the common word for it, which others may listen to
}


def silence() -> None:
    """Set the variables in this process and those that it starts; what somebody set otherwise on purpose stays."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
