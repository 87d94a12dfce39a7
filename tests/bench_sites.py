"""A sites.yaml for the real scans that lie beside the checkout; tests that use them skip where they are absent.

`python -m tests.bench_sites FOLDER` writes it into a folder.
"""

import os
import sys
from pathlib import Path

import yaml

BENCH = Path(os.environ.get("MIRA_BENCH", Path(__file__).resolve().parents[1].parent / "shared" / "bench"))

TRAIN = ("site-basel-siemens", "site-cmb-toshiba", "site-lidc-philips", "site-mcgill", "site-vsseg-siemens")
LOCAL = ("site-mcgill-heldout", "site-mskcc", "site-uih")
REMARKS = {"site-mcgill-heldout": "shares its PET scanner with site-mcgill; other patients"}


def write_bench_sites(folder: Path) -> Path:
    """Write `sites.yaml` for the bench into a folder and return its path.

    `site-kspace` is raw k-space, not DICOM, and is left out.
    """
    sites = [
        {
            "id": name,
            "role": role,
            "path": str(BENCH / role / name),
            "minimum_cases": 1,
            "remark": REMARKS.get(name, ""),
        }
        for role, names in (("train", TRAIN), ("local", LOCAL))
        for name in names
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sites.yaml"
    path.write_text(yaml.safe_dump({"sites": sites}, sort_keys=False), encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.stdout.write(f"{write_bench_sites(Path(sys.argv[1]))}\n")
