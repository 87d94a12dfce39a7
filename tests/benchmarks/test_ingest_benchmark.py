"""The benchmark of ingest runs and says what it promises; what it measures is no test's business."""

import json

import numpy as np
import pytest
from pydicom import dcmread

from benchmarks import ingest


def test_slices_are_all_different_and_compressed_ones_are_the_same(tmp_path):
    ingest.make_slices(tmp_path / "plain", 3)
    ingest.make_slices(tmp_path / "jpeg-ls", 3, "JPEG-LS")
    plain = [dcmread(path) for path in sorted((tmp_path / "plain").rglob("*.dcm"))]
    packed = [dcmread(path) for path in sorted((tmp_path / "jpeg-ls").rglob("*.dcm"))]
    assert len({dataset.PixelData for dataset in plain}) == 3
    assert len(plain[0]) == 107
    for one, other in zip(plain, packed, strict=True):
        assert other.file_meta.TransferSyntaxUID.is_compressed
        np.testing.assert_array_equal(one.pixel_array, other.pixel_array)


def test_slope():
    assert ingest._slope([(100, 1.0), (1000, 10.0), (10000, 100.0)]) == pytest.approx(1.0)
    assert ingest._slope([(100, 1.0), (1000, 100.0)]) == pytest.approx(2.0)


@pytest.mark.slow
def test_it_runs_and_its_last_line_has_the_keys(tmp_path, capsys):
    assert ingest.main(["--quick", "--slices", "50", "--repeats", "1", "--json", "--scratch", str(tmp_path)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"ratio_to_decode", "slices_per_s", "scaling_exponent", "peak_mb", "again_share"} <= set(result)
    ways = [(row["syntax"], row["slices"], row["cores"]) for row in result["rows"]]
    assert ways == [(syntax, 50, cores) for syntax in ("uncompressed", "JPEG-LS") for cores in (1, 2)]
    assert all(row["ingest_s"] > 0 and row["decode_s"] > 0 for row in result["rows"])
    assert not list(tmp_path.iterdir())
