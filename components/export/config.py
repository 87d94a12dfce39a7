"""Parameters of the export step: which precisions to make, and how far each may be from torch in f32."""

from enum import StrEnum
from typing import Any

from pydantic import Field, model_validator

from mira.cases import Record
from mira.errors import ConfigurationError
from mira.tasks import Modality

UNITS = {Modality.CT: "HU", Modality.PET: "SUVbw", Modality.MR: "mr_scale"}  # of differences and tolerances


class Precision(StrEnum):
    """What a network computes in."""

    F32 = "f32"
    FP16 = "fp16"  # a strongly typed graph of its own, for TensorRT
    BF16 = "bf16"  # the f32 graph, computed in bfloat16 where the processor has it
    INT8 = "int8"  # a graph of its own with quantised convolutions


def check_served(slices: int) -> None:
    """Make sure that a network sees one slice at a time, as the serving contract has it.

    Args:
        slices: how many it sees (`train.slices`).

    Raises:
        ConfigurationError: when it sees several.
    """
    if slices != 1:
        raise ConfigurationError(
            f"A network that sees {slices} slices (train.slices) is neither exported nor served: the server takes "
            "single slices. Train it by `python -m components.train` and restore in process by `mira restore --weights "
            "FOLDER`, or set train.slices: 1."
        )


class Tolerance(Record):
    """How far an engine may be from torch in f32; each bound is on the worst held-out slice or pair."""

    hu: float = Field(gt=0, description="largest difference of a CT pixel, HU")
    suv: float = Field(gt=0, description="largest difference of a PET pixel, SUVbw")
    mr: float = Field(gt=0, description="largest difference of an MR pixel, as a share of the MR scale")
    rms_hu: float = Field(gt=0, description="root mean square difference of a CT slice, HU")
    rms_suv: float = Field(gt=0, description="root mean square difference of a PET slice, SUVbw")
    rms_mr: float = Field(gt=0, description="root mean square difference of an MR slice, as a share of the MR scale")
    indicators: float = Field(gt=0, description="modality probabilities, degradation and instruction")
    psnr_db: float = Field(gt=0, description="loss of PSNR against the reference, dB")
    bias_hu: float = Field(gt=0, description="change of the mean of uniform soft tissue, HU")
    bias_percent: float = Field(gt=0, description="change of mean SUV, SUVmax or mean MR, percent of the reference")
    recovery: float = Field(gt=0, description="change of the contrast of a contoured structure, share of the reference")

    def largest(self, modality: Modality) -> float:
        """The bound of a modality's worst pixel, in the unit of `UNITS`."""
        return {Modality.CT: self.hu, Modality.PET: self.suv, Modality.MR: self.mr}[modality]

    def rms(self, modality: Modality) -> float:
        """The bound of a modality's root mean square difference, in the unit of `UNITS`."""
        return {Modality.CT: self.rms_hu, Modality.PET: self.rms_suv, Modality.MR: self.rms_mr}[modality]


DEFAULTS: dict[Precision, dict[str, float]] = {
    Precision.F32: {
        "hu": 0.05, "suv": 5e-4, "mr": 1e-4, "rms_hu": 0.01, "rms_suv": 1e-4, "rms_mr": 2e-5,
        "indicators": 1e-3, "psnr_db": 1e-3, "bias_hu": 0.01, "bias_percent": 0.01, "recovery": 1e-3,
    },
    Precision.FP16: {
        "hu": 2.0, "suv": 0.02, "mr": 5e-3, "rms_hu": 0.2, "rms_suv": 2e-3, "rms_mr": 5e-4,
        "indicators": 0.02, "psnr_db": 0.01, "bias_hu": 0.1, "bias_percent": 0.1, "recovery": 0.01,
    },
    Precision.BF16: {
        "hu": 15.0, "suv": 0.2, "mr": 0.03, "rms_hu": 2.0, "rms_suv": 0.02, "rms_mr": 3e-3,
        "indicators": 0.1, "psnr_db": 0.05, "bias_hu": 0.5, "bias_percent": 0.5, "recovery": 0.02,
    },
    Precision.INT8: {
        "hu": 20.0, "suv": 0.3, "mr": 0.06, "rms_hu": 2.0, "rms_suv": 0.03, "rms_mr": 0.01,
        "indicators": 0.1, "psnr_db": 0.1, "bias_hu": 1.0, "bias_percent": 1.0, "recovery": 0.05,
    },
}  # fmt: skip


def _default(precision: Precision) -> Tolerance:
    return Tolerance(**DEFAULTS[precision])


class Tolerances(Record):
    """The tolerance of each precision; single bounds may be given, the others stay."""

    f32: Tolerance = _default(Precision.F32)
    fp16: Tolerance = _default(Precision.FP16)
    bf16: Tolerance = _default(Precision.BF16)
    int8: Tolerance = _default(Precision.INT8)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        known = {precision.value: defaults for precision, defaults in DEFAULTS.items()}
        return {
            key: {**known[key], **value} if key in known and isinstance(value, dict) else value
            for key, value in given.items()
        }

    def of(self, precision: Precision) -> Tolerance:
        """The tolerance of a precision."""
        chosen: Tolerance = getattr(self, precision.value)
        return chosen


class ExportConfig(Record):
    """Parameters of the export step."""

    precisions: list[Precision] = Field(
        default_factory=lambda: [Precision.F32, Precision.FP16, Precision.BF16],
        description="what to make and check: f32 always; fp16 for TensorRT; bf16 and int8 for OpenVINO, int8 needs "
        "NNCF and training pairs",
    )
    required_precisions: list[Precision] = Field(
        default_factory=lambda: [Precision.F32],
        description="precisions without which the step fails; any other outside tolerance is left out, with its reason",
    )
    slices_per_task: int = Field(3, ge=1, description="held-out pairs per task on which torch and an engine meet")
    calibration_slices: int = Field(48, ge=3, description="slices of training pairs that int8 is calibrated on")
    tolerances: Tolerances = Field(
        default_factory=Tolerances, description="how far each precision may be from torch in f32"
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves it to the runtimes")

    @model_validator(mode="after")
    def _consistent(self) -> "ExportConfig":
        if Precision.F32 not in self.precisions:
            raise ValueError("precisions must hold f32: every other one is measured beside it")
        missing = [precision.value for precision in self.required_precisions if precision not in self.precisions]
        if missing:
            raise ValueError(f"required_precisions names {', '.join(missing)}, which precisions does not")
        return self
