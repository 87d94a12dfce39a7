"""The evaluation as one page, for the Kubeflow UI and the run's report."""

from pathlib import Path
from typing import Any

from components.evaluate.pictures import label
from components.evaluate.results import CHAMPION, INPUT, RELIABILITY, UNIFIED, Evaluation, Row
from components.report.page import embed, render
from mira.tasks import TASKS, Task

NAMES = {INPUT: "degraded input", UNIFIED: "unified", CHAMPION: "champion"}


def network_name(network: str) -> str:
    """A network in words."""
    return NAMES.get(network, "single-task")


def measure_tables(evaluation: Evaluation, profile: str) -> list[dict[str, Any]]:
    """One table per task: rows of every network in each stratum, the input's row first.

    Args:
        evaluation: the measures.
        profile: metric profile of the tables.
    """
    tables = []
    for task in Task:
        rows = [row for row in evaluation.rows if row.task is task and row.profile == profile]
        if not rows:
            continue
        order = {INPUT: 0, task.value: 1, UNIFIED: 2, CHAMPION: 3}
        rows.sort(key=lambda r: (r.split != "test", r.site, r.vendor, -_mildness(r), order.get(r.network, 4)))
        tables.append(
            {
                "task": label(task),
                "unit": TASKS[task].unit.value,
                "level_name": TASKS[task].level_name,
                "rows": [
                    row.model_dump() | {"name": network_name(row.network), "first": row.network == INPUT}
                    for row in rows
                ],
                "clinical": sorted({name for row in rows for name in row.clinical}),
            }
        )
    return tables


def _mildness(row: Row) -> float:
    """Larger for milder levels: fractions of dose or counts fall with severity, resolution factors rise."""
    return -row.level if row.task is Task.MRI_SUPER_RESOLUTION else row.level


def totals(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row per task and split from the summary."""
    rows = []
    for task in Task:
        for split in ("test", "local"):
            figures = evaluation.summary.get(task.value, {}).get(split)
            if figures:
                match = [c for c in evaluation.comparisons if c.task is task and c.split == split]
                paired = [c for c in match if c.other == task.value and c.profile == evaluation.profile]
                rows.append(
                    {"task": label(task), "split": split, "paired": paired[0].model_dump() if paired else None}
                    | {key: figures.get(key) for key in _TOTALS}
                )
    return rows


_TOTALS = (
    "patients",
    "slices",
    "input_psnr",
    "single_psnr",
    "unified_psnr",
    "champion_psnr",
    "gain_db",
    "input_ssim",
    "unified_ssim",
)


def picture_list(evaluation: Evaluation, folder: Path) -> list[dict[str, str]]:
    """The pictures with their captions, as data URIs."""
    return [
        {"source": embed(folder / picture.file), "caption": picture.caption, "task": label(picture.task)}
        for picture in evaluation.pictures
    ]


def indicator_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The network's own estimates, in words."""
    return [row.model_dump() | {"name": label(row.task)} for row in evaluation.indicators]


def reliability_content(evaluation: Evaluation, folder: Path) -> dict[str, Any] | None:
    """Figures and plot of the predicted error; None of a network without one."""
    if not evaluation.reliability:
        return None
    rows = [row.model_dump(exclude={"bins"}) | {"name": label(row.task)} for row in evaluation.reliability]
    return {"rows": rows, "source": embed(folder / RELIABILITY)}


def evaluation_page(evaluation: Evaluation, pictures: Path) -> str:
    """The whole page.

    Args:
        evaluation: the measures.
        pictures: folder of the pictures.
    """
    return render(
        Path(__file__).with_name("evaluation.html"),
        evaluation=evaluation,
        totals=totals(evaluation),
        tables=measure_tables(evaluation, evaluation.profile),
        pictures=picture_list(evaluation, pictures),
        indicators=indicator_rows(evaluation),
        reliability=reliability_content(evaluation, pictures),
    )
