"""The restoration study: MIRA-Net unified and single-task, its ablations, and rivals, on the same pairs and budget.

`python -m benchmarks.restoration --pairs phantoms=DIR real=DIR --steps 250 1000`  (pair stores, as the pair step wrote)
`python -m benchmarks.restoration --quick --json`  makes coarse phantoms and trains a few steps, within 45 s on two
cores: it shows that the study runs; its figures mean nothing.

All degradation is simulated. Trained networks are kept in --work, so a killed study goes on where it was.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.study import declarations, findings, plots, quantities
from benchmarks.study.measuring import (
    CLASSICAL,
    SHUFFLED,
    Cost,
    classical_settings,
    cost_of,
    count_blank,
    load_network,
    measure_all,
)
from benchmarks.study.samples import draw_samples
from benchmarks.study.training import ALL, Budget, Training, plan, train_all
from mira.pairs import read_index
from mira.storage import write_json, write_text
from mira.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

    from components.evaluate.results import Indicator

PROFILE = "amir"
SECOND_PROFILE = "fixed"
RIVALS = ("unet", "red-cnn-32", "restormer")


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", metavar="NAME=DIR", help="pair stores; a study for each")
    parser.add_argument("--steps", nargs="+", type=int, default=[1000], help="budgets: optimiser steps per task")
    seeds = "seeds of MIRA-Net and its ablations, whose figures are means over them; rivals take the first alone"
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help=seeds)
    parser.add_argument("--size", default="tiny", help="size of MIRA-Net")
    names = "baselines of model/baselines.py, or NAME@RATE for a learning rate of its own"
    parser.add_argument("--rivals", nargs="*", default=list(RIVALS), help=names)
    parser.add_argument("--slices", type=int, default=6, help="slices measured of each pair")
    parser.add_argument("--workers", type=int, default=2, help="networks trained at once, one core each")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="where networks and results are kept")
    parser.add_argument("--quick", action="store_true", help="coarse phantoms, 2 steps, no Restormer")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.pairs = [f"phantoms={_phantoms(arguments.work / 'quick')}"]
        arguments.steps, arguments.slices, arguments.rivals = [2], 1, ["unet"]
    elif not arguments.pairs:
        parser.error("give --pairs NAME=DIR, or --quick")
    begin = time.monotonic()
    results = {}
    for item in arguments.pairs:
        name, _, folder = item.partition("=")
        results[name] = _study(name, Path(folder), arguments)
    document = {"seconds": round(time.monotonic() - begin), "studies": results}
    write_json(arguments.work / "study.json", document)
    if arguments.json:
        first = next(iter(results.values()))
        print(json.dumps({**first["keys"], "seconds": document["seconds"]}))
    return 0


def _phantoms(work: Path) -> Path:
    """Pairs of few and coarse phantoms at one level for each task, made by the factory's own steps but for judging."""
    from components.ingest.step import IngestConfig, ingest
    from components.pair.step import PairConfig, pair
    from mira.cases import iterate_cases
    from mira.phantom.demo import DemoConfig, make_demo

    sizes = {f"{kind}_size": side for kind, side in (("ct", 96), ("pet", 64), ("mr", 96))}
    slices = {f"{kind}_slices": 3 for kind in ("ct", "pet", "mr")}
    demo = DemoConfig(preset="small", patients_per_site=3, local_patients=1, nuisances=False, **sizes, **slices)
    sites = make_demo(work / "demo", demo)
    ingest(sites, work / "cases", IngestConfig())
    accepted = [record.case_id for _, record in iterate_cases(work / "cases")]
    write_json(work / "validation.json", {"accepted": accepted})
    levels = {Task.CT_DENOISING: [0.1], Task.PET_SYNTHESIS: [0.1], Task.MRI_SUPER_RESOLUTION: [2.0]}
    pair(work / "cases", work / "validation.json", work / "pairs", PairConfig(levels=levels))
    return work / "pairs"


