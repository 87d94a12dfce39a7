"""The error hierarchy: what went wrong decides the exit code and who has to act.

Every message says what was wrong, where, and what to do; none carries patient information.
"""


class MiraError(Exception):
    """Base of all errors that a user can act on; anything else is a bug."""

    exit_code = 1


class ConfigurationError(MiraError):
    """A setting, a file of settings or an argument is wrong: correct it and start again."""

    exit_code = 2


class DataRejected(MiraError):
    """Data cannot be used faithfully; the message names the reason."""

    exit_code = 3


class GateFailed(MiraError):
    """A candidate failed a rule of the gate policy."""

    exit_code = 4


class ServingFailed(MiraError):
    """Triton, an export or a promotion failed; what served before still serves."""

    exit_code = 5


class ServerAway(ServingFailed):
    """Triton does not answer; the same request may be answered later."""


class RetryableError(MiraError):
    """Network or storage was away; the same call may succeed later."""
