"""Invented people: obviously synthetic, complete enough that de-identification has something to remove."""

import datetime as dt
from dataclasses import dataclass

from mira.phantom.noise import digest, rng_for
from mira.phantom.scanners import SiteSpec


@dataclass(frozen=True)
class Person:
    """A phantom patient.

    Attributes:
        key: unique key of seed, site and number; all that is random in the patient derives from it.
        name: PatientName.
        patient_id: PatientID.
        sex: M or F.
        birth: date of birth.
        weight_kg: weight.
        height_m: height.
        size: linear size relative to the model.
        adiposity_mm: thickness of the subcutaneous fat.
        day: day of the examinations.
        region: scanned region of CT and PET: `abdomen` or `thorax`.
    """

    key: str
    name: str
    patient_id: str
    sex: str
    birth: dt.date
    weight_kg: float
    height_m: float
    size: float
    adiposity_mm: float
    day: dt.date
    region: str

    def uid(self, *what: str | int) -> str:
        """A UID of this patient's, always the same for the same words (UUID-derived root 2.25)."""
        return f"2.25.{digest('uid', self.key, *what) >> 128}"

    def age(self) -> int:
        """Age in years on the day of the examination."""
        return self.day.year - self.birth.year - ((self.day.month, self.day.day) < (self.birth.month, self.birth.day))


def invent(seed: int, site: SiteSpec, number: int) -> Person:
    """The `number`-th patient of a site, from 1."""
    key = f"{seed}/{site.id}/{number}"
    rng = rng_for("person", key)
    size = min(max(float(rng.normal(1.0, 0.035)), 0.92), 1.08)
    adiposity = float(rng.uniform(8, 24))
    height = round(1.71 * size, 2)
    weight = round(float(22.0 * height**2 + 1.5 * (adiposity - 10) + rng.normal(0, 3)), 1)
    day = dt.date(2023, 1, 9) + dt.timedelta(days=int(rng.integers(0, 700)))
    return Person(
        key=key,
        name=f"PHANTOM^{site.short}{number:02d}",
        patient_id=f"PH-{site.short[:5]}-{number:04d}",
        sex=str(rng.choice(["M", "F"])),
        birth=dt.date(1940, 1, 1) + dt.timedelta(days=int(rng.integers(0, 50 * 365))),
        weight_kg=weight,
        height_m=height,
        size=size,
        adiposity_mm=adiposity,
        day=day,
        region=("abdomen", "thorax")[number % 2 == 0],
    )
