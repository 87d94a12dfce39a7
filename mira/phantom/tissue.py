"""What the tissues look like to the three modalities.

CT numbers are typical of portal-venous abdominal and of plain thoracic scans, SUVs of an [18F]FDG scan at one hour,
relaxation times of textbooks' tables for 1.5 T and 3 T (e.g. Stanisz et al., Magn Reson Med 54:507, 2005),
rounded; they make a believable picture and are no reference values.
"""

from dataclasses import dataclass

import numpy as np

from mira.phantom.raster import Paint


@dataclass(frozen=True)
class Torso:
    """A tissue of the trunk.

    Attributes:
        hu: CT number without contrast medium.
        enhancement: what portal-venous contrast adds, HU.
        texture: standard deviation of its inner structure, HU.
        grain: standard deviation of its finest structure, HU.
        suv: FDG uptake, SUVbw.
    """

    hu: float
    enhancement: float
    texture: float
    grain: float
    suv: float


TORSO: dict[str, Torso] = {
    "couch-shell": Torso(-160, 0, 0, 0, 0.0),
    "couch-foam": Torso(-920, 0, 4, 0, 0.0),
    "skin": Torso(25, 5, 8, 0, 0.45),
    "fat": Torso(-105, 0, 7, 5, 0.25),
    "visceral-fat": Torso(-98, 0, 9, 6, 0.35),
    "muscle": Torso(52, 10, 7, 7, 0.65),
    "lung": Torso(-845, 10, 28, 22, 0.42),
    "airway": Torso(-985, 0, 5, 0, 0.2),
    "airway-wall": Torso(-40, 20, 15, 0, 0.6),
    "lung-vessel": Torso(20, 90, 4, 0, 1.2),
    "blood": Torso(42, 110, 2, 0, 1.7),
    "vessel-wall": Torso(45, 30, 4, 0, 1.3),
    "calcification": Torso(420, 0, 60, 0, 1.2),
    "myocardium": Torso(46, 55, 5, 0, 3.4),
    "liver": Torso(58, 50, 4, 3, 2.1),
    "liver-vessel": Torso(42, 105, 2, 0, 1.8),
    "bile": Torso(8, 0, 1, 0, 0.6),
    "gallbladder-wall": Torso(35, 30, 3, 0, 0.9),
    "spleen": Torso(50, 65, 4, 3, 1.8),
    "kidney": Torso(34, 125, 6, 4, 2.6),
    "kidney-medulla": Torso(30, 85, 6, 3, 3.2),
    "kidney-pelvis": Torso(8, 10, 3, 0, 9.0),
    "pancreas": Torso(38, 50, 11, 8, 1.4),
    "adrenal": Torso(20, 40, 4, 0, 1.6),
    "gut-wall": Torso(42, 45, 6, 0, 1.7),
    "gut-content": Torso(18, 0, 14, 8, 0.9),
    "gut-gas": Torso(-965, 0, 10, 0, 0.3),
    "cortical": Torso(820, 0, 60, 0, 0.5),
    "thin-cortical": Torso(520, 0, 50, 0, 0.6),
    "trabecular": Torso(165, 0, 28, 42, 1.25),
    "rib-marrow": Torso(190, 0, 35, 35, 1.0),
    "cartilage": Torso(95, 0, 15, 0, 0.5),
    "disc": Torso(82, 0, 8, 0, 0.6),
    "cord": Torso(38, 0, 2, 0, 1.3),
    "csf": Torso(12, 0, 2, 0, 0.5),
}


@dataclass(frozen=True)
class Head:
    """A tissue of the head.

    Attributes:
        density: proton density, 1 for water.
        t1_ms: longitudinal relaxation at 1.5 T and 3 T.
        t2_ms: transverse relaxation at 1.5 T and 3 T.
        texture: relative standard deviation of its inner structure.
    """

    density: float
    t1_ms: tuple[float, float]
    t2_ms: tuple[float, float]
    texture: float


