"""CT values below air: the reader makes them air for the network, and a restored series has the source's own again."""

import numpy as np
import pytest
from pydicom import dcmread

from mira.client import LocalRestorer
from mira.client.series import restore_series
from mira.dicom.derive import simulated_by, write_derived
from mira.dicom.volume import read_series
from tests.mira.dicom_synthetic import make_header, pixels, write
from tests.mira.test_client_series import SIZE, identity, network  # noqa: F401 - fixtures
from tests.triton.round_trip import made_up, trips
from tests.triton.tiny_network import tiny_network


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (0.7, -1200.25), (0.25, -1400)])
def test_values_below_air_come_back_as_they_were_whatever_the_network_makes_of_air(
    tmp_path, declared, slope, intercept
):
    """No network sees them; what it makes of the air in their place is no restoration of theirs."""
    stored = [pixels(number, SIZE).astype(np.int16) for number in range(4)]
    below = np.linspace(-1499, -1025, SIZE[1])
    for plane in stored[:3]:  # of the last slice nothing is below air
        plane[4] = np.rint((below - intercept) / slope)
        plane[:3, :5] = np.rint((-3024 - intercept) / slope)
    stored[3] += np.int16(np.rint((-1000 - intercept) / slope))
    changes = {"PixelPaddingValue": int(stored[0][0, 0])} if declared else {}
    changes |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
    files = write(tmp_path / "in", [make_header("CT", n, stored[n], **changes) for n in range(4)])
    with LocalRestorer(tiny_network(tmp_path / "model.onnx", gain=0.2), threads=1) as restorer:  # changes every value
        delivered = restore_series(restorer, tmp_path / "in", tmp_path / "out")
    assert "below-air-set-to-air" in delivered.warnings
    for before, after in zip(map(dcmread, files), map(dcmread, delivered.files), strict=True):
        raw, back = (d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in (before, after))
        unseen = (raw < -1024) & (raw > -1500)
        assert unseen.sum() == 0 or unseen.sum() >= 30
        assert np.abs(back - raw)[unseen].max(initial=0) <= float(after.RescaleSlope) / 2 + 1e-4  # float32 voxels
        assert np.abs(back - raw)[raw > -1000].max() > 1  # the network's own work
        assert (back[raw < -1500] <= -3000).all()


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_a_series_makes_the_round_trip(tmp_path, identity, modality):  # noqa: F811
    (trip,) = trips(identity, made_up(tmp_path / "in", modality, 4, 64), tmp_path / "out", "made up")
    assert trip.right
    assert (trip.below_air > 0) == (modality == "CT")


def test_a_simulated_series_has_its_own_noise_below_air(tmp_path):
    stored = [pixels(number, SIZE).astype(np.int16) for number in range(4)]
    for plane in stored:
        plane[4] = -200
    source = read_series(write(tmp_path / "in", [make_header("CT", n, stored[n]) for n in range(4)]))
    files = write_derived(source, source.volume.voxels + np.float32(7), tmp_path / "out", simulated_by("x 1", "noise"))
    written = dcmread(files[0])
    assert (written.pixel_array[4] * float(written.RescaleSlope) + float(written.RescaleIntercept) == -1017).all()
