"""NIfTI to NIfTI: the new file lies where the old one does, by the same header fields."""

import nibabel as nib
import numpy as np
import pytest

from mira.client.nifti import restore_nifti
from mira.tasks import Modality
from tests.mira.test_client_series import identity, network  # noqa: F401 - fixtures

ANGLE = 0.3


def oblique():
    """A rotated, mirrored affine with origins that single precision does not hold."""
    turn = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array([-0.7, 0.7, 3.3])
    affine[:3, 3] = [101.123456, -33.3, 12.7]
    return affine


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (0, 1), (4, 0), (0, 0), (2, 3), (4, 1)])
@pytest.mark.parametrize(("unit", "name"), [("mm", "x.nii"), ("micron", "x.nii.gz")])
def test_forms_codes_and_unit_are_the_sources_own(tmp_path, identity, kind, sform, qform, unit, name):  # noqa: F811
    voxels = np.random.default_rng(0).integers(-1000, 1000, (40, 36, 5)).astype(np.int16)
    image = kind(voxels, oblique())
    image.set_sform(oblique() if sform else None, code=sform)
    image.set_qform(oblique() @ np.diag([1, 1, -1, 1]) if qform else None, code=qform)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / name)
    restore_nifti(identity, tmp_path / name, tmp_path / "out" / name, Modality.CT)
    before, after = nib.load(tmp_path / name), nib.load(tmp_path / "out" / name)
    exact = kind is nib.Nifti1Image  # NIfTI-2 holds the forms in double precision
    np.testing.assert_allclose(after.affine, before.affine, rtol=0, atol=0 if exact else 1e-5)
    for form in ("get_sform", "get_qform"):
        (was, code), (now, new) = (getattr(one.header, form)(coded=True) for one in (before, after))
        assert new == code
        if code:
            np.testing.assert_allclose(now, was, rtol=0, atol=0 if exact else 1e-5)
    assert after.header.get_zooms() == pytest.approx(before.header.get_zooms(), rel=1e-7)
    assert after.header.get_xyzt_units()[0] == unit
    np.testing.assert_array_equal(np.asanyarray(after.dataobj), voxels)


def test_a_single_slice_lies_where_it_did(tmp_path, identity):  # noqa: F811
    image = nib.Nifti1Image(np.full((40, 36), 7, np.int16), oblique())
    nib.save(image, tmp_path / "x.nii")
    restore_nifti(identity, tmp_path / "x.nii", tmp_path / "y.nii", Modality.CT)
    after = nib.load(tmp_path / "y.nii")
    np.testing.assert_array_equal(after.affine, nib.load(tmp_path / "x.nii").affine)
    assert after.shape == (40, 36, 1)
