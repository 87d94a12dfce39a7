"""One patient of the demo, from anatomy to files."""

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from mira.phantom.acquisition import ct_scan, mr_scan, pet_scan
from mira.phantom.config import DemoConfig
from mira.phantom.dicom_base import Frame, StudyInfo, save
from mira.phantom.dicom_images import ct_series, mr_series, pet_series
from mira.phantom.dicom_structures import contours, structure_set
from mira.phantom.fleet import SITES
from mira.phantom.head import head, render_head
from mira.phantom.identity import Person, invent
from mira.phantom.layout import file_path
from mira.phantom.lesions import Lesion, head_lesions, torso_lesions
from mira.phantom.noise import rng_for
from mira.phantom.nuisances import add_nuisances
from mira.phantom.raster import Grid, Layer, Paint, Scene, render
from mira.phantom.scanners import SiteSpec
from mira.phantom.tissue import ct_palette, mr_palette, pet_palette
from mira.phantom.torso import torso
from mira.storage import write_json

_ORGAN_TISSUE = {"right-lung": "lung", "left-lung": "lung", "liver": "liver", "spleen": "spleen"}


def make_patient(root: Path, config: DemoConfig, site_id: str, number: int) -> int:
    """Write all files of one patient and return their number.

    Args:
        root: folder that gets `inbox/<site>/...` and `truth/<site>/<patient>.json`.
        config: the demo's configuration.
        site_id: id of the site.
        number: number of the patient within the site, from 1.
    """
    site = next(s for s in SITES if s.id == site_id)
    person = invent(config.seed, site, number)
    inbox = root / "inbox" / site.id
    truth: dict[str, Any] = {}
    files = _pet_ct(inbox, config, site, person, truth) + _head_mr(inbox, config, site, person, truth)
    if config.nuisances and site.id == "site-east" and number == 1:
        files += add_nuisances(inbox, config, site, person)
    write_json(root / "truth" / site.id / f"{person.patient_id}.json", truth)
    return files


def trunk(config: DemoConfig, site: SiteSpec, person: Person) -> tuple[Scene, Grid, Grid]:
    """The patient's trunk without lesions, and the CT's and the PET's grid in it."""
    rng = rng_for("scan", person.key)
    middle = float(rng.uniform(-35, 25) if person.region == "abdomen" else rng.uniform(65, 115))
    scene = torso(person.key, person.size, person.adiposity_mm)
    fov = max(site.ct.fov_mm, 2.12 * (150 * person.size + person.adiposity_mm) + 16)
    fov = 10 * float(np.ceil(fov / 10)) if fov > site.ct.fov_mm else fov
    ct = Grid((0.0, 6.0, middle), config.ct_size, fov / config.ct_size, config.ct_slices, site.ct.slice_mm)
    pet = Grid(
        (0.0, 6.0, middle),
        config.pet_size,
        site.pet.pixel_mm * 128 / config.pet_size,
        config.pet_slices,
        site.pet.slice_mm,
    )
    return scene, ct, pet


def _pet_ct(inbox: Path, config: DemoConfig, site: SiteSpec, person: Person, truth: dict[str, Any]) -> int:
    scene, ct_grid, pet_grid = trunk(config, site, person)
    lesions = torso_lesions(scene, person.region, (float(ct_grid.z()[0]), float(ct_grid.z()[-1])))
    agent = rng_for("contrast", person.key)
    scale = float(agent.uniform(0.7, 1.1)) if person.region == "abdomen" or agent.uniform() < 0.6 else 0.0
    start = dt.datetime.combine(person.day, dt.time()) + dt.timedelta(
        hours=site.pet.hour + 0.02 * int(person.patient_id[-2:])
    )
    study = StudyInfo(
        person.uid("study", "petct"),
        f"{1000 + int(person.patient_id[-4:])}",
        f"A{site.short[:4]}{person.patient_id[-4:]}",
        start,
        f"PET-CT {person.region} for {person.name}",
    )
    reference = person.uid("frame", "petct")
    origin = (0.0, -150.0 + 30.0 * person.size, -1180.0)
    files = 0
    for modality, grid, palette, number in (
        ("CT", ct_grid, ct_palette(rng_for("hu", person.key), scale), 5),
        ("PET", pet_grid, pet_palette(rng_for("suv", person.key)), 6),
    ):
        shown = [lesion for lesion in lesions if lesion.contrast[modality]]
        painted = _with_lesions(scene, shown, palette, modality)
        voxels = render(grid, painted, palette, (-1000.0,) if modality == "CT" else (0.0,))[0]
        frame = Frame(grid, origin=origin)
        rng = rng_for("noise", modality, person.key)
        if modality == "CT":
            scan = ct_scan(voxels, grid, site.ct, rng)
            images = list(ct_series(site, person, study, frame, scan, contrast=scale > 0, reference=reference))[::-1]
        else:
            scan = pet_scan(voxels, grid, site.pet, rng)
            images = list(pet_series(site, person, study, frame, scan, reference=reference))[::-1]
        files += _write(inbox, site, person, images, structure_set(site, person, study, frame, images, shown, number))
        unit = "HU" if modality == "CT" else "SUVbw"
        truth[str(images[0].SeriesInstanceUID)] = {
            "modality": modality,
            "unit": unit,
            "lesions": [_truth(lesion, frame, lesion.contrast[modality]) for lesion in shown],
        }
    return files


