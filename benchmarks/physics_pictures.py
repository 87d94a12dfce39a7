"""The pictures of `docs/explanation/physics.md`, made from openly licensed scans and from phantoms.

    python -m benchmarks.physics_pictures [--quick] [--out docs/images/physics]

Takes about a minute. The scans lie below `MIRA_BENCH` (default: `shared/bench` beside the checkout): an abdominal CT of
Colorectal-Liver-Metastases (CC BY 4.0), a whole-body PET of Soft-tissue-Sarcoma (CC BY 3.0; cut below the neck) and an
abdominal MR of CMB-CRC (CC BY 4.0), all from TCIA. `--quick` makes only what needs no scan.
"""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mira.degrade import ct, mr
from mira.degrade.ct_acquisition import simulate_acquisition
from mira.degrade.interface import degrade
from mira.degrade.phantom_noise import PhantomScan
from mira.degrade.scanner import CtScanner
from mira.degrade.scanner_fit import fit_scanner
from mira.degrade.scanner_verb import draw
from mira.degrade.series import read_of, record_of
from mira.dicom.volume import SeriesVolume
from mira.phantom.mr_uniform import points, slanted_edge, uniform_cylinder
from mira.phantom.raster import Grid
from mira.quality.noise import radial_nps
from mira.tasks import Modality, Task
from mira.volume import Volume

ROOT = Path(__file__).resolve().parents[1]
BENCH = Path(os.environ.get("MIRA_BENCH", ROOT.parent / "shared/bench"))
CT = BENCH / "local/site-mskcc/CT/CRLM-CT-1004"
PET = BENCH / "train/site-mcgill/PET/STS_001_raw"
MR = BENCH / "train/site-cmb-toshiba/MR/CMB-CRC-MSB-06489_T2"
QUALITY = 80


def read(path: Path, modality: Modality) -> SeriesVolume:
    """The one series in a folder."""
    volumes, refusals = read_of(path, modality)
    if len(volumes) != 1:
        raise SystemExit(f"{path} holds {len(volumes)} {modality} series ({refusals}). Set MIRA_BENCH.")
    return volumes[0]


def part(volume: Volume, start: int, stop: int) -> Volume:
    """Slices `start` to `stop`."""
    affine = volume.affine.copy()
    affine[:3, 3] += start * affine[:3, 2]
    return Volume(np.ascontiguousarray(volume.voxels[start:stop]), affine)


def panels(
    path: Path,
    titles: list[str],
    rows: list[list[np.ndarray]],
    windows: list[tuple[float, float]],
    names: list[str],
    colours: str = "gray",
) -> None:
    """Images side by side, one row of them under another, each row with its own window."""
    height, width = rows[0][0].shape
    side = 2.3
    size = (side * len(titles), len(rows) * (side * height / width) + 0.25)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    axes = np.array(figure.subplots(len(rows), len(titles))).reshape(len(rows), -1)
    for row, (images, window, name) in enumerate(zip(rows, windows, names, strict=True)):
        for column, image in enumerate(images):
            axis = axes[row, column]
            axis.set(xticks=[], yticks=[])
            axis.imshow(
                image, cmap=colours if row == 0 else "gray", vmin=window[0], vmax=window[1], interpolation="auto"
            )
            if row == 0:
                axis.set_title(titles[column], fontsize=9)
            if column == 0:
                axis.set_ylabel(name, fontsize=8)
    figure.savefig(path, pil_kwargs={"quality": QUALITY})


