"""Small synthetic cases, pairs, networks and evaluations for the tests of the factory's later steps."""

from pathlib import Path

import numpy as np

from components.evaluate.results import Comparison, Evaluation, Indicator, Network, Row
from mira.cases import CaseRecord, PetDose, Protocol, Scanner, write_case
from mira.pairs import PairIndex, PairRecord, Physics, write_index
from mira.storage import hash_file, write_json
from mira.tasks import TASKS, Modality, Task, task_of
from mira.volume import Volume, write_nifti

SHAPE = (5, 48, 48)
DECAYED_BQ = 3e8 * 2 ** (-3600 / 6586.2)


def body(modality: Modality, seed: int, shape=SHAPE) -> np.ndarray:
    """An ellipse of tissue with two organs in air, in the unit of the modality."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    inside = ((rows - shape[1] / 2) / (0.42 * shape[1])) ** 2 + ((columns - shape[2] / 2) / (0.36 * shape[2])) ** 2 < 1
    organ = np.hypot(rows - shape[1] * 0.4, columns - shape[2] * 0.4) < shape[1] / 8
    bone = np.hypot(rows - shape[1] * 0.7, columns - shape[2] * 0.5) < shape[1] / 14
    values = {Modality.CT: (-1000, 40, 90, 600), Modality.PET: (0.0, 1.0, 5.0, 0.6), Modality.MR: (5, 220, 420, 60)}[
        modality
    ]
    noise = {Modality.CT: 10, Modality.PET: 0.05, Modality.MR: 5}[modality]
    picture = np.where(inside, values[1], values[0])
    picture = np.where(organ, values[2], picture)
    picture = np.where(bone, values[3], picture)
    volume = picture + noise * rng.standard_normal(shape)
    return np.maximum(volume, 0 if modality is not Modality.CT else -1024).astype(np.float32)


def make_case(
    root: Path, site: str, number: int, modality: Modality, role="train", voxels=None, **changes
) -> CaseRecord:
    """Write one case and return its record."""
    seed = sum(map(ord, site)) * 100 + number
    voxels = body(modality, seed) if voxels is None else voxels
    spec = task_of(modality)
    fields = {
        "case_id": f"{site}-{modality.value.lower()}-{number}",
        "site": site,
        "role": role,
        "patient": f"{site}-patient-{number}",
        "study": f"study-{seed}",
        "series": f"series-{seed}-{modality.value.lower()}",
        "modality": modality,
        "unit": spec.unit,
        "shape": voxels.shape,
        "spacing_mm": (3.0, 2.0, 2.0),
        "scanner": Scanner(manufacturer="Made Up Medical", model="One", software="build 20240131"),
        "protocol": Protocol(
            slice_thickness_mm=3.0, kernel="soft", exposure_mas=120.0, repetition_time_ms=500.0, echo_time_ms=10.0
        ),
        "pet_dose": PetDose(
            weight_kg=70,
            injected_dose_bq=3e8,
            half_life_s=6586.2,
            decay_correction="START",
            seconds_injection_to_reference=3600,
            decayed_dose_bq=DECAYED_BQ,
            factor=70000 / DECAYED_BQ,
            formula="weight_g / decayed_dose_bq",
        )
        if modality is Modality.PET
        else None,
        "mr_scale": 450.0 if modality is Modality.MR else None,
        "tasks": [spec.task],
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "source_sha256": f"{seed:032x}{ord(modality.value[0]):032x}",
        "source_files": len(voxels),
        "software": "mira-net 0.1.0",
    } | changes
    record = CaseRecord(**fields)
    write_case(root, record, Volume(np.asarray(voxels, np.float32), np.diag([2.0, 2.0, 3.0, 1.0])))
    return record


def make_cases(root: Path) -> list[CaseRecord]:
    """Two train sites and one local site, three patients each, all modalities; with ingest.json."""
    records = [
        make_case(root, site, number, modality, role)
        for site, role in (("alpha", "train"), ("beta", "train"), ("gamma", "local"))
        for number in range(3)
        for modality in Modality
    ]
    sites = {
        s: {"role": r, "minimum_cases": 2, "remark": ""}
        for s, r in (("alpha", "train"), ("beta", "train"), ("gamma", "local"))
    }
    write_json(root / "ingest.json", {"sites": sites})
    return records


def make_pairs(
    root: Path, patients: int = 2, sites=(("alpha", "test"), ("gamma", "local")), tasks=tuple(Task)
) -> PairIndex:
    """Pairs of every task: noise for CT and PET, blur for MR, at a mild and a hard level, with one structure."""
    pairs = []
    for task in tasks:
        spec = TASKS[task]
        for site, split in sites:
            for number in range(patients):
                reference = body(spec.modality, sum(map(ord, site)) + number)
                rng = np.random.default_rng(number)
                case = f"{site}-{spec.short}-{number}"
                folder = root / task.value / case
                affine = np.diag([2.0, 2.0, 3.0, 1.0])
                write_nifti(folder / "reference.nii", Volume(reference, affine))
                labels = np.zeros_like(reference)
                labels[1:4, 15:24, 15:24] = 1
                write_nifti(folder / "structures.nii", Volume(labels, affine))
                for level, severity in zip(spec.levels, (0.4, 0.9), strict=True):
                    if spec.modality is Modality.MR:
                        degraded = (reference + np.roll(reference, 1, 1) + np.roll(reference, int(level), 2)) / 3
                    else:
                        spread = {Modality.CT: 40.0, Modality.PET: 0.4}[spec.modality] * severity
                        degraded = reference + spread * rng.standard_normal(reference.shape)
                    write_nifti(folder / f"level-{level:g}.nii", Volume(degraded.astype(np.float32), affine))
                    physics = Physics(model="made-up 1", level=level, severity=severity, seed=number, parameters={})
                    pairs.append(
                        PairRecord(
                            pair_id=f"{case}_{level:g}",
                            task=task,
                            case_id=case,
                            site=site,
                            patient=f"patient-{site}-{number}",
                            split=split,
                            modality=spec.modality,
                            manufacturer="Made Up Medical",
                            model_name="One",
                            shape=reference.shape,
                            spacing_mm=(3.0, 2.0, 2.0),
                            mr_scale=450.0 if spec.modality is Modality.MR else None,
                            physics=physics,
                            reference=f"{task.value}/{case}/reference.nii",
                            degraded=f"{task.value}/{case}/level-{level:g}.nii",
                            structures=f"{task.value}/{case}/structures.nii",
                        )
                    )
    index = PairIndex(pairs=pairs, refused={}, data_version="0123456789abcdef")
    write_index(root, index)
    return index


def make_network(
    folder: Path,
    network: str,
    seed: int = 0,
    strength: float = 0.0,
    tasks=tuple(Task),
    run_id="",
    error_map=False,
    slices: int = 1,
) -> Path:
    """A checkpoint folder as train writes it: the identity for strength 0, random changes of the input otherwise."""
    from dataclasses import replace

    import torch

    from model.checkpoint import Checkpoint, save_checkpoint
    from model.config import ModelConfig
    from model.network import MiraNet

    config = ModelConfig("custom", (8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1), guidance_width=4, instruction_dim=8)
    # a network that keeps local means takes noise out of PET by itself
    config = replace(config, error_map=error_map, keeps_local_mean=strength > 0, slices=slices)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = MiraNet(config)
        if strength:
            torch.nn.init.normal_(net.head.weight, std=strength)
        if slices > 1:
            torch.nn.init.normal_(net.stem.weight, std=0.3)
    own = tuple(tasks) if network == "unified" else (Task(network),)
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder, net, Checkpoint(network, "custom", own, config, "0.1.0", "0123456789abcdef"))
    training = {"run_id": run_id, "data_version": "0123456789abcdef", "network": network}
    write_json(folder / "training.json", training | {"weights_sha256": hash_file(folder / "model.safetensors")})
    return folder


def make_evaluation(folder: Path, gain=2.0, local_gain=2.0, tasks=tuple(Task), change=None) -> Evaluation:
    """A metrics.json of a good candidate, without computing one; `change(rows, comparisons)` edits it."""
    rows, comparisons, summary = [], [], {}
    clinical = {
        Modality.CT: {"hu_mean_bias": 0.5, "lesion_recovery": 0.95},
        Modality.PET: {"suv_mean_bias": -1.0, "suv_max_bias": -4.0, "lesion_recovery": 0.9},
        Modality.MR: {"mr_mean_bias": 0.1},
    }
    for task in tasks:
        spec = TASKS[task]
        for split, site, more in (("test", "alpha", gain), ("test", "beta", gain + 1), ("local", "gamma", local_gain)):
            for level in spec.levels:
                shared = {"task": task, "split": split, "site": site, "vendor": "Made Up Medical", "level": level}
                shared |= {"profile": "robust", "patients": 12, "slices": 96, "ssim": 0.8, "rmse": 10.0}
                rows.append(Row(network="input", psnr=25.0, **shared))
                figures = clinical[spec.modality]
                shared |= {"psnr": 25.0 + more, "gain_db": more, "clinical": figures, "clinical_worst": figures}
                rows += [Row(network=network, **shared) for network in (task.value, "unified")]
        same = {"other": task.value, "task": task, "profile": "robust", "patients": 12, "draws": 2000}
        same |= {"network": "unified", "difference_db": 0.02, "lower_db": -0.05}
        comparisons += [Comparison(split=split, **same) for split in ("test", "local")]
    if change:
        change(rows, comparisons)
    for task, split in sorted({(row.task, row.split) for row in rows}):
        sites = {row.site for row in rows if (row.task, row.split) == (task, split)}
        figures = {"input_psnr": 25.0, "unified_psnr": 25.0 + gain, "gain_db": gain}
        counts = {"patients": 12.0 * len(sites), "slices": 96.0}
        summary.setdefault(task.value, {})[split] = figures | counts
    shared = {"size": "tiny", "data_version": "d1"}
    networks = {"unified": Network(tasks=list(tasks), weights_sha256="a" * 64, run_id="run-unified", **shared)}
    networks |= {t.value: Network(tasks=[t], weights_sha256=str(i) * 64, **shared) for i, t in enumerate(tasks)}
    evaluation = Evaluation(
        profile="robust",
        profiles={"robust": "as amir, MR scaled"},
        networks=networks,
        rows=rows,
        comparisons=comparisons,
        indicators=[
            Indicator(task=t, split=s, slices=96, modality_accuracy=1.0, severity_correlation=0.9, severity_error=0.1)
            for t in tasks
            for s in ("test", "local")
        ],
        pictures=[],
        summary=summary,
        skipped_slices=0,
        data_version="d1",
        clinical={"hu_mean_bias": "HU"},
    )
    write_json(folder / "metrics.json", evaluation.model_dump(mode="json"))
    return evaluation
