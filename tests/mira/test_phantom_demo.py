import datetime as dt
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydantic import ValidationError
from scipy.ndimage import binary_dilation
from skimage.draw import polygon2mask

from mira.cli import main
from mira.errors import ConfigurationError
from mira.phantom.demo import DemoConfig, make_demo
from mira.phantom.patient import make_patient
from mira.sites import load_sites
from mira.storage import hash_tree
from tests.dicom_checks import assert_valid_dicom, dciodvfy_messages

CONFIG = DemoConfig(seed=11, preset="small", patients_per_site=2, local_patients=1)
SITES = ["site-east", "site-harbour", "site-north", "site-south"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    make_demo(root, CONFIG, processes=2)
    return root


@pytest.fixture(scope="module")
def series(demo) -> dict[tuple[str, str], list[pydicom.Dataset]]:
    """(site, SeriesInstanceUID) to its datasets along the slice normal; duplicates left out."""
    found = defaultdict(dict)
    for path in sorted((demo / "inbox").rglob("*")):
        if path.is_file() and path.suffix not in (".jpg", ".txt"):
            ds = pydicom.dcmread(path)
            ds.private_path = path
            found[path.relative_to(demo / "inbox").parts[0], ds.SeriesInstanceUID].setdefault(ds.SOPInstanceUID, ds)
    return {
        key: sorted(images.values(), key=lambda ds: float(ds.get("SliceLocation", 0))) for key, images in found.items()
    }


def stacks(series, modality):
    return {key: images for key, images in series.items() if images[0].Modality == modality and len(images) > 1}


def values(images):
    return np.stack(
        [ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0)) for ds in images]
    )


def suv_factor(ds):
    """SUVbw per BQML by the formula of QIBA's pseudo-code, written anew."""
    drug = ds.RadiopharmaceuticalInformationSequence[0]
    dose = float(drug.RadionuclideTotalDose)
    start = dt.datetime.strptime(ds.SeriesDate + ds.SeriesTime, "%Y%m%d%H%M%S.%f")
    if "RadiopharmaceuticalStartDateTime" in drug:
        injected = dt.datetime.strptime(drug.RadiopharmaceuticalStartDateTime, "%Y%m%d%H%M%S.%f")
    else:
        injected = dt.datetime.strptime(ds.SeriesDate + drug.RadiopharmaceuticalStartTime, "%Y%m%d%H%M%S.%f")
    if ds.DecayCorrection == "START":
        dose *= 0.5 ** ((start - injected).total_seconds() / float(drug.RadionuclideHalfLife))
    return float(ds.PatientWeight) * 1000 / dose


def inside(image, contours, mask_of):
    """Mask of a slice's pixels within the contours that refer to it."""
    mask = np.zeros((image.Rows, image.Columns), dtype=bool)
    corner = np.array(image.ImagePositionPatient, dtype=float)
    along = np.array(image.ImageOrientationPatient, dtype=float).reshape(2, 3)
    for contour in contours:
        if contour.ContourImageSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID:
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) - corner
            column, row = points @ along[0], points @ along[1]
            normal = np.cross(*along)
            np.testing.assert_allclose(points @ normal, 0, atol=0.05)
            step = float(image.PixelSpacing[0])
            mask |= polygon2mask(mask_of, np.stack([row, column], axis=1) / step)
    return mask


def test_the_sites_file_is_accepted_and_names_vendors_of_its_own(demo, series):
    sites = load_sites(demo / "sites.yaml").sites
    assert [site.role for site in sites].count("local") == 1
    assert sorted(site.id for site in sites) == SITES
    vendors = {
        site: {images[0].Manufacturer for (s, _), images in stacks(series, "CT").items() if s == site} for site in SITES
    }
    assert all(len(names) == 1 for names in vendors.values())
    assert len(set().union(*vendors.values())) == 4


def test_every_patient_has_ct_pet_t1_and_t2(series):
    kinds = defaultdict(list)
    for (site, _), images in series.items():
        if len(images) > 1:
            modality = images[0].Modality
            kind = images[0].SeriesDescription[:2] if modality == "MR" else modality
            kinds[site, images[0].PatientID].append(kind)
    assert len(kinds) == 7
    assert all(sorted(found) == ["CT", "PT", "t1", "t2"] for found in kinds.values())


def test_identities_are_plainly_invented_and_belong_to_one_site(series):
    owners = defaultdict(set)
    for (site, _), images in series.items():
        for ds in images:
            assert str(ds.PatientName).startswith("PHANTOM^")
            assert ds.PatientID.startswith("PH-")
            assert ds.DeviceSerialNumber.startswith("DEMO-")
            owners[ds.PatientID].add((site, str(ds.PatientName), ds.PatientBirthDate, ds.PatientSex))
    assert all(len(found) == 1 for found in owners.values())


