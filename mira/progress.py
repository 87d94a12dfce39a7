"""Progress bars on a terminal, silence elsewhere."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

tqdm.monitor_interval = 0  # no thread beside the bar: a process with threads cannot be forked safely


def track(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Iterate with a progress bar on standard error when it is a terminal.

    Args:
        items: what to iterate.
        what: label in front of the bar.
        total: number of items, where `items` has no length.
        unit: word for one item.
    """
    yield from tqdm(items, desc=what, total=total, unit=unit, disable=not sys.stderr.isatty(), leave=False)