def ct_levels(out: Path) -> dict[str, Any]:
    """Abdomen at four doses, with what was added."""
    source = read(CT, Modality.CT)
    middle = len(source.volume.voxels) // 2
    volume, record = part(source.volume, middle - 2, middle + 3), record_of(source)
    images, added, facts = [volume.voxels[2]], [np.zeros_like(volume.voxels[2])], {}
    for level in (0.5, 0.25, 0.1, 0.05):
        low, physics = degrade(volume, Task.CT_DENOISING, level, 1, record)
        images.append(low.voxels[2])
        added.append(low.voxels[2] - volume.voxels[2])
        facts[f"added_sd_{level:g}"] = round(float(added[-1][236:276, 236:276].std()), 1)
    cut = np.s_[120:360, 106:406]  # shown pixel by pixel, as noise must be
    titles = ["routine dose", "50 %", "25 %", "10 %", "5 %"]
    rows = [[image[cut] for image in images], [image[cut] for image in added]]
    panels(out / "ct-levels.jpg", titles, rows, [(-160, 240), (-150, 150)], ["HU -160 to 240", "added, +-150 HU"])
    return {"ct": {**facts, "photons": physics.parameters["photons"], "cutoff": physics.parameters["cutoff"]}}


def pet_levels(out: Path) -> dict[str, Any]:
    """Whole body without the head at four count fractions: a coronal and an axial plane."""
    source = read(PET, Modality.PET)
    record, voxels = record_of(source), source.volume.voxels
    # slices rise with z for this scan; the head is at the end with the higher patient coordinate, and is cut off
    upwards = source.volume.affine[2, 2] > 0
    body = part(source.volume, 0, 200) if upwards else part(source.volume, len(voxels) - 200, len(voxels))
    plane = int(np.argmax((body.voxels > 2.5).sum(axis=(0, 2))))
    hottest = int(np.argmax((body.voxels > 2.5).sum(axis=(1, 2))))
    coronal, axial, noise = [], [], []
    facts: dict[str, list[float]] = {}
    for level in (None, 0.5, 0.25, 0.1, 0.05):
        low = body if level is None else degrade(body, Task.PET_SYNTHESIS, level, 1, record)[0]
        flat = low.voxels[:, plane, 20:108]
        coronal.append(np.repeat(flat[::-1] if upwards else flat, 1, axis=0))
        axial.append(low.voxels[hottest, 24:104, 20:108])
        noise.append(low.voxels[hottest, 24:104, 20:108] - body.voxels[hottest, 24:104, 20:108])
    few = part(body, hottest - 2, hottest + 3)
    hot = few.voxels[2] > 4
    for level in (0.25, 0.1, 0.05):  # does a hot object keep its activity? over seeds, with the standard error
        means = [degrade(few, Task.PET_SYNTHESIS, level, seed, record)[0].voxels[2][hot].mean() for seed in range(12)]
        ratios = np.array(means) / few.voxels[2][hot].mean()
        facts[f"hot_ratio_{level:g}"] = [round(float(ratios.mean()), 3), round(float(ratios.std() / np.sqrt(11)), 3)]
    titles = ["routine counts", "1/2", "1/4", "1/10", "1/20"]
    panels(out / "pet-coronal.jpg", titles, [coronal], [(0, 6)], ["SUVbw 0 to 6"], "gray_r")
    panels(out / "pet-axial.jpg", titles, [axial, noise], [(0, 6), (-2, 2)], ["SUVbw 0 to 6", "added, +-2"], "gray_r")
    return {"pet": facts}


def mr_levels(out: Path) -> dict[str, Any]:
    """Abdomen at four resolutions, and the further effects at one of them."""
    source = read(MR, Modality.MR)
    middle = len(source.volume.voxels) // 2
    volume, record = source.volume, record_of(source)
    top = float(source.mr_scale or 1.0)

    def low(level: float, **options: float | str) -> np.ndarray:
        return degrade(volume, Task.MRI_SUPER_RESOLUTION, level, 1, record, options=options)[0].voxels[middle]

    cut = np.s_[90:450, 40:550]
    images = [volume.voxels[middle], low(1.5), low(2), low(4), low(8)]
    lost = [image - images[0] for image in images]
    titles = ["acquired", "1.5 x", "2 x", "4 x", "8 x"]
    rows = [[image[cut] for image in images], [image[cut] for image in lost]]
    panels(out / "mr-levels.jpg", titles, rows, [(0, top), (-0.3 * top, 0.3 * top)], ["image", "difference"])
    options = [
        low(2),
        low(2, snr=12),
        low(2, partial_fourier=0.5625, phase_rad=3.0),
        low(2, partial_fourier=0.5625, phase_rad=3.0, partial_fill="homodyne"),
        low(2, slice_factor=3),
    ]
    titles = ["2 x", "and noise, SNR 12", "9/16 of lines, zeros", "9/16, homodyne", "slices 3 x as thick"]
    panels(out / "mr-options.jpg", titles, [[image[cut] for image in options]], [(0, top)], ["image"])
    return {"mr": {"shape": list(volume.voxels.shape)}}


