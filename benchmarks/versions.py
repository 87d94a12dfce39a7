"""Versions of the data as shards beside plain DVC: objects, bytes and time for two versions of one inbox.

    python -m benchmarks.versions            # 60 series of 100 files
    python -m benchmarks.versions --quick    # 20 series of 50 files, under 45 s

The second version has one series more. `mira data save --raw` stores both; the other way is `dvc add` and `dvc push`
of the same folder. Both push to a folder of the same disk, one after the other; times are processor time of all
processes, since the clock runs for everybody on a shared machine.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from components.versions.actions import save
from components.versions.store import Store
from mira.storage import write_json

SIZE = 32 * 1024


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer files, under 45 s on two cores")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args(argv)
    series, files = (20, 50) if arguments.quick else (60, 100)
    with tempfile.TemporaryDirectory(prefix="mira-bench-") as name:
        folder = Path(name)
        plain = folder / "plain"
        plain.mkdir()
        _dvc(plain, "init", "--no-scm")
        _dvc(plain, "remote", "add", "-d", "folder", str(folder / "remote"))
        store = Store(folder / "data" / "versions")
        rows = []
        for version in (1, 2):
            _send(folder / "data", range(series + version - 1), files)
            folders = {part: folder / "data" / part for part in ("cases", "inbox")}
            shards = _seconds(lambda: save(store, folders, raw=True))  # noqa: B023 - called at once
            added = _seconds(lambda: _plain(plain, folders["inbox"]))  # noqa: B023
            rows.append((version, *_count(store.root / "remote" / "raw"), shards, *_count(folder / "remote"), added))
    print(f"{series} series of {files} files of {SIZE // 1024} KiB, then one series more")
    print("version   shards: objects      MB  seconds   one by one: objects      MB  seconds")
    for version, objects, size, seconds, plain_objects, plain_size, plain_seconds in rows:
        print(
            f"{version:>7}   {objects:>15}  {size / 1e6:>6.1f}  {seconds:>7.1f}"
            f"   {plain_objects:>19}  {plain_size / 1e6:>6.1f}  {plain_seconds:>7.1f}"
        )
    result = {
        "objects": rows[1][1],
        "objects_one_by_one": rows[1][4],
        "second_version_objects": rows[1][1] - rows[0][1],
        "second_version_mb": round((rows[1][2] - rows[0][2]) / 1e6, 2),
        "new_mb": round(files * SIZE / 1e6, 2),
        "seconds": round(rows[0][3], 1),
        "seconds_one_by_one": round(rows[0][6], 1),
    }
    if arguments.json:
        print(json.dumps(result))
    return 0


def _send(data: Path, series: range, files: int) -> None:
    """Series folders of files that differ, and a case so that there is something to save."""
    write_json(data / "cases" / "table.json", {"series": len(series)})
    for number in series:
        folder = data / "inbox" / f"series-{number:04d}"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            for slice_ in range(files):
                (folder / f"{slice_:04d}.dcm").write_bytes(os.urandom(SIZE))


def _plain(repository: Path, inbox: Path) -> None:
    """The same folder by DVC alone."""
    shutil.copytree(inbox, repository / "inbox", dirs_exist_ok=True)
    _dvc(repository, "add", "inbox")
    _dvc(repository, "push")


def _dvc(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, env=environment, capture_output=True, check=True
    )


def _seconds(call: Callable[[], object]) -> float:
    before = os.times()
    call()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


def _count(folder: Path) -> tuple[int, int]:
    """(objects, bytes) below a folder."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


if __name__ == "__main__":
    sys.exit(main())
