"""Every step finds what it imports in its own image: the extra of its component brings it."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipelines.factory import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPONENTS = sorted(path.parent.name for path in ROOT.glob("components/*/component.py"))
DISTRIBUTIONS = metadata.packages_distributions()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(extra: str) -> set[str]:
    """Distributions of an image: what the extra names and all that these need."""
    waiting = [Requirement(text) for text in [*PROJECT["dependencies"], f"mira-net[{extra}]", "kfp"]]
    known: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        key = (canonical(wanted.name), frozenset(wanted.extras))
        if key in known or wanted.name == "kfp":  # installed without what it needs
            known.add(key)
            continue
        known.add(key)
        if wanted.name == "mira-net":
            waiting += [Requirement(text) for name in wanted.extras for text in PROJECT["optional-dependencies"][name]]
            continue
        try:
            needed = [Requirement(text) for text in metadata.requires(wanted.name) or []]
        except metadata.PackageNotFoundError:
            continue
        asked = [{"extra": name} for name in (*wanted.extras, "")]
        waiting += [r for r in needed if r.marker is None or any(r.marker.evaluate(e) for e in asked)]
    return {name for name, _ in known}


def source(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def imports(node: ast.AST, inside_functions: bool) -> Iterator[str]:
    """Modules that a syntax tree imports when it runs, not for types alone."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), names=names):
                full = (f"{module}.{name.name}" for name in names)
                yield from (name if source(name) else module for name in full)
            case ast.FunctionDef() | ast.AsyncFunctionDef() if not inside_functions:
                continue
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case _:
                yield from imports(child, inside_functions)


def outside(step: str) -> dict[str, str]:
    """Third-party modules that a step's component reaches, and a module of ours that imports each.

    What functions import when they are called counts too, but for the client's: each of its engines is there for a
    caller that has it installed.
    """
    waiting = [(f"components.{step}.component", "")]
    seen: set[str] = set()
    found: dict[str, str] = {}
    while waiting:
        module, by = waiting.pop()
        path = source(module)
        if path is None:
            found.setdefault(module.partition(".")[0], by)
        elif module not in seen:
            seen.add(module)
            names = imports(ast.parse(path.read_text()), inside_functions=not module.startswith("mira.client"))
            waiting += [(name, module) for name in names]
            waiting += [(module.rpartition(".")[0], module)] if "." in module else []
    return {module: by for module, by in found.items() if module not in sys.stdlib_module_names}


# used where it is installed; and what evaluate draws with torch, report does not draw again
NOT_NEEDED = {"promote": {"botocore"}, "report": {"torch"}}


@pytest.mark.parametrize("step", COMPONENTS)
def test_the_extra_of_a_step_brings_all_that_the_step_imports(step: str) -> None:
    text = (ROOT / "components" / step / "component.py").read_text()
    (extra,) = set(re.findall(r'@component\("(\w+)"\)', text))
    present = installed(extra)
    missing = {
        module: by
        for module, by in outside(step).items()
        if module not in NOT_NEEDED.get(step, set())
        and not {canonical(name) for name in DISTRIBUTIONS.get(module, [])} & present
    }
    assert not missing


def test_make_images_builds_every_image_that_is_run() -> None:
    run = [ROOT / "pipelines" / "compiled" / "factory.yaml", ROOT / "deploy" / "receiver.yaml"]
    wanted = {name for path in run for name in re.findall(r"image: \S+/python-(\w+):", path.read_text())}
    (line,) = re.findall(r"^IMAGES \?= (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert set(line.split()) == wanted
    assert wanted <= PROJECT["optional-dependencies"].keys()