def _with_lesions(scene: Scene, lesions: list[Lesion], palette: dict[str, Paint], modality: str) -> Scene:
    """The scene with its lesions on top; their paint (organ plus contrast) is added to the palette."""
    layers = []
    for lesion in lesions:
        organ = palette[_ORGAN_TISSUE.get(lesion.organ, "trabecular")]
        value = organ.value[0] + lesion.contrast[modality]
        texture = organ.texture if abs(lesion.contrast[modality]) < 100 else (8.0,)
        palette[lesion.name] = Paint((value,), texture if modality == "CT" else (0.05 * value,), (0.0,))
        layers.append(Layer(lesion.blob, lesion.name, exact=True))
    return replace(scene, layers=scene.layers + tuple(layers))


def _head_mr(inbox: Path, config: DemoConfig, site: SiteSpec, person: Person, truth: dict[str, Any]) -> int:
    protocol = site.mr
    rng = rng_for("mr", person.key)
    size = 8 * round(config.mr_size * protocol.matrix / 8)
    middle = float(rng.uniform(12, 24))
    grid = Grid((0.0, 2.0, middle), size, protocol.fov_mm / size, config.mr_slices, protocol.slice_mm)
    scene = head(person.key, 0.5 + 0.5 * person.size)
    lesions = head_lesions(scene, (float(grid.z()[0]), float(grid.z()[-1])))
    prescan = float(np.exp(rng.normal(0, 0.12)))
    gain = (protocol.gain[0] * prescan, protocol.gain[1] * prescan)
    palette = mr_palette(rng_for("signal", person.key), protocol.sequences, protocol.field_t, gain)
    painted = replace(
        scene, layers=scene.layers + tuple(Layer(lesion.blob, lesion.tissue, exact=True) for lesion in lesions)
    )
    voxels = render_head(grid, painted, palette)
    start = dt.datetime.combine(person.day + dt.timedelta(days=3), dt.time(9)) + dt.timedelta(
        minutes=float(rng.uniform(0, 400))
    )
    study = StudyInfo(
        person.uid("study", "mr"),
        f"{2000 + int(person.patient_id[-4:])}",
        f"M{site.short[:4]}{person.patient_id[-4:]}",
        start,
        "MR head",
    )
    reference = person.uid("frame", "mr")
    frame = Frame(grid, protocol.tilt_deg, (2.5, -14.0, 31.0))
    files = 0
    for channel, sequence in enumerate(protocol.sequences):
        white = palette["white"].value[channel]
        scan = mr_scan(voxels[channel], grid, protocol, white, scene.box, rng_for("noise", sequence.name, person.key))
        images = list(mr_series(site, person, study, frame, scan, sequence, reference=reference))
        files += _write(
            inbox, site, person, images, structure_set(site, person, study, frame, images, lesions, 7 + channel)
        )
        truth[str(images[0].SeriesInstanceUID)] = {
            "modality": "MR",
            "unit": "a.u.",
            "lesions": [_truth(lesion, frame, palette[lesion.tissue].value[channel] - white) for lesion in lesions],
        }
    return files


def _truth(lesion: Lesion, frame: Frame, contrast: float) -> dict[str, Any]:
    centre = frame.to_patient(np.array(lesion.blob.centre))
    return {
        "name": lesion.name,
        "organ": lesion.organ,
        "centre_lps_mm": [round(float(v), 3) for v in centre],
        "radius_mm": round(lesion.radius_mm, 3),
        "contrast": round(float(contrast), 3),
        "slices_contoured": sorted(contours(lesion, frame)),
    }


def _write(inbox: Path, site: SiteSpec, person: Person, images: list[Dataset], contoured: Dataset | None) -> int:
    objects = [*images, contoured] if contoured is not None else images
    for ds in objects:
        save(ds, inbox / file_path(site.layout, person, ds), site.implicit)
    return len(objects)