def test_uids_are_unique(series):
    instances = [ds.SOPInstanceUID for images in series.values() for ds in images]
    assert len(instances) == len(set(instances))
    assert all(len({ds.StudyInstanceUID for ds in images}) == 1 for images in series.values())


@pytest.mark.parametrize("modality", ["CT", "PT", "MR"])
def test_slices_are_evenly_spaced_and_differ(series, modality):
    for images in stacks(series, modality).values():
        corners = np.array([ds.ImagePositionPatient for ds in images], dtype=float)
        steps = np.diff(corners, axis=0)
        np.testing.assert_allclose(steps, steps[:1].repeat(len(steps), axis=0), atol=1e-3)
        normal = np.cross(*np.array(images[0].ImageOrientationPatient, dtype=float).reshape(2, 3))
        assert steps[0] @ normal == pytest.approx(float(images[0].SliceThickness), abs=1e-3)
        assert len({ds.PixelData for ds in images}) == len(images)


def test_ct_shows_air_fat_soft_tissue_and_bone(series):
    for (site, _), images in stacks(series, "CT").items():
        hu = values(images)
        shares = [
            np.mean((hu > low) & (hu < high)) for low, high in ((-1100, -900), (-130, -70), (20, 160), (300, 1500))
        ]
        assert min(shares) > 0.003, (site, shares)
        assert (images[0].get("PixelPaddingValue") is not None) == (site == "site-east")
    assert len({float(images[0].RescaleIntercept) for images in stacks(series, "CT").values()}) >= 3


def test_suv_from_the_tags_gives_the_liver_its_uptake(series, demo):
    clocks = set()
    checked = 0
    for (site, _), images in stacks(series, "PT").items():
        suv = values(images) * suv_factor(images[0])
        clocks.add(images[0].DecayCorrection)
        assert len({float(ds.RescaleSlope) for ds in images}) > 1
        body = suv[suv > 0.15]
        assert 0.3 < np.median(body) < 2.5, site
        if "abdomen" in images[0].StudyDescription:
            liver = suv[(suv > 1.5) & (suv < 3.0)]
            assert np.median(liver) == pytest.approx(2.1, abs=0.5)
            checked += 1
    assert clocks == {"START", "ADMIN"}
    assert checked >= 3


def test_one_site_injects_before_midnight_and_one_gives_a_time_only(series):
    drugs = {site: images[0] for (site, _), images in stacks(series, "PT").items()}
    north = drugs["site-north"]
    injected = north.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime
    assert injected[:8] < north.SeriesDate
    assert "RadiopharmaceuticalStartDateTime" not in drugs["site-south"].RadiopharmaceuticalInformationSequence[0]


def test_mr_uses_12_bits_and_scales_differ_between_sites(series):
    tops = defaultdict(list)
    for (site, _), images in stacks(series, "MR").items():
        voxels = values(images)
        assert voxels.min() >= 0
        assert np.mean(voxels >= 4095) < 0.002
        assert images[0].BitsStored == 12
        tops[site].append(np.percentile(voxels, 99))
    means = [np.mean(found) for found in tops.values()]
    assert max(means) > 2 * min(means)


def test_contours_enclose_the_lesions_of_the_truth(series, demo):
    truth = {
        uid: entry for path in (demo / "truth").rglob("*.json") for uid, entry in json.loads(path.read_text()).items()
    }
    shown = {uid: images for (_, uid), images in series.items() if images[0].Modality in ("CT", "PT", "MR")}
    right = total = 0
    for structures, *_rest in series.values():
        if structures.Modality != "RTSTRUCT":
            continue
        frame = structures.ReferencedFrameOfReferenceSequence[0]
        referenced = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
        images = shown[referenced.SeriesInstanceUID]
        assert structures.StudyInstanceUID == images[0].StudyInstanceUID
        assert {i.ReferencedSOPInstanceUID for i in referenced.ContourImageSequence} == {
            ds.SOPInstanceUID for ds in images
        }
        lesions = {lesion["name"]: lesion for lesion in truth[referenced.SeriesInstanceUID]["lesions"]}
        voxels = values(images)
        masks = {}
        for roi, contours in zip(structures.StructureSetROISequence, structures.ROIContourSequence, strict=True):
            shape = voxels.shape[1:]
            masks[roi.ROIName] = np.stack([inside(ds, contours.ContourSequence, shape) for ds in images])
        for name, mask in masks.items():
            lesion = lesions[name]
            assert sorted(lesion["slices_contoured"]) == [
                i
                for i, ds in enumerate(images)
                if any(
                    c.ContourImageSequence[0].ReferencedSOPInstanceUID == ds.SOPInstanceUID
                    for c in structures.ROIContourSequence[list(masks).index(name)].ContourSequence
                )
            ]
            unit = np.ptp(voxels) / 40 if images[0].Modality == "MR" else {"CT": 100.0, "PT": 0.0}[images[0].Modality]
            if mask.sum() < 4 or abs(lesion["contrast"]) < unit:
                continue
            near = np.stack(
                [binary_dilation(plane, iterations=5) & ~binary_dilation(plane, iterations=2) for plane in mask]
            )
            difference = voxels[mask].mean() - np.median(voxels[near])
            total += 1
            right += np.sign(difference) == np.sign(lesion["contrast"])
    assert total >= 15
    assert right / total > 0.9


