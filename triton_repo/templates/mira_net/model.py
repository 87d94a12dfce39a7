"""MIRA-Net behind Triton's python backend: checks each request, groups slices of one size, runs model.onnx.

A request that asks for estimates alone, as a client's for the instruction of a series does, runs the guidance module
alone: a few per cent of the whole network's work.

This file is the project's own; promotion copies it beside the network, and a run never produces one. It needs only
numpy and one of OpenVINO (default) and ONNX Runtime (fallback and reference).
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

MODALITIES = ("CT", "PET", "MR")
SMALLEST_SIDE = 32
LARGEST_REQUEST = 2**23  # pixels: eight slices of 1024 x 1024; the network's own memory is many times that
PIXELS_AT_A_TIME = (
    2**18
)  # one slice of 512 x 512: more at a time is no faster on a CPU, and takes as many times the memory
LARGEST_VALUE = 1e9  # no image of any unit reaches it; beyond it, float32 arithmetic inside the network may overflow
SCALE = (1e-9, 1e9)  # lowest and highest mr_scale, for the same reason
INPUTS = ("image", "modality", "mr_scale", "instruction", "instruction_weight")
ESTIMATES = ("modality_probability", "degradation", "instruction_used")  # outputs that need no restored image

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Arrays]


class InvalidRequestError(ValueError):
    """The request is wrong; the text says what to do."""


def check(inputs: Arrays, trained: list[int], largest_batch: int) -> None:
    """Raise InvalidRequestError unless a request can be restored faithfully.

    Args:
        inputs: the request's arrays by name, with the batch in front.
        trained: modality indices that this network was trained on.
        largest_batch: slices in one execution at most.
    """
    image = inputs["image"]
    if image.ndim != 4 or image.shape[1] != 1 or not 1 <= image.shape[0] <= largest_batch:
        raise InvalidRequestError(
            f"image has shape {list(image.shape)}; send [slices, 1, rows, columns] with 1 to {largest_batch} slices."
        )
    if min(image.shape[2:]) < SMALLEST_SIDE:
        raise InvalidRequestError(
            f"image is {image.shape[2]} by {image.shape[3]} pixels; the smallest side is {SMALLEST_SIDE}. "
            "Pad the slice, or send the whole slice instead of a crop."
        )
    if image.size > LARGEST_REQUEST:
        raise InvalidRequestError(
            f"image has {image.size} pixels in all; a request takes {LARGEST_REQUEST}. Send fewer slices, or "
            "overlapping tiles that share one instruction."
        )
    low, high = image.min(), image.max()  # NaN if there is one, so that two passes say all
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InvalidRequestError("image holds NaN or infinite values; replace them before sending.")
    if low < -LARGEST_VALUE or high > LARGEST_VALUE:
        raise InvalidRequestError(f"image holds values beyond {LARGEST_VALUE:g}; send HU, SUVbw or MR intensities.")
    modality = inputs["modality"].reshape(-1)
    unknown = sorted(set(modality.tolist()) - set(trained))
    if unknown:
        allowed = ", ".join(f"{index} ({MODALITIES[index]})" for index in trained)
        raise InvalidRequestError(f"modality {unknown[0]} is not one that this network restores; send {allowed}.")
    scale = inputs["mr_scale"].reshape(-1)
    if not np.isfinite(scale).all():  # also where it does not count: the network multiplies it by zero there
        raise InvalidRequestError("mr_scale holds NaN or infinite values; send 1 for CT and PET.")
    of_mr = scale[modality == MODALITIES.index("MR")]
    if not ((of_mr >= SCALE[0]).all() and (of_mr <= SCALE[1]).all()):
        raise InvalidRequestError("mr_scale must be a positive number for MR: the robust maximum of the volume.")
    weight = inputs["instruction_weight"]
    if not (np.isfinite(weight).all() and (weight >= 0).all() and (weight <= 1).all()):
        raise InvalidRequestError("instruction_weight must lie between 0 (the network's own) and 1 (the given one).")
    if not np.isfinite(inputs["instruction"]).all():
        raise InvalidRequestError("instruction holds NaN or infinite values; send zeros with instruction_weight 0.")


def openvino_engine(path: Path, threads: int, precision: str, outputs: list[str]) -> tuple[Run, Run]:
    """Compile the network, and what of it gives the estimates, with OpenVINO.

    The precision is given, since its default is bf16 on some CPUs. int8 is a matter of the file; what is not quantised
    in it is computed in f32.
    """
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    network = core.read_model(path)
    part = openvino.Model([network.output(name) for name in ESTIMATES], network.get_parameters(), "estimates")

    def compiled(model: openvino.Model, names: Iterable[str]) -> Run:
        request = core.compile_model(model, "CPU", options).create_infer_request()

        def run(inputs: Arrays) -> Arrays:
            # inputs stay as they are while it runs; results are copied, since the next run overwrites them
            results = request.infer(inputs, share_inputs=True, share_outputs=False)
            return {name: results[name] for name in names}

        return run

    return compiled(network, outputs), compiled(part, ESTIMATES)


def onnxruntime_engine(path: Path, threads: int, outputs: list[str]) -> Run:
    """Load the network with ONNX Runtime in f32, without spinning threads: other models share the machine.

    It runs the whole graph for whatever output is asked for, so it has no shorter way to the estimates.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # in other servers than the project's own, too
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: dict(zip(outputs, session.run(outputs, inputs), strict=True))


