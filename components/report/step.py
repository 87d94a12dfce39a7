"""Report: one HTML file that tells the whole run, and opens with no internet."""

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import Field

from components.report import sections
from components.report.page import number, render
from mira import __version__
from mira.cases import Record
from mira.storage import write_text

PACKAGES = ("numpy", "pydicom", "torch", "mlflow", "great_expectations", "onnxruntime", "kfp")
STEPS = {
    "cases": "ingest",
    "validation": "validate",
    "pairs": "pair",
    "networks": "train",
    "evaluation": "evaluate",
    "decision": "gate",
    "version": "register",
    "exported": "export",
    "promotion": "promote",
    "restore": "restore",
}
AFTER_GATE = ("version", "exported", "promotion", "restore")
WORDS = {
    "cases": "De-identified cases, quarantine report",
    "validation": "Validation, Data Docs (docs/index.html)",
    "pairs": "Pairs",
    "evaluation": "Measures, tables per case and slice, pictures",
    "decision": "Gate decision",
    "version": "Model version and model card",
    "exported": "ONNX networks and parity",
    "promotion": "Promotion record",
    "restore": "Figures and pictures of the restored series",
}


class ReportConfig(Record):
    """Parameters of the report step."""

    title: str = Field("MIRA-Net run", description="heading of the report")
    workspace: str = Field("", description="folder of the run; paths in the report are relative to it")


def report(parts: dict[str, Path], out: Path, config: ReportConfig) -> Path:
    """Write the report of a run, whatever part of it happened.

    Args:
        parts: what the steps gave: `cases`, `validation`, `pairs`, `network:<name>`, `evaluation`, `decision`,
            `version`, `exported`, `promotion`, `restore`. A missing one makes its section say so, and why.
        out: folder for `report.html`.
        config: parameters.

    Returns:
        Path of the report.
    """
    content: dict[str, Any] = {
        "sites": sections.sites(parts),
        "refused": sections.refused(parts),
        "degradation": sections.degradation(parts),
        "training": sections.training(parts),
        "evaluation": sections.evaluation(parts),
        "decision": sections.decision(parts),
        "serving": sections.serving(parts),
        "restored": sections.restored(parts),
    }
    page = render(
        Path(__file__).with_name("report.html"),
        title=config.title,
        verdict=_verdict(content),
        facts=_facts(content),
        anatomy=_anatomy(content),
        why=_why(content["decision"]),
        where=_where(parts, content, config),
        provenance=_provenance(parts, content),
        notes=_notes(content),
        **content,
    )
    path = out / "report.html"
    write_text(path, page)
    return path


def _verdict(content: dict[str, Any]) -> dict[str, Any]:
    decision, serving = content["decision"], content["serving"]
    if decision is None:
        return {"colour": "warn", "headline": "No decision was made", "lines": ["The run ended before the gate."]}
    if not decision["approved"]:
        lines = [
            f"{r['id']}: {r['shown']}, needed {r['threshold']} {r['unit']} ({r['where'] or r['note']})"
            for r in decision["rules"]
            if r["status"] == "fail"
        ]
        return {
            "colour": "fail",
            "headline": "The gate refused the candidate",
            "lines": [*lines, "Nothing was registered or promoted; what served before serves on."],
        }
    lines = []
    if decision["warned"]:
        lines.append(f"Warnings or not decidable: {', '.join(decision['warned'])}.")
    if serving and serving["promotion"]:
        return {
            "colour": "pass",
            "headline": f"Approved, and version {serving['promotion']['version']} serves",
            "lines": lines,
        }
    return {
        "colour": "warn",
        "headline": "Approved, but not promoted",
        "lines": [*lines, "What served before serves on."],
    }


