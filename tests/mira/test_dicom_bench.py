"""The real scans beside the checkout: nothing is lost, values are the headers', and the published tables hold."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from mira.dicom.archive import opened
from mira.dicom.scan import scan
from mira.dicom.volume import read_volumes
from tests import tricky_table
from tests.bench_sites import BENCH, LOCAL, TRAIN

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(not BENCH.is_dir(), reason="the real scans (MIRA_BENCH) are not here"),
]
LARGE = "site-mcgill"
SITES = [
    pytest.param(role, name, id=name, marks=[pytest.mark.slow] if name == LARGE else [])
    for role, names in (("train", TRAIN), ("local", LOCAL))
    for name in names
]


def declared(path: Path) -> int:
    """Pixels that a file's own header declares, by pydicom alone; 0 for what is no image."""
    ds = pydicom.dcmread(path, stop_before_pixels=True)
    return int(ds.get("Rows", 0)) * int(ds.get("Columns", 0)) * int(ds.get("NumberOfFrames", 1) or 1)


@pytest.mark.parametrize(("role", "site"), SITES)
def test_every_voxel_of_the_real_sites_arrives(role, site):
    folder = BENCH / role / site
    with opened(folder) as source:
        found = scan(source)
    assert not found.rejected
    arrived, checked = 0, 0
    for series in found.series:
        result = read_volumes(series.files)
        assert not result.refusals
        assert not result.duplicates
        for volume in result.volumes:
            arrived += volume.volume.voxels.size
            checked += check_slice(volume)
    assert arrived == sum(declared(path) for path in folder.rglob("*.dcm"))
    assert checked == len(found.series)


def check_slice(volume) -> int:
    """Compare the middle slice with what pydicom alone makes of its file."""
    middle = len(volume.files) // 2
    ds = pydicom.dcmread(volume.files[middle])
    values = ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
    values = np.maximum(values, -1024) if volume.modality == "CT" else values * volume.suv_factor
    np.testing.assert_allclose(volume.volume.voxels[middle], values, rtol=2e-7, atol=0)
    point = volume.volume.affine @ [0, 0, middle, 1]
    np.testing.assert_allclose(point[:3], np.array(ds.ImagePositionPatient, float), atol=0.2)
    return 1


def test_the_page_of_tricky_series_is_what_the_command_prints():
    published = tricky_table.PAGE.read_text(encoding="utf-8")
    assert published == tricky_table.page(), "run: python -m tests.tricky_table"
