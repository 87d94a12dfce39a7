"""Transfer syntaxes: how a file's pixels are compressed, by which codec they are decoded, and whether with loss."""

from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from mira.dicom import headers as h
from mira.dicom.reasons import Reason, Refused
from mira.dicom.remembered import remembered

PLUGINS = dict.fromkeys((JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL), "pylibjpeg")
PLUGINS |= dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), "pyjpegls")
LOSSLESS = {
    RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL,
}  # fmt: skip
"""Of the compressed ones that can be read. JPEG 2000, HTJ2K and near-lossless JPEG-LS may be, but need not."""


def is_compressed(header: Dataset) -> bool:
    """Whether the pixels of a file are in compressed streams, by its file meta header."""
    meta = getattr(header, "file_meta", None)
    syntax = UID(h.uid(meta, "TransferSyntaxUID") if meta is not None else "")
    return bool(syntax.is_transfer_syntax and syntax.is_compressed)


@remembered("TransferSyntaxUID", "LossyImageCompression")
def may_be_lossy(header: Dataset) -> bool:
    """Whether an image was compressed with loss: its header says so, or its transfer syntax allows it.

    A header's 00 is not believed then: an archive that compresses does not always note it there.
    """
    if h.text(header, "LossyImageCompression") == "01":
        return True
    return is_compressed(header) and h.uid(header.file_meta, "TransferSyntaxUID") not in LOSSLESS


def name_syntax(dataset: Dataset) -> None:
    """Give a data set without file meta header the transfer syntax that it was found to be written in."""
    if "TransferSyntaxUID" in dataset.file_meta or dataset["PixelData"].is_undefined_length:
        return
    implicit, little = dataset.original_encoding
    plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain


def check_decoder(dataset: Dataset) -> None:
    """Make sure that a codec for the pixels is installed, where pydicom knows any.

    Raises:
        Refused: when none is; its detail is the standard's name of the transfer syntax.
    """
    syntax = UID(h.uid(dataset.file_meta, "TransferSyntaxUID"))
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:  # a syntax that nothing decodes; decoding says so
        return
    if not decoder.is_available:
        raise Refused(Reason.NO_DECODER, syntax.name)


def plugin(dataset: Dataset) -> str:
    """The codec to use, so that a damaged stream is not tried again by GDCM, which ends the process on some."""
    syntax = dataset.file_meta.TransferSyntaxUID
    wanted = PLUGINS.get(syntax, "")
    return wanted if wanted and wanted in get_decoder(syntax).available_plugins else ""