def test_nuisances_are_what_ingest_must_sort_out(demo, series):
    east = demo / "inbox" / "site-east"
    copies = list(east.rglob("*.copy"))
    assert len(copies) == 1
    assert copies[0].read_bytes() == copies[0].with_suffix("").read_bytes()
    assert (east / "README.txt").is_file()
    assert (east / "photo_of_the_scanner.jpg").read_bytes()[:3] == b"\xff\xd8\xff"
    alone = [images[0] for (site, _), images in series.items() if site == "site-east" and len(images) == 1]
    single = {str(ds.SeriesDescription): ds for ds in alone}
    assert single["SCOUT"].ImageType[2] == "LOCALIZER"
    assert single["Dose Report"].SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"


def test_every_kind_of_file_is_valid_dicom(series):
    paths = [ds.private_path for images in series.values() for ds in images[:1]]
    assert {ds[0].Modality for ds in series.values()} == {"CT", "PT", "MR", "RTSTRUCT"}
    assert_valid_dicom(*paths)


def test_the_validity_check_notices_a_spoilt_file(series, tmp_path):
    ds = next(iter(stacks(series, "PT").values()))[0]
    spoilt = pydicom.dcmread(ds.private_path)
    del spoilt.Units
    spoilt.save_as(tmp_path / "spoilt.dcm")
    with pytest.raises(AssertionError, match="Units"):
        assert_valid_dicom(tmp_path / "spoilt.dcm")
    assert any("Units" in message for message in dciodvfy_messages(tmp_path / "spoilt.dcm"))


def test_same_seed_same_bytes_other_seed_other_patients(demo, tmp_path):
    hashes = []
    for name, seed in (("again", 11), ("other", 12)):
        make_patient(tmp_path / name, CONFIG.model_copy(update={"seed": seed}), "site-harbour", 1)
        hashes.append(hash_tree(tmp_path / name / "inbox" / "site-harbour"))
    assert hashes[0] == hash_tree(demo / "inbox" / "site-harbour")
    assert hashes[1] != hashes[0]


def test_what_is_there_is_not_made_again_and_what_was_damaged_is(tmp_path):
    patients = {"patients_per_site": 1, "local_patients": 1}
    sizes = {"ct_size": 64, "ct_slices": 2, "pet_size": 64, "pet_slices": 2, "mr_size": 64, "mr_slices": 2}
    config = DemoConfig(seed=3, **patients, **sizes)
    sites_file = make_demo(tmp_path, config, processes=1)
    before = hash_tree(tmp_path / "inbox")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "inbox").rglob("*")}
    make_demo(tmp_path, config, processes=1)
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "inbox").rglob("*")}
    next((tmp_path / "inbox").rglob("*.dcm")).unlink()
    assert make_demo(tmp_path, config, processes=1) == sites_file
    assert hash_tree(tmp_path / "inbox") == before


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path):
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "mine.dcm").write_bytes(b"mine")
    with pytest.raises(ConfigurationError, match="not written by"):
        make_demo(tmp_path, CONFIG)
    assert (tmp_path / "inbox" / "mine.dcm").read_bytes() == b"mine"


def test_presets_fill_what_is_not_given():
    small = DemoConfig(preset="small", ct_slices=7)
    assert (small.ct_size, small.ct_slices) == (128, 7)
    assert DemoConfig().ct_size == 256
    with pytest.raises(ValidationError):
        DemoConfig(preset="huge")
    with pytest.raises(ValidationError):
        DemoConfig(patients=3)


def test_the_verb_refuses_a_foreign_folder_with_usage_code(tmp_path, capsys):
    (tmp_path / "sites.yaml").write_text("sites: []\n")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "Choose another" in capsys.readouterr().err
