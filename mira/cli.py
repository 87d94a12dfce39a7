"""The `mira` command: collects its verbs from entry points and turns errors into exit codes.

A verb is a function `add(subparsers)` registered under the entry point group `mira.verbs`. It adds one
parser (with an example in its epilog) and sets `run`, a function from the parsed arguments to an exit code.
A verb whose packages are not installed is left out, and named with its extra at the end of the help.
"""

import argparse
import sys
from importlib.metadata import entry_points

from mira import __version__
from mira.errors import MiraError


def build_parser() -> argparse.ArgumentParser:
    """The parser with every verb that can be imported here."""
    parser = argparse.ArgumentParser(
        prog="mira", description="Restore low-dose CT, low-count PET and low-resolution MR; run the factory around it."
    )
    parser.add_argument("--version", action="version", version=f"mira {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    missing: list[str] = []
    for entry in sorted(entry_points(group="mira.verbs"), key=lambda e: e.name):
        try:
            add = entry.load()
        except ModuleNotFoundError as error:
            missing.append(f"{entry.name} (needs {error.name})")
            continue
        add(subparsers)
    if missing:
        parser.epilog = "Not available here: " + ", ".join(missing)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code: 0 done, 2 usage, 3 data, 4 gate, 5 serving."""
    arguments = build_parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except MiraError as error:
        print(f"mira {arguments.verb}: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted; what was finished is kept", file=sys.stderr)  # noqa: T201
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
