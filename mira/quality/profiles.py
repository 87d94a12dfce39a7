"""Named metric profiles: the clip range, the window and the data-range rule that a PSNR or SSIM depends on.

The same image can differ by 20 dB between two conventions, so no figure is given without the name of its profile.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mira.errors import ConfigurationError
from mira.tasks import Modality

Range = tuple[float, float]


@dataclass(frozen=True)
class Convention:
    """How one modality is prepared and measured.

    Attributes:
        clip: full range to which both images are clipped, in native units (for MR: after `mr_unit`).
        window: evaluation window to which both are truncated then.
        data_range: `slice` for max - min of the reference slice after truncation, or a fixed number.
        mr_unit: divide MR by the case's robust scale and multiply by this number first; None for native values.
    """

    clip: Range
    window: Range
    data_range: Literal["slice"] | float
    mr_unit: float | None = None


@dataclass(frozen=True)
class Profile:
    """A named set of conventions.

    Attributes:
        name: stands beside every figure.
        meaning: one sentence for a reader of the figures.
        conventions: for each modality that the profile defines.
    """

    name: str
    meaning: str
    conventions: dict[Modality, Convention]

    def convention(self, modality: Modality) -> Convention:
        """The convention of a modality.

        Raises:
            ConfigurationError: when the profile does not define the modality.
        """
        if modality not in self.conventions:
            known = ", ".join(self.conventions)
            raise ConfigurationError(
                f"Profile {self.name} defines {known} only, not {modality}. Choose another profile."
            )
        return self.conventions[modality]


_CT_FULL, _PET_FULL, _MR_FULL = (-1024.0, 3071.0), (0.0, 20.0), (0.0, 4095.0)
_CT = Convention(_CT_FULL, (-160.0, 240.0), "slice")
_PET = Convention(_PET_FULL, _PET_FULL, "slice")
# The robust scale is the 99.5th percentile of the foreground: 1000 stands for the brightest tissue, whatever the site.
MR_ROBUST_UNIT = 1000.0

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            "amir",
            "The field's tables (AMIR, Restore-RWKV, TAT): CT truncated to [-160, 240] HU, PET to [0, 20] SUV, MR to "
            "[0, 4095] in the image's own values; data range is max - min of each reference slice; mean over slices.",
            {Modality.CT: _CT, Modality.PET: _PET, Modality.MR: Convention(_MR_FULL, _MR_FULL, "slice")},
        ),
        Profile(
            "robust",
            "As amir, but MR is first scaled so that its robust scale is 1000; sites with other intensity scales, and "
            "values beyond 4095, are then measured alike.",
            {
                Modality.CT: _CT,
                Modality.PET: _PET,
                Modality.MR: Convention(_MR_FULL, _MR_FULL, "slice", MR_ROBUST_UNIT),
            },
        ),
        Profile(
            "fixed",
            "Fixed data ranges without truncation: CT 4095 HU, PET 20 SUV, MR 4095; about 20, 10 and 11 dB above amir.",
            {
                Modality.CT: Convention(_CT_FULL, _CT_FULL, 4095.0),
                Modality.PET: Convention(_PET_FULL, _PET_FULL, 20.0),
                Modality.MR: Convention(_MR_FULL, _MR_FULL, 4095.0),
            },
        ),
        Profile(
            "redcnn",
            "CT only: truncated to [-160, 240] HU with a fixed data range of 400 HU.",
            {Modality.CT: Convention(_CT_FULL, (-160.0, 240.0), 400.0)},
        ),
    )
}


def profile_named(name: str) -> Profile:
    """Look a profile up.

    Raises:
        ConfigurationError: for an unknown name, listing the known ones.
    """
    if name not in PROFILES:
        raise ConfigurationError(f"Unknown metric profile {name!r}. Choose one of: {', '.join(sorted(PROFILES))}.")
    return PROFILES[name]


def prepare(
    images: NDArray[np.float32], convention: Convention, modality: Modality, mr_scale: float | None
) -> NDArray[np.float32]:
    """Bring native values into a convention's window.

    Raises:
        ConfigurationError: when an MR convention needs the robust scale and there is none.
    """
    values = np.asarray(images, dtype=np.float32)
    if modality is Modality.MR and convention.mr_unit is not None:
        if mr_scale is None or mr_scale <= 0:
            raise ConfigurationError("This profile divides MR by the case's robust scale; give it (mr_scale).")
        values = values * np.float32(convention.mr_unit / mr_scale)
    low, high = max(convention.clip[0], convention.window[0]), min(convention.clip[1], convention.window[1])
    return np.clip(values, low, high)
