"""Command line of data versions, the same as `mira data`."""

import argparse
import sys

from components.versions.verb import add_data
from mira.errors import MiraError

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m components.versions")
    add_data(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["data", *sys.argv[1:]])
    try:
        sys.exit(arguments.run(arguments))
    except MiraError as error:
        sys.stderr.write(f"mira data: {error}\n")
        sys.exit(error.exit_code)
