"""What each section of the run's report shows, read from what the steps wrote; None where a step did not run."""

import csv
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from components.evaluate.page import indicator_rows, measure_tables, picture_list, reliability_content, totals
from components.evaluate.pictures import label
from components.evaluate.results import read_evaluation
from components.gate.step import describe_stratum
from components.report.page import curve, embed, number
from mira.cases import iterate_cases
from mira.degrade.mr import HEADER_DISAGREES, warnings_of
from mira.pairs import PairIndex, read_index
from mira.storage import read_json
from mira.tasks import TASKS, Task

Parts = dict[str, Path]
RESTORED = (
    *("site", "modality", "task", "slices", "seconds", "model", "degradation", "simulated", "profile"),
    *("input_psnr_db", "restored_psnr_db", "gain_db", "input_ssim", "restored_ssim", "warnings"),
)
WARNINGS = {
    HEADER_DISAGREES: "the header's acquisition matrix disagrees with the k-space that the reference fills; levels "
    "count from what was measured"
}
TRAINED = ("parameters", "steps", "patches_per_task", "seconds")
LINEAGE = ("code_version", "config_sha256", "lineage_sha256")


def document(parts: Parts, part: str, name: str) -> Any | None:
    """A JSON document of a part; None when the part or the document is not there."""
    path = parts.get(part)
    if path is None:
        return None
    file = path if path.is_file() and path.name == name else path / name
    return read_json(file) if file.is_file() else None


def sites(parts: Parts) -> list[dict[str, Any]] | None:
    """One row per site: what it sent, from which scanners, and what became of it."""
    ingest = document(parts, "cases", "ingest.json")
    if ingest is None:
        return None
    vendors: dict[str, set[str]] = defaultdict(set)
    modalities: dict[str, Counter[str]] = defaultdict(Counter)
    for _, record in iterate_cases(parts["cases"]):
        vendors[record.site].add(" ".join(filter(None, (record.scanner.manufacturer, record.scanner.model))))
        modalities[record.site][record.modality.value] += 1
    validated = (document(parts, "validation", "validation.json") or {}).get("sites", {})
    rows = []
    for name, site in sorted(ingest["sites"].items(), key=lambda item: (item[1]["role"] == "local", item[0])):
        verdict = validated.get(name, {})
        rows.append(
            {
                "id": name,
                "role": site["role"],
                "remark": site.get("remark", ""),
                "scanners": sorted(filter(None, vendors[name])),
                "files": site.get("files", 0),
                "series": site.get("series", 0),
                "cases": site.get("cases", 0),
                "modalities": ", ".join(f"{n} {m}" for m, n in sorted(modalities[name].items())),
                "accepted": verdict.get("accepted"),
                "status": verdict.get("status", ""),
                "reasons": [*verdict.get("reasons", []), *([site["error"]] if site.get("error") else [])],
                "warnings": verdict.get("warnings", []),
            }
        )
    return rows


def refused(parts: Parts) -> dict[str, list[dict[str, Any]]] | None:
    """What was left out, by ingest, by validate and by pair, with the reasons."""
    quarantine = document(parts, "cases", "quarantine.json")
    validation = document(parts, "validation", "validation.json")
    if quarantine is None and validation is None:
        return None
    groups: Counter[tuple[str, str]] = Counter()
    for item in (quarantine or {}).get("rejected", []):
        text = item.get("text") or item.get("reason", "")
        groups[item.get("site", ""), text] += int(item.get("files", 1))
    ingest = [{"site": site, "why": why, "count": n} for (site, why), n in sorted(groups.items())]
    cases = [{"case": c, "why": reasons} for c, reasons in sorted((validation or {}).get("refused", {}).items())]
    index = _index(parts)
    pairs = [{"case": c, "why": [why]} for c, why in sorted(index.refused.items())] if index else []
    return {"ingest": ingest, "cases": cases, "pairs": pairs}


def _index(parts: Parts) -> PairIndex | None:
    path = parts.get("pairs")
    return read_index(path) if path is not None and (path / "pairs.json").is_file() else None


