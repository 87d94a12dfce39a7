"""File names and folders as the vendors' exports have them."""

from pathlib import PurePosixPath

from pydicom.dataset import Dataset

from mira.phantom.identity import Person
from mira.phantom.scanners import Layout


def file_path(layout: Layout, person: Person, ds: Dataset) -> PurePosixPath:
    """Path of an instance below its site's inbox.

    Args:
        layout: the vendor's habit.
        person: the patient.
        ds: the instance.
    """
    study, number, instance = str(ds.StudyID), int(ds.SeriesNumber), int(ds.InstanceNumber)
    if layout == "siemens":
        name = person.name.replace("^", "_")
        stamp = f"{ds.StudyDate[:4]}.{ds.StudyDate[4:6]}.{ds.StudyDate[6:]}"
        folder = f"{ds.Modality}_{str(ds.SeriesDescription).replace(' ', '_').upper()}_{number:04d}"
        file = f"{name}.{ds.Modality}.{study}.{number:04d}.{instance:04d}.{stamp}.IMA"
        return PurePosixPath(name, f"STUDY_{study}", folder, file)
    if layout == "ge":
        return PurePosixPath(
            f"p{person.patient_id[-4:]}", f"e{study}", f"s{number}", f"i{instance}.{ds.Modality}DC.{instance}"
        )
    if layout == "philips":
        return PurePosixPath("DICOM", person.patient_id, study, f"SER{number:05d}", f"IM_{instance:04d}")
    folder = f"{person.name.replace('^', ' ')} {ds.StudyDate}"
    return PurePosixPath(folder, f"{number:03d} {ds.SeriesDescription}", f"{ds.SOPInstanceUID}.dcm")
