"""What a derived series says of its making: by what, of which images, and in which codes."""

from dataclasses import dataclass
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import generate_uid

from mira import __version__
from mira.dicom import headers as h
from mira.dicom.triage import is_enhanced, sop_class

CODING_SCHEME = "99MIRA"


@dataclass(frozen=True)
class Derivation:
    """What made a derived series.

    Attributes:
        label: appended to the series description, e.g. `MIRA-Net, research use`; plain ASCII.
        description: what was done, for `DerivationDescription`; plain ASCII.
        code: value and meaning of the derivation code in the project's own scheme; the standard's CID 7203 has no
            code for it.
        manufacturer: maker of the software.
        model: name of the network or simulator.
        versions: versions of the network and of the software.
        keeps_unseen: whether CT values below air, which the reader made air, are the source's own in the derived
            series, since its maker did not see them.
    """

    label: str
    description: str
    code: tuple[str, str]
    manufacturer: str
    model: str
    versions: tuple[str, ...]
    keeps_unseen: bool = False


def restored_by(model: str, version: str) -> Derivation:
    """The derivation of a restored series; readers recognise it and refuse to restore it again."""
    return Derivation(
        label="MIRA-Net, research use",
        description=f"Restored slice by slice by the neural network MIRA-Net ({model} {version or 'unversioned'}). "
        "Research use only; not for primary diagnosis.",
        code=("RESTORED", "Image restoration by neural network"),
        manufacturer="MIRA-Net project",
        model=model,
        versions=(version or "unversioned", f"mira {__version__}"),
        keeps_unseen=True,
    )


def simulated_by(simulator: str, what: str) -> Derivation:
    """The derivation of a series that simulates a low dose, few counts or a low resolution.

    Args:
        simulator: name and version of the simulator.
        what: what was simulated, e.g. `dose fraction 0.1`.
    """
    return Derivation(
        label=f"simulated {what}",
        description=f"Degraded by simulation: {what}. Not acquired like this; for tests only.",
        code=("SIMULATED", "Simulated degradation"),
        manufacturer="mira simulator",
        model=simulator,
        versions=(f"mira {__version__}",),
    )


def source_reference(source: Dataset) -> Dataset:
    """The item that names the source image of a derived one."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class(source)
    item.ReferencedSOPInstanceUID = h.text(source, "SOPInstanceUID") or generate_uid()
    if is_enhanced(source):
        item.ReferencedFrameNumber = int(h.number(source, "InstanceNumber") or 1)
    item.SpatialLocationsPreserved = "YES"
    purpose = code("121322", "Source image for image processing operation", "DCM")
    item.PurposeOfReferenceCodeSequence = DicomSequence([purpose])
    return item


def equipment(purpose: Derivation, moment: datetime) -> Dataset:
    """The item that says by what, and when, a derived image was made."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = DicomSequence([code("109102", "Processing Equipment", "DCM")])
    item.Manufacturer = purpose.manufacturer
    item.ManufacturerModelName = purpose.model
    item.SoftwareVersions = list(purpose.versions)
    item.ContributionDateTime = moment.strftime("%Y%m%d%H%M%S.%f%z")
    item.ContributionDescription = purpose.description[:64]
    return item


def code(value: str, meaning: str, scheme: str = CODING_SCHEME) -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def name_coding_scheme(dataset: Dataset) -> None:
    """Explain the private coding scheme to whoever meets its code."""
    known = h.items(dataset, "CodingSchemeIdentificationSequence")
    if all(h.text(item, "CodingSchemeDesignator") != CODING_SCHEME for item in known):
        item = Dataset()
        item.CodingSchemeDesignator = CODING_SCHEME
        item.CodingSchemeName = "MIRA-Net derivation codes"
        item.CodingSchemeResponsibleOrganization = "MIRA-Net project"
        dataset.CodingSchemeIdentificationSequence = DicomSequence([*known, item])


def suffixed(text: str, label: str) -> str:
    """A series description with the label, within the 64 characters of its type; a word is kept whole or left out."""
    suffix = f" ({label})"[:64]
    room = 64 - len(suffix)
    if len(text) > room:
        whole = text[: room - 2].rpartition(" ")[0]  # a description of one long word has to be cut
        text = (whole or text[: room - 3]).rstrip(" ,;:-_(") + "..."
    return (text.rstrip() + suffix).strip()


def joined(before: str, text: str) -> str:
    """A derivation description after the one that the source had, within the 1024 characters of its type."""
    return f"{before[: 1000 - len(text)]}; {text}" if before else text
