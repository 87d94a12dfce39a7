"""`mira measure`: image quality of a test image against its reference."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mira.cases import read_record, read_volume
from mira.dicom.archive import opened
from mira.dicom.scan import scan
from mira.dicom.units import mr_scale as robust_scale
from mira.dicom.volume import read_series
from mira.errors import ConfigurationError, DataRejected
from mira.quality.clinical import mean_bias, noise_std, uniform_region
from mira.quality.metrics import measure_slices, summarise
from mira.quality.profiles import PROFILES, Profile, profile_named
from mira.tasks import TASKS, Modality, task_of
from mira.volume import Volume, read_nifti

EPILOG = """example:
  mira measure --reference routine.nii --test restored.nii --input low_dose.nii --modality CT --profile amir

Images are NIfTI files, case folders of `mira ingest`, or folders (or zips) with one DICOM series. The input's own row
stands beside the result when --input is given. Profiles: """ + "; ".join(PROFILES)


@dataclass(frozen=True)
class Image:
    """An image with what its source tells of it.

    Attributes:
        volume: voxels and geometry.
        modality: modality, None where the source does not say (NIfTI).
        mr_scale: robust scale of an MR case.
    """

    volume: Volume
    modality: Modality | None = None
    mr_scale: float | None = None


def add_measure(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command's parser."""
    parser = subparsers.add_parser(
        "measure",
        help="PSNR, SSIM, RMSE and clinical measures of an image against its reference",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--reference", required=True, type=Path, metavar="A", help="routine or full-quality image")
    parser.add_argument("--test", required=True, type=Path, metavar="B", help="image to measure, e.g. restored")
    parser.add_argument("--input", type=Path, metavar="C", help="degraded image, measured too")
    parser.add_argument("--profile", required=True, metavar="P", help="metric profile: " + ", ".join(PROFILES))
    parser.add_argument("--modality", choices=[str(m) for m in Modality], help="needed for NIfTI files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def read_image(path: Path) -> Image:
    """Read a NIfTI file, a case folder, or one DICOM series.

    Raises:
        DataRejected: when the path holds none of these, or more than one series.
    """
    if path.is_file() and path.name.endswith((".nii", ".nii.gz")):
        return Image(read_nifti(path))
    if (path / "case.json").is_file():
        record = read_record(path)
        return Image(read_volume(path), record.modality, record.mr_scale)
    if not path.exists():
        raise DataRejected(
            f"{path} does not exist. Give a NIfTI file, a case folder or a folder with one DICOM series."
        )
    with opened(path) as source:
        series = scan(source).series
        if len(series) != 1:
            raise DataRejected(f"{path} holds {len(series)} DICOM series; give a folder with exactly one.")
        read = read_series(series[0].files)
    spec = task_of(read.modality)
    if read.unit is not spec.unit:
        raise DataRejected(f"The series in {path} is in {read.unit}, not in {spec.unit}: {read.unit_refusal}.")
    return Image(read.volume, read.modality, read.mr_scale)


def measure(
    reference: Volume, test: Volume, modality: Modality, profile: str | Profile, mr_scale: float | None = None
) -> dict[str, Any]:
    """All measures of one image, fit for JSON.

    Args:
        reference: volume in native units.
        test: volume on the same grid.
        modality: its modality.
        profile: metric profile or its name.
        mr_scale: robust scale of an MR case.

    Returns:
        The summary of the slices, biases, and noise in the reference's calmest tissue.
    """
    if reference.voxels.shape == test.voxels.shape and not np.allclose(reference.affine, test.affine, atol=0.01):
        raise DataRejected(
            "Reference and test lie on different grids. Resample one, or check that they belong together."
        )
    summary = summarise(measure_slices(reference.voxels, test.voxels, modality, profile, mr_scale))
    region = uniform_region(reference.voxels, modality)
    return {
        **asdict(summary),
        "bias": [asdict(bias) for bias in mean_bias(reference.voxels, test.voxels, modality)],
        "noise_std": noise_std(test.voxels, region),
        "noise_std_reference": noise_std(reference.voxels, region),
    }


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    profile = profile_named(arguments.profile)
    reference = read_image(arguments.reference)
    modality = Modality(arguments.modality) if arguments.modality else reference.modality
    if modality is None:
        raise ConfigurationError("A NIfTI file does not tell its modality. Add --modality CT, PET or MR.")
    if reference.modality not in (None, modality):
        raise ConfigurationError(f"--modality {modality} contradicts the reference, which is {reference.modality}.")
    scale = reference.mr_scale
    if modality is Modality.MR and scale is None:
        scale = robust_scale(reference.volume.voxels)
    rows = {"test": arguments.test} | ({"input": arguments.input} if arguments.input else {})
    results = {
        name: measure(reference.volume, read_image(path).volume, modality, profile, scale)
        for name, path in rows.items()
    }
    if arguments.json:
        print(json.dumps(results, sort_keys=True, allow_nan=False))  # noqa: T201
    else:
        print(f"profile {profile.name}: {profile.meaning}")  # noqa: T201
        for name, result in results.items():
            print(_line(name, result, str(TASKS[task_of(modality).task].unit)))  # noqa: T201
    return 0


def _line(name: str, result: dict[str, Any], unit: str) -> str:
    """One row for people."""

    def show(key: str, digits: int) -> str:
        return "undefined" if result[key] is None else f"{result[key]:.{digits}f}"

    slices = f"{result['slices']} slices, {result['skipped']} blank and {result['identical']} identical"
    text = f"{name:6s} PSNR {show('psnr_db', 2)} dB  SSIM {show('ssim', 4)}  RMSE {show('rmse', 3)} {unit}  ({slices})"
    for bias in result["bias"]:
        text += f"\n       {bias['name']} bias {bias['value']:+.2f} {bias['unit']} of {bias['reference']:.2f}"
    if result["noise_std"] is not None:
        text += f"\n       noise {show('noise_std', 3)} {unit}, reference {show('noise_std_reference', 3)}"
    return text
