"""Drift: what the accepted cases look like, and how far that is from the last accepted data set.

Cases of one patient are alike, so a patient counts once: the median of the patient's cases. The samples themselves
are kept (at most `KEPT` of their order statistics), so that every statistic can be had exactly.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.validate.relations import scanner_of
from mira.cases import CaseRecord, Record
from mira.errors import ConfigurationError
from mira.storage import read_json
from mira.tasks import Modality

FORMAT = 2
KEPT = 500
ALL = "all sites"
COMMON = ("slice_spacing_mm", "in_plane_mm", "largest_extent_mm")
FEATURES: dict[Modality, tuple[str, ...]] = {
    Modality.CT: ("noise", *COMMON, "tissue_peak_hu", "air_peak_hu", "thickness_mm", "kvp", "exposure_mas"),
    Modality.PET: ("noise_share", *COMMON, "suv_body_mean", "suv_peak", "dose_mbq_per_kg", "uptake_minutes"),
    Modality.MR: ("noise_share", *COMMON, "mr_scale", "field_strength_t", "repetition_time_ms", "echo_time_ms"),
}
WORDS = ("scanner", "software", "kernel", "reconstruction", "sequence")
DRIFT_FACTS: dict[str, str] = {
    "patients_before": "patients of the last accepted data set that the feature is known of",
    "patients_now": "patients of this data set that the feature is known of",
    "psi": "population stability index over the deciles of the earlier patients; of words, over the words",
    "ks": "Kolmogorov-Smirnov statistic, the largest distance between the two distribution functions",
    "ks_p": "probability of that distance, or a larger one, between two samples of one distribution; exact",
    "shift": "Wasserstein distance between the two samples, in interquartile ranges of the earlier one",
    "new_values": "number of words (scanner, software, kernel, reconstruction, sequence) that are new",
    "lost_values": "number of words that are there no more",
}


class Baseline(Record):
    """The profile of the last accepted data set."""

    format: int
    usable: bool
    sites: list[dict[str, Any]]
    distributions: dict[str, dict[str, dict[str, Any]]]


def read_baseline(path: Path) -> Baseline:
    """Read the profile that an earlier validation wrote.

    Raises:
        ConfigurationError: when there is none, it is of an older version, or its data set was not accepted.
    """
    file = path / "profile.json" if path.is_dir() else path
    if not file.is_file():
        raise ConfigurationError(f"There is no profile at {file}. Set `validate.baseline` to an earlier profile.json.")
    document = read_json(file)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConfigurationError(f"{file} was written by another version. Validate that data set again.")
    baseline = Baseline.model_validate(document)
    if not baseline.usable:
        raise ConfigurationError(f"{file} is of a data set that was not accepted. Name the last accepted one.")
    return baseline


def distributions(judged: list[tuple[CaseRecord, dict[str, Any]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Samples of every feature per modality, over all sites and for each site.

    Args:
        judged: accepted cases with their facts.

    Returns:
        modality -> scope -> `patients`, `values` (feature -> sorted sample) and `words` (kind -> word -> cases).
    """
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for modality in Modality:
        own = [(record, row) for record, row in judged if record.modality is modality]
        scopes = {ALL: own} | {s: [j for j in own if j[0].site == s] for s in sorted({r.site for r, _ in own})}
        if own:
            result[modality.value] = {scope: _describe(modality, members) for scope, members in scopes.items()}
    return result


def _describe(modality: Modality, members: list[tuple[CaseRecord, dict[str, Any]]]) -> dict[str, Any]:
    values: dict[str, list[float]] = {}
    for feature in FEATURES[modality]:
        patients: dict[str, list[float]] = {}
        for record, row in members:
            if row.get(feature) is not None:
                patients.setdefault(record.patient, []).append(float(row[feature]))
        sample = np.sort([float(np.median(of_one)) for of_one in patients.values()])
        if len(sample) > KEPT:
            sample = np.quantile(sample, np.linspace(0, 1, KEPT))
        values[feature] = [float(f"{value:.6g}") for value in sample]
    words = {kind: dict(sorted(Counter(_word(kind, record) for record, _ in members).items())) for kind in WORDS}
    return {"patients": len({record.patient for record, _ in members}), "values": values, "words": words}


