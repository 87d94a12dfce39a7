"""Evaluate: every network on patients that it never saw, beside the degraded input, with the profile stated."""

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from components.command import announce
from components.evaluate.aggregate import case_table, compare, indicators, slice_table, strata, summarise
from components.evaluate.measure import CLINICAL, Measured, Slices, load_slices, measure
from components.evaluate.page import evaluation_page
from components.evaluate.reliability import ErrorCounts, draw_reliability
from components.evaluate.results import CHAMPION, RELIABILITY, UNIFIED, Evaluation, Network, Picture
from components.train.seen import refuse_seen, seen_by
from mira.cases import Record
from mira.errors import DataRejected
from mira.pairs import PairIndex, PairRecord, Split, check_neighbours, read_index
from mira.progress import track
from mira.quality.profiles import profile_named
from mira.storage import atomic_folder, hash_file, read_json, write_json, write_text
from mira.tasks import Task

if TYPE_CHECKING:
    from model.restorer import Restorer


class EvaluateConfig(Record):
    """Parameters of the evaluate step."""

    profiles: list[str] = Field(
        default_factory=lambda: ["robust", "amir"],
        min_length=1,
        description="metric profiles; the first is that of the summary, the comparisons and the gate policy",
    )
    max_slices_per_case: int = Field(
        12, ge=0, description="slices of a case that are measured, evenly spaced; 0 for all"
    )
    slices_with_structures: int = Field(
        2, ge=0, description="how many of them are taken for their contoured structures, so that lesions are seen"
    )
    batch_size: int = Field(4, ge=1, description="slices restored at once")
    threads: int = Field(0, ge=0, description="threads of torch; 0 leaves torch's own choice")
    bootstrap_draws: int = Field(2000, ge=100, description="draws of the bootstrap over patients")
    seed: int = Field(0, ge=0, description="seed of the bootstrap")

    @field_validator("profiles")
    @classmethod
    def _known(cls, profiles: list[str]) -> list[str]:
        for name in profiles:
            try:
                profile_named(name)
            except Exception as error:
                raise ValueError(str(error)) from error
        if len(set(profiles)) != len(profiles):
            raise ValueError("name each profile once")
        return profiles


class EvaluateSummary(Record):
    """What was measured.

    Attributes:
        profile: metric profile of the gains.
        gains_db: `task split` -> mean gain of the unified network over the degraded input.
        patients: `task split` -> patients measured.
        pairs: pairs measured.
    """

    profile: str
    gains_db: dict[str, float]
    patients: dict[str, int]
    pairs: int


def evaluate(
    pairs: Path, networks: list[Path], champion: Path | None, out: Path, config: EvaluateConfig
) -> EvaluateSummary:
    """Measure every network on the test patients and the local sites.

    Args:
        pairs: root of all pairs.
        networks: checkpoint folders of the candidate's networks, the unified one among them.
        champion: checkpoint folder of the network that serves now, if there is one.
        out: folder for `metrics.json`, `cases.parquet`, `slices.parquet`, `plots/`, `pictures/` and `report.html`.
        config: parameters.

    Returns:
        Gains in brief.

    Raises:
        DataRejected: when there is no unified network, a folder is no checkpoint, a network was trained on patients of
            the test or local set, or there is no pair to measure on.
        ConfigurationError: when a network sees several slices, and those of the pairs are no neighbours.
    """
    import torch

    if config.threads:
        torch.set_num_threads(config.threads)
    index = read_index(pairs)
    loaded, described = _load(networks, champion, index)
    work = [pair for pair in index.select("test", "local") if pair.task in described[UNIFIED].tasks]
    if not work:
        raise DataRejected(
            f"{pairs} has no pair of the splits test or local for a trained task, so nothing can be proved. "
            "Give more patients, or raise `pair.test_share`."
        )
    check_neighbours(work, max(network.network.slices for network in loaded.values()))
    shown = _to_show(work)
    measured: list[Measured] = []
    pictures: list[Picture] = []
    counts: dict[tuple[Task, Split], ErrorCounts] = defaultdict(ErrorCounts)
    skipped = 0
    with atomic_folder(out) as new:
        for number, pair in enumerate(track(work, "evaluate", unit="pair"), start=1):
            slices = load_slices(pairs, pair, config.max_slices_per_case, config.slices_with_structures)
            skipped += slices.blank
            if not len(slices.index):
                continue
            item = _measure(slices, loaded, described, config)
            skipped += next(iter(item.slices.values())).skipped
            if pair.pair_id in shown:
                pictures.append(_draw(slices, item, config, new))
            _count_errors(slices, item, counts)
            item.restored, item.predicted_error = {}, None  # a run has more pairs than memory
            measured.append(item)
            announce(f"{number} of {len(work)} pairs measured")
        evaluation = _collect(measured, pictures, described, skipped, index.data_version, new, config)
        if counts:
            reliability = [own.summary(*key) for key, own in counts.items()]
            draw_reliability(reliability, new / "pictures" / RELIABILITY)
            evaluation = evaluation.model_copy(update={"reliability": reliability})
        write_json(new / "metrics.json", evaluation.model_dump(mode="json"))
        write_text(new / "report.html", evaluation_page(evaluation, new / "pictures"))
    return EvaluateSummary(
        profile=evaluation.profile,
        gains_db={f"{t} {s}": f["gain_db"] or 0.0 for t, v in evaluation.summary.items() for s, f in v.items()},
        patients={f"{t} {s}": int(f["patients"] or 0) for t, v in evaluation.summary.items() for s, f in v.items()},
        pairs=len(measured),
    )