def degradation(parts: Parts) -> dict[str, Any] | None:
    """Per task: simulator, levels and patients of each split; and what was odd about cases."""
    index = _index(parts)
    if index is None:
        return None
    rows = []
    for task in Task:
        own = [pair for pair in index.pairs if pair.task is task]
        if not own:
            continue
        levels = sorted({(p.physics.severity, p.physics.level) for p in own})
        splits = {s: len({p.patient for p in own if p.split == s}) for s in ("train", "validation", "test", "local")}
        rows.append(
            {
                "task": label(task),
                "level_name": TASKS[task].level_name,
                "models": sorted({p.physics.model for p in own}),
                "levels": [f"{level:g} (severity {severity:.2f})" for severity, level in levels],
                "pairs": len(own),
                **splits,
            }
        )
    missing = [label(task) for task in Task if not any(pair.task is task for pair in index.pairs)]
    return {"rows": rows, "missing": missing, "warnings": _physics_warnings(index), "data_version": index.data_version}


def _physics_warnings(index: PairIndex) -> list[dict[str, Any]]:
    """What was odd about cases' physics but could be handled: the code, its words, and the cases that have it."""
    cases: dict[str, set[str]] = defaultdict(set)
    for pair in index.pairs:
        for code in warnings_of(pair.physics):
            cases[code].add(pair.case_id)
    return [{"code": code, "says": WARNINGS.get(code, ""), "cases": sorted(own)} for code, own in sorted(cases.items())]


def training(parts: Parts) -> dict[str, Any] | None:
    """The networks of the run and their curves."""
    folders = {name.split(":", 1)[1]: path for name, path in parts.items() if name.startswith("network:")}
    if not folders:
        return None
    networks: list[dict[str, Any]] = []
    losses: dict[str, list[tuple[float, float]]] = {}
    gains: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, folder in sorted(folders.items(), key=lambda item: (item[0] != "unified", item[0])):
        config = document(parts, f"network:{name}", "config.json") or {}
        facts = document(parts, f"network:{name}", "training.json") or {}
        networks.append(
            {
                "name": "unified" if name == "unified" else f"single-task, {label(Task(name))}",
                "size": config.get("size", ""),
                "run_id": facts.get("run_id", ""),
                "weights": str(facts.get("weights_sha256", ""))[:12],
                "start": _start(facts.get("started_from")),
                "facts": {key: facts.get(key) for key in TRAINED},
            }
        )
        short = "unified" if name == "unified" else f"single-task {TASKS[Task(name)].short}"
        shared = max(1, len(config.get("tasks", [])))  # the unified network's steps are shared by its tasks
        for column, steps in _history(folder / "history.csv").items():
            points = [(step / shared, value) for step, value in steps]
            if column == "loss":
                losses[short] = points
            elif column.startswith("gain_db/"):
                gains.setdefault(column.removeprefix("gain_db/"), {})[short] = points
    charts = [{"title": "Training loss", "shape": curve(losses)}] if losses else []
    charts += [
        {"title": f"Gain on validation slices in dB, {label(task)}", "shape": curve(gains[task])}
        for task in Task
        if task in gains
    ]
    return {"networks": networks, "charts": charts, "started": any(network["start"] for network in networks)}


def _start(started: dict[str, Any] | None) -> str:
    """Name, version and hash of the weights that a network began from; empty from scratch."""
    return "" if started is None else f"{started['name']} {started['version']} ({started['sha256'][:12]})"