def _word(kind: str, record: CaseRecord) -> str:
    word = {
        "scanner": scanner_of(record),
        "software": record.scanner.software,
        "kernel": record.protocol.kernel,
        "reconstruction": record.protocol.reconstruction,
        "sequence": record.protocol.scanning_sequence,
    }[kind]
    return word or "unknown"


def compare(
    before: dict[str, dict[str, dict[str, Any]]], now: dict[str, dict[str, dict[str, Any]]]
) -> list[dict[str, Any]]:
    """One row per modality, scope and feature that both data sets have; words that are new are named.

    A site or modality that is new as a whole has nothing to be compared with, and no row of its own; its words count
    in the rows over all sites.
    """
    rows = []
    for modality in sorted(set(before) & set(now)):
        for scope in sorted(set(before[modality]) & set(now[modality]), key=lambda name: (name != ALL, name)):
            old, new = before[modality][scope], now[modality][scope]
            place = {"modality": modality, "scope": scope}
            for feature in FEATURES[Modality(modality)]:
                samples = (np.array(part["values"].get(feature, []), dtype=float) for part in (old, new))
                rows.append(place | {"feature": feature} | _numbers(*samples))
            rows += [place | {"feature": k} | _words(old["words"].get(k, {}), new["words"][k]) for k in WORDS]
    for row in rows:
        row["id"] = f"{row['modality']} {row['feature']}, {row['scope']}"
    return rows


def _numbers(before: NDArray[np.float64], now: NDArray[np.float64]) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": "number", "patients_before": len(before), "patients_now": len(now)}
    if not len(before) or not len(now):
        return row
    from scipy.stats import ks_2samp, wasserstein_distance

    test = ks_2samp(before, now, method="exact" if max(len(before), len(now)) <= KEPT else "asymp")
    spread = float(np.subtract(*np.quantile(before, [0.75, 0.25])))
    return row | {
        "median_before": float(np.median(before)),
        "median_now": float(np.median(now)),
        "ks": float(test.statistic),
        "ks_p": float(test.pvalue),
        "psi": psi_of_numbers(before, now),
        "shift": float(wasserstein_distance(before, now)) / spread if spread > 0 else None,
    }


def psi_of_numbers(before: NDArray[np.float64], now: NDArray[np.float64]) -> float:
    """Population stability index of two samples over quantile bins of the first.

    PSI = sum over bins of (q - p) ln(q / p) (Siddiqi, Credit Risk Scorecards, 2006). Ten bins, fewer where the first
    sample is small, so that a bin holds two of it; half a count is added to every bin, so that none is empty.
    """
    bins = max(2, min(10, len(before) // 2))
    edges = np.unique(np.quantile(before, np.linspace(0, 1, bins + 1)[1:-1]))
    if edges[0] == before.min():  # as of a constant: what lies below is then a bin of its own
        edges = np.insert(edges, 0, np.nextafter(edges[0], -np.inf))
    counts = [np.bincount(np.searchsorted(edges, sample), minlength=len(edges) + 1) for sample in (before, now)]
    return _psi(*counts)


def _psi(before: NDArray[np.int64], now: NDArray[np.int64]) -> float:
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (before, now))
    return float(np.sum((q - p) * np.log(q / p)))


def _words(before: dict[str, int], now: dict[str, int]) -> dict[str, Any]:
    words = sorted({*before, *now})
    counts = [np.array([part.get(word, 0) for word in words]) for part in (before, now)]
    new, lost = (sorted(set(a) - set(b) - {"unknown"}) for a, b in ((now, before), (before, now)))
    return {
        "kind": "words",
        "psi": _psi(*counts),
        "new_values": len(new),
        "lost_values": len(lost),
        "new": new,
        "lost": lost,
    }
