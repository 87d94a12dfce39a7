"""Whether an application that declares the wrong modality is told so, on the study's pairs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.study.findings import markdown
from mira.pairs import read_index
from mira.tasks import Modality

if TYPE_CHECKING:
    from model.restorer import Restorer


@dataclass(frozen=True)
class Declaration:
    """What the client would say of the degraded volumes of one modality under one declaration.

    Attributes:
        modality: what they are.
        declared: what they are declared as.
        volumes: degraded volumes of test and local patients.
        disagreement: how many bring the warning `modality-disagreement`, or that the network cannot tell.
        values: how many bring the warning that their values are none of the declared modality.
        warned: how many bring either.
    """

    modality: Modality
    declared: Modality
    volumes: int
    disagreement: int
    values: int
    warned: int


def declarations(pairs: Path, restorer: "Restorer") -> list[Declaration]:
    """Declare every degraded test and local volume as each modality, and count the client's own warnings.

    Args:
        pairs: pair store.
        restorer: the network, whose estimates of the volume's probe slices decide.
    """
    import torch

    from components.evaluate.measure import load_slices
    from mira.client.plan import disagreement, intensity_scale, out_of_range
    from model.inference import graph_inputs

    counts: dict[tuple[Modality, Modality], list[tuple[bool, bool]]] = {}
    for record in read_index(pairs).select("test", "local"):
        probes = load_slices(pairs, record, 1, 0).probes
        for declared in Modality:
            scale = intensity_scale(probes, declared, None)
            image, kind, mr_scale, *_ = graph_inputs(probes, declared, scale, restorer.network.instruction_dim)
            with torch.inference_mode():
                logits = restorer.guide(image, kind, mr_scale).modality_logits.float()
            probability = torch.softmax(logits, dim=1).numpy()
            told = bool(disagreement(probability, declared)), bool(out_of_range(probes, declared, scale))
            counts.setdefault((record.modality, declared), []).append(told)
    found = []
    for (modality, declared), told in counts.items():
        disagreements, values = (sum(column) for column in zip(*told, strict=True))
        found.append(Declaration(modality, declared, len(told), disagreements, values, sum(map(any, told))))
    return found


def declaration_table(found: Sequence[Declaration]) -> str:
    """One row for each modality and declaration; right declarations should bring no warning, wrong ones always."""
    rows = [
        [
            item.modality,
            item.declared,
            *(f"{n} of {item.volumes}" for n in (item.warned, item.disagreement, item.values)),
        ]
        for item in found
    ]
    return markdown(["volumes of", "declared as", "warned", "by the network's estimate", "by the values"], rows)


def as_json(found: Sequence[Declaration]) -> list[dict[str, Any]]:
    """Counts as plain values."""
    return [asdict(item) for item in found]
