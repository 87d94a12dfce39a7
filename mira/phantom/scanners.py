"""How a site's scanners are described: devices, protocols and the habits of each vendor's DICOM."""

from dataclasses import dataclass
from typing import Literal

from mira.phantom.tissue import Sequence

Layout = Literal["siemens", "ge", "philips", "canon"]


@dataclass(frozen=True)
class Device:
    """A scanner as it names itself."""

    manufacturer: str
    model: str
    serial: str
    software: str


@dataclass(frozen=True)
class CtProtocol:
    """CT scanner and protocol.

    Attributes:
        device: the scanner.
        kernel: ConvolutionKernel as written.
        cutoff_per_mm: spatial frequency at which the kernel has fallen to half.
        boost: edge enhancement: how much the kernel lifts middle frequencies.
        noise_hu: noise in the middle of a 300 mm wide abdomen at the routine dose.
        fov_mm: reconstruction diameter.
        slice_mm: slice thickness and distance.
        kvp: tube voltage.
        tube_current_ma: tube current.
        exposure_ms: exposure time per rotation.
        pitch: spiral pitch.
        bits_stored: bits that the pixels use.
        signed: two's complement pixels.
        intercept: RescaleIntercept.
        padding: stored value outside the circle of reconstruction, or None where it is filled with air.
        ctdi_mgy: CTDIvol.
    """

    device: Device
    kernel: str
    cutoff_per_mm: float
    boost: float
    noise_hu: float
    fov_mm: float
    slice_mm: float
    kvp: float
    tube_current_ma: int
    exposure_ms: int
    pitch: float
    bits_stored: int
    signed: bool
    intercept: int
    padding: int | None
    ctdi_mgy: float


@dataclass(frozen=True)
class PetProtocol:
    """PET scanner and protocol.

    Attributes:
        device: the scanner.
        reconstruction: ReconstructionMethod as written.
        resolution_mm: full width at half maximum of a point, reconstructed.
        noise_fraction: coefficient of variation in the liver at full counts.
        pixel_mm: in-plane distance at 128 columns.
        slice_mm: slice distance.
        decay_correction: `START` or `ADMIN`.
        uptake_min: minutes from injection to scan.
        frame_s: duration of a bed position.
        dose_mbq_per_kg: injected activity.
        start_time_only: writes no RadiopharmaceuticalStartDateTime, as many systems do.
        hour: hour of the day at which the scan starts.
    """

    device: Device
    reconstruction: str
    resolution_mm: float
    noise_fraction: float
    pixel_mm: float
    slice_mm: float
    decay_correction: Literal["START", "ADMIN"]
    uptake_min: float
    frame_s: float
    dose_mbq_per_kg: float
    start_time_only: bool
    hour: float


@dataclass(frozen=True)
class MrProtocol:
    """MR scanner and protocol.

    Attributes:
        device: the scanner.
        field_t: field strength.
        sequences: the T1 and the T2 sequence.
        gain: stored units per unit of signal, for each sequence.
        snr: signal of white matter over the noise's standard deviation in each channel.
        fill: fraction of k-space acquired along (rows, columns); the rest is zero-filled.
        bias: size of the receive field's unevenness.
        matrix: rows and columns relative to the configured size.
        fov_mm: field of view.
        slice_mm: slice thickness.
        tilt_deg: rotation of the stack about the left-right axis.
    """

    device: Device
    field_t: float
    sequences: tuple[Sequence, Sequence]
    gain: tuple[float, float]
    snr: float
    fill: tuple[float, float]
    bias: float
    matrix: float
    fov_mm: float
    slice_mm: float
    tilt_deg: float


@dataclass(frozen=True)
class SiteSpec:
    """A site of the demo.

    Attributes:
        id: site id.
        role: `train` or `local`.
        hospital: InstitutionName.
        layout: how its archive lays out files.
        implicit: implicit instead of explicit VR little endian.
        charset: SpecificCharacterSet.
        ct: CT.
        pet: PET.
        mr: MR.
        remark: for sites.yaml.
    """

    id: str
    role: Literal["train", "local"]
    hospital: str
    layout: Layout
    implicit: bool
    charset: str
    ct: CtProtocol
    pet: PetProtocol
    mr: MrProtocol
    remark: str

    @property
    def short(self) -> str:
        """The site's word in invented names."""
        return self.id.removeprefix("site-").upper()
