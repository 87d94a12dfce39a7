"""What the demo data are: how many patients, how large, and from which seed."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Preset = Literal["demo", "small"]

_PRESETS: dict[str, dict[str, int]] = {
    "demo": {
        "patients_per_site": 5,
        "local_patients": 3,
        "ct_size": 256,
        "ct_slices": 10,
        "pet_size": 128,
        "pet_slices": 12,
        "mr_size": 208,
        "mr_slices": 10,
    },
    "small": {
        "patients_per_site": 3,
        "local_patients": 2,
        "ct_size": 128,
        "ct_slices": 4,
        "pet_size": 96,
        "pet_slices": 5,
        "mr_size": 112,
        "mr_slices": 4,
    },
}


class DemoConfig(BaseModel):
    """Size and seed of the demo data; what is not given comes from the preset.

    The same configuration gives the same bytes, another seed gives other patients.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=2026, ge=0, description="seed of everything random: other seed, other patients")
    preset: Preset = Field(default="demo", description="sizes for what is not given: `demo`, or `small` for tests")
    patients_per_site: int = Field(default=5, ge=1, le=99, description="patients of each of the three train sites")
    local_patients: int = Field(default=3, ge=1, le=99, description="patients of the local site")
    ct_size: int = Field(default=256, ge=64, le=1024, description="rows and columns of a CT slice")
    ct_slices: int = Field(default=10, ge=2, le=200, description="slices of a CT series")
    pet_size: int = Field(default=128, ge=64, le=512, description="rows and columns of a PET slice")
    pet_slices: int = Field(default=12, ge=2, le=200, description="slices of a PET series")
    mr_size: int = Field(
        default=208, ge=64, le=1024, description="rows and columns of an MR slice; sites vary it by 8 %"
    )
    mr_slices: int = Field(default=10, ge=2, le=200, description="slices of each MR series")
    nuisances: bool = Field(
        default=True, description="add what real inboxes hold too: a localiser, a dose page, a duplicate, stray files"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {**_PRESETS.get(given.get("preset", "demo"), {}), **given}
