"""For which task a volume can be used, and if for none, why."""

import re

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from mira.dicom import headers as h
from mira.dicom.triage import modality
from mira.dicom.volume import SeriesVolume
from mira.errors import ConfigurationError
from mira.sites import Site
from mira.tasks import Modality, Task, task_of


def check_rules(site: Site) -> None:
    """Make sure that a site's rules name DICOM keywords and valid regular expressions.

    Raises:
        ConfigurationError: naming the site, the keyword and what to correct.
    """
    for rule in site.series:
        for keyword, pattern in rule.match.items():
            if tag_for_keyword(keyword) is None:
                raise ConfigurationError(
                    f"sites.yaml, site {site.id}, {rule.task}: {keyword!r} is no DICOM keyword. "
                    "Use names such as Modality, ConvolutionKernel or ScanningSequence."
                )
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigurationError(
                    f"sites.yaml, site {site.id}, {rule.task}: "
                    f"the pattern of {keyword} is no regular expression: {error}."
                ) from error


def offered(site: Site, header: Dataset) -> bool:
    """Whether a site's rules offer a series for the task of its modality.

    A site without rules offers everything. A rule fits when every pattern matches the whole value of its
    attribute; several values are joined by a backslash, as in DICOM.

    Args:
        site: the site, with its rules checked.
        header: any header of the series.
    """
    if not site.series:
        return True
    task = task_of(Modality.from_dicom(modality(header))).task
    return any(
        rule.task is task and all(re.fullmatch(p, h.text(header, k)) is not None for k, p in rule.match.items())
        for rule in site.series
    )


def tasks_of(volume: SeriesVolume) -> tuple[list[Task], dict[str, str]]:
    """(tasks that a volume can be used for, reason for the task of its modality if it cannot)."""
    spec = task_of(volume.modality)
    if volume.unit is spec.unit:
        return [spec.task], {}
    return [], {spec.task.value: volume.unit_refusal or f"needs {spec.unit}, but the voxels are in {volume.unit}"}
