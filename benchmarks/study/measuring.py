"""Measuring every network of the study on the test patients and the local sites."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.study.training import ALL, Finished
from mira.pairs import read_index
from mira.tasks import TASKS, Modality, Task

if TYPE_CHECKING:
    from components.evaluate.measure import Measured
    from model.restorer import Restorer

PROFILES = ("amir", "fixed", "robust")
SHUFFLED = "shuffled"  # the unified network, given the instruction of an image of another modality
CLASSICAL = "classical"
SIGMAS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # pixels, of the Gaussian filter for PET
TEXTURE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
# of non-local means for CT, in multiples of the estimated noise; TEXTURE sees little of the coarse noise of filtered
# back-projection, so the best is far above one
STRENGTHS = (0.8, 1.3, 2.0, 3.0, 4.0, 5.0, 6.5, 8.0)


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        parameters: number of weights.
        multiplications: multiply-accumulates per pixel, in a slice of 256 x 256.
        seconds: time of a 512 x 512 slice on one core, best of some.
    """

    parameters: int
    multiplications: float
    seconds: float


def load_network(finished: Finished) -> "Restorer":
    """A trained network, ready to restore."""
    from safetensors.torch import load_file

    from model.baselines import named_network
    from model.restorer import Restorer

    network = named_network(finished.training.network)
    network.load_state_dict(load_file(finished.folder / "model.safetensors"))
    return Restorer(network).eval()


def cost_of(restorer: "Restorer", repeats: int = 3) -> Cost:
    """Weights, multiplications, and time of a network, the best of some repeats."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from components.train.step import threads_of_torch

    def inputs(side: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.rand(1, 2, side, side), torch.eye(3)[:1]

    with torch.inference_mode(), threads_of_torch(1):
        with FlopCounterMode(display=False) as counter:
            restorer.network(*inputs(256))
        times = []
        for _ in range(repeats):
            features, selector = inputs(512)
            begin = time.perf_counter()
            restorer.network(features, selector)
            times.append(time.perf_counter() - begin)
    parameters = sum(parameter.numel() for parameter in restorer.parameters())
    return Cost(parameters, counter.get_total_flops() / 2 / 256**2, min(times))


def gaussian(images: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Slices under a Gaussian filter of `sigma` pixels: what PET scanners offer for noise."""
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(images, (0, sigma, sigma)), np.float32)


