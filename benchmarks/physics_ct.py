"""Whether the CT simulator keeps to the physics of CT noise: one table, each figure beside its bar.

    python -m benchmarks.physics_ct [--quick] [--json]

The yardsticks are the analytic variance of filtered back-projection (`mira.degrade.ct_theory`) and a direct simulation
in the count domain from the noise-free phantom (`mira.degrade.ct_acquisition`), at the same dose.
"""

import argparse
import json
from dataclasses import dataclass, replace

import numpy as np

from mira.degrade import ct
from mira.degrade.ct_acquisition import simulate_acquisition
from mira.degrade.ct_theory import water_variance
from mira.phantom.ct_modules import disc_edge, elliptic_body, water_cylinder
from mira.phantom.solids import slice_grid
from mira.quality.noise import radial_nps
from mira.quality.resolution import disc_transfer

SIDE, PIXEL_MM, WATER_MM = 160, 1.5, 100.0
DOSES = (0.05, 0.1, 0.25, 0.5, 0.75)
REGIONS = {"centre": (0.0, 25.0), "edge": (75.0, 90.0)}


@dataclass(frozen=True)
class Row:
    """A figure with its bar: passed when it is at most `bar` in size."""

    name: str
    value: float
    bar: float | None
    unit: str


def region(low: float, high: float) -> np.ndarray:
    """Pixels between two distances from the centre, in mm."""
    rows, columns = np.indices((SIDE, SIDE)) - SIDE // 2
    distance = np.hypot(rows, columns) * PIXEL_MM
    return (distance >= low) & (distance < high)


def base() -> ct.CtParameters:
    """A routine scan of 1 mm slices; independent slices, so that many slices are many realisations."""
    chosen = ct.parameters_for(0.5, (SIDE, SIDE), PIXEL_MM, 1.0)
    return replace(chosen, profile_slices=0.0)