def _load(
    networks: list[Path], champion: Path | None, index: PairIndex
) -> tuple[dict[str, "Restorer"], dict[str, Network]]:
    """Networks by name, with what is known of them; none that has seen the patients that it is measured on."""
    from model.checkpoint import load_restorer

    loaded: dict[str, Restorer] = {}
    described: dict[str, Network] = {}
    for folder in [*networks, *([champion] if champion is not None else [])]:
        restorer, checkpoint = load_restorer(folder)
        name = CHAMPION if champion is not None and folder == champion else checkpoint.network
        if name in loaded:
            raise DataRejected(f"Two of the networks are named {name}. Give each network once.")
        training = read_json(folder / "training.json") if (folder / "training.json").is_file() else {}
        seen = seen_by(folder, name)
        refuse_seen(index, seen, f"the {name} network")
        for other in seen.unknown:
            announce(f"{name}: the patients that {other} has seen are not known, so test patients may be among them")
        loaded[name] = restorer
        described[name] = Network(
            tasks=list(checkpoint.tasks),
            size=checkpoint.size,
            weights_sha256=hash_file(folder / "model.safetensors"),
            run_id=str(training.get("run_id") or ""),
            data_version=checkpoint.data_version,
            patients_unknown=seen.unknown,
        )
    if UNIFIED not in loaded:
        raise DataRejected(f"None of the networks is the unified one, only {', '.join(loaded) or 'nothing'}. Train it.")
    return loaded, described


def _measure(
    slices: Slices, loaded: dict[str, "Restorer"], described: dict[str, Network], config: EvaluateConfig
) -> Measured:
    """Measure a pair with the networks that were trained on its task."""
    own = {name: network for name, network in loaded.items() if slices.pair.task in described[name].tasks}
    return measure(slices, own, config.profiles, UNIFIED, config.batch_size)


def _count_errors(slices: Slices, item: Measured, counts: dict[tuple[Task, Split], ErrorCounts]) -> None:
    """Compare the predicted error of a pair, where there is one, with the error that was made in the patient."""
    from model.data import FOREGROUND

    if item.predicted_error is None:
        return
    pair = slices.pair
    inside = slices.reference > FOREGROUND[pair.task] * (pair.mr_scale or 1.0)
    if inside.any():
        counts[pair.task, pair.split].add(item.restored[UNIFIED] - slices.reference, item.predicted_error, inside)


def _to_show(work: list[PairRecord]) -> set[str]:
    """For each task and split one pair at the hardest level; which patient is fixed by a hash, not by its looks."""
    groups: dict[tuple[Task, str], list[PairRecord]] = defaultdict(list)
    for pair in work:
        groups[pair.task, pair.split].append(pair)
    chosen = set()
    for group in groups.values():
        hardest = max(pair.physics.severity for pair in group)
        candidates = [pair for pair in group if pair.physics.severity == hardest]
        with_structures = [pair for pair in candidates if pair.structures is not None] or candidates
        chosen.add(min(with_structures, key=lambda p: hashlib.sha256(p.pair_id.encode()).hexdigest()).pair_id)
    return chosen


def _draw(slices: Slices, item: Measured, config: EvaluateConfig, out: Path) -> Picture:
    from components.evaluate.pictures import draw

    return draw(slices, item, config.profiles[0], out / "pictures")


def _collect(
    measured: list[Measured],
    pictures: list[Picture],
    described: dict[str, Network],
    skipped: int,
    data_version: str,
    out: Path,
    config: EvaluateConfig,
) -> Evaluation:
    """Aggregate, and write the tables."""
    table = slice_table(measured, config.profiles)
    cases = case_table(measured, table)
    table.to_parquet(out / "slices.parquet", index=False)
    cases.to_parquet(out / "cases.parquet", index=False)
    main = config.profiles[0]
    plot = table[table["profile"] == main].groupby(["task", "split", "network", "level"], as_index=False)["psnr"].mean()
    (out / "plots").mkdir()
    plot.to_csv(out / "plots" / "psnr.csv", index=False)
    present = {name for item in measured for name in item.clinical.get(UNIFIED, {})}
    return Evaluation(
        profile=main,
        profiles={name: profile_named(name).meaning for name in config.profiles},
        networks=described,
        rows=strata(cases, CLINICAL),
        comparisons=compare(table, config.bootstrap_draws, config.seed),
        indicators=indicators(measured),
        pictures=sorted(pictures, key=lambda p: (list(Task).index(p.task), p.split != "test")),
        summary=summarise(table, main),
        skipped_slices=skipped,
        data_version=data_version,
        clinical={name: meaning for name, meaning in CLINICAL.items() if name in present},
    )
