"""Which cheap look at a slice gives the instruction of the whole slice? Needs the real scans and a trained network.

`python -m tests.triton.tile_instruction --model model.onnx` prints, for a CT and an MR of the real scans, how far the
restored slice is from the one restored with the whole slice's own instruction, as a share of the display window.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from mira.client import plan
from mira.client.engines import Answer, Batch, Floats, LocalEngine
from mira.dicom.volume import read_series
from mira.tasks import Modality
from tests.bench_sites import BENCH

SERIES = (
    "local/site-mskcc/CT/CRLM-CT-1004",
    "train/site-basel-siemens/CT/example_ct",
    "local/site-uih/MR/UIH_t1_3d_sag",
)
TILE_SIDE = 192


def looks(image: Floats, modality: Modality, scale: float, engine: LocalEngine) -> Iterator[tuple[str, Floats]]:
    """Each way to estimate the instruction of a slice [rows, columns]."""

    def own(part: Floats) -> Floats:
        return engine.infer(Batch(part[None, None], modality.number, scale)).instruction[0]

    with mock.patch.object(plan, "LARGEST_SIDE", TILE_SIDE):
        tiled = plan.Plan(image[None], modality, scale, TILE_SIDE)
    yield "tiles with structure", np.mean([engine.infer(batch).instruction[0] for batch in tiled.probes()], axis=0)
    yield "all tiles", np.mean([own(image[tile.window]) for tile in tiled.tiles], axis=0)
    rows, columns = image.shape
    yield "central crop", own(image[rows // 4 : -rows // 4, columns // 4 : -columns // 4])
    even = image[: rows // 2 * 2, : columns // 2 * 2]
    yield "block average by two", own(even.reshape(rows // 2, 2, columns // 2, 2).mean((1, 3)))


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.triton.tile_instruction", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model.onnx of a trained network")
    engine = LocalEngine(parser.parse_args(argv).model, threads=1)
    for folder in SERIES:
        source = read_series((BENCH / folder).glob("*.dcm"))
        modality, scale = source.modality, source.mr_scale or 1.0
        window = {Modality.CT: 400.0, Modality.MR: scale}[modality]
        image = source.volume.voxels[len(source.files) // 2]

        def restored(
            instruction: Floats | None, image: Floats = image, modality: Modality = modality, scale: float = scale
        ) -> Answer:
            weight = 0.0 if instruction is None else 1.0
            given = None if instruction is None else instruction.astype(np.float32)
            return engine.infer(Batch(image[None, None], modality.number, scale, given, weight))

        whole = restored(None).restored
        change = float(np.sqrt(np.mean((whole[0, 0] - image) ** 2))) / window
        sys.stdout.write(f"{modality} {folder}: the network changes {change:.2%} of the window\n")
        for name, instruction in looks(image, modality, scale, engine):
            off = float(np.sqrt(np.mean((restored(instruction).restored - whole) ** 2))) / window
            sys.stdout.write(f"  {name}: {off:.3%}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
