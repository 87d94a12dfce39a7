"""Restoring a NIfTI file into another with the same geometry: forms, codes, pixel sizes and unit of its header."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from mira.client.arrays import Restorer
from mira.client.outcome import Delivered, writing
from mira.dicom.expected_error import UNITS
from mira.dicom.reasons import Reason
from mira.dicom.triage import OWN_MARKS
from mira.errors import DataRejected
from mira.tasks import Modality
from mira.volume import Volume, nifti_description, nifti_geometry, read_nifti, write_nifti


def restore_nifti(
    restorer: Restorer,
    path: Path,
    out: Path,
    modality: Modality,
    mr_scale: float | None = None,
    progress: bool = False,
    confidence: bool = False,
    again: bool = False,
) -> Delivered:
    """Restore a NIfTI file in HU, SUVbw or MR a.u. into another with the same geometry.

    The header's `descrip` of the new file says by what it was restored.

    Args:
        restorer: `RestorationClient`, `LocalRestorer`, or a `Restorer` with any other engine.
        path: a NIfTI file of a 3-D volume.
        out: the file to write, ending in .nii or .nii.gz.
        modality: what it shows; NIfTI does not say.
        mr_scale: robust intensity scale of an MR volume; estimated when left out.
        progress: whether to show a progress bar on a terminal.
        confidence: whether to write the expected error (one standard deviation) as well, with `_error` in its name.
        again: restore also what this software restored before.

    Raises:
        DataRejected: when the file cannot be read or restored, or is marked as restored already, or a file that would
            be written exists.
        StorageFailed: when the new file cannot be written.
    """
    stem, kind = (out.name[:-7], out.name[-7:]) if out.name.endswith(".nii.gz") else (out.stem, out.suffix)
    beside = out.with_name(f"{stem}_error{kind}")
    for file in (out, beside) if confidence else (out,):
        if file.exists():
            raise DataRejected(f"{file} exists already. Give another folder, or remove it first.")
    if not again and any(mark in nifti_description(path).upper() for mark in OWN_MARKS):
        raise DataRejected(
            f"{path} was {Reason.ALREADY_RESTORED.text.replace('series', 'file')}. Its header says so; --again does it "
            "all the same."
        )
    volume, geometry = read_nifti(path), nifti_geometry(path)
    restored = restorer.restore_slices(
        volume.voxels, modality, mr_scale=mr_scale, progress=progress, want_error=confidence
    )
    model = f"{restored.model} {restored.version}".strip()
    errors: list[Path] = []
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".partial-", dir=out.parent) as name:
            words = f"restored by MIRA-Net: {model}; research use"
            image = Volume(restored.voxels, volume.affine)
            write_nifti(Path(name) / out.name, image, description=words, geometry=geometry)
            if restored.predicted_error is not None:
                errors = [beside]
                words = f"expected error (1 SD), {UNITS[modality][0]}, of MIRA-Net: {model}"
                expected = Volume(restored.predicted_error, volume.affine)
                write_nifti(Path(name) / beside.name, expected, description=words, geometry=geometry)
                os.replace(Path(name) / beside.name, beside)
            os.replace(Path(name) / out.name, out)
    degradation = float(restored.degradation.mean())
    return Delivered(modality, len(restored.voxels), [out], restored.warnings, degradation, model, errors)
