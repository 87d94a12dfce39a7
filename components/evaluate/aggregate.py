"""From figures per slice to strata, comparisons and the summary."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from components.evaluate.measure import Measured
from components.evaluate.results import CHAMPION, INPUT, UNIFIED, Comparison, Indicator, Row
from mira.quality.statistics import mean_per_patient, paired_bootstrap
from mira.tasks import Modality, Task

if TYPE_CHECKING:
    import pandas as pd

PSNR_OF_IDENTICAL = 100.0  # dB; stands for the infinite PSNR of a slice that equals its reference
STRATUM = ["network", "task", "split", "site", "vendor", "level", "profile"]


def slice_table(measured: Iterable[Measured], profiles: Iterable[str]) -> "pd.DataFrame":
    """One row per slice, network and profile, with the gain over the degraded input."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for item in measured:
        pair = item.pair
        for profile in profiles:
            before = np.minimum(item.slices[INPUT, profile].psnr, PSNR_OF_IDENTICAL)
            for (network, other), metrics in item.slices.items():
                if other != profile:
                    continue
                psnr = np.minimum(metrics.psnr, PSNR_OF_IDENTICAL)
                rows += [
                    {
                        "network": network,
                        "task": pair.task.value,
                        "split": pair.split,
                        "site": pair.site,
                        "vendor": pair.manufacturer,
                        "patient": pair.patient,
                        "case_id": pair.case_id,
                        "level": pair.physics.level,
                        "profile": profile,
                        "slice": int(metrics.index[i]),
                        "psnr": float(psnr[i]),
                        "ssim": float(metrics.ssim[i]),
                        "rmse": float(metrics.rmse[i]),
                        "gain_db": float(psnr[i] - before[i]),
                    }
                    for i in range(len(psnr))
                ]
    columns = [*STRATUM[:5], "patient", "case_id", *STRATUM[5:], "slice", "psnr", "ssim", "rmse", "gain_db"]
    return pd.DataFrame(rows, columns=columns)


def case_table(measured: Iterable[Measured], slices: "pd.DataFrame") -> "pd.DataFrame":
    """One row per case, level, network and profile: means over slices, and the clinical figures."""
    import pandas as pd

    keys = [*STRATUM, "patient", "case_id"]
    means = slices.groupby(keys, as_index=False, sort=True).agg(
        slices=("slice", "count"),
        psnr=("psnr", "mean"),
        ssim=("ssim", "mean"),
        rmse=("rmse", "mean"),
        gain_db=("gain_db", "mean"),
    )
    rows: list[dict[str, Any]] = [
        {
            "network": network,
            "task": m.pair.task.value,
            "case_id": m.pair.case_id,
            "level": m.pair.physics.level,
            **figures,
        }
        for m in measured
        for network, figures in m.clinical.items()
    ]
    clinical = pd.DataFrame(rows)
    return means.merge(clinical, on=["network", "task", "case_id", "level"], how="left") if len(clinical) else means


def strata(cases: "pd.DataFrame", clinical: Iterable[str]) -> list[Row]:
    """Rows of `metrics.json`: means over slices of the metrics, over patients of the clinical figures."""
    rows = []
    names = [name for name in clinical if name in cases.columns]
    for key, part in cases.groupby(STRATUM, sort=True):
        weights = part["slices"].to_numpy()
        figures = {name: float(np.average(part[name], weights=weights)) for name in ("psnr", "ssim", "rmse", "gain_db")}
        values = dict(zip(STRATUM, key, strict=True))
        per_patient = part.groupby("patient")[names].mean()
        worst = {name: max(per_patient[name].dropna(), key=abs, default=np.nan) for name in names}
        rows.append(
            Row(
                **values,
                patients=int(part["patient"].nunique()),
                slices=int(weights.sum()),
                psnr=figures["psnr"],
                ssim=figures["ssim"],
                rmse=figures["rmse"],
                gain_db=None if values["network"] == INPUT else figures["gain_db"],
                clinical={str(name): float(v) for name, v in per_patient.mean().items() if np.isfinite(v)},
                clinical_worst={k: float(v) for k, v in worst.items() if k.endswith("_bias") and np.isfinite(v)},
            )
        )
    return rows


