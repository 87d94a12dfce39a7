"""Why a file or series cannot be used, in a code for machines and words for a radiographer."""

from enum import StrEnum

from mira.errors import DataRejected


class Reason(StrEnum):
    """Reason code; `text` explains it."""

    NOT_DICOM = "not-dicom"
    UNREADABLE = "unreadable"
    DIRECTORY = "dicom-directory"
    MISSING_FILE = "missing-file"
    UNSAFE_ARCHIVE = "unsafe-archive"
    UNREADABLE_FOLDER = "unreadable-folder"
    NOT_AN_IMAGE = "not-an-image"
    OTHER_MODALITY = "other-modality"
    SECONDARY_CAPTURE = "secondary-capture"
    LOCALISER = "localiser"
    DOSE_PAGE = "dose-page"
    BURNED_IN = "burned-in-text"
    COLOUR = "colour"
    REFORMATTED = "reformatted"
    PARAMETRIC = "parametric-map"
    NOT_MAGNITUDE = "not-magnitude"
    ALREADY_RESTORED = "already-restored"
    NO_PIXELS = "no-pixels"
    UNDECODABLE = "undecodable"
    NO_DECODER = "no-decoder"
    NO_GEOMETRY = "no-geometry"
    BAD_GEOMETRY = "bad-geometry"
    MIXED_SIZES = "mixed-sizes"
    GANTRY_TILT = "gantry-tilt"
    UNEVEN = "uneven-spacing"
    TOO_FEW = "too-few-slices"
    TOO_SMALL = "too-small"
    NOT_OFFERED = "not-offered"
    REPEATED = "repeated-positions"
    NO_RESCALE = "no-rescale"
    NOT_HU = "not-hu"
    NO_PET_UNIT = "no-pet-unit"
    PET_COUNTS = "pet-in-counts"
    NOT_SUVBW = "not-suvbw"
    EMPTY_IMAGE = "empty-image"
    SEVERAL_VOLUMES = "several-volumes"
    CRASHED = "reader-crashed"
    STRUCTURES = "structures-not-used"

    @property
    def text(self) -> str:
        """Explanation in plain words."""
        return TEXTS[self]


TEXTS: dict[Reason, str] = {
    Reason.NOT_DICOM: "not a DICOM file",
    Reason.UNREADABLE: "the DICOM header is damaged or cut off",
    Reason.DIRECTORY: "a DICOMDIR is an index and holds no images itself",
    Reason.MISSING_FILE: "the DICOMDIR names a file that is not there",
    Reason.UNSAFE_ARCHIVE: "the zip file is damaged, encrypted or unpacks to an unreasonable size",
    Reason.UNREADABLE_FOLDER: "a link to a folder, or a folder that cannot be listed: name it itself, let us read it",
    Reason.NOT_AN_IMAGE: "not an image (report, plan, dose, contours, waveform or other object)",
    Reason.OTHER_MODALITY: "not a CT, PET or MR image",
    Reason.SECONDARY_CAPTURE: "a secondary capture (screenshot or page), not scanner data",
    Reason.LOCALISER: "a localiser (scout, topogram, survey), not a volume",
    Reason.DOSE_PAGE: "a dose page, not scanner data",
    Reason.BURNED_IN: "text is burned into the image",
    Reason.COLOUR: "a colour image; quantitative images are grey-scale",
    Reason.REFORMATTED: "a reformatted or projected image (MPR, MIP, rendering), not the reconstructed slices",
    Reason.PARAMETRIC: "a computed map (ADC, perfusion, ...), not an acquired image",
    Reason.NOT_MAGNITUDE: "a phase, real or imaginary MR image; only magnitude images can be used",
    Reason.ALREADY_RESTORED: "already restored by this software; restore or train on the original series",
    Reason.NO_PIXELS: "the file holds no pixels",
    Reason.UNDECODABLE: "the pixels cannot be decoded: cut off, damaged or in an unsupported compression",
    Reason.NO_DECODER: "no codec for its compression is installed: pip install 'mira-net[codecs]', then try again",
    Reason.NO_GEOMETRY: "position, orientation or pixel spacing is missing",
    Reason.BAD_GEOMETRY: "position, orientation or pixel spacing contradict each other",
    Reason.MIXED_SIZES: "slices of different matrix or pixel size in one series",
    Reason.GANTRY_TILT: "slices are sheared (tilted gantry): the grid is not rectangular",
    Reason.UNEVEN: "slice distances differ: slices are missing or were taken at uneven steps",
    Reason.TOO_FEW: "fewer than 3 slices: with one gap only, nobody can tell whether a slice is missing",
    Reason.TOO_SMALL: "the image matrix is smaller than the minimum",
    Reason.NOT_OFFERED: "the rules of the site in sites.yaml do not offer it for any task",
    Reason.REPEATED: "several slices at the same position, and the headers do not tell which belong together",
    Reason.NO_RESCALE: "rescale slope and intercept are missing, so the physical scale is not known",
    Reason.NOT_HU: "the CT values are not Hounsfield units",
    Reason.NO_PET_UNIT: "the PET unit is missing or is none that leads to activity or SUV",
    Reason.PET_COUNTS: "the PET is in counts, and its header holds no factor that leads to activity or SUV",
    Reason.NOT_SUVBW: "the PET holds SUV of another kind than by body weight (lean mass, surface)",
    Reason.EMPTY_IMAGE: "all pixels have the same value or none is above zero",
    Reason.SEVERAL_VOLUMES: "the series holds several volumes",
    Reason.CRASHED: "this software failed on it in an unforeseen way: please report the words in brackets",
    Reason.STRUCTURES: "the contours do not fit any image series that was taken",
}


class Refused(DataRejected):
    """A file or series that cannot be used: `reason` is the code, `detail` holds figures, never text of a header."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.text} ({self.detail})" if self.detail else self.reason.text