def _history(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Columns of a history as (step, value) points; empty cells are no points."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for count, row in enumerate(rows):
        x = float(row.get("step") or row.get("epoch") or count)
        for column, cell in row.items():
            if column not in ("step", "epoch") and cell not in ("", None) and _is_number(cell):
                columns[column].append((x, float(cell)))
    return columns


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def evaluation(parts: Parts) -> dict[str, Any] | None:
    """Tables and pictures of the evaluation."""
    folder = parts.get("evaluation")
    if folder is None or not (folder / "metrics.json").is_file():
        return None
    measured = read_evaluation(folder)
    others = [name for name in measured.profiles if name != measured.profile]
    return {
        "profile": measured.profile,
        "profiles": measured.profiles,
        "clinical": measured.clinical,
        "totals": totals(measured),
        "tables": measure_tables(measured, measured.profile),
        "others": [{"profile": name, "rows": _other_profile(measured.model_dump(), name)} for name in others],
        "pictures": picture_list(measured, folder / "pictures"),
        "indicators": indicator_rows(measured),
        "reliability": reliability_content(measured, folder / "pictures"),
        "skipped": measured.skipped_slices,
    }


def _other_profile(measured: dict[str, Any], profile: str) -> list[dict[str, Any]]:
    """Means over slices per task and split under another profile, from the strata."""
    sums: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    for row in measured["rows"]:
        if row["profile"] == profile and row["network"] in ("input", "unified"):
            total = sums[row["task"], row["split"], row["network"]]
            for i, value in enumerate((1.0, row["psnr"], row["ssim"], row["rmse"])):
                total[i] += value * row["slices"]
    rows = []
    order = [task.value for task in Task]
    ordered = sorted(sums.items(), key=lambda item: (order.index(item[0][0]), item[0][1] != "test", item[0][2]))
    for (task, split, network), (count, psnr, ssim, rmse) in ordered:
        figures = {"psnr": psnr / count, "ssim": ssim / count, "rmse": rmse / count}
        rows.append(
            {"task": label(Task(task)), "unit": TASKS[Task(task)].unit.value, "split": split, "network": network}
            | figures
        )
    return rows


def decision(parts: Parts) -> dict[str, Any] | None:
    """The gate's decision with its rules in words."""
    verdict: dict[str, Any] | None = document(parts, "decision", "decision.json")
    if verdict is None:
        return None
    rules = []
    for rule in verdict["rules"]:
        value = rule["value"]
        shown = "–" if value is None else f"{number(value, _digits(value))} {rule['unit']}"
        rules.append(rule | {"shown": shown, "where": describe_stratum(rule["stratum"])})
    return verdict | {"rules": rules}


def _digits(value: float) -> int:
    """Digits after the point that show a figure near a threshold without noise."""
    if float(value).is_integer():
        return 0
    return 2 if abs(value) >= 0.01 else 4


def serving(parts: Parts) -> dict[str, Any] | None:
    """Version, parity of the exported engines, and promotion."""
    version = document(parts, "version", "version.json")
    if version is None:
        return None
    parity = document(parts, "exported", "parity.json")
    models = []
    for name, model in sorted((parity or {}).get("models", {}).items()):
        figures = {k: v for k, v in model.items() if isinstance(v, int | float | str) and not isinstance(v, bool)}
        models.append({"name": name, "figures": figures})
    promotion = document(parts, "promotion", "promotion.json")
    known = ("version", "url", "before", "promoted", "changed", "models", "champion", "fell_back")
    return {
        "version": {key: version.get(key) for key in ("name", "version", "created", *LINEAGE)},
        "models": models,
        "promotion": None if promotion is None else {key: promotion.get(key) for key in known},
    }


def restored(parts: Parts) -> dict[str, Any] | None:
    """The derived series and their pictures."""
    result = document(parts, "restore", "restore.json")
    if result is None:
        return None
    items = [{key: item.get(key) for key in RESTORED} for item in result.get("series", [])]
    for item in items:
        item["task"] = label(Task(item["task"])) if item["task"] in list(Task) else item["task"]
    captions = {str(picture["file"]): str(picture.get("caption", "")) for picture in result.get("pictures", [])}
    pictures = [
        {"source": embed(path), "caption": captions.get(path.name) or path.stem.replace("-", " ")}
        for path in sorted((parts["restore"] / "pictures").glob("*.png"))
    ]
    return {"items": items, "missing": result.get("missing") or {}, "pictures": pictures}
