"""What a real inbox holds besides series: things that ingest has to sort out, each for its own reason."""

import base64
import datetime as dt
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from mira.phantom.config import DemoConfig
from mira.phantom.dicom_base import StudyInfo, base, da, pixels, save, series, tm
from mira.phantom.dicom_images import CT_IMAGE
from mira.phantom.identity import Person
from mira.phantom.noise import rng_for
from mira.phantom.raster import Grid, render
from mira.phantom.scanners import SiteSpec
from mira.phantom.shapes import Array
from mira.phantom.tissue import ct_palette
from mira.phantom.torso import torso

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# the smallest useful JPEG: one grey pixel
_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP//////////////////////////////////////////////////////////////////////////////////////"
    "wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAA//EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AN//Z"
)


def add_nuisances(inbox: Path, config: DemoConfig, site: SiteSpec, person: Person) -> int:
    """Add a localiser, a dose page, a copy of a slice and two files that are no DICOM; returns their number.

    Args:
        inbox: the site's inbox, with the patient's CT already in it.
        config: the demo's configuration.
        site: the site.
        person: its first patient.
    """
    from pydicom import dcmread

    slices = sorted(inbox.rglob("*.CTDC.*"))
    source = dcmread(slices[0])
    start = dt.datetime.strptime(f"{source.StudyDate}{source.StudyTime}", "%Y%m%d%H%M%S.%f")
    study = StudyInfo(
        str(source.StudyInstanceUID),
        str(source.StudyID),
        str(source.AccessionNumber),
        start,
        str(source.StudyDescription),
    )
    folder = slices[0].parent.parent
    save(
        _localiser(config, site, person, study, str(source.FrameOfReferenceUID)),
        folder / "s1" / "i1.CTDC.1",
        site.implicit,
    )
    save(_dose_page(site, person, study), folder / "s999" / "i1.CTDC.1", site.implicit)
    twin = slices[len(slices) // 2]
    twin.with_name(f"{twin.name}.copy").write_bytes(twin.read_bytes())
    (inbox / "photo_of_the_scanner.jpg").write_bytes(_JPEG)
    (inbox / "README.txt").write_text("Exported for the demo. This line is no DICOM file.\n", encoding="utf-8")
    return 5


def _localiser(config: DemoConfig, site: SiteSpec, person: Person, study: StudyInfo, reference: str) -> Dataset:
    """A frontal scout of the trunk: attenuation summed from front to back."""
    grid = Grid((0.0, 6.0, 40.0), 96, 4.2, 56, 6.0)
    scene = torso(person.key, person.size, person.adiposity_mm)
    hu = render(grid, scene, ct_palette(rng_for("hu", person.key), 0.0), (-1000.0,))[0]
    scout: Array = np.maximum(hu / 1000 + 1, 0).sum(axis=1)[::-1] * np.float32(grid.pixel_mm / 300 * 1000) - np.float32(
        600
    )
    scout = np.repeat(np.repeat(scout, 3, axis=0), 2, axis=1)
    ds = base(CT_IMAGE, site, person, study, site.ct.device)
    start = study.start + dt.timedelta(seconds=30)
    series(ds, "CT", person.uid("series", "scout"), 1, "SCOUT", "Scout", start, "CHEST")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.SOPInstanceUID = person.uid("scout")
    ds.InstanceNumber = ds.AcquisitionNumber = 1
    ds.AcquisitionDate = ds.ContentDate = da(start)
    ds.AcquisitionTime = ds.ContentTime = tm(start)
    ds.KVP, ds.XRayTubeCurrent, ds.ScanOptions = "120", 10, "SCOUT MODE"
    ds.RescaleIntercept, ds.RescaleSlope = "-1024", "1"
    ds.WindowCenter, ds.WindowWidth = "50", "500"
    ds.FrameOfReferenceUID = reference
    ds.PositionReferenceIndicator = None
    ds.PatientPosition = "HFS"
    ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    ds.ImagePositionPatient = [f"{grid.x()[0]:.3f}", "0", f"{-1180.0 + grid.z()[-1]:.3f}"]
    ds.PixelSpacing = ["2", "2.1"]
    ds.SliceThickness = "400"
    pixels(ds, np.clip(np.rint(scout + 1024), -(2**15), 2**15 - 1).astype(np.int32), 16, True)
    return ds


def _dose_page(site: SiteSpec, person: Person, study: StudyInfo) -> Dataset:
    """A dose report as a picture, which carries a bar for every line of text that such pages have."""
    ds = base(SECONDARY_CAPTURE, site, person, study, site.ct.device)
    start = study.start + dt.timedelta(seconds=300)
    series(ds, "CT", person.uid("series", "dose"), 999, "Dose Report", "Dose", start, "CHEST")
    ds.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    ds.ConversionType = "WSD"
    ds.SOPInstanceUID = person.uid("dose")
    ds.InstanceNumber = 1
    ds.PatientOrientation = None
    ds.ContentDate, ds.ContentTime = da(start), tm(start)
    ds.BurnedInAnnotation = "YES"
    page = np.zeros((256, 256), dtype=np.int32)
    rng = rng_for("dose page", person.key)
    for line in range(20, 236, 14):
        page[line : line + 6, 16 : int(rng.integers(60, 240))] = 200
    pixels(ds, page, 8, False)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = page.astype(np.uint8).tobytes()
    return ds