HEAD: dict[str, Head] = {
    "scalp": Head(0.75, (850, 1000), (45, 40), 0.05),
    "scalp-fat": Head(0.85, (260, 370), (80, 70), 0.06),
    "muscle": Head(0.80, (980, 1300), (38, 34), 0.07),
    "skull": Head(0.08, (900, 1000), (6, 5), 0.1),
    "diploe": Head(0.55, (380, 480), (60, 55), 0.16),
    "dura": Head(0.5, (900, 1100), (40, 35), 0.05),
    "csf": Head(1.0, (4200, 4300), (1900, 1500), 0.01),
    "grey": Head(0.84, (1150, 1550), (100, 90), 0.025),
    "white": Head(0.71, (640, 850), (74, 66), 0.022),
    "deep-grey": Head(0.80, (960, 1250), (84, 74), 0.025),
    "thalamus": Head(0.78, (900, 1180), (82, 74), 0.025),
    "flow": Head(0.06, (1400, 1600), (30, 25), 0.0),
    "slow-blood": Head(0.9, (1400, 1700), (160, 110), 0.02),
    "vitreous": Head(1.0, (3500, 3800), (1100, 900), 0.0),
    "lens": Head(0.5, (900, 1000), (25, 22), 0.0),
    "air": Head(0.0, (1000, 1000), (10, 10), 0.0),
    "mucosa": Head(0.9, (1500, 1700), (140, 120), 0.05),
    "lesion-bright": Head(0.88, (1350, 1650), (150, 130), 0.05),
    "lesion-dark": Head(0.62, (640, 780), (46, 40), 0.05),
    "lesion-faint": Head(0.76, (860, 1080), (92, 82), 0.03),
}


def ct_palette(rng: np.random.Generator, contrast: float) -> dict[str, Paint]:
    """CT numbers of one patient, [HU].

    Args:
        rng: the patient's own variation.
        contrast: 0 for a plain scan, 1 for a full portal-venous phase.
    """
    palette = {}
    for name, tissue in TORSO.items():
        soft = -50 < tissue.hu < 100
        own = rng.normal(0, 3.0 if soft else 0.02 * abs(tissue.hu))
        value = tissue.hu + contrast * tissue.enhancement + own
        palette[name] = Paint((float(value),), (tissue.texture,), (tissue.grain,))
    return palette


def pet_palette(rng: np.random.Generator) -> dict[str, Paint]:
    """FDG uptake of one patient, [SUVbw]; heart and gut vary most, as in life."""
    palette = {}
    for name, tissue in TORSO.items():
        spread = {"myocardium": 0.5, "gut-wall": 0.45, "kidney-pelvis": 0.5}.get(name, 0.1)
        value = tissue.suv * float(np.exp(rng.normal(0, spread)))
        palette[name] = Paint((value,), (0.07 * value,), (0.05 * value,))
    return palette


@dataclass(frozen=True)
class Sequence:
    """An MR sequence.

    Attributes:
        name: `T1` or `T2`.
        kind: `SE` (also turbo spin echo) or `GR` (spoiled gradient echo).
        tr_ms: repetition time.
        te_ms: (effective) echo time.
        flip_deg: flip angle; used by `GR`.
        train: echo train length.
    """

    name: str
    kind: str
    tr_ms: float
    te_ms: float
    flip_deg: float = 90.0
    train: int = 1


def mr_signal(tissue: Head, sequence: Sequence, field_t: float) -> float:
    """Signal of a tissue relative to fully relaxed water.

    Spin echo: density (1 - e^(-TR/T1)) e^(-TE/T2). Spoiled gradient echo: the Ernst formula, with T2* taken as T2 / 2
    (Bernstein, King and Zhou, Handbook of MRI Pulse Sequences, 2004, chapter 14).
    """
    index = 1 if field_t > 2 else 0
    t1, t2 = tissue.t1_ms[index], tissue.t2_ms[index]
    e1 = np.exp(-sequence.tr_ms / t1)
    if sequence.kind == "GR":
        flip = np.deg2rad(sequence.flip_deg)
        steady = np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1)
        return float(tissue.density * steady * np.exp(-sequence.te_ms / (t2 / 2)))
    return float(tissue.density * (1 - e1) * np.exp(-sequence.te_ms / t2))


def mr_palette(
    rng: np.random.Generator, sequences: tuple[Sequence, ...], field_t: float, gain: tuple[float, ...]
) -> dict[str, Paint]:
    """Signal of one patient's head, a channel per sequence, in the scanner's arbitrary units.

    Args:
        rng: the patient's own variation.
        sequences: one channel each.
        field_t: field strength, tesla.
        gain: units per unit of signal, for each sequence.
    """
    palette = {}
    for name, tissue in HEAD.items():
        own = float(np.exp(rng.normal(0, 0.02)))
        value = tuple(mr_signal(tissue, s, field_t) * own * g for s, g in zip(sequences, gain, strict=True))
        palette[name] = Paint(
            value, tuple(tissue.texture * v for v in value), tuple(0.6 * tissue.texture * v for v in value)
        )
    return palette