def cylinder_rows(slices: int) -> list[Row]:
    """Variance, mean and spectrum in a water cylinder: a scan of full dose with noise inserted, against theory."""
    clean = np.repeat(water_cylinder(slice_grid(SIDE, PIXEL_MM), WATER_MM), slices, axis=0)
    full = simulate_acquisition(clean, PIXEL_MM, replace(base(), dose_fraction=1.0), seed=1)
    rows = []
    middle = slice(SIDE // 2 - 32, SIDE // 2 + 32)
    for dose in DOSES:
        parameters = replace(base(), dose_fraction=dose)
        low = full + ct.noise(full, PIXEL_MM, parameters, seed=2)
        direct = simulate_acquisition(clean, PIXEL_MM, parameters, seed=3)
        for name, (inner, outer) in REGIONS.items():
            mask = region(inner, outer)
            places = np.sqrt((np.arange(8) + 0.5) / 8 * (outer**2 - inner**2) + inner**2)
            theory = np.mean(
                [water_variance((SIDE, SIDE), PIXEL_MM, parameters, WATER_MM, float(place)) for place in places]
            )
            measured = low.var(axis=0, ddof=1)[mask].mean()
            rows.append(Row(f"variance over theory - 1, {name}, dose {dose:g}", measured / theory - 1, 0.05, ""))
            bias = float((low.mean(axis=0) - direct.mean(axis=0))[mask].mean())
            if dose >= 0.1:
                rows.append(Row(f"mean against direct, {name}, dose {dose:g}", bias, 0.5, "HU"))
        if dose in (0.1, 0.25):
            ours, theirs = (
                radial_nps((part - part.mean(axis=0))[:, middle, middle], PIXEL_MM, rings=24) for part in (low, direct)
            )
            strong = theirs.power > 0.2 * theirs.power.max()
            rows.append(Row(f"NPS peak over direct - 1, dose {dose:g}", ours.peak / theirs.peak - 1, 0.05, ""))
            rows.append(
                Row(
                    f"NPS mean frequency over direct - 1, dose {dose:g}",
                    ours.mean_frequency / theirs.mean_frequency - 1,
                    0.05,
                    "",
                )
            )
            gap = np.abs(ours.shape[strong] / theirs.shape[strong] - 1)
            rows.append(Row(f"NPS shape against direct, mean over rings, dose {dose:g}", float(gap.mean()), 0.05, ""))
    return rows


def large_rows(slices: int) -> list[Row]:
    """Mean and noise in 320 mm of water, behind which counts are few at low dose, against the direct simulation."""
    pixel = 2.25
    clean = np.repeat(water_cylinder(slice_grid(SIDE, pixel), 160.0), slices, axis=0)
    routine = replace(ct.parameters_for(0.5, (SIDE, SIDE), pixel, 1.0), profile_slices=0.0)
    full = simulate_acquisition(clean, pixel, replace(routine, dose_fraction=1.0), seed=1)
    inside = region(0.0, 140.0 * PIXEL_MM / pixel)
    rows = []
    for dose in (0.1, 0.25):
        low = full + ct.noise(full, pixel, replace(routine, dose_fraction=dose), seed=2)
        direct = simulate_acquisition(clean, pixel, replace(routine, dose_fraction=dose), seed=3)
        mean = float((low - direct)[:, inside].mean())
        noise = [part.std(axis=0, ddof=1)[inside].mean() for part in (low, direct)]
        rows.append(Row(f"320 mm: mean against direct, dose {dose:g}", mean, 0.5, "HU"))
        rows.append(Row(f"320 mm: noise over direct - 1, dose {dose:g}", float(noise[0] / noise[1] - 1), 0.05, ""))
    return rows


def resolution_rows(slices: int) -> list[Row]:
    """MTF50 of a 300 HU disc before and after insertion to a tenth of the dose, in the mean of many slices."""
    phantom = disc_edge(slice_grid(SIDE, PIXEL_MM))
    parameters = replace(base(), photons=1e9, dose_fraction=1.0)
    scan = simulate_acquisition(phantom, PIXEL_MM, parameters, seed=1)
    low = np.zeros_like(scan[0])
    for seed in range(slices):
        low += (scan + ct.noise(scan, PIXEL_MM, replace(base(), dose_fraction=0.1), seed))[0] / slices
    centre = (SIDE // 2, SIDE // 2)
    before, after = (disc_transfer(part, PIXEL_MM, centre, 25.0, 15.0).at(0.5) for part in (scan[0], low))
    return [Row("MTF50 after insertion over before - 1, dose 0.1", after / before - 1, 0.01, "")]


def starvation_rows(slices: int) -> list[Row]:
    """A wide body with hips at few counts: mean and noise of insertion against the direct simulation."""
    grid = slice_grid(SIDE, 3.0)
    clean = np.repeat(elliptic_body(grid, (200.0, 120.0)), slices, axis=0)
    full_dose = replace(ct.parameters_for(0.1, (SIDE, SIDE), 3.0, 1.0), profile_slices=0.0)
    full_dose = replace(full_dose, photons=full_dose.photons / 4)
    full = simulate_acquisition(clean, 3.0, replace(full_dose, dose_fraction=1.0), seed=1)
    low = full + ct.noise(full, 3.0, full_dose, seed=2)
    direct = simulate_acquisition(clean, 3.0, full_dose, seed=3)
    rows, columns = np.indices((SIDE, SIDE)) - SIDE // 2
    between = (np.abs(columns) * 3 < 60) & (np.abs(rows) * 3 < 15)
    aside = (np.abs(columns) * 3 < 30) & (np.abs(rows) * 3 > 60) & (np.abs(rows) * 3 < 90)
    spread = [np.sqrt(part.var(axis=0, ddof=1)) for part in (low, direct)]
    mean = (low.mean(axis=0) - direct.mean(axis=0))[between].mean()
    errors = [part[:, between].mean(axis=1).std() / np.sqrt(slices) for part in (low, direct)]
    blur = []
    for part in (low, direct):  # streaks: noise correlates along them and not across
        noise = part - part.mean(axis=0)
        along = (noise[:, :, 3:] * noise[:, :, :-3])[:, between[:, 3:]].mean()
        blur.append(along / np.square(noise)[:, between].mean())
    among, beside = (spread[0][part].mean() / spread[1][part].mean() - 1 for part in (between, aside))
    many = simulate_acquisition(clean[:1], 3.0, replace(full_dose, photons=1e9, dose_fraction=1.0), seed=1)
    shift = float((direct - many)[:, between].mean())
    return [
        Row("starved: noise between the hips over direct - 1", among, 0.1, ""),
        Row("starved: noise beside that over direct - 1", beside, 0.1, ""),
        Row("starved: mean against direct", float(mean), None, "HU"),
        Row("starved: standard error of that", float(np.hypot(*errors)), None, "HU"),
        Row("starved: shift of the mean in direct by few counts", shift, None, "HU"),
        Row("starved: correlation along streaks less direct's", blur[0] - blur[1], 0.1, ""),
    ]


def slice_rows(slices: int) -> list[Row]:
    """Correlation of the noise of neighbours for 3 mm slices every 2 mm, against the triangular profile's 0.556."""
    clean = np.repeat(water_cylinder(slice_grid(SIDE, PIXEL_MM), WATER_MM), slices, axis=0)
    parameters = replace(base(), profile_slices=1.5)
    noise = ct.noise(clean, PIXEL_MM, parameters, seed=1)[:, region(0, 60)]
    independent = ct.noise(clean, PIXEL_MM, base(), seed=1)[:, region(0, 60)]

    def correlation(lag: int) -> float:
        return float((noise[lag:] * noise[:-lag]).mean() / np.square(noise).mean())

    return [
        Row("slices: correlation of neighbours - 0.556", correlation(1) - 0.556, 0.03, ""),
        Row("slices: correlation two apart - 0.074", correlation(2) - 0.074, 0.03, ""),
        Row("slices: variance over independent - 1", float(noise.var() / independent.var() - 1), 0.05, ""),
    ]


def fan_rows(realisations: int) -> list[Row]:
    """Noise at 130 mm over that at the centre of 300 mm of water: fan-beam, and parallel with even or with denser rays.

    No bow-tie, which would hide the difference.
    """
    water, place, pixel = 150.0, 130.0, 1.0
    side = 400
    bare = ct.parameters_for(1.0, (side, side), pixel, 1.0)
    bare = replace(bare, bowtie=0.0, electronic_variance=0.0, views=560, cutoff=1.0)

    def parallel(source_mm: float) -> float:
        chosen = replace(bare, source_mm=source_mm)
        values = [water_variance((side, side), pixel, chosen, water, r) for r in (6.5, place)]
        return float(np.sqrt(values[1] / values[0]))

    rebinned, plain, native = parallel(ct.SOURCE_MM), parallel(0.0), _fan_ratio(water, place, realisations)
    return [
        Row("fan: noise at 130 mm over centre, parallel, even rays", plain, None, ""),
        Row("fan: the same with the ray density of a rebinned fan", rebinned, None, ""),
        Row("fan: the same in native fan-beam reconstruction", native, None, ""),
        Row("fan: rebinned over even rays - 1", rebinned / plain - 1, None, ""),
        Row("fan: native over rebinned - 1", native / rebinned - 1, None, ""),
    ]


def _fan_ratio(water: float, place: float, realisations: int) -> float:
    """The ratio of `fan_rows` for equiangular fan-beam filtered back-projection (Kak and Slaney, section 3.4.1)."""
    source, views, step = ct.SOURCE_MM, 720, 1.0 / ct.SOURCE_MM  # readings 1 mm apart at the isocentre
    gamma = (np.arange(440) - 219.5) * step
    chord = 2 * np.sqrt(np.maximum(water**2 - (source * np.sin(gamma)) ** 2, 0.0))
    sigma = np.exp(0.0192 * chord / 2)
    lag = np.arange(-440, 440)
    ramp = np.where(lag == 0, 0.25, np.where(lag % 2, -1 / (np.pi * np.where(lag == 0, 1, lag)) ** 2, 0.0)) / step**2
    sine = np.where(lag == 0, 1.0, np.sin(lag * step) / np.where(lag == 0, 1, lag * step))
    frequency = np.fft.fftfreq(lag.size)
    apodised = 0.5 + 0.5 * np.cos(2 * np.pi * frequency)
    response = np.fft.fft(np.fft.ifftshift(ramp / sine**2 / 2)).real * apodised * step
    turn = 2 * np.pi * np.arange(48) / 48
    x = np.concatenate([[0.0, 2.5, -2.5, 0.0, 0.0], place * np.cos(turn)])
    y = np.concatenate([[0.0, 0.0, 0.0, 2.5, -2.5], place * np.sin(turn)])
    total = np.zeros((realisations, x.size))
    generator = np.random.Generator(np.random.Philox(5))
    for beta in 2 * np.pi * np.arange(views) / views:
        readings = generator.standard_normal((realisations, gamma.size)) * sigma * source * np.cos(gamma)
        padded = np.fft.fft(readings, lag.size) * response
        filtered = np.fft.ifft(padded).real[:, : gamma.size]
        toward = source + x * np.sin(beta) - y * np.cos(beta)
        across = x * np.cos(beta) + y * np.sin(beta)
        position = np.arctan2(across, toward) / step + 219.5
        low = np.floor(position).astype(int)
        share = position - low
        weight = 1 / (toward**2 + across**2)
        total += (filtered[:, low] * (1 - share) + filtered[:, low + 1] * share) * weight
    spread = np.square(total).mean(axis=0)
    return float(np.sqrt(spread[5:].mean() / spread[:5].mean()))


def rows(quick: bool) -> list[Row]:
    """All figures.

    Args:
        quick: fewer slices and realisations; figures scatter more.
    """
    few, many = (32, 60) if quick else (96, 400)
    return [
        *cylinder_rows(few),
        *large_rows(few),
        *resolution_rows(few),
        *starvation_rows(few),
        *slice_rows(few),
        *fan_rows(many),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer slices; figures scatter more")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    table = rows(arguments.quick)
    for row in table:
        bar = "" if row.bar is None else f"  bar {row.bar:g}  {'ok' if abs(row.value) <= row.bar else 'MISSED'}"
        print(f"{row.name:58s} {row.value:+9.4f} {row.unit:2s}{bar}")
    if arguments.json:
        print(json.dumps({row.name: row.value for row in table}))


if __name__ == "__main__":
    main()
