"""A scan of every produced byte for identifying values of the input; `python -m tests.phi_scan` runs and counts it."""
