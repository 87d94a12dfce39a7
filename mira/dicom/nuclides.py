"""PET radionuclides: their codes and words in DICOM, and their half-lives."""

import re

HALF_LIVES_S = {
    "C11": 1221.8, "N13": 597.9, "O15": 122.2, "F18": 6586.2, "CU64": 45723.6, "GA68": 4062.6,
    "RB82": 76.4, "Y86": 53064.0, "ZR89": 282276.0, "I124": 360806.4,
}  # fmt: skip
"""Physical half-lives in seconds (NNDC NuDat, rounded); the DICOM tag goes first where it is present."""

NUCLIDE_CODES = {
    "40565003": "C11", "C-105A1": "C11", "21576001": "N13", "C-107A1": "N13", "129504001": "O15", "C-B1038": "O15",
    "77004003": "F18", "C-111A1": "F18", "3932008": "CU64", "C-127A2": "CU64", "35337001": "GA68", "C-131A3": "GA68",
    "79197006": "RB82", "C-159A2": "RB82", "10738001": "Y86", "63360001": "ZR89", "C-168A4": "ZR89",
    "40937006": "I124", "C-114A5": "I124",
}  # fmt: skip
"""SNOMED CT and SRT codes of DICOM context group 4020, PET radionuclides."""


def nuclide(words: str) -> str | None:
    """`^18^Fluorine`, `F-18`, `18F-FDG` as `F18`."""
    names = {"FLUORINE": "F", "CARBON": "C", "GALLIUM": "GA", "COPPER": "CU", "ZIRCONIUM": "ZR", "IODINE": "I"}
    names |= {"NITROGEN": "N", "OXYGEN": "O", "RUBIDIUM": "RB", "YTTRIUM": "Y"}
    symbols = "|".join([*names, *(re.match(r"[A-Z]+", key)[0] for key in HALF_LIVES_S)])  # type: ignore[index]
    upper = words.upper()
    match = re.search(rf"\b({symbols})[-^ ]*(\d+)\b", upper)
    pair = (match[1], match[2]) if match else None
    if pair is None and (match := re.search(rf"(?<!\d)(\d+)[-^ ]*({symbols})(?![A-Z])", upper)):
        pair = (match[2], match[1])
    key = f"{names.get(pair[0], pair[0])}{pair[1]}" if pair else ""
    return key if key in HALF_LIVES_S else None
