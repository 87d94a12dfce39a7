"""`python -m tests.phi_scan`: run the scan and print its counts; exit code 1 when something was found."""

import os
import sys
import tempfile
from pathlib import Path

from tests.phi_scan.run import run_all


def main() -> int:
    os.environ.setdefault("MIRA_PSEUDONYM_KEY", "a key for the scan only")
    with tempfile.TemporaryDirectory(prefix="phi-scan-") as folder:
        report, written, _ = run_all(Path(folder))
    lines = [
        f"identifying values  {report.values}",
        f"forms of them       {report.forms}",
        f"files               {report.files}",
        f"pieces unpacked     {report.parts}",
        f"bytes               {report.size}",
        f"hits                {len(report.hits)}",
    ]
    lines += [f"  found: {place} ({form}) in {where}" for place, form, where in report.hits[:40]]
    lines += [f"DICOM written with {name}: {outcome.written} of {outcome.files}" for name, outcome in written.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if report.hits else 0


if __name__ == "__main__":
    sys.exit(main())
