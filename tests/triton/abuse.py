"""Requests that no client should send, and images of every size, against a real Triton server.

`python -m tests.triton.abuse --sizes 1000 --mutations 2000` serves a network of random weights by OpenVINO, sends every
malformed request of the table, damages a valid one at random, restores images of random sizes, and prints what came
of it; `--largest` adds a request of one gigabyte.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from mira.client.batches import OUTPUTS, Answer, Batch
from mira.client.engines import LocalEngine, TritonEngine
from mira.tasks import Modality
from tests.triton.own_server import serving

METHOD = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
TYPES = {"FP32": np.float32, "FP64": np.float64, "FP16": np.float16, "INT64": np.int64, "INT16": np.int16}
LIMIT = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
CLEAR = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}
"""What a caller may be told; a message that is no protobuf is answered with INTERNAL by gRPC itself."""


@dataclass(frozen=True)
class Abuse:
    """A request that must be refused.

    Attributes:
        name: what is wrong with it.
        body: its bytes.
        words: what the refusal must say; "" for whatever Triton says.
    """

    name: str
    body: bytes
    words: str = ""


@dataclass(frozen=True)
class Reply:
    """What came back: the gRPC status and its text, or OK and the answer's bytes."""

    status: str
    text: str
    body: bytes = b""


class Wire:
    """A gRPC channel that sends and gets bytes as they are.

    Args:
        url: HOST:PORT of Triton.
        seconds: deadline of each request.
    """

    def __init__(self, url: str, seconds: float = 60.0) -> None:
        self.channel = grpc.insecure_channel(url, options=LIMIT)
        self.seconds = seconds
        as_it_is: dict[str, Callable[[bytes], bytes]] = {
            "request_serializer": bytes,
            "response_deserializer": bytes,
        }
        self._unary = self.channel.unary_unary(METHOD, **as_it_is)
        self._stream = self.channel.stream_stream(STREAM, **as_it_is)

    def send(self, body: bytes) -> Reply:
        """Send one request."""
        try:
            return Reply("OK", "", self._unary(body, timeout=self.seconds))
        except grpc.RpcError as error:
            return Reply(error.code().name, error.details() or "")

    def stream(self, bodies: list[bytes]) -> Reply:
        """Send requests on one stream; the first answer that is an error, or OK with the number of answers as body."""
        answers = 0
        try:
            for body in self._stream(iter(bodies), timeout=self.seconds):
                message = service_pb2.ModelStreamInferResponse.FromString(body)
                if message.error_message:
                    return Reply("INVALID_ARGUMENT", message.error_message)
                answers += 1
        except grpc.RpcError as error:
            return Reply(error.code().name, error.details() or "")
        return Reply("OK", "", str(answers).encode())

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()


def tensors(size: int, slices: int = 1, rows: int = 40, columns: int = 48) -> dict[str, np.ndarray]:
    """The inputs of a valid request; `size` is the length of the instruction."""
    image = np.random.default_rng(11).normal(0, 100, (slices, 1, rows, columns)).astype(np.float32)
    return Batch(image, Modality.CT.number, 1.0).arrays(size)


def message(arrays: dict[str, np.ndarray], **declared: Any) -> service_pb2.ModelInferRequest:
    """A request with the arrays as raw contents.

    Args:
        arrays: inputs by name.
        **declared: what to declare against the truth: `shape_<input>`, `type_<input>`.
    """
    request = service_pb2.ModelInferRequest(model_name="mira_net", id="abuse")
    names = {np.dtype(kind): name for name, kind in TYPES.items()} | {np.dtype(np.uint8): "UINT8"}
    names[np.dtype(np.int32)] = "INT32"
    for name, array in arrays.items():
        tensor = request.inputs.add(name=name, datatype=declared.get(f"type_{name}", names[array.dtype]))
        tensor.shape.extend(declared.get(f"shape_{name}", array.shape))
        request.raw_input_contents.append(array.tobytes())
    for name in OUTPUTS:
        request.outputs.add(name=name)
    return request