def ct_curves(out: Path, slices: int) -> dict[str, Any]:
    """Noise-power spectra in a water cylinder: inserted noise against a direct simulation, doses and kernels."""
    side, pixel = 256, 1.0
    y, x = np.indices((side, side)) - side // 2
    water = np.where(np.hypot(y, x) * pixel < 100, 0, -1000).astype(np.float32)
    clean = np.repeat(water[None], slices, axis=0)
    base = ct.parameters_for(0.25, (side, side), pixel, 2.0, body_diameter_mm=0)
    base = ct.CtParameters(**{**base.as_record(), "profile_slices": 0.0})  # type: ignore[arg-type]
    square = np.s_[:, side // 2 - 32 : side // 2 + 32, side // 2 - 32 : side // 2 + 32]
    figure = Figure(figsize=(9, 3.4), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    facts = {}
    for level, colour in ((0.5, "tab:green"), (0.25, "tab:blue"), (0.1, "tab:orange"), (0.05, "tab:red")):
        parameters = ct.CtParameters(**{**base.as_record(), "dose_fraction": level})  # type: ignore[arg-type]
        routine = ct.CtParameters(**{**base.as_record(), "dose_fraction": 1.0})  # type: ignore[arg-type]
        full = simulate_acquisition(clean, pixel, routine, seed=1)
        low = np.concatenate(list(ct.lower_dose(full, pixel, parameters, seed=2)))
        direct = simulate_acquisition(clean, pixel, parameters, seed=3)
        inserted, direct_nps = (radial_nps(field[square], pixel) for field in (low, direct))
        left.semilogy(inserted.frequency, inserted.power, "-", color=colour, label=f"{100 * level:g} %, inserted")
        left.semilogy(direct_nps.frequency, direct_nps.power, "o", ms=3, color=colour, label="direct")
        facts[f"variance_ratio_{level:g}"] = round(inserted.variance / direct_nps.variance, 3)
    left.set(xlabel="cycles per mm", ylabel="NPS (HU² mm²)", title="Water cylinder, four doses", xlim=(0, 0.5))
    left.set_ylim(bottom=8)
    left.legend(fontsize=7, ncols=2)
    for cutoff, name in ((0.6, "soft"), (1.0, "medium"), (1.5, "routine body"), (3.0, "sharp")):
        parameters = ct.CtParameters(**{**base.as_record(), "cutoff": cutoff})  # type: ignore[arg-type]
        nps = radial_nps(ct.noise(clean, pixel, parameters, seed=2)[square], pixel)
        right.plot(nps.frequency, nps.shape, label=f"cutoff {cutoff:g} ({name})")
    right.set(xlabel="cycles per mm", ylabel="share of the noise power (mm)", title="Kernels, 25 %", xlim=(0, 0.5))
    right.legend(fontsize=7)
    figure.savefig(out / "ct-nps.png")
    return {"ct_nps": facts}


def calibration(out: Path, slices: int) -> dict[str, Any]:
    """The fit of a scanner to simulated phantom scans of known physics."""
    side, pixel, thick = 160, 1.6, 2.0
    true = CtScanner(flux_per_mas=8.0e5, electronic_density=2.0e5, cutoff_per_mm=0.34, kvp=120.0)
    y, x = np.indices((side, side)) - (side - 1) / 2
    water = np.where(np.hypot(y, x) * pixel < 80, 0, -1000).astype(np.float32)
    clean = np.repeat(water[None], slices, axis=0)
    geometry = ct.parameters_for(1.0, (side, side), pixel, thick, body_diameter_mm=0)
    scans = []
    for index, mas in enumerate((5.0, 10.0, 30.0, 90.0, 270.0)):
        for repeat in range(2):
            parameters = true.apply(geometry, pixel, thick, mas)
            hu = simulate_acquisition(clean, pixel, parameters, seed=10 * index + repeat)
            scans.append(PhantomScan(hu, pixel, thick, thick, mas, true.kvp))
    fit = fit_scanner(scans)
    draw(fit, out / "calibration.png")
    pairs = zip(asdict(true).items(), asdict(fit.scanner).values(), strict=True)
    ratios = {f"{name}_fitted_over_true": round(fitted / known, 3) for (name, known), fitted in pairs}
    return {"calibration": {**ratios, "flux_error": fit.flux_error, "electronic_error": fit.electronic_error}}


def mr_curves(out: Path, slices: int) -> dict[str, Any]:
    """Point-spread function, edge and the Rician histogram."""
    figure = Figure(figsize=(9.5, 3.0), dpi=100, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    size = 128
    for factor in (2, 4):
        low = mr.truncate(points((size, size), [(64, 64)]), mr.MrParameters(factor), [np.random.default_rng()])[0]
        offset = np.arange(-16, 17)
        kept = size // factor
        theory = np.abs(np.sinc(kept * offset / size) / np.sinc(offset / size)) / factor**2
        colour = {2: "tab:blue", 4: "tab:orange"}[factor]
        left.plot(offset, low[64, 48:81] * factor**2, "o", ms=3, color=colour, label=f"{factor} x")
        left.plot(offset, theory * factor**2, "-", lw=1, color=colour)
    left.set(xlabel="pixels", title="Point spread; lines: Dirichlet kernel", ylim=(0, 1.05))
    left.legend(fontsize=7)
    edge = slanted_edge((size, size), 0.0, 0.0, 1.0)
    for factor in (1, 2, 4, 8):
        parameters = mr.MrParameters(max(factor, 1), row_factor=1)
        profile = edge[0, 64] if factor == 1 else mr.truncate(edge, parameters, [np.random.default_rng()])[0, 64]
        middle.plot(np.arange(16, 64), profile[16:64], label=f"{factor} x" if factor > 1 else "phantom")
    middle.set(xlabel="pixels", title="Edge: Gibbs ringing")
    middle.legend(fontsize=7)
    grid, sigma = Grid((0.0, 0.0, 0.0), 128, 1.5, slices, 5.0), 20.0
    noisy = np.concatenate(
        list(mr.lower_resolution(0 * uniform_cylinder(grid).voxels, mr.MrParameters(2, noise=sigma), 1))
    )
    right.hist(noisy.ravel(), bins=60, density=True, color="lightgrey", label="simulated air")
    m = np.linspace(0, 100, 200)
    right.plot(m, m / sigma**2 * np.exp(-(m**2) / (2 * sigma**2)), color="tab:blue", label="Rayleigh")
    right.set(xlabel="magnitude", title="Noise without signal")
    right.legend(fontsize=7)
    figure.savefig(out / "mr-curves.png")
    return {"rayleigh_mean_ratio": round(float(noisy.mean() / (np.sqrt(np.pi / 2) * sigma)), 4)}


def main() -> None:
    """Make the pictures and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/physics", help="folder to write")
    parser.add_argument("--quick", action="store_true", help="only what needs no scan, with fewer slices")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    slices = 4 if arguments.quick else 16
    figures = {**ct_curves(out, slices), **calibration(out, slices // 2), **mr_curves(out, 8)}
    if not arguments.quick:
        figures |= {**ct_levels(out), **pet_levels(out), **mr_levels(out)}
    figures["kilobytes"] = round(sum(path.stat().st_size for path in out.iterdir()) / 1024)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
