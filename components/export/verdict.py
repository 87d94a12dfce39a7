"""The verdict on an engine: its differences from torch and what they cost in quality, against its tolerance.

Quality is what evaluate measures: PSNR against the reference, and the bias of clinical quantities. Here both are those
of the engine minus those of torch in f32, so that the network's own errors drop out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.evaluate.measure import clinical_figures
from components.export.config import UNITS, Tolerance
from components.export.engines import Engine, Session
from components.export.parity import NORMALISED, Difference, Expected, compare
from mira.quality.clinical import uniform_region
from mira.quality.metrics import measure_slices
from mira.tasks import Modality

PROFILE = "robust"  # of the PSNR, as in the gate policy
# Changes of these clinical figures are judged: the figure, its bound in `Tolerance`, and its unit.
JUDGED = {
    "hu_mean_bias": ("bias_hu", "HU"),
    "suv_mean_bias": ("bias_percent", "%"),
    "suv_max_bias": ("bias_percent", "%"),
    "mr_mean_bias": ("bias_percent", "%"),
    "lesion_recovery_worst": ("recovery", "of the contrast"),
}


@dataclass(frozen=True)
class Cost:
    """What an engine costs in quality on a pair.

    Attributes:
        probe: the pair.
        psnr_db: mean PSNR of torch's slices minus that of the engine's, against the reference; None where torch has
            none, since all its slices are blank or equal their reference.
        figures: the engine's clinical figures minus torch's.
    """

    probe: str
    psnr_db: float | None
    figures: dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """What was measured of an engine, and whether it may be served.

    Attributes:
        engine: the engine.
        tolerance: what it was judged by.
        differences: on every probe.
        costs: on every pair.
        reason: why it may not be served, naming the worst slice; empty when it may.
    """

    engine: Engine
    tolerance: Tolerance
    differences: list[Difference]
    costs: list[Cost]
    reason: str

    def figures(self) -> dict[str, Any]:
        """The figures for metadata.json and parity.json, without those that are no numbers, which JSON cannot hold."""
        changes = {name: [c.figures[name] for c in self.costs if name in c.figures] for name in JUDGED}
        return {
            "by_unit": _by_unit(self.differences, self.tolerance),
            "indicators": _worst([d.indicators for d in self.differences]),
            "psnr_loss_db": _worst([c.psnr_db for c in self.costs if c.psnr_db is not None]),
            "changes": {name: max(found, key=abs) for name, found in changes.items() if _worst(found) is not None},
        }

    def shares_of_range(self) -> dict[str, float]:
        """Largest difference of a pixel that the tolerance allows, as a share of each modality's range."""
        return {modality.value: self.tolerance.largest(modality) / NORMALISED[modality] for modality in Modality}


def judge(engine: Engine, session: Session, expected: Sequence[Expected], tolerance: Tolerance) -> Verdict:
    """Run an engine on every probe and judge it by its tolerance."""
    differences, costs = [], []
    for one in expected:
        got = session.run(one.inputs)
        differences.append(compare(one, got))
        if one.probe.slices is not None and np.isfinite(got["restored"]).all():
            costs.append(cost(one, got["restored"]))
    return Verdict(engine, tolerance, differences, costs, _reason(differences, costs, tolerance))


def cost(expected: Expected, restored: NDArray[np.float32]) -> Cost:
    """What an engine's answer [S, 1, H, W] to the slices of a pair costs in quality."""
    slices, modality = expected.probe.slices, expected.probe.modality
    assert slices is not None
    region = uniform_region(slices.reference, modality)
    images = {"torch": expected.outputs["restored"][:, 0], "engine": restored[:, 0]}
    psnr, figures = {}, {}
    for name, image in images.items():
        scale = slices.pair.mr_scale
        psnr[name] = measure_slices(slices.reference, image, modality, PROFILE, mr_scale=scale).psnr
        figures[name] = clinical_figures(slices, image, region)
    known = np.isfinite(psnr["torch"])  # both miss the same slices: those of a blank reference
    loss = float(psnr["torch"][known].mean() - psnr["engine"][known].mean()) if known.any() else None
    changes = {name: figures["engine"][name] - value for name, value in figures["torch"].items() if name in JUDGED}
    return Cost(expected.probe.place(0), loss, changes)


def _reason(differences: list[Difference], costs: list[Cost], tolerance: Tolerance) -> str:
    """What is outside tolerance, with the worst slice; empty when nothing is."""
    measured = []  # value, bound, what, where
    for d in differences:
        unit = UNITS[d.modality]
        measured.append((d.image, tolerance.largest(d.modality), f"{d.image:.3g} {unit}", d.probe))
        measured.append((d.rms, tolerance.rms(d.modality), f"{d.rms:.3g} {unit} (root mean square)", d.probe))
        measured.append((d.indicators, tolerance.indicators, f"{d.indicators:.3g} in the indicators", d.probe))
    for c in costs:
        if c.psnr_db is None:
            return f"cannot be judged on {c.probe}: no PSNR is defined there. Export with other held-out pairs"
        measured.append((c.psnr_db, tolerance.psnr_db, f"{c.psnr_db:.3g} dB of PSNR lost", c.probe))
        for name, change in c.figures.items():
            bound, unit = JUDGED[name]
            measured.append((abs(change), getattr(tolerance, bound), f"{change:.3g} {unit} in {name}", c.probe))
    # what is no number is the worst: max() would pass over it, since it compares with nothing
    value, allowed, what, where = max(measured, key=lambda item: np.inf if np.isnan(item[0]) else item[0] / item[1])
    return "" if value <= allowed else f"differs from torch by up to {what} on {where}; allowed are {allowed:g}"


def _by_unit(differences: list[Difference], tolerance: Tolerance) -> dict[str, dict[str, float]]:
    found = {}
    for modality in Modality:
        of_it = [d for d in differences if d.modality is modality]
        largest, rms = _worst([d.image for d in of_it]), _worst([d.rms for d in of_it])
        if largest is not None and rms is not None:
            found[UNITS[modality]] = {"largest": largest, "rms": rms, "tolerance": tolerance.largest(modality)}
    return found


def _worst(values: list[float]) -> float | None:
    """The largest value; None without any, and where one is no finite number."""
    return max(values) if values and np.isfinite(values).all() else None