def compare(slices: "pd.DataFrame", draws: int, seed: int) -> list[Comparison]:
    """Unified against the single-task network of each task, and against the champion, on the same slices."""
    found = []
    for (task, split, profile), part in slices.groupby(["task", "split", "profile"], sort=True):
        psnr = {
            str(network): mean_per_patient({str(p): list(v) for p, v in own.groupby("patient")["psnr"]})
            for network, own in part.groupby("network")
        }
        for other in (task, CHAMPION):
            if UNIFIED in psnr and other in psnr:
                result = paired_bootstrap(psnr[UNIFIED], psnr[other], 0.95, draws, seed)
                found.append(
                    Comparison(
                        network=UNIFIED,
                        other=other,
                        task=Task(str(task)),
                        split=split,
                        profile=profile,
                        patients=result.patients,
                        difference_db=result.mean,
                        lower_db=result.lower,
                        upper_db=result.upper,
                        draws=result.resamples,
                    )
                )
    return found


def indicators(measured: Iterable[Measured]) -> list[Indicator]:
    """How well the unified network recognised modality and severity, per task and split."""
    from scipy.stats import spearmanr

    groups: dict[tuple[Task, Any], list[Measured]] = {}
    for item in measured:
        if item.degradation is not None:
            groups.setdefault((item.pair.task, item.pair.split), []).append(item)
    found = []
    order = list(Task)
    for (task, split), items in sorted(
        groups.items(), key=lambda group: (order.index(group[0][0]), group[0][1] != "test")
    ):
        probability = np.concatenate([m.modality_probability for m in items if m.modality_probability is not None])
        estimate = np.concatenate([m.degradation for m in items if m.degradation is not None])
        counts = [0 if m.degradation is None else len(m.degradation) for m in items]
        truth = np.repeat([m.pair.physics.severity for m in items], counts)
        right = np.repeat([list(Modality).index(m.pair.modality) for m in items], counts)
        varied = len(set(truth)) > 1 and len(set(estimate)) > 1
        found.append(
            Indicator(
                task=task,
                split=split,
                slices=len(truth),
                modality_accuracy=float(np.mean(probability.argmax(axis=1) == right)),
                severity_correlation=float(spearmanr(truth, estimate).statistic) if varied else None,
                severity_correlation_within=within_cases(items),
                error_correlation=with_error(items),
                severity_error=float(np.mean(np.abs(truth - estimate))),
            )
        )
    return found


def within_cases(items: Sequence[Measured]) -> float | None:
    """Mean over cases of the rank correlation of true severity and mean estimate over the levels of the case.

    None where no case has several levels with several estimates: a constant has no rank.
    """
    from scipy.stats import spearmanr

    levels: dict[str, list[tuple[float, float]]] = {}
    for item in items:
        if item.degradation is not None:
            levels.setdefault(item.pair.case_id, []).append((item.pair.physics.severity, item.degradation.mean()))
    columns = [tuple(zip(*pairs, strict=True)) for pairs in levels.values()]
    found = [spearmanr(*both).statistic for both in columns if all(len(set(values)) > 1 for values in both)]
    return float(np.mean(found)) if found else None


def with_error(items: Sequence[Measured]) -> float | None:
    """Rank correlation over pairs of the mean estimate of degradation and the error of the degraded input."""
    from scipy.stats import spearmanr

    both = [(m.input_error, m.degradation.mean()) for m in items if m.degradation is not None and m.input_error]
    if len(both) < 2 or any(len(set(values)) < 2 for values in zip(*both, strict=True)):
        return None
    return float(spearmanr(both).statistic)


def summarise(slices: "pd.DataFrame", profile: str) -> dict[str, dict[str, dict[str, float | None]]]:
    """Compact figures per task and split over all sites and levels, in the main profile."""
    summary: dict[str, dict[str, dict[str, float | None]]] = {}
    main = slices[slices["profile"] == profile]
    for (task, split), part in main.groupby(["task", "split"], sort=True):
        psnr = part.groupby("network")["psnr"].mean()
        ssim = part.groupby("network")["ssim"].mean()
        unified, single, before = (_get(psnr, str(name)) for name in (UNIFIED, task, INPUT))
        figures: dict[str, float | None] = {
            "input_psnr": before,
            "unified_psnr": unified,
            "single_psnr": single,
            "champion_psnr": _get(psnr, CHAMPION),
            "gain_db": None if unified is None or before is None else unified - before,
            "unified_minus_single_db": None if unified is None or single is None else unified - single,
            "input_ssim": _get(ssim, INPUT),
            "unified_ssim": _get(ssim, UNIFIED),
            "patients": float(part["patient"].nunique()),
            "slices": float(len(part[part["network"] == INPUT])),
        }
        summary.setdefault(str(task), {})[str(split)] = {k: v for k, v in figures.items() if v is not None}
    return summary


def _get(values: "pd.Series[float]", name: str) -> float | None:
    return float(values[name]) if name in values.index else None
