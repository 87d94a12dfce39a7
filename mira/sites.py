"""sites.yaml: which sites send data, where it lies, and what it may be used for."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mira.errors import ConfigurationError
from mira.tasks import Task


class Strict(BaseModel):
    """Unknown keys are errors, so that a typo is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SeriesRule(Strict):
    """Which series a site offers for a task.

    Attributes:
        task: the task.
        match: DICOM keyword -> regular expression, all of which must match the whole value, e.g.
            `{Modality: CT, ConvolutionKernel: "B3.*"}`. Empty: every usable series of the task's modality.
    """

    task: Task
    match: dict[str, str] = Field(default_factory=dict)


class Site(Strict):
    """One site.

    Attributes:
        id: short name; becomes a folder name.
        role: `train`, or `local` for the local clinical set, which is never trained on.
        path: folder, file, DICOMDIR or zip; relative paths are relative to the sites.yaml.
        series: what it offers; left out, every usable series for the task of its modality.
        minimum_cases: below this number of valid cases the site is set aside.
        remark: stands beside the site's figures in every report, e.g. a scanner shared with a train site.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    role: Literal["train", "local"]
    path: Path
    series: list[SeriesRule] = Field(default_factory=list)
    minimum_cases: int = Field(default=1, ge=0)
    remark: str = ""


class Sites(Strict):
    """The whole file."""

    sites: list[Site] = Field(min_length=1)

    @field_validator("sites")
    @classmethod
    def _unique(cls, sites: list[Site]) -> list[Site]:
        ids = [site.id for site in sites]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"site ids must be unique, but these appear twice: {', '.join(twice)}")
        return sites


def load_sites(path: Path) -> Sites:
    """Read and check a sites.yaml; the sites' paths come back absolute.

    Raises:
        ConfigurationError: naming the line, the key and the allowed values, when the file is missing,
            is not YAML, does not fit the model, or names a path that does not exist.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text)
        sites = Sites.model_validate(yaml.safe_load(text))
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}. Give the path of a sites.yaml.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "somewhere"
        raise ConfigurationError(f"{path}, {where}: not valid YAML ({getattr(error, 'problem', error)}).") from error
    except ValidationError as error:
        problems = [f"{path}, line {_line(node, e['loc'])}: {_dotted(e['loc'])}: {e['msg']}" for e in error.errors()]
        raise ConfigurationError("\n".join(problems)) from error
    resolved = [site.model_copy(update={"path": (path.parent / site.path).resolve()}) for site in sites.sites]
    for index, site in enumerate(resolved):
        if not site.path.exists():
            line = _line(node, ("sites", index, "path"))
            raise ConfigurationError(
                f"{path}, line {line}: site {site.id}: {site.path} does not exist. Correct `path`."
            )
    return Sites(sites=resolved)


def _dotted(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "file"


def _line(node: yaml.Node | None, location: tuple[int | str, ...]) -> int:
    """Line (from 1) of the deepest part of a location that exists in the document."""
    line = 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
