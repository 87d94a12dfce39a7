"""When to ask again: a request changes nothing on the server, so the same one may be sent until its deadline."""

import random
import time

from mira.client.tls import distrusted

LONGEST_PAUSE = 5.0
DEADLINE_S = 120.0
"""Longest time for one request, all its retries included, where nothing else is asked for."""
AWAY = ("not healthy", "no available versions", "is not ready", "shutting down", "unavailable")
"""What Triton says, by whichever status, while it starts, loads a model anew, or has lost a model's process."""


class Retries:
    """Deadline and growing pauses of one request.

    One attempt may take half of the time: a machine that went away with the request open never answers it.

    Args:
        deadline_s: longest time for the request, all its attempts included.
        once: never ask again.
    """

    def __init__(self, deadline_s: float, once: bool = False) -> None:
        self._once = once
        self._end = time.monotonic() + deadline_s
        self._attempt = deadline_s / 2
        self._pause = 0.1

    def timeout(self) -> float:
        """Seconds that the next attempt may take."""
        return max(0.001, min(self._attempt, self._end - time.monotonic()))

    def pause(self, status: str, message: str) -> float | None:
        """Seconds to wait before asking again; None when asking again is of no use, or the time is over.

        Args:
            status: gRPC status of the failure, e.g. `StatusCode.UNAVAILABLE`.
            message: its text.
        """
        again = "UNAVAILABLE" in status or "DEADLINE" in status or any(word in message.lower() for word in AWAY)
        wait = self._pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, no secret
        if self._once or distrusted(message) or not again or time.monotonic() + wait >= self._end:
            return None
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return wait
