"""Which folder a volume's restored series belongs in: decided by what it was made of, not by its place in a scan.

Files that arrive later change the order in which series are found. So a folder counts as the one of a volume when its
files name exactly the images of that volume as their source; a volume without one gets the next free number. A series
that has grown since is another volume; one whose images have no UID is never recognised. The names say number and
modality only.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from mira.dicom import headers as h
from mira.dicom.derivation import source_reference
from mira.dicom.headers import tolerant
from mira.dicom.volume import SeriesVolume

NUMBER = re.compile(r"(\d{3,})-")
SERIES = re.compile(r"\d{3,}-(ct|pet|mr)")
Images = tuple[tuple[str, str], ...]


class Targets:
    """The folders of volumes below one folder; what is in it is looked at once.

    Args:
        out: folder of all of them; it need not exist.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        present = sorted(out.iterdir()) if out.is_dir() else []
        self._made: dict[tuple[str, Images], list[Path]] = defaultdict(list)
        for folder in present:
            if folder.is_dir() and (found := SERIES.fullmatch(folder.name)):
                self._made[found[1], _sources_of_files(folder)].append(folder)
        taken = {int(found[1]) for entry in present if (found := NUMBER.match(entry.name))}
        self._free = (number for number in count(1) if number not in taken)

    def of(self, volume: SeriesVolume) -> Path:
        """The folder of the next volume, e.g. `001-ct`: the one that holds it restored already, otherwise a new one."""
        modality = volume.modality.lower()
        with tolerant():
            known = self._made[modality, _sorted([source_reference(header) for header in volume.headers])]
        # popped: series that wrongly share their UIDs have a folder each
        return known.pop(0) if known else self._out / f"{next(self._free):03d}-{modality}"


def _sources_of_files(folder: Path) -> Images:
    """The images that the files of a restored series name as their source; none where a file cannot be read."""
    references = []
    with tolerant():
        for path in sorted(folder.glob("*.dcm")):
            try:
                header = dcmread(path, stop_before_pixels=True, specific_tags=["SourceImageSequence"])
            except Exception:  # damaged bytes raise many types; such a folder is nobody's
                return ()
            references += h.items(header, "SourceImageSequence")
    return _sorted(references)


def _sorted(references: Sequence[Dataset]) -> Images:
    """UID and frame of the referenced images."""
    return tuple(
        sorted((h.text(item, "ReferencedSOPInstanceUID"), h.text(item, "ReferencedFrameNumber")) for item in references)
    )
