"""The local runner, on small pipelines of its own: results, errors with exit codes, re-use, killed runs."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from kfp import compiler, dsl

from pipelines.compile import COMPILED
from pipelines.local import Event, StepFailed, run_pipeline


@dsl.component(base_image="python", install_kfp_package=False)
def make(text: str, log: str, out: dsl.Output[dsl.Artifact]) -> bool:
    from pathlib import Path

    from components.command import announce

    announce("half way")
    Path(out.path).write_text(text)
    with Path(log).open("a") as stream:
        stream.write("made\n")
    return text == "good"


@dsl.component(base_image="python", install_kfp_package=False)
def judge(made: dsl.Input[dsl.Artifact], fail_with: str) -> str:
    from pathlib import Path

    from components.command import reported
    from mira.errors import DataRejected

    with reported("judge"):
        if fail_with == "rejected":
            raise DataRejected("no case is left. Lower the minimum.")
        if fail_with == "sleep":
            import time

            time.sleep(60)
        if fail_with == "bug":
            raise ZeroDivisionError
        if fail_with == "full":
            raise OSError(28, "No space left on device")
        if fail_with == "closed":
            raise PermissionError(13, "Permission denied", "/mira/serving")
    return Path(made.path).read_text()


@dsl.component(base_image="python", install_kfp_package=False)
def refuse() -> str:
    return "refused"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    @dsl.pipeline(name="small")
    def small(text: str, log: str, fail_with: str = "") -> str:
        made = make(text=text, log=log)
        with dsl.If(made.outputs["Output"] == True):  # noqa: E712
            judged = judge(made=made.outputs["out"], fail_with=fail_with)
        with dsl.Else():
            refused = refuse()
        return dsl.OneOf(judged.output, refused.output)

    path = tmp_path_factory.mktemp("compiled") / "small.yaml"
    compiler.Compiler().compile(small, str(path))
    return path


def run(compiled: Path, folder: Path, **arguments: str) -> tuple[str, list[Event]]:
    events: list[Event] = []
    values = {"log": str(folder / "made.log"), **arguments}
    return run_pipeline(compiled, values, folder / "kfp", folder / "run.log", events.append), events


def test_both_branches_and_the_events(compiled: Path, tmp_path: Path) -> None:
    output, events = run(compiled, tmp_path, text="good")
    assert output == "good"
    assert [(e.kind, e.step) for e in events] == [
        ("started", "make"),
        ("progress", ""),
        ("ended", "make"),
        ("started", "judge"),
        ("ended", "judge"),
    ]
    assert events[1].text == "half way"
    assert run(compiled, tmp_path, text="bad")[0] == "refused"


def test_the_error_of_a_step_comes_through_with_its_exit_code(compiled: Path, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match=r"judge: no case is left\. Lower the minimum\.") as caught:
        run(compiled, tmp_path, text="good", fail_with="rejected")
    assert caught.value.exit_code == 3
    with pytest.raises(StepFailed, match="No space left on the disk"):
        run(compiled, tmp_path, text="good", fail_with="full")


def test_a_volume_that_is_closed_to_the_steps_account_is_named(compiled: Path, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="/mira/serving: Permission denied for the account with uid") as caught:
        run(compiled, tmp_path, text="good", fail_with="closed")
    assert caught.value.exit_code == 2


def test_a_bug_points_to_the_log(compiled: Path, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="step judge failed") as caught:
        run(compiled, tmp_path, text="good", fail_with="bug")
    assert caught.value.exit_code == 1
    assert "ZeroDivisionError" in (tmp_path / "run.log").read_text()


def test_the_next_run_carries_on_and_a_change_runs_again(compiled: Path, tmp_path: Path) -> None:
    with pytest.raises(StepFailed):
        run(compiled, tmp_path, text="good", fail_with="rejected")
    output, events = run(compiled, tmp_path, text="good")
    assert output == "good"
    assert "make" not in [event.step for event in events]
    assert (tmp_path / "made.log").read_text() == "made\n"
    run(compiled, tmp_path, text="bad")
    assert (tmp_path / "made.log").read_text() == "made\nmade\n"


def test_the_factory_ends_at_its_first_step_when_it_is_not_told_where_to_serve(tmp_path: Path) -> None:
    events: list[Event] = []
    arguments = {"triton_url": "", "workspace": str(tmp_path / "ws"), "repository": str(tmp_path / "models")}
    with pytest.raises(StepFailed, match=r"check-triton: `triton_url` is '', which is no HOST:PORT") as caught:
        run_pipeline(COMPILED / "factory.yaml", arguments, tmp_path / "kfp", tmp_path / "run.log", events.append)
    assert caught.value.exit_code == 2
    assert {event.step for event in events} == {"check-triton"}
    del arguments["triton_url"]
    with pytest.raises(StepFailed):
        run_pipeline(COMPILED / "factory.yaml", arguments, tmp_path / "kfp", tmp_path / "run.log", events.append)
    assert "missing 1 required argument: triton_url" in (tmp_path / "run.log").read_text()


def test_a_terminated_run_ends_its_steps(compiled: Path, tmp_path: Path) -> None:
    arguments = {"log": str(tmp_path / "made.log"), "text": "good", "fail_with": "sleep"}
    code = (
        "from pathlib import Path; from pipelines.local import run_pipeline; "
        f"run_pipeline(Path({str(compiled)!r}), {arguments!r}, Path({str(tmp_path / 'kfp')!r}), "
        f"Path({str(tmp_path / 'run.log')!r}), lambda e: print(e.kind, e.step, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "started judge\n":
                break
        assert _within(20, lambda: bool(_steps(tmp_path)))
        process.terminate()
    assert process.returncode != 0
    assert _within(20, lambda: not _steps(tmp_path))


def _within(seconds: float, happens: Callable[[], bool]) -> bool:
    """Whether something happens before the time is over."""
    deadline = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _steps(folder: Path) -> list[int]:
    """Processes that run a step of a workspace."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(folder) in word for word in words) and "kfp.dsl.executor_main" in " ".join(words):
            found.append(process.info["pid"])
    return found
