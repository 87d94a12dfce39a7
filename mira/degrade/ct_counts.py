"""Statistics of the logarithm of few counts: mean, spread and shape of what a reading tells of a line integral.

A reading expects `n` quanta and gives y = Poisson(n) + Normal(0, Ne), with Ne the variance of the electronic noise. The
scanner forms -ln max(y, floor). For many counts this is Gaussian with variance 1/n + Ne/n^2. For few it is skewed,
its variance is larger, and it lies above the truth by 1/(2n) and more: the cause of streaks, and of HU bias, behind
shoulders and hips. So the distribution is tabulated as it is, and read at any number of counts.

Scanners filter starved readings before the logarithm (Hsieh, Med Phys 25:2139-2147, 1998). Here a reading that expects
fewer than `adaptive` quanta is the mean of 5 neighbours along the detector, and one that expects fewer than a fifth of
that of 5 neighbours in each of 3 views: m readings together have the statistics of m times the counts.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = np.log(1e-3), np.log(1e9)  # tabulated counts, natural logarithm
STEPS = 200  # table entries per unit of the logarithm
MANY = np.log(300.0)  # from here on the logarithm of a reading is Gaussian to within 0.06 of skewness
SHAPE_STEPS = 10
SCORES = np.linspace(-5.5, 5.5, 1001)  # standard normal scores of the tabulated quantiles
WINDOWS = ((1, 1), (1, 5), (3, 5))  # (views, bins) averaged: ordinary, few and very few counts


@dataclass(frozen=True)
class LogStatistics:
    """Statistics of -ln(max(y, floor) / n), tabulated over the logarithm of the expected counts n.

    Attributes:
        bias: mean, at `STEPS` entries per unit from `LOWEST`.
        variance: variance, at the same entries.
        shape: quantiles, freed of mean and scaled to unit variance [counts, SCORES], from `LOWEST` to `MANY`.
    """

    bias: NDArray[np.float64]
    variance: NDArray[np.float64]
    shape: NDArray[np.float32]


def _quantiles(counts: float, electronic: float, floor: float) -> NDArray[np.float64]:
    """-ln(max(y, floor) / counts) at the probabilities of `SCORES`, rising."""
    from scipy.special import gammaln, ndtr  # heavy

    sigma = max(electronic, 0.1) ** 0.5  # a tenth of a squared quantum keeps the quantiles of pure counts continuous
    top = int(counts + 8 * np.sqrt(counts) + 12)
    quanta = np.arange(top + 1)
    probability = np.exp(quanta * np.log(counts) - counts - gammaln(quanta + 1))
    fine = max(4, int(np.ceil(4 / sigma)))
    reach = int(np.ceil(7 * sigma * fine))
    edges = (np.arange(-reach, reach + 2) - 0.5) / fine
    spread = np.diff(ndtr(edges / sigma))
    comb = np.zeros(top * fine + 1)
    comb[::fine] = probability
    distribution = np.cumsum(np.convolve(comb, spread))
    readings = (np.arange(distribution.size) - reach + 0.5) / fine
    y = np.interp(ndtr(-SCORES), distribution / distribution[-1], readings)
    return np.asarray(-np.log(np.maximum(y, floor) / counts))


@lru_cache(maxsize=8)
def log_statistics(electronic: float, floor: float, adaptive: float) -> LogStatistics:
    """Tabulate the statistics of the logarithm of a reading.

    Above `MANY` counts the series for a variable of variance s^2 = n + Ne is used: bias s^2 / (2 n^2) + 5 / (12 n^2)
    and variance s^2 / n^2 + 3 / (2 n^2).

    Args:
        electronic: variance of the electronic noise, quanta squared.
        floor: readings below it are set to it before the logarithm, quanta.
        adaptive: expected counts below which readings are averaged with their neighbours; 0 for never.
    """
    weights = np.exp(-(SCORES**2) / 2)
    weights /= weights.sum()
    logs = LOWEST + np.arange(int((HIGHEST - LOWEST) * STEPS) + 1) / STEPS
    n = np.exp(logs)
    bias = (n + electronic) / (2 * n**2) + 5 / (12 * n**2)
    variance = (n + electronic) / n**2 + 3 / (2 * n**2)
    nodes = LOWEST + np.arange(int((MANY - LOWEST) * SHAPE_STEPS) + 2) / SHAPE_STEPS
    shape = np.empty((nodes.size, SCORES.size), dtype=np.float32)
    limits = _limits(adaptive)
    for level, (views, bins) in enumerate(WINDOWS):
        m = views * bins  # readings averaged between these limits; nodes just beyond them serve interpolation
        part = (logs < limits[level]) & (logs >= limits[level + 1]) & (logs < MANY)
        mine = (nodes < limits[level]) & (nodes >= limits[level + 1])
        wanted = np.flatnonzero(
            (nodes < limits[level] + 1 / SHAPE_STEPS) & (nodes > limits[level + 1] - 1 / SHAPE_STEPS)
        )
        if not wanted.size:
            continue
        table = np.stack([_quantiles(float(np.exp(nodes[i])) * m, electronic * m, floor * m) for i in wanted])
        means = table @ weights
        spread = np.square(table - means[:, None]) @ weights
        bias[part] = np.interp(logs[part], nodes[wanted], means)
        variance[part] = np.exp(np.interp(logs[part], nodes[wanted], np.log(np.maximum(spread, 1e-12))))
        normal = (table - means[:, None]) / np.sqrt(np.maximum(spread, 1e-12))[:, None]
        shape[mine] = normal[mine[wanted]]
    return LogStatistics(bias, variance, shape)


def _limits(adaptive: float) -> tuple[float, float, float, float]:
    """Logarithm of the counts between which each of `WINDOWS` is used, falling."""
    if adaptive <= 0:
        return np.inf, -np.inf, -np.inf, -np.inf
    return np.inf, float(np.log(adaptive)), float(np.log(adaptive / 5)), -np.inf


def places(logs: NDArray[np.float32]) -> NDArray[np.int32]:
    """Entries of the tables of `LogStatistics` for the logarithm of expected counts (nearest of `STEPS` per unit)."""
    index = np.rint((logs - np.float32(LOWEST)) * np.float32(STEPS)).astype(np.int32)
    result: NDArray[np.int32] = np.clip(index, 0, int((HIGHEST - LOWEST) * STEPS), out=index)
    return result


def shaped(
    scores: NDArray[np.float32], logs: NDArray[np.float32], statistics: LogStatistics, readings: int
) -> NDArray[np.float32]:
    """Bend standard normal scores, in place, into the distribution of the logarithm where counts are few.

    The mean of several readings is closer to Gaussian: its skewness falls with the root of their number.

    Args:
        scores: standard normal numbers.
        logs: logarithm of the counts that one reading expects, same shape.
        statistics: tables.
        readings: readings averaged in each value.
    """
    few = np.flatnonzero(logs.ravel() < MANY)
    if not few.size:
        return scores
    flat = scores.reshape(-1)
    x = flat[few]
    row = np.rint((logs.ravel()[few] - np.float32(LOWEST)) * np.float32(SHAPE_STEPS)).astype(np.int32)
    step = np.float32(SCORES[1] - SCORES[0])
    column = np.rint((x - np.float32(SCORES[0])) / step).astype(np.int32)
    np.clip(row, 0, len(statistics.shape) - 1, out=row)
    np.clip(column, 0, SCORES.size - 1, out=column)
    bent = statistics.shape[row, column]
    flat[few] = bent if readings == 1 else x + (bent - x) / np.float32(np.sqrt(readings))
    return scores


def averaged(
    values: NDArray[np.float32], logs: NDArray[np.float32], adaptive: float, unit_variance: bool = False
) -> NDArray[np.float32]:
    """Replace readings that expect few counts by the mean over their window (see the module's head).

    Args:
        values: sinogram [views, bins].
        logs: logarithm of the counts that each reading expects.
        adaptive: expected counts below which the filter acts.
        unit_variance: for white scores of unit variance, whose means are scaled to unit variance again.
    """
    limits = _limits(adaptive)
    few = logs < limits[1]
    if not few.any():
        return values
    from scipy.ndimage import uniform_filter1d  # heavy

    views, bins = WINDOWS[2]
    along = uniform_filter1d(values, bins, axis=1, mode="wrap")
    result = np.where(few, along * np.float32(bins**0.5 if unit_variance else 1), values)
    starved = logs < limits[2]
    if starved.any():
        both = uniform_filter1d(along, views, axis=0, mode="nearest")
        result = np.where(starved, both * np.float32((views * bins) ** 0.5 if unit_variance else 1), result)
    return result