def non_local_means(images: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    """Slices under non-local means (Buades et al., CVPR 2005), `strength` times the estimated noise."""
    from scipy.ndimage import convolve
    from skimage.restoration import denoise_nl_means

    result = np.empty_like(images)
    for index, image in enumerate(images):
        sigma = float(np.median(np.abs(convolve(image, TEXTURE)))) / 0.6745  # Immerkaer, CVIU 1996, by the median
        result[index] = denoise_nl_means(
            image, patch_size=5, patch_distance=6, h=strength * sigma, sigma=sigma, fast_mode=True
        )
    return result


def classical(images: NDArray[np.float32], task: Task, setting: float) -> NDArray[np.float32]:
    """The classical method of a task; for MR the zero-filled input is itself the classical interpolation."""
    if task is Task.CT_DENOISING:
        return non_local_means(images, setting)
    return gaussian(images, setting) if task is Task.PET_SYNTHESIS else images


@dataclass(frozen=True)
class Setting:
    """The setting of a task's classical method.

    Attributes:
        value: strength of non-local means, or sigma of the Gaussian in pixels.
        at_edge: whether it is the weakest or the strongest that was tried, so that a better one may lie beyond.
    """

    value: float
    at_edge: bool = False


def classical_settings(pairs: Path, most: int = 3) -> dict[Task, Setting]:
    """The setting of each task's classical method: the best in the mean over validation pairs, else a middling one."""
    from components.evaluate.measure import load_slices
    from mira.quality.metrics import measure_slices

    found = {Task.MRI_SUPER_RESOLUTION: Setting(1.0)}
    for task, settings in ((Task.CT_DENOISING, STRENGTHS), (Task.PET_SYNTHESIS, SIGMAS)):
        scores = np.zeros(len(settings))
        records = read_index(pairs).select("validation", task=task)
        for record in records:
            slices = load_slices(pairs, record, most, 0)
            for number, setting in enumerate(settings):
                image = classical(slices.degraded, task, setting)
                measured = measure_slices(slices.reference, image, record.modality, "robust")
                scores[number] += float(measured.psnr.mean())
        best = int(scores.argmax()) if records else len(settings) // 2
        found[task] = Setting(settings[best], best in (0, len(settings) - 1))
    return found


def misguided(restorer: "Restorer", instructions: Mapping[Modality, NDArray[np.float32]], seed: int) -> "Restorer":
    """The network with instructions that it wrote for images of other modalities, one at random for each volume."""
    import torch
    from torch import Tensor, nn

    from model.guidance import Guidance
    from model.restorer import Restorer

    class WrongGuidance(nn.Module):
        """Estimates as the network's own guidance, but another image's instruction."""

        def __init__(self, own: nn.Module) -> None:
            super().__init__()
            self.own = own
            self.generator = np.random.default_rng(seed)

        def forward(self, x: Tensor, selector: Tensor) -> Guidance:
            guidance: Guidance = self.own(x, selector)
            number = int(selector[0].argmax())
            others = [bank for kind, bank in instructions.items() if kind.number != number]
            bank = others[self.generator.integers(len(others))]
            row = torch.from_numpy(bank[self.generator.integers(len(bank))])
            return guidance._replace(instruction=row.expand(len(x), -1))

    network = copy.deepcopy(restorer.network)
    network.guidance = WrongGuidance(network.guidance)
    return Restorer(network).eval()


def instruction_bank(pairs: Path, restorer: "Restorer", most: int) -> dict[Modality, NDArray[np.float32]]:
    """Instructions [n, D] that the network writes for training pairs of each modality, of several cases and levels."""
    from components.evaluate.measure import load_slices
    from model.inference import restore_volume
    from model.validation import spread

    index = read_index(pairs)
    bank = {}
    for task in Task:
        records = index.select("train", task=task)
        found = []
        for place in spread([record.case_id for record in records], min(8, len(records))):
            record = records[place]
            slices = load_slices(pairs, record, most, 0)
            known = record.modality, record.mr_scale
            found.append(restore_volume(restorer, slices.volume, *known, places=slices.index).instruction)
        if found:
            bank[TASKS[task].modality] = np.concatenate(found)
    return bank


@dataclass(frozen=True)
class Blank:
    """Slices that show nothing of the patient and are left out, see `components.evaluate.measure.blank_slices`.

    Attributes:
        volumes: references of test and local patients that have any.
        slices: blank slices of these, each volume counted once, whatever its number of levels.
    """

    volumes: int
    slices: int


def count_blank(pairs: Path) -> Blank:
    """Count the blank slices of the test and local references of a pair store."""
    from components.evaluate.measure import blank_slices
    from mira.volume import read_nifti

    references = {record.reference: record.modality for record in read_index(pairs).select("test", "local")}
    counts = [int(blank_slices(read_nifti(pairs / path).voxels, kind).sum()) for path, kind in references.items()]
    return Blank(sum(count > 0 for count in counts), sum(counts))


def measure_all(
    pairs: Path, trained: Sequence[Finished], most: int, seed: int, settings: Mapping[Task, Setting]
) -> "list[Measured]":
    """Every network on every test and local pair of its tasks, beside the input and the classical method.

    Args:
        pairs: pair store.
        trained: the networks.
        most: slices measured of each pair at most.
        seed: seed of the shuffled instructions.
        settings: those of the classical methods.
    """
    from components.evaluate.measure import clinical_figures, load_slices, measure
    from mira.progress import track
    from mira.quality.clinical import uniform_region
    from mira.quality.metrics import measure_slices

    index = read_index(pairs)
    networks = {item.training.name: load_network(item) for item in trained}
    learns = {item.training.name: item.training.learns for item in trained}
    unified = next(name for name, what in learns.items() if what == ALL and not name.partition(":")[0].count("-"))
    networks[SHUFFLED] = misguided(networks[unified], instruction_bank(pairs, networks[unified], 2), seed)
    learns[SHUFFLED] = ALL
    measured = []
    for record in track(index.select("test", "local"), "measure", unit="pair"):
        slices = load_slices(pairs, record, most, 2)
        own = {name: net for name, net in networks.items() if learns[name] in (ALL, record.task.value)}
        item = measure(slices, own, PROFILES, unified, 4)
        image = classical(slices.degraded, record.task, settings[record.task].value)
        for profile in PROFILES:
            item.slices[CLASSICAL, profile] = measure_slices(
                slices.reference, image, record.modality, profile, mr_scale=record.mr_scale
            )
        region = uniform_region(slices.reference, record.modality)
        item.clinical[CLASSICAL] = clinical_figures(slices, image, region)
        item.restored = {}
        measured.append(item)
    return measured