def abuses(size: int) -> Iterator[Abuse]:
    """Every request of the table; `size` is the length of the network's instruction."""
    good = tensors(size)
    valid = message(good).SerializeToString()

    def changed(**arrays: np.ndarray) -> bytes:
        return message(good | arrays).SerializeToString()

    def filled(value: float, name: str = "image") -> np.ndarray:
        array = good[name].copy()
        array.reshape(-1)[-1] = value
        return array

    yield from _shapes(size, good)
    for value in (np.nan, np.inf, -np.inf):
        yield Abuse(f"an image with one {value}", changed(image=filled(value)), "image holds NaN or infinite")
        yield Abuse(f"instruction with one {value}", changed(instruction=filled(value, "instruction")), "instruction")
        weight = changed(instruction_weight=filled(value, "instruction_weight"))
        yield Abuse(f"instruction_weight {value}", weight, "instruction_weight")
        yield Abuse(f"mr_scale {value} of a CT", changed(mr_scale=filled(value, "mr_scale")), "mr_scale")
    yield Abuse("a value beyond any scanner's", changed(image=filled(3e38)), "image holds values")
    yield Abuse("instruction_weight -0.1", changed(instruction_weight=filled(-0.1, "instruction_weight")), "between")
    yield Abuse("instruction_weight 1.1", changed(instruction_weight=filled(1.1, "instruction_weight")), "between")
    for index in (3, -1, 2**62):
        wrong = np.full((1, 1), index, np.int64)
        yield Abuse(f"modality {index}", changed(modality=wrong), "not one that this network restores")
    for scale in (0.0, -5.0, 1e-42):
        mr = {"modality": np.full((1, 1), 2, np.int64), "mr_scale": np.full((1, 1), scale, np.float32)}
        yield Abuse(f"mr_scale {scale} of an MR", changed(**mr), "mr_scale")
    for kind in (np.float64, np.float16, np.int16, np.uint8):
        yield Abuse(f"image as {np.dtype(kind)}", changed(image=good["image"].astype(kind)), "image")
    yield Abuse("modality as int32", changed(modality=good["modality"].astype(np.int32)), "modality")
    yield Abuse("modality as float", changed(modality=good["modality"].astype(np.float32)), "modality")
    for declared in ("FP99", "", "BYTES", "BOOL"):
        body = message(good, type_image=declared).SerializeToString()
        yield Abuse(f"image declared as {declared!r}", body)
    yield from _messages(good)
    yield from _damaged(valid)


def overflowing(size: int) -> bytes:
    """A shape whose number of bytes overflows to zero, and no bytes.

    Triton 2.51 lets it pass, and its python backend's stub ends on it before any code of ours sees the request.
    """
    request = message(tensors(size), shape_image=(1, 1, 2**40, 2**40))
    request.raw_input_contents[0] = b""
    return request.SerializeToString()


def _shapes(size: int, good: dict[str, np.ndarray]) -> Iterator[Abuse]:
    def sized(slices: int, rows: int, columns: int) -> bytes:
        return message(tensors(size, slices, rows, columns)).SerializeToString()

    small = "smallest side is 32"
    for rows, columns in ((31, 64), (64, 31), (1, 1), (16, 16)):
        yield Abuse(f"{rows} x {columns} pixels", sized(1, rows, columns), small)
    for rows, columns in ((0, 48), (40, 0), (0, 0)):
        yield Abuse(f"{rows} x {columns} pixels", sized(1, rows, columns))
    yield Abuse("no slices", sized(0, 40, 48))
    yield Abuse("more slices than a batch holds", sized(9, 40, 48), "batch")
    for shape in ((40, 48), (1, 40, 48), (1, 1, 1, 40, 48), (1, 3, 40, 48), (1, 40, 48, 1)):
        image = np.zeros(shape, np.float32)
        yield Abuse(f"image of shape {shape}", message(good | {"image": image}).SerializeToString())
    for slices in (2, 0):
        more = {"modality": np.zeros((slices, 1), np.int64)}
        yield Abuse(f"{slices} modalities for one slice", message(good | more).SerializeToString())
    longer = {"instruction": np.zeros((1, size + 1), np.float32)}
    yield Abuse("a longer instruction", message(good | longer).SerializeToString(), "instruction")
    for shape in ((1, 1, 400, 480), (1, 1, 4, 4), (1, 1, -1, 48), (1, 1, 2**40, 2**40), (1,), ()):
        yield Abuse(f"declared {shape}, sent 40 x 48", message(good, shape_image=shape).SerializeToString())
    huge = (1, 1, 4096, 4096)
    yield Abuse(
        "64 MB of one slice", message(good | {"image": np.zeros(huge, np.float32)}).SerializeToString(), "tiles"
    )
    overflow = message(good, shape_image=(2**63 - 1, 1, 40, 48))
    yield Abuse("2^63 - 1 slices declared", overflow.SerializeToString(), "batch")
    yield Abuse("65536 x 65536 declared", message(good, shape_image=(1, 1, 65536, 65536)).SerializeToString())