def _facts(content: dict[str, Any]) -> list[tuple[str, str]]:
    facts = []
    if content["sites"]:
        accepted = [site for site in content["sites"] if site["status"] == "accepted"]
        facts.append((f"{len(accepted)} of {len(content['sites'])}", "sites accepted"))
        facts.append((str(sum(site["accepted"] or 0 for site in content["sites"])), "cases accepted"))
    gains: dict[str, dict[str, str]] = {}
    for row in content["evaluation"]["totals"] if content["evaluation"] else []:
        gains.setdefault(row["task"], {})[row["split"]] = number(row["gain_db"], 1, True)
    for task, own in gains.items():
        facts.append((f"{' / '.join(own.values())} dB", f"{task}, gain on {' / '.join(own)}"))
    return facts


def _anatomy(content: dict[str, Any]) -> str:
    """Whether the anatomy is that of digital phantoms: the demo's sites say so in their remark."""
    remarks = [site["remark"].lower() for site in content["sites"] or []]
    phantoms = sum("phantom" in remark for remark in remarks)
    if remarks and phantoms == len(remarks):
        return "digital phantoms"
    return "real and phantom anatomy" if phantoms else "the sites' anatomy"


def _why(decision: dict[str, Any] | None) -> dict[str, str]:
    """For each part, why it may be missing."""
    reasons = {part: f"This did not happen: the {step} step has no result in this run." for part, step in STEPS.items()}
    if decision is not None and not decision["approved"]:
        failed = ", ".join(decision["failed"])
        for part in AFTER_GATE:
            reasons[part] = f"This did not happen, because the gate refused the candidate ({failed})."
    return reasons


def _where(parts: dict[str, Path], content: dict[str, Any], config: ReportConfig) -> list[tuple[str, str]]:
    base = Path(config.workspace).resolve() if config.workspace else None
    places = [("This report", "report.html")]
    for part, path in parts.items():
        words = WORDS.get(part) or f"Network {part.split(':', 1)[-1]}"
        inside = base is not None and path.resolve().is_relative_to(base)
        places.append((words, str(path.resolve().relative_to(base)) if inside and base is not None else path.name))
    if base is not None and (base / "mlflow.db").is_file():
        places.append(("MLflow: runs and registry", "mlflow.db"))
    if content["restored"] is not None and base is not None and (base / "restored").is_dir():
        newest = sorted(p.name for p in (base / "restored").iterdir() if p.is_dir())
        places.append(("Restored DICOM series (carry the patient)", f"restored/{newest[-1]}" if newest else "restored"))
    return places


def _provenance(parts: dict[str, Path], content: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [("mira-net", __version__), ("python", platform.python_version())]
    for package in PACKAGES:
        try:
            facts.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue  # a step image holds only what its step needs
    if content["degradation"]:
        facts.append(("data version", content["degradation"]["data_version"]))
    version = content["serving"]["version"] if content["serving"] else {}
    facts += [(key.replace("_", " "), str(version[key])) for key in sections.LINEAGE if version.get(key)]
    if content["decision"]:
        keys = ("policy_sha256", "evaluation_sha256", "candidate_weights_sha256")
        facts += [(key.replace("_", " "), content["decision"][key]) for key in keys]
    validation = sections.document(parts, "validation", "validation.json")
    if validation:
        facts.append(("validated by", f"Great Expectations {validation['gx_version']}"))
    return facts


def _notes(content: dict[str, Any]) -> list[str]:
    notes = [
        "The pairs are simulated: the reference is a routine image, and a physical model makes the degraded one of it. "
        "Real low-dose, low-count or low-resolution scans may differ, and there is no paired real set here.",
        "Restored images are for research; they are no medical device and no basis for a diagnosis.",
        "PSNR and SSIM do not tell whether a small lesion survived; look at the clinical figures and the pictures.",
    ]
    if content["evaluation"]:
        few = sorted(
            {
                f"{row['task']} ({row['split']}, {row['patients']:.0f})"
                for row in content["evaluation"]["totals"]
                if row["patients"] < 10
            }
        )
        if few:
            notes.append(
                f"Few patients stand behind these figures: {', '.join(few)}. "
                "Differences of a tenth of a dB mean nothing there."
            )
    notes += [f"Site {site['id']}: {site['remark']}" for site in content["sites"] or [] if site["remark"]]
    return notes
