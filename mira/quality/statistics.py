"""Paired statistics over patients: the patient, not the slice, is the independent unit."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mira.errors import ConfigurationError

FEWEST_FOR_BOUNDS = 4  # patients from which on 5 to 7 % of the bounds are on the wrong side; of three it is 12 %


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference between two methods on the same patients.

    Attributes:
        mean: mean over patients of the difference (first minus second).
        lower: one-sided lower confidence bound of the mean, by expanded bootstrap over patients.
        upper: one-sided upper confidence bound.
        confidence: level of each bound.
        patients: patients in both.
        resamples: bootstrap resamples.
        seed: seed of the bootstrap.
    """

    mean: float
    lower: float
    upper: float
    confidence: float
    patients: int
    resamples: int
    seed: int


def paired_bootstrap(
    first: Mapping[str, float],
    second: Mapping[str, float],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """Bootstrap the mean paired difference over patients (expanded percentile method).

    The percentiles of few patients' resampled means lie too close together: of a nominal 5 %, 18 % of bounds are on the
    wrong side with three patients and 10 % with five. So the percentile is the one at which a bootstrap of normal
    values gives Student's bound (Hesterberg, The American Statistician 69, 2015, section 5.3). No bound passes the
    smallest or largest difference, so with three patients 12 % remain. With one patient both bounds equal the mean and
    say nothing; callers should state the number of patients.

    Args:
        first: value per patient.
        second: value per patient; patients missing from either are left out.
        confidence: level of the one-sided bounds.
        resamples: number of resamples.
        seed: seed of the resampling.

    Raises:
        ConfigurationError: when no patient is in both, or the confidence is not between 0.5 and 1.
    """
    patients = sorted(first.keys() & second.keys())
    if not patients:
        raise ConfigurationError("No patient was measured with both methods, so they cannot be compared.")
    if not 0.5 < confidence < 1:
        raise ConfigurationError(f"The confidence must be between 0.5 and 1, but is {confidence}.")
    differences = np.array([first[p] - second[p] for p in patients], dtype=np.float64)
    if not np.isfinite(differences).all():
        raise ConfigurationError("A compared value is not finite; leave such patients out and count them.")
    generator = np.random.Generator(np.random.Philox(seed))
    means = differences[generator.integers(0, len(patients), (resamples, len(patients)))].mean(axis=1)
    tail = _expanded_tail(1 - confidence, len(patients))
    lower, upper = np.quantile(means, [tail, 1 - tail])
    return PairedDifference(
        float(differences.mean()), float(lower), float(upper), confidence, len(patients), resamples, seed
    )


def _expanded_tail(tail: float, patients: int) -> float:
    """Share of resampled means that is left beyond a bound."""
    from scipy.stats import norm, t

    if patients == 1:
        return tail
    return float(norm.cdf(np.sqrt(patients / (patients - 1)) * t.ppf(tail, patients - 1)))


def mean_per_patient(values: Mapping[str, list[float]]) -> dict[str, float]:
    """Mean of each patient's values; patients without any are left out."""
    return {patient: float(np.mean(numbers)) for patient, numbers in values.items() if numbers}