def _messages(good: dict[str, np.ndarray]) -> Iterator[Abuse]:
    for name in good:
        rest = {key: array for key, array in good.items() if key != name}
        yield Abuse(f"without {name}", message(rest).SerializeToString())
    yield Abuse("with an unknown input", message(good | {"extra": good["mr_scale"]}).SerializeToString(), "extra")
    twice = message(good)
    twice.inputs.append(twice.inputs[0])
    twice.raw_input_contents.append(twice.raw_input_contents[0])
    yield Abuse("with an input twice", twice.SerializeToString())
    unknown = message(good)
    unknown.outputs.add(name="diagnosis")
    yield Abuse("asking for an unknown output", unknown.SerializeToString(), "diagnosis")
    for cut in (0, 1, 100):
        short = message(good)
        short.raw_input_contents[0] = short.raw_input_contents[0][:cut]
        yield Abuse(f"{cut} bytes of the image", short.SerializeToString())
    long = message(good)
    long.raw_input_contents[0] += b"\0" * 64
    yield Abuse("more bytes than declared", long.SerializeToString())
    for count in (0, 2):
        fewer = message(good)
        kept = list(fewer.raw_input_contents)[:count]
        del fewer.raw_input_contents[:]
        fewer.raw_input_contents.extend(kept)
        yield Abuse(f"{count} of five raw contents", fewer.SerializeToString())
    both = message(good)
    both.inputs[0].contents.fp32_contents.extend([1.0, 2.0])
    yield Abuse("raw and typed contents", both.SerializeToString())
    for name, version in (("", ""), ("mira_net_of_another", ""), ("../models", ""), ("mira_net", "999")):
        other = message(good)
        other.model_name, other.model_version = name, version
        yield Abuse(f"model {name!r}, version {version!r}", other.SerializeToString())
    nonsense = message(good)
    nonsense.model_version = "one"
    yield Abuse("version 'one'", nonsense.SerializeToString())
    region = message(good)
    region.inputs[0].parameters["shared_memory_region"].string_param = "someone-elses"
    region.inputs[0].parameters["shared_memory_byte_size"].int64_param = 2**40
    yield Abuse("a shared-memory region of someone else's", region.SerializeToString())


def _damaged(valid: bytes) -> Iterator[Abuse]:
    # a cut at a field's end is a message still, with less in it, and is refused for what is missing
    for share in (0.001, 0.01, 0.5, 0.9, 0.999):
        yield Abuse(f"the first {share:.1%} of a protobuf", valid[: int(len(valid) * share)])
    yield Abuse("nothing", b"")
    yield Abuse("random bytes", np.random.default_rng(2).bytes(4096))
    yield Abuse("a length of 4 GB", b"\x0a\xff\xff\xff\xff\x0f")


def mutations(valid: bytes, count: int, seed: int = 5) -> Iterator[bytes]:
    """Copies of a valid request with some bytes changed, cut out or doubled; mostly in its header."""
    generator = np.random.default_rng(seed)
    header = valid.index(b"abuse") + 600
    for _ in range(count):
        body = bytearray(valid)
        for _ in range(int(generator.integers(1, 6))):
            place = int(generator.integers(0, header if generator.random() < 0.8 else len(body))) % len(body)
            kind = generator.integers(0, 3)
            if kind == 0:
                body[place] = int(generator.integers(0, 256))
            elif kind == 1:
                del body[place : place + int(generator.integers(1, 20))]
            else:
                body[place:place] = body[place : place + int(generator.integers(1, 20))]
        yield bytes(body)


def problems(reply: Reply, words: str = "") -> str:
    """What is wrong with the answer to an abusive request, "" when it is as it should be."""
    allowed = CLEAR | ({"INTERNAL"} if "pars" in reply.text.lower() or "serializ" in reply.text.lower() else set())
    if reply.status not in allowed:
        return f"answered {reply.status}: {reply.text[:200]!r}"
    if not reply.text.strip() or "Traceback" in reply.text:
        return f"the error is not clear: {reply.text[:200]!r}"
    if words not in reply.text:
        return f"the error does not say {words!r}: {reply.text[:200]!r}"
    return ""


