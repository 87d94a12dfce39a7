"""A case record for tests of the simulators and of the pair step."""

import hashlib
from typing import Any

from mira.cases import CaseRecord, Protocol
from mira.tasks import Modality, task_of


def case_record(modality: str, protocol: dict[str, Any] | None = None, **values: Any) -> CaseRecord:
    """A plausible, accepted case; any field can be given."""
    spec = task_of(Modality(modality))
    case_id = values.get("case_id", f"case-{modality.lower()}")
    facts: dict[str, Any] = {
        "case_id": case_id,
        "site": "site-a",
        "role": "train",
        "patient": "patient-1",
        "study": "study-1",
        "series": "series-1",
        "modality": spec.modality,
        "unit": spec.unit,
        "shape": (3, 48, 48),
        "spacing_mm": (3.0, 2.0, 2.0),
        "protocol": Protocol(**(protocol or {})),
        "mr_scale": 500.0 if spec.modality is Modality.MR else None,
        "tasks": [spec.task],
        "source_sha256": hashlib.sha256(case_id.encode()).hexdigest(),
        "source_files": 3,
        "software": "test",
    }
    return CaseRecord.model_validate({**facts, **values})
