"""Inference messages of Triton's gRPC protocol, put together and taken apart without copying images through protobuf.

Protobuf's own classes copy each image twice on the way out and twice on the way in, which costs more than gRPC itself.
The fields that carry the pixels are plain bytes, so they are written and read where they lie; everything else is left
to the classes of tritonclient. The field numbers are those of Triton's `grpc_service.proto`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mira.errors import ServingFailed

METHOD = "/inference.GRPCInferenceService/ModelInfer"
RAW_INPUT, RAW_OUTPUT = 7, 6  # repeated bytes in ModelInferRequest and in ModelInferResponse
TYPES: dict[np.dtype[Any], str] = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64"}
BYTES = 2  # wire type of strings, bytes and messages
FIXED = {1: 8, 5: 4}  # lengths of the wire types of fixed length
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Reply:
    """What a server answered.

    Attributes:
        version: version of the model that answered.
        arrays: outputs by name; they lie in the message and cannot be written to.
    """

    version: str
    arrays: Arrays


def request(model: str, version: str, inputs: Arrays, outputs: tuple[str, ...]) -> bytes:
    """A ModelInferRequest.

    Args:
        model: name of the served model.
        version: version to ask for, "" for the one that serves.
        inputs: contiguous arrays by name, float32 or int64.
        outputs: names of the outputs to send back.
    """
    from tritonclient.grpc import service_pb2

    head = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    parts: list[Any] = []
    for name, array in inputs.items():
        head.inputs.add(name=name, datatype=TYPES[array.dtype], shape=array.shape)
        parts += [_number(RAW_INPUT << 3 | BYTES), _number(array.nbytes), array.data.cast("B")]
    for name in outputs:
        head.outputs.add(name=name)
    return b"".join([head.SerializeToString(), *parts])


def reply(message: bytes) -> Reply:
    """What a ModelInferResponse holds.

    Raises:
        ServingFailed: when it is no such message.
    """
    from google.protobuf.message import DecodeError
    from tritonclient.grpc import service_pb2

    view = memoryview(message)
    rest: list[memoryview] = []
    contents: list[memoryview] = []
    try:
        for field, whole, value in _fields(view):
            if field == RAW_OUTPUT:
                contents.append(value)
            else:
                rest.append(whole)
        head = service_pb2.ModelInferResponse.FromString(b"".join(rest))
        kinds = {name: kind for kind, name in TYPES.items()}
        arrays = {
            tensor.name: np.frombuffer(content, kinds[tensor.datatype]).reshape(tuple(tensor.shape))
            for tensor, content in zip(head.outputs, contents, strict=True)
        }
    except (DecodeError, IndexError, KeyError, ValueError) as error:
        raise ServingFailed("The server's answer cannot be read. Is it Triton, and are its versions ours?") from error
    return Reply(head.model_version, arrays)


def inference(client: Any) -> Callable[..., Any]:
    """The inference call of a connection, bytes in and bytes out; it raises what tritonclient would raise.

    Args:
        client: tritonclient's InferenceServerClient.
    """
    import grpc
    from tritonclient.utils import InferenceServerException

    call = client._channel.unary_unary(METHOD)

    def infer(body: bytes, client_timeout: float) -> bytes:
        try:
            return call(body, timeout=client_timeout)  # type: ignore[no-any-return]
        except grpc.RpcError as error:
            raise InferenceServerException(error.details() or "", str(error.code())) from error

    return infer


def async_inference(client: Any) -> Callable[..., Any]:
    """The same for tritonclient's asyncio connection."""
    import grpc
    from tritonclient.utils import InferenceServerException

    call = client._channel.unary_unary(METHOD)

    async def infer(body: bytes, client_timeout: float) -> bytes:
        try:
            return await call(body, timeout=client_timeout)  # type: ignore[no-any-return]
        except grpc.RpcError as error:
            raise InferenceServerException(error.details() or "", str(error.code())) from error

    return infer


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Number, whole field and value of each field of a message.

    Raises:
        ValueError: for what is no message.
    """
    place = 0
    while place < len(view):
        start = place
        key, place = _read_number(view, place)
        kind, length = key & 7, 0
        if kind == BYTES:
            length, place = _read_number(view, place)
        elif kind == 0:
            _, place = _read_number(view, place)
        else:
            length = FIXED[kind]
        if place + length > len(view):
            raise ValueError("a field ends behind the message")
        yield key >> 3, view[start : place + length], view[place : place + length]
        place += length


def _number(value: int) -> bytes:
    """A number as protobuf writes it: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_number(view: memoryview, place: int) -> tuple[int, int]:
    """A number and the place behind it.

    Raises:
        IndexError: when the message ends within it.
        ValueError: when it is longer than the 64 bits that protobuf allows.
    """
    value = shift = 0
    while shift < 64:
        byte = view[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    raise ValueError("a number of more than 64 bits")
