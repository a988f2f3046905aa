"""Means over seeds, and what they leave open."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .spec import SEEDS_FOR_A_CLAIM

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % confidence interval, which Student's t distribution gives.

    Attributes:
        mean: The mean.
        half_width: Half of the interval's width; None for fewer than three seeds.
        count: Number of seeds.
    """

    mean: float
    half_width: float | None
    count: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return the mean of the runs of a cell with its interval; None without a run."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) < SEEDS_FOR_A_CLAIM or not math.isfinite(mean):
        return Estimate(mean, None, len(values))
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, _quantile(len(values) - 1) * error, len(values))


def difference(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """Return the mean of ``first`` less that of ``second``, by Welch's interval.

    Returns:
        The count is that of the smaller sample. None without runs; no interval if either sample
        has fewer than three, or if a run diverged.
    """
    if not first or not second:
        return None
    mean = statistics.fmean(first) - statistics.fmean(second)
    count = min(len(first), len(second))
    if count < SEEDS_FOR_A_CLAIM or not math.isfinite(mean):
        return Estimate(mean, None, count)
    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    variance = sum(parts)
    if variance == 0:
        return Estimate(mean, 0.0, count)
    # Welch and Satterthwaite's degrees of freedom.
    freedom = variance**2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True)
    )
    return Estimate(mean, _quantile(freedom) * math.sqrt(variance), count)


def _quantile(freedom: float) -> float:
    try:
        from scipy.stats import t
    except ImportError:
        raise ImportError('intervals need scipy: run `pip install "mmws[voc]"`') from None
    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))
