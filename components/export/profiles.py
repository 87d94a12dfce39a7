"""Optimisation profiles for TensorRT: the sizes that sites really send, and the sizes that the server promises.

TensorRT tunes an engine at one size per profile and refuses sizes outside all of them. So there are two: one as narrow
as the sites' own slices, tuned at the commonest, and one for everything else that a request may hold.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from mira.cases import Record
from mira.errors import DataRejected

Size = tuple[int, int, int]  # batch, rows, columns
SMALLEST_SIDE = 32
TILE_SIDE = 1024  # the client sends a slice with a larger side as tiles of at most this one (mira.client.plan)
LARGEST_BATCH = 8  # max_batch_size of the templates


class Profile(Record):
    """Sizes of one profile as (batch, rows, columns)."""

    min: Size
    opt: Size
    max: Size

    def shapes(self, instruction_dim: int) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """Smallest, best and largest shape of each input of the served graph."""
        columns = {"image": None, "modality": 1, "mr_scale": 1, "instruction": instruction_dim, "instruction_weight": 1}
        smallest, best, largest = (
            {name: (size[0], 1, *size[1:]) if last is None else (size[0], last) for name, last in columns.items()}
            for size in (self.min, self.opt, self.max)
        )
        return {name: (smallest[name], best[name], largest[name]) for name in columns}


class Shaped(Protocol):
    """A case or a pair."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""


def profiles_of(cases: Iterable[Shaped], largest_batch: int = LARGEST_BATCH) -> list[Profile]:
    """The profiles of what sites send: theirs first, then the server's whole range.

    Args:
        cases: cases or pairs; each slice counts once.
        largest_batch: slices in one execution at most, which is also how a series is sent.

    Raises:
        DataRejected: when there are no cases.
    """
    slices: Counter[tuple[int, int]] = Counter()
    for case in cases:
        count, rows, columns = case.shape
        slices[max(rows, SMALLEST_SIDE), max(columns, SMALLEST_SIDE)] += count
    if not slices:
        raise DataRejected("There are no cases to take the sizes of slices from. Run the ingest or pair step first.")
    low, high = ([pick(side) for side in zip(*slices, strict=True)] for pick in (min, max))
    # the commonest; of two that are equally common the larger, where time counts more
    usual = max(slices, key=lambda size: (slices[size], size))
    sent = Profile(min=(1, *low), opt=(largest_batch, *usual), max=(largest_batch, *high))
    promised = Profile(
        min=(1, SMALLEST_SIDE, SMALLEST_SIDE),
        opt=sent.opt,
        max=(largest_batch, max(TILE_SIDE, high[0]), max(TILE_SIDE, high[1])),
    )
    return [sent, promised]
