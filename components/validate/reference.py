"""docs/reference/expectations.md, written from the suites: `python -m components.validate.reference > FILE`."""

import sys
from pathlib import Path

from components.validate.step import ROOT
from components.validate.suites import FACTS, Suite, load_suites

_ROWS = {
    "case": "each case",
    "site": "each site",
    "dataset": "the accepted cases as a whole and each task",
    "drift": "each feature beside that of the last accepted data set",
}
_HEAD = """# Expectations

What `validate` asks of cases, sites and the data set, as `data/expectations/` declares it. A `must` that fails refuses
the case, sets the site aside, or stops the run (data set, drift); a `warn` is listed in the Data Docs. A fact that is
unknown is not judged. Written by `python -m components.validate.reference > docs/reference/expectations.md`; a test
holds it to the suites.
"""


def reference(suites: list[Suite]) -> str:
    """The page: every suite with its rules, then every fact with its meaning."""
    lines = [_HEAD]
    for suite in suites:
        only = suite.modality or suite.task
        lines += [f"## {suite.name}", "", f"For {_ROWS[suite.about]}{f', {only} only' if only else ''}.", ""]
        lines += ["| code | what must hold | fact | rule | severity | source |", "|---|---|---|---|---|---|"]
        lines += [
            f"| `{e.code}` | {e.says} | `{e.kwargs['column']}` | {e.bounds or e.type} | {e.severity} | {e.source} |"
            for e in suite.expectations
        ]
        lines.append("")
    lines += ["## Facts", ""]
    for about, facts in FACTS.items():
        lines += [f"About {_ROWS[about]}:", "", "| fact | meaning |", "|---|---|"]
        lines += [f"| `{name}` | {meaning} |" for name, meaning in facts.items()]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(reference(load_suites(ROOT / Path("data/expectations"))))
