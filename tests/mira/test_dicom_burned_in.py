"""Burned-in text is suspected where there is some, and real scans are left in peace."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from mira.dicom.archive import opened
from mira.dicom.burned_in import suspected, suspected_in_slice, text_warnings
from mira.dicom.scan import scan
from mira.dicom.volume import read_volumes
from tests.bench_sites import BENCH

TEXT = "DOE^JANE 1950-01-02"


def trunk(seed: int, side: int = 256) -> np.ndarray:
    """A noisy CT-like slice in HU: air, an ellipse, vertebra-like bright discs, ribs, a table."""
    rows, columns = np.mgrid[:side, :side] - side / 2
    image = np.where((rows / 90) ** 2 + (columns / 110) ** 2 < 1, 40.0, -1000.0)
    for angle in np.linspace(0, 2 * np.pi, 16):
        image[np.hypot(rows - 80 * np.sin(angle), columns - 100 * np.cos(angle)) < 5] = 700
    image[230:233] = -400
    return (image + np.random.default_rng(seed).normal(0, 15, image.shape)).round().astype(np.float32)


def write(image: np.ndarray, value: float, size: int = 0, text: str = TEXT, top: int = 6) -> np.ndarray:
    """Text in a bitmap font, or smoothed in the given size, opaque, in the margin."""
    page = Image.new("L", image.shape[::-1], 0)
    pen = ImageDraw.Draw(page)
    if not size:
        pen.fontmode = "1"
    pen.text((6, top), text, fill=255, font=ImageFont.load_default(size or 10))
    cover = np.asarray(page, dtype=np.float32) / 255
    return (image * (1 - cover) + value * cover).astype(np.float32)


@pytest.mark.parametrize("size", [0, 10, 12, 16, 24])
@pytest.mark.parametrize("value", [3071, 800, 300])
def test_text_on_every_slice_is_suspected(size, value):
    volume = np.stack([write(trunk(n), value, size) for n in range(4)])
    assert suspected(volume)
    assert suspected_in_slice(volume[1])
    assert text_warnings(volume) == {"suspected-burned-in-text"}


def test_text_on_one_slice_only_is_suspected():
    volume = np.stack([trunk(n) for n in range(5)])
    volume[3] = write(volume[3], 3071)
    assert suspected(volume)


def test_dark_text_on_a_light_page_and_colour_are_suspected():
    page = np.full((200, 300), 255, dtype=np.uint8)
    dark = write(page.astype(np.float32), 0).astype(np.uint8)
    assert suspected_in_slice(dark)
    assert suspected_in_slice(np.stack([dark] * 3, axis=-1))


def test_text_that_scales_with_the_slice_is_suspected_as_in_pet():
    planes = [write(np.abs(trunk(n)) / 100, 40) for n in range(4)]
    assert suspected(np.stack([plane * factor for plane, factor in zip(planes, (1, 2.5, 0.7, 1.3), strict=True)]))


def test_anatomy_tables_noise_and_saturation_are_not():
    volume = np.stack([trunk(n) for n in range(5)])
    assert not suspected(volume)
    assert not any(suspected_in_slice(plane) for plane in volume)
    assert not suspected(np.minimum(volume, 500))  # bones cut off at one value
    noise = np.random.default_rng(0).normal(0, 1, (6, 128, 128)).astype(np.float32)
    assert not suspected(noise)
    assert not any(suspected_in_slice(plane) for plane in noise)
    assert not suspected(np.zeros((3, 32, 32), np.float32))
    assert text_warnings(volume) == set()


@pytest.mark.bench
@pytest.mark.skipif(not BENCH.is_dir(), reason="the real scans (MIRA_BENCH) are not here")
def test_an_exam_summary_is_suspected_and_a_scout_beside_it_is_not():
    from pydicom import dcmread

    found = {
        name: suspected_in_slice(dcmread(BENCH / "tricky" / "philips_ct_exam_summary" / name).pixel_array)
        for name in ("I10", "I40", "I50")
    }
    assert found == {"I10": False, "I40": True, "I50": True}


@pytest.mark.bench
@pytest.mark.skipif(not BENCH.is_dir(), reason="the real scans (MIRA_BENCH) are not here")
@pytest.mark.parametrize("site", ["train/site-basel-siemens", "local/site-uih", "local/site-mskcc"])
def test_real_scans_are_not_suspected(site):
    with opened(BENCH / site) as source:
        volumes = [volume for series in scan(source).series for volume in read_volumes(series.files).volumes]
    assert volumes
    for volume in volumes:
        assert not suspected(volume.volume.voxels)
        assert not any(suspected_in_slice(plane) for plane in volume.volume.voxels[::6])
