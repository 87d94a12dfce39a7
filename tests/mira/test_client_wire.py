"""Messages put together by hand are those of protobuf, and answers are read as protobuf reads them."""

import numpy as np
import pytest

service_pb2 = pytest.importorskip("tritonclient.grpc").service_pb2

from mira.client import wire  # noqa: E402
from mira.errors import ServingFailed  # noqa: E402


def answer():
    message = service_pb2.ModelInferResponse(model_name="mira_net", model_version="12", id="x")
    message.parameters["triton_final_response"].bool_param = True
    arrays = {
        "restored": np.random.default_rng(0).normal(size=(2, 1, 40, 33)).astype(np.float32),
        "degradation": np.array([[0.25], [0.5]], np.float32),
    }
    for name, array in arrays.items():
        message.outputs.add(name=name, datatype="FP32", shape=array.shape)
        message.raw_output_contents.append(array.tobytes())
    return message, arrays


def test_a_request_is_what_protobuf_would_have_written():
    arrays = {
        "image": np.random.default_rng(1).normal(size=(3, 1, 64, 64)).astype(np.float32),
        "modality": np.full((3, 1), 2, np.int64),
    }
    body = wire.request("mira_net", "7", arrays, ("restored", "degradation"))
    message = service_pb2.ModelInferRequest.FromString(body)
    assert (message.model_name, message.model_version) == ("mira_net", "7")
    assert [(t.name, t.datatype, list(t.shape)) for t in message.inputs] == [
        ("image", "FP32", [3, 1, 64, 64]),
        ("modality", "INT64", [3, 1]),
    ]
    assert [tensor.name for tensor in message.outputs] == ["restored", "degradation"]
    assert list(message.raw_input_contents) == [array.tobytes() for array in arrays.values()]


def test_an_answer_is_read_in_whatever_order_its_fields_come():
    message, arrays = answer()
    whole = message.SerializeToString()
    contents = list(message.raw_output_contents)
    del message.raw_output_contents[:]
    first = service_pb2.ModelInferResponse(raw_output_contents=contents).SerializeToString()
    for body in (whole, first + message.SerializeToString()):
        reply = wire.reply(body)
        assert reply.version == "12"
        for name, array in arrays.items():
            np.testing.assert_array_equal(reply.arrays[name], array)
            assert reply.arrays[name].dtype == np.float32


def test_an_answer_that_is_none_is_refused_in_words():
    message, _ = answer()
    whole = message.SerializeToString()
    typed = service_pb2.ModelInferResponse()
    typed.outputs.add(name="restored", datatype="FP64", shape=[1])
    typed.raw_output_contents.append(b"\0" * 8)
    short = service_pb2.ModelInferResponse()
    short.outputs.add(name="restored", datatype="FP32", shape=[2])
    short.raw_output_contents.append(b"\0" * 4)
    lost = service_pb2.ModelInferResponse()
    lost.outputs.add(name="restored", datatype="FP32", shape=[2])
    bodies = [whole[: len(whole) // 2], whole[:-1], b"\x32", b"\xff" * 20, b"\x0b", b"<html>no Triton</html>"]
    for body in [*bodies, *(one.SerializeToString() for one in (typed, short, lost))]:
        with pytest.raises(ServingFailed, match="cannot be read"):
            wire.reply(body)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**21, 2**31, 2**40 + 5])
def test_numbers_come_back(value):
    encoded = wire._number(value)
    assert wire._read_number(memoryview(encoded), 0) == (value, len(encoded))


def test_a_number_ends_within_sixty_four_bits():
    assert wire._read_number(memoryview(wire._number(2**64 - 1)), 0) == (2**64 - 1, 10)
    endless = memoryview(b"\xff" * 200_000)  # reading all of it would take seconds
    with pytest.raises(ValueError, match="more than 64 bits"):
        wire._read_number(endless, 0)
    with pytest.raises(ServingFailed, match="cannot be read"):
        wire.reply(bytes(endless))