def random_sizes(count: int, seed: int = 1) -> list[tuple[int, int, Modality]]:
    """Rows, columns and modality; the smallest and the largest are among them."""
    generator = np.random.default_rng(seed)
    sizes = [tuple(int(side) for side in generator.integers(32, 701, 2)) for _ in range(count - 3)]
    sizes += [(32, 32), (700, 700), (32, 700)]
    return [(rows, columns, list(Modality)[number % 3]) for number, (rows, columns) in enumerate(sizes[:count])]


def restore_size(engine: TritonEngine, reference: LocalEngine, rows: int, columns: int, kind: Modality) -> float:
    """Restore a random image, and say how far the answer is from ONNX Runtime's, as a share of the range."""
    low, high = {Modality.CT: (-1000, 1000), Modality.PET: (0, 10), Modality.MR: (0, 800)}[kind]
    image = np.random.default_rng(rows * 1000 + columns).uniform(low, high, (1, 1, rows, columns)).astype(np.float32)
    batch = Batch(image, kind.number, 800.0)
    answer, expected = engine.infer(batch), reference.infer(batch)
    return largest_difference(answer, expected) / (high - low)


def largest_difference(answer: Answer, expected: Answer) -> float:
    """Of the restored values; infinite where the shapes differ or a value is not finite."""
    if answer.restored.shape != expected.restored.shape or not np.isfinite(answer.restored).all():
        return float("inf")
    return float(np.abs(answer.restored - expected.restored).max())


def random_network(folder: Path) -> tuple[Path, int]:
    """Export the smallest MIRA-Net with random weights; its path, and the length of its instruction."""
    from model.export import export_onnx, random_restorer

    restorer = random_restorer()
    return export_onnx(restorer, folder / "model.onnx"), restorer.network.instruction_dim


def run(url: str, network: Path, sizes: int, count: int, largest: bool) -> int:
    """Send everything to a server that serves `network`; the number of wrong answers."""
    from mira.progress import track

    say = sys.stdout.write
    wire, engine, reference = Wire(url), TritonEngine(url), LocalEngine(network, threads=1)
    size = engine.instruction_size
    valid = message(tensors(size)).SerializeToString()
    before = wire.send(valid)
    wrong = 0
    table = list(abuses(size))
    for abuse in table:
        reply = wire.send(abuse.body)
        fault = problems(reply, abuse.words)
        wrong += bool(fault)
        say(f"{'WRONG ' if fault else 'refused'} | {abuse.name} | {fault or reply.text.splitlines()[0][:150]}\n")
    statuses = Counter(wire.send(body).status for body in track(mutations(valid, count), "mutations", total=count))
    say(f"{count} damaged copies of a valid request: {dict(statuses.most_common())}\n")
    if largest:
        image = np.zeros((1, 1, 16384, 16384), np.float32)
        patient = Wire(url, seconds=300)  # it takes seconds only to get there
        reply = patient.send(message(tensors(size) | {"image": image}).SerializeToString())
        patient.close()
        fault = problems(reply, "pixels in all")
        wrong += bool(fault)
        say(f"{'WRONG ' if fault else 'refused'} | 1 GiB of one slice | {fault or reply.text[:150]}\n")
    differences = [restore_size(engine, reference, *one) for one in track(random_sizes(sizes), "sizes", total=sizes)]
    if differences:
        far = sum(difference > 1e-4 for difference in differences)
        wrong += far
        say(f"{sizes} random sizes from 32 to 700: largest difference from ONNX Runtime {max(differences):.1e} of the ")
        say(f"range; beyond 1e-4: {far}\n")
    same = wire.send(valid).body == before.body and before.status == "OK"
    say(f"{len(table)} malformed requests; wrong answers in all: {wrong}; afterwards the canary answers ")
    say("as before\n" if same else "WRONGLY\n")
    wire.close()
    engine.close()
    return wrong + (not same)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.triton.abuse", description=__doc__)
    parser.add_argument("--sizes", type=int, default=100, help="images of random sizes")
    parser.add_argument("--mutations", type=int, default=300, help="damaged copies of a valid request")
    parser.add_argument("--largest", action="store_true", help="send a request of one gigabyte, too")
    parser.add_argument("--engine", default="openvino", choices=("openvino", "onnxruntime"))
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        network, size = random_network(Path(folder))
        with serving(Path(folder) / "server", network, instruction=size, engine=arguments.engine, threads=2) as (
            _,
            url,
        ):
            wrong = run(url, network, arguments.sizes, arguments.mutations, arguments.largest)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