def _study(name: str, pairs: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One pair store: train, measure, compare, write, and print."""
    import pandas as pd

    from benchmarks.study.measuring import PROFILES
    from components.evaluate.aggregate import case_table, indicators, slice_table

    index = read_index(pairs)
    tasks = [task for task in Task if index.select("train", task=task)]
    tables: dict[int, pd.DataFrame] = {}
    settings = classical_settings(pairs)
    costs: dict[str, Cost] = {}
    trained_seconds: dict[str, float] = {}
    told: dict[int, list[Indicator]] = {}
    declared: list[declarations.Declaration] = []
    cases: pd.DataFrame | None = None
    for steps in sorted(arguments.steps):
        parts, of_cases = [], []
        for seed in arguments.seeds:
            trained = []
            rivals = arguments.rivals if seed == arguments.seeds[0] else ()
            trainings = plan(tasks, rivals, arguments.size)
            for item in train_all(
                pairs, trainings, Budget(steps, seed=seed), arguments.work / "networks", arguments.workers
            ):
                what = f"{item.training.name}, seed {seed}"
                print(f"{name}: {what}, {item.steps} steps, {item.seconds:.0f} s", file=sys.stderr)
                trained.append(item)
                trained_seconds[f"{steps}/{what}"] = round(item.seconds, 1)
            measured = measure_all(pairs, trained, arguments.slices, seed=0, settings=settings)
            slices = slice_table(measured, PROFILES)
            parts.append(slices.assign(seed=seed))
            of_cases.append(case_table(measured, slices).assign(seed=seed))
            told[seed] = indicators(measured)
            unified = next(item for item in trained if item.training == Training(arguments.size, ALL))
            if seed == arguments.seeds[0]:
                declared = declarations.declarations(pairs, load_network(unified))
                draw_samples(pairs, load_network(unified), arguments.work / name / "samples.jpg")
            for item in trained:
                name_of, network = item.training.name, item.training.network
                if name_of not in costs:  # what a network has learnt does not change what it costs
                    same = (c for known, c in costs.items() if known.partition(":")[0].partition("@")[0] == network)
                    costs[name_of] = next(same, None) or cost_of(load_network(item), 1 if arguments.quick else 3)
        tables[steps], cases = pd.concat(parts), pd.concat(of_cases)
    final = tables[max(tables)]
    assert cases is not None
    folder = arguments.work / name
    folder.mkdir(parents=True, exist_ok=True)
    for steps, table in tables.items():
        table.to_parquet(folder / f"slices-{steps}.parquet", index=False)
    cases.to_parquet(folder / f"cases-{max(tables)}.parquet", index=False)
    found = findings.differences(final, arguments.size, PROFILE, name)
    kept = quantities.biases(cases, arguments.size)
    blank = count_blank(pairs)
    remarks = [findings.classical_line(settings), findings.blank_line(blank)]
    text = _page(name, final, found, kept, told, declared, costs, arguments, len(index.pairs), remarks)
    write_text(folder / "study.md", text)
    print(text)
    plots.quality_against_cost(tables, costs, PROFILE, folder / "quality-against-cost.png")
    plots.unified_against_single(final, arguments.size, PROFILE, folder / "unified-against-single.png")
    plots.ablations(final, arguments.size, PROFILE, folder / "ablations.png")
    keys = findings.keys_of(found, costs, arguments.size)
    for task, figures in quantities.keys_of(kept, arguments.size).items():
        keys[task]["quantities"] = figures
    return {
        "keys": keys,
        "differences": findings.as_json(found),
        "quantities": quantities.as_json(kept),
        "costs": {network: asdict(cost) for network, cost in costs.items()},
        "training_seconds": trained_seconds,
        "seeds": arguments.seeds,
        "indicators": {seed: [item.model_dump(mode="json") for item in items] for seed, items in told.items()},
        "declarations": declarations.as_json(declared),
        "blank": asdict(blank),
        "classical": {task.value: asdict(setting) for task, setting in settings.items()},
        "data_version": index.data_version,
    }


def _page(
    name: str,
    table: "pd.DataFrame",
    found: list[findings.Difference],
    kept: list[quantities.Bias],
    told: "dict[int, list[Indicator]]",
    declared: list[declarations.Declaration],
    costs: dict[str, Cost],
    arguments: argparse.Namespace,
    pairs: int,
    remarks: list[str],
) -> str:
    """The study's tables."""
    size = arguments.size
    seeds = arguments.seeds
    means = "" if len(seeds) == 1 else f", MIRA-Net and its ablations as means over {len(seeds)} seeds"
    parts = [
        f"## {name}: {max(arguments.steps)} steps per task, {pairs} pairs{means}\n",
        f"Profile {PROFILE}; slices of test and local patients; simulated degradation. RMSE in HU, SUV and MR a.u.\n",
        *remarks,
    ]
    names = [task.value for task in Task]
    parts += [f"### {task}\n\n{findings.network_table(table, costs, PROFILE, task)}\n" for task in names]
    own = [
        (f"{size}:{ALL}", f"{size}:TASK"),
        (f"{size}:{ALL}", f"{size}-unguided:{ALL}"),
        (f"{size}:{ALL}", f"{size}-label:{ALL}"),
        (f"{size}:{ALL}", SHUFFLED),
        (f"{size}:{ALL}", CLASSICAL),
    ]
    rivals = [(ours, f"{rival}:TASK") for rival in arguments.rivals for ours in (f"{size}:{ALL}", f"{size}:TASK")]
    parts.append(
        "### Paired differences\n\nMean over patients (test and local) with the one-sided 95 % bounds.\n\n"
        + findings.difference_table(found, [*own, *rivals])
        + "\n"
    )
    if len(seeds) > 1:
        parts.append(f"### Seed by seed\n\n{findings.seed_table(table, own, PROFILE, name)}\n")
    parts.append(
        "### Quantities\n\nBias: test minus reference. Change: test minus degraded input, what restoring itself did. "
        "Test and local patients; the worst is one patient at one level, and of one seed.\n\n"
        + quantities.quantity_table(kept)
        + "\n"
    )
    parts.append(f"### What the unified network says of its input\n\n{findings.indicator_table(told)}\n")
    parts.append(f"### Wrong declarations\n\n{declarations.declaration_table(declared)}\n")
    parts.append(f"### By site and level\n\n{findings.strata_table(table, size, PROFILE)}\n")
    parts.append(f"### In the profile {SECOND_PROFILE}\n\n{findings.profile_table(table, SECOND_PROFILE)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
