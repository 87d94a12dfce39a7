"""Run a compiled pipeline on this machine with kfp.local, in a process of its own.

The very YAML that a cluster would get is run. Its log goes to a file; a person sees one line per step, and the
error of a step that failed. Results of unchanged steps are re-used, also after an interrupted run.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.command import FAILURE_MARK, PROGRESS_MARK
from mira.errors import MiraError

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_STARTED = re.compile(r"Executing task '([^']+)'")
_ENDED = re.compile(r"Task '([^']+)' finished with status (\w+)")


class StepFailed(MiraError):
    """A step of the pipeline failed.

    Attributes:
        exit_code: exit code of the step.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Event:
    """What the log of a run tells.

    Attributes:
        kind: `started`, `ended` or `progress`.
        step: name of the step; empty for progress.
        text: for progress, what the step said; for ended, its status.
    """

    kind: str
    step: str
    text: str = ""


def run_pipeline(
    compiled: Path,
    arguments: Mapping[str, Any],
    root: Path,
    log: Path,
    on_event: Callable[[Event], None],
    environment: Mapping[str, str] | None = None,
) -> Any:
    """Run a compiled pipeline and return its output.

    Args:
        compiled: the compiled YAML.
        arguments: pipeline parameters.
        root: folder of artifacts and cache; kept between runs.
        log: file that takes the whole log.
        on_event: told of every step that starts or ends, and of progress.
        environment: variables for the steps, over those of this process.

    Returns:
        The pipeline's output parameter.

    Raises:
        StepFailed: with the message and the exit code of the step that failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    root.mkdir(parents=True, exist_ok=True)
    request = {"compiled": str(compiled), "arguments": dict(arguments), "root": str(root)}
    command = [sys.executable, "-u", "-m", "pipelines.local", json.dumps(request)]
    signal.signal(signal.SIGTERM, _interrupt)
    failure: dict[str, Any] = {}
    result: dict[str, Any] = {}
    last_ended = ""
    with (
        log.open("w", encoding="utf-8") as stream,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # so that an interrupt ends the steps too, and only them
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                stream.write(line)
                text = _ANSI.sub("", line).strip()
                if FAILURE_MARK in text:
                    failure = json.loads(text.split(FAILURE_MARK, 1)[1])
                elif PROGRESS_MARK in text:
                    on_event(Event("progress", "", text.split(PROGRESS_MARK, 1)[1]))
                elif text.startswith("MIRA-RESULT "):
                    result = json.loads(text.removeprefix("MIRA-RESULT "))
                elif found := _STARTED.search(text):
                    on_event(Event("started", found[1]))
                elif found := _ENDED.search(text):
                    if found[2] != "SUCCESS":
                        last_ended = found[1]
                    on_event(Event("ended", found[1], found[2]))
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    if failure:
        raise StepFailed(f"{failure['step']}: {failure['message']}\nThe whole log: {log}", failure["exit_code"])
    if process.returncode or "output" not in result:
        where = f"step {last_ended} failed" if last_ended else "the run broke off"
        raise StepFailed(f"{where}; its error is at the end of {log}. Run again to carry on from there.", 1)
    return result["output"]


def _interrupt(*_: object) -> None:
    """A terminated run ends its steps as an interrupted one does, instead of leaving them behind."""
    raise KeyboardInterrupt


def _serve(request: dict[str, Any]) -> None:
    """Child process: run the request with kfp.local and print its output."""
    from kfp import components, local

    warnings.filterwarnings("ignore", category=RuntimeWarning, message=".*non-Python base image.*")
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(Path(request["root"]) / "artifacts"),
        enable_caching=True,
        cache_root=str(Path(request["root"]) / "cache"),
    )
    pipeline = components.load_component_from_file(request["compiled"])
    started = time.monotonic()
    task = pipeline(**request["arguments"])
    answer = {"output": task.outputs["Output"], "seconds": round(time.monotonic() - started, 1)}
    sys.stdout.write(f"MIRA-RESULT {json.dumps(answer)}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run a request of pipelines.local.run_pipeline (internal).")
    parser.add_argument("request")
    _serve(json.loads(parser.parse_args().request))