def _joined(requests: list[Arrays]) -> Arrays:
    """The inputs of several requests as those of one; a single request is not copied."""
    if len(requests) == 1:
        return requests[0]
    return {name: np.concatenate([arrays[name] for arrays in requests]) for name in INPUTS}


def _in_parts(run: Run, inputs: Arrays) -> Arrays:
    """What the network gives for slices of one size, run a few at a time."""
    slices, _, rows, columns = inputs["image"].shape
    step = max(1, PIXELS_AT_A_TIME // (rows * columns))
    if slices <= step:
        return run(inputs)
    parts = [
        run({name: array[start : start + step] for name, array in inputs.items()}) for start in range(0, slices, step)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class TritonPythonModel:
    """One instance of one version of one network."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's network with the engine that configs/cpu.pbtxt names."""
        config = json.loads(args["model_config"])
        given = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        folder = Path(args["model_repository"]) / args["model_version"]
        self.trained = sorted(MODALITIES.index(name) for name in given["modalities"].split(","))
        self.largest_batch = max(1, int(config["max_batch_size"]))
        self.outputs = [output["name"] for output in config["output"]]  # a network need not have an error map
        engine, precision, threads = given["engine"], given["precision"], int(given["threads"])
        file = folder / given.get("file", "model.onnx")
        if engine == "openvino":
            try:
                self.run, self.look = openvino_engine(file, threads, precision, self.outputs)
            except ImportError:
                pb_utils.Logger.log_warn("OpenVINO is not installed: ONNX Runtime serves instead, in f32.")
                engine = "onnxruntime"
        if engine == "onnxruntime":
            self.run = self.look = onnxruntime_engine(folder / "model.onnx", threads, self.outputs)
        elif engine != "openvino":
            raise ValueError(f"parameter engine is {engine!r}; use openvino or onnxruntime.")
        pb_utils.Logger.log_info(f"{args['model_name']} version {args['model_version']}: {engine}, {threads} threads")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; slices of one size, of whichever requests, go through the network together."""
        inputs: list[Arrays] = []
        responses: list[Any] = [None] * len(requests)
        groups: dict[tuple[tuple[int, int], bool], list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            arrays = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in INPUTS}
            inputs.append(arrays)
            try:
                check(arrays, self.trained, self.largest_batch)
            except InvalidRequestError as error:
                responses[index] = self._refuse(str(error), pb_utils.TritonError.INVALID_ARG)
            else:
                only_estimates = set(request.requested_output_names()) <= set(ESTIMATES)
                groups[arrays["image"].shape[2:], only_estimates].append(index)
        for (_, only_estimates), members in groups.items():
            self._answer(self.look if only_estimates else self.run, members, inputs, responses)
        return responses

    def _answer(self, run: Run, members: list[int], inputs: list[Arrays], responses: list[Any]) -> None:
        """Run requests of one slice size, filling executions up to the largest batch, and split the results."""
        batches: list[list[int]] = [[]]
        for index in members:
            if sum(len(inputs[i]["image"]) for i in [*batches[-1], index]) > self.largest_batch:
                batches.append([])
            batches[-1].append(index)
        for batch in batches:
            try:
                results = _in_parts(run, _joined([inputs[i] for i in batch]))
            except Exception as error:  # an engine's own exceptions have no common base; the caller gets the text
                for index in batch:
                    responses[index] = self._refuse(f"the network failed: {error}", pb_utils.TritonError.INTERNAL)
                continue
            start = 0
            for index in batch:
                stop = start + len(inputs[index]["image"])
                parts = {name: np.ascontiguousarray(array[start:stop]) for name, array in results.items()}
                tensors = [pb_utils.Tensor(name, part) for name, part in parts.items()]
                responses[index] = pb_utils.InferenceResponse(output_tensors=tensors)
                start = stop

    @staticmethod
    def _refuse(text: str, code: Any) -> Any:
        return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(text, code))
