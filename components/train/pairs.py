"""The pairs of a training, loaded and checked for leaks."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mira.errors import ConfigurationError, DataRejected
from mira.pairs import PairIndex, PairRecord, Split, read_pair
from mira.tasks import Task

if TYPE_CHECKING:
    from model.data import PairedVolume

UNIFIED = "unified"
MEMORY_LIMIT_BYTES = 2 * 1024**3  # above it volumes stay memory-mapped


def tasks_of(network: str, index: PairIndex) -> tuple[Task, ...]:
    """The tasks that a network learns: its own one, or all with training pairs.

    Raises:
        ConfigurationError: for an unknown network.
        DataRejected: when there is nothing to learn from.
    """
    allowed = [UNIFIED, *(task.value for task in Task)]
    if network not in allowed:
        raise ConfigurationError(f"Unknown network {network!r}. Use one of: {', '.join(allowed)}.")
    wanted = list(Task) if network == UNIFIED else [Task(network)]
    tasks = tuple(task for task in wanted if index.select("train", task=task))
    if not tasks:
        raise DataRejected(
            f"There are no training pairs for {network}. The report of the pair step says which cases were refused."
        )
    return tasks


def check_leaks(index: PairIndex) -> None:
    """Refuse pairs whose splits are not independent.

    Raises:
        DataRejected: when a patient is in two splits, or a site of the local set is trained on.
    """
    splits: dict[str, set[Split]] = defaultdict(set)
    sites: dict[str, set[Split]] = defaultdict(set)
    for pair in index.pairs:
        splits[pair.patient].add(pair.split)
        sites[pair.site].add(pair.split)
    for patient, found in sorted(splits.items()):
        if len(found) > 1:
            raise DataRejected(
                f"Patient {patient} is in the splits {', '.join(sorted(found))}: results would be too good. "
                "Run the pair step again; it splits by patient."
            )
    for site, found in sorted(sites.items()):
        if "local" in found and found & {"train", "validation"}:
            raise DataRejected(
                f"Site {site} is local, yet has pairs in {', '.join(sorted(found - {'local'}))}. "
                "The local set must stay unseen: give the site one role in sites.yaml, and run ingest and pair again."
            )


def load(root: Path, records: Sequence[PairRecord]) -> "list[PairedVolume]":
    """Pairs as arrays: in memory where they fit, memory-mapped otherwise.

    Raises:
        DataRejected: when a volume holds values that are not numbers.
    """
    from model.data import PairedVolume

    size = sum(8 * int(np.prod(record.shape)) for record in records)
    volumes = []
    for record in records:
        degraded, reference = (volume.voxels for volume in read_pair(root, record))
        if size <= MEMORY_LIMIT_BYTES:
            degraded, reference = np.array(degraded), np.array(reference)
        for name, voxels in ((record.degraded, degraded), (record.reference, reference)):
            if not all(np.isfinite(image).all() for image in voxels):  # a slice at a time, since it may be mapped
                raise DataRejected(
                    f"Pair {record.pair_id} holds values that are not numbers, in {name}. Delete its folder and run "
                    "the pair step again."
                )
        volumes.append(
            PairedVolume(
                reference,
                degraded,
                record.task,
                record.physics.severity,
                record.mr_scale or 1.0,
                record.pair_id,
                record.case_id,
            )
        )
    return volumes
