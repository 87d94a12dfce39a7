"""`python -m tests.phi_scan.burned_in`: how often the look for burned-in text is right, on the real scans.

False alarms: all volumes of the train and local sites, as ingest looks at them, and every n-th of their slices as
`mira deidentify` does. Found: a line of text, written over the middle slices of one volume per site, in several sizes
and intensities, at the upper edge and across the middle.
"""

import sys
from collections import Counter

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mira.dicom.archive import opened
from mira.dicom.burned_in import suspected, suspected_in_slice
from mira.dicom.scan import scan
from mira.dicom.volume import read_volumes
from tests.bench_sites import BENCH, LOCAL, TRAIN

EVERY = 12
TEXT = "DOE^JANE 1950-01-02"
SIZES = (0, 8, 10, 12, 16, 24)
PLACES = {"edge": 0.02, "middle": 0.45}
SHARES = (1.0, 0.6, 0.3)


def main() -> int:
    if not BENCH.is_dir():
        sys.stderr.write("The real scans (MIRA_BENCH) are not here.\n")
        return 3
    alarms, found = Counter[str](), Counter[str]()
    for role, sites in (("train", TRAIN), ("local", LOCAL)):
        for site in sites:
            with opened(BENCH / role / site) as source:
                for number, series in enumerate(scan(source).series):
                    for volume in read_volumes(series.files).volumes:
                        voxels = volume.volume.voxels
                        alarms["volumes"] += 1
                        alarms["volumes suspected"] += suspected(voxels)
                        for plane in voxels[::EVERY]:
                            alarms["slices"] += 1
                            alarms["slices suspected"] += suspected_in_slice(plane)
                        if number == 0:
                            _write_and_look(voxels, found)
    sys.stdout.write("without text: " + ", ".join(f"{alarms[k]} {k}" for k in sorted(alarms)) + "\n")
    for name in sorted(key.removesuffix(" of") for key in found if key.endswith(" of")):
        sys.stdout.write(f"text {name}: {found[name]} of {found[name + ' of']} found\n")
    return 0


def _write_and_look(voxels: np.ndarray, found: Counter[str]) -> None:
    middle = voxels[len(voxels) // 2 - 1 : len(voxels) // 2 + 2]
    low, high = float(middle.min()), float(middle.max())
    for size in SIZES:
        for share in SHARES:
            for place, top in PLACES.items():
                cover = _text(middle.shape[1:], size, top)
                marked = (middle * (1 - cover) + cover * (low + share * (high - low))).astype(np.float32)
                for way, hit in (("in volumes", suspected(marked)), ("in slices", suspected_in_slice(marked[1]))):
                    for kind in ("all", f"{share:.0%} of the range", f"size {size or 'bitmap'}", place):
                        found[f"{way}, {kind}"] += hit
                        found[f"{way}, {kind} of"] += 1


def _text(shape: tuple[int, ...], size: int, top: float) -> np.ndarray:
    """Cover of a line of text, 0 to 1; a bitmap font for size 0, else smoothed edges."""
    page = Image.new("L", shape[::-1], 0)
    pen = ImageDraw.Draw(page)
    if not size:
        pen.fontmode = "1"
    pen.text((4, round(top * shape[0])), TEXT, fill=255, font=ImageFont.load_default(size or 10))
    return np.asarray(page, dtype=np.float32) / 255


if __name__ == "__main__":
    sys.exit(main())
