"""`mira calibrate`: fit the CT simulator to a scanner from scans of a water phantom."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mira.degrade.phantom_noise import PhantomScan
from mira.degrade.scanner_fit import Fit, fit_scanner
from mira.degrade.series import read_of, record_of
from mira.dicom.volume import SeriesVolume
from mira.errors import ConfigurationError, DataRejected
from mira.storage import atomic_file, write_json, write_text
from mira.tasks import Modality, Task

EPILOG = """example:
  mira calibrate --scans phantom/20mas-a phantom/20mas-b phantom/200mas-a phantom/200mas-b --out scanner.yaml
  mira degrade /data/chest-ct --task ct-denoising --level 0.25 --config scanner.yaml --out low/

Scans of one uniform water phantom with one kernel, tube voltage and slice thickness, at two or more exposures that
differ by 3 times or more, best twice at each. Writes the YAML file for `mira degrade --config`, a JSON file with all
figures of the fit, and a picture of it."""


def add_calibrate(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command's parser."""
    parser = subparsers.add_parser(
        "calibrate",
        help="fit the CT simulator to your scanner, from scans of a water phantom",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--scans", required=True, nargs="+", type=Path, metavar="FOLDER", help="DICOM folders, files or zips"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the .yaml file to write")
    parser.add_argument("--json", action="store_true", help="print the fit as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Fit, and write the three files."""
    out: Path = arguments.out
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigurationError(f"--out {out} must end in .yaml.")
    scans = read_scans(arguments.scans)
    fit = fit_scanner(scans)
    document = facts(fit)
    write_text(out, as_yaml(fit, scans[0].kernel))
    write_json(out.with_suffix(".json"), document)
    draw(fit, out.with_suffix(".png"))
    if arguments.json:
        print(json.dumps(document, sort_keys=True))  # noqa: T201
    else:
        print(as_text(fit))  # noqa: T201
        print(f"written: {out}, {out.with_suffix('.json').name}, {out.with_suffix('.png').name}")  # noqa: T201
    return 0


def read_scans(paths: list[Path]) -> list[PhantomScan]:
    """Every CT series below the paths as a scan of the phantom.

    Raises:
        ConfigurationError: for a path that does not exist.
        DataRejected: when a path holds no CT, or a scan does not tell its exposure and voltage.
    """
    scans = []
    for path in paths:
        if not path.exists():
            raise ConfigurationError(f"{path} does not exist. Give the folders of the phantom scans.")
        volumes, refusals = read_of(path, Modality.CT)
        if not volumes:
            reasons = "; ".join(f"{text} ({count} files)" for text, count in refusals.items()) or "there is no image"
            raise DataRejected(f"{path} holds no usable CT: {reasons}.")
        scans += [_scan(volume, path) for volume in volumes]
    return scans


def _scan(volume: SeriesVolume, path: Path) -> PhantomScan:
    protocol = record_of(volume).protocol
    if protocol.exposure_mas is None or protocol.kvp is None:
        raise DataRejected(f"A scan in {path} does not tell its exposure (mAs) and tube voltage (kVp).")
    distance, pixel, _ = volume.volume.spacing
    return PhantomScan(
        hu=volume.volume.voxels,
        pixel_mm=pixel,
        distance_mm=distance,
        thickness_mm=protocol.slice_thickness_mm or distance,
        mas=protocol.exposure_mas,
        kvp=protocol.kvp,
        kernel=protocol.kernel,
    )


def facts(fit: Fit) -> dict[str, Any]:
    """All figures of a fit, for JSON; an infinite error is null."""
    return {
        "scanner": asdict(fit.scanner),
        "flux_error": round(fit.flux_error, 4),
        "electronic_error": round(fit.electronic_error, 4) if np.isfinite(fit.electronic_error) else None,
        "points": [{name: round(value, 4) for name, value in asdict(point).items()} for point in fit.points],
        "frequencies_per_mm": [round(float(value), 5) for value in fit.frequencies],
        "nps": [round(float(value), 6) for value in fit.nps],
        "nps_fit": [round(float(value), 6) for value in fit.nps_fit],
    }


def as_yaml(fit: Fit, kernel: str) -> str:
    """The fit as a file of options for `mira degrade --config`."""
    exposures = ", ".join(f"{point.mas:g}" for point in fit.points)
    lines = [
        f"# CT scanner fitted by `mira calibrate` to a water phantom at {exposures} mAs, kernel {kernel or 'unknown'}.",
        "# It holds for this kernel and tube voltage. Figures of the fit: the .json file beside it.",
        f"{Task.CT_DENOISING}:",
        *(f"  {name}: {value!r}" for name, value in asdict(fit.scanner).items()),
    ]
    return "\n".join(lines) + "\n"


def as_text(fit: Fit) -> str:
    """The fit for people."""
    scanner = fit.scanner
    seen = np.isfinite(fit.electronic_error)
    electronic = f"+- {100 * fit.electronic_error:.0f} %" if seen else "not seen at these exposures"
    lines = [
        f"flux               {scanner.flux_per_mas:.4g} photons per mm, mm and mAs  +- {100 * fit.flux_error:.1f} %",
        f"electronic noise   {scanner.electronic_density:.4g} photons squared per mm  {electronic}",
        f"kernel             ends at {scanner.cutoff_per_mm:.3f} cycles per mm",
        "",
        "    mAs   noise at the centre (HU)   near the edge (HU)",
        "          measured       fitted      measured   fitted (not used: checks the bow-tie)",
    ]
    lines += [
        f"{p.mas:7g}   {p.centre_hu:8.2f}     {p.centre_fit_hu:8.2f}      {p.ring_hu:8.2f} {p.ring_fit_hu:8.2f}"
        for p in fit.points
    ]
    return "\n".join(lines)


def draw(fit: Fit, path: Path) -> None:
    """Picture of a fit: noise against exposure, and the noise-power spectrum.

    Raises:
        ConfigurationError: when matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # heavy
    except ModuleNotFoundError as error:
        raise ConfigurationError("The picture of the fit needs matplotlib: pip install matplotlib.") from error
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    mas = [point.mas for point in fit.points]
    for name, colour, values, fitted in (
        ("centre", "tab:blue", [p.centre_hu for p in fit.points], [p.centre_fit_hu for p in fit.points]),
        ("near the edge", "tab:orange", [p.ring_hu for p in fit.points], [p.ring_fit_hu for p in fit.points]),
    ):
        left.loglog(mas, values, "o", color=colour, label=f"{name}, measured")
        left.loglog(mas, fitted, "-", color=colour, label=f"{name}, fitted")
    dotted = np.array(mas)
    left.loglog(
        dotted, fit.points[-1].centre_fit_hu * np.sqrt(mas[-1] / dotted), ":", color="grey", label="1/sqrt(mAs)"
    )
    left.set_xticks(mas, [f"{value:g}" for value in mas])
    left.minorticks_off()
    ticks = [value for value in (0.5, 1, 2, 5, 10, 20, 50, 100) if min(fit.points[-1].ring_hu, 5) / 2 < value < 200]
    left.set_yticks(ticks, [f"{value:g}" for value in ticks])
    left.set(xlabel="exposure (mAs)", ylabel="noise (HU)", title="Noise against exposure")
    left.set_ylim(0.8 * min(p.ring_hu for p in fit.points), 1.3 * max(p.centre_hu for p in fit.points))
    left.legend(fontsize=7)
    right.plot(fit.frequencies, fit.nps, "o", ms=4, color="tab:blue", label="measured")
    right.plot(fit.frequencies, fit.nps_fit, "-", color="tab:blue", label="fitted cutoff")
    right.axvline(fit.scanner.cutoff_per_mm, color="grey", ls=":", label="cutoff")
    right.set_xlim(0, 1.1 * max(fit.frequencies[-1], min(fit.scanner.cutoff_per_mm, 2 * fit.frequencies[-1])))
    right.set(xlabel="cycles per mm", ylabel="share of the noise power", title="Noise-power spectrum")
    right.legend(fontsize=7)
    with atomic_file(path) as temporary:
        figure.savefig(temporary)
