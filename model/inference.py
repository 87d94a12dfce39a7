"""Restore whole volumes in process, slice by slice, or large slices tile by tile."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mira.neighbours import with_neighbours
from mira.tasks import Modality
from mira.tiles import Tile, join, tiles
from model.restorer import Restorer


@dataclass(frozen=True)
class RestoredVolume:
    """A restored volume and what the network estimated of each slice.

    Attributes:
        voxels: float32 [S, H, W] in the unit of the input.
        modality_probability: float32 [S, 3], in the order of `Modality`.
        degradation: float32 [S], 0 to 1.
        instruction: float32 [S, D].
        predicted_error: float32 [S, H, W], one standard deviation in the unit of the input; None of a network without
            an error map.
    """

    voxels: NDArray[np.float32]
    modality_probability: NDArray[np.float32]
    degradation: NDArray[np.float32]
    instruction: NDArray[np.float32]
    predicted_error: NDArray[np.float32] | None = None


def graph_inputs(
    images: NDArray[np.float32],
    modality: Modality,
    mr_scale: float | None,
    instruction_dim: int,
    instruction: NDArray[np.float32] | None = None,
) -> tuple[torch.Tensor, ...]:
    """Inputs of the served graph for slices [B, H, W], or slices with their neighbours [B, slices, H, W].

    They use a given instruction [D], or the network's own.
    """
    count = len(images)
    image = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    given = torch.zeros(instruction_dim) if instruction is None else torch.from_numpy(instruction)
    return (
        image[:, None] if image.ndim == 3 else image,
        torch.full((count, 1), modality.number, dtype=torch.int64),
        torch.full((count, 1), float(mr_scale or 1.0)),
        given.expand(count, -1),
        torch.full((count, 1), 0.0 if instruction is None else 1.0),
    )


@torch.inference_mode()
def restore_volume(
    restorer: Restorer,
    voxels: NDArray[np.float32],
    modality: Modality,
    mr_scale: float | None = None,
    batch_size: int = 4,
    instruction: NDArray[np.float32] | None = None,
    places: Sequence[int] | NDArray[np.intp] | None = None,
) -> RestoredVolume:
    """Restore a volume on the device of the restorer.

    Args:
        restorer: the served graph.
        voxels: float32 [S, H, W] in HU, SUVbw or MR a.u., H and W from 32 up.
        modality: modality of the volume.
        mr_scale: robust scale of an MR volume.
        batch_size: slices at once.
        instruction: float32 [D], used for every slice; None: each slice has its own.
        places: indices of the slices to restore, which are the S' of the result; all of them when left out.
    """
    device = next(restorer.parameters()).device
    dimension = restorer.network.instruction_dim
    restorer.eval()
    parts: list[list[NDArray[np.float32]]] = [[] for _ in restorer.outputs]
    chosen = range(len(voxels)) if places is None else places
    for start in range(0, len(chosen), batch_size):
        images = with_neighbours(voxels, chosen[start : start + batch_size], restorer.network.slices)
        inputs = graph_inputs(images, modality, mr_scale, dimension, instruction)
        outputs = restorer(*(tensor.to(device) for tensor in inputs))
        for part, output in zip(parts, outputs, strict=False):  # the last is None where there is no error map
            part.append(output.cpu().numpy())
    restored, probability, degradation, instruction, *rest = (np.concatenate(part) for part in parts)
    error = rest[0][:, 0] if rest else None
    return RestoredVolume(restored[:, 0], probability, degradation[:, 0], instruction, error)


@torch.inference_mode()
def shared_instruction(
    restorer: Restorer, probes: NDArray[np.float32], modality: Modality, mr_scale: float | None = None
) -> NDArray[np.float32]:
    """The instruction that the slices of a volume share: the mean of those of some of its slices.

    Args:
        restorer: the served graph.
        probes: float32 [P, H, W], slices that stand for the volume.
        modality: modality of the volume.
        mr_scale: robust scale of an MR volume.

    Returns:
        float32 [D].
    """
    device = next(restorer.parameters()).device
    restorer.eval()
    inputs = graph_inputs(probes, modality, mr_scale, restorer.network.instruction_dim)
    guidance = restorer.guide(*(tensor.to(device) for tensor in inputs[:3]))
    found: NDArray[np.float32] = guidance.instruction.float().mean(dim=0).cpu().numpy()
    return found


@torch.inference_mode()
def restore_tiled(
    restorer: Restorer,
    image: NDArray[np.float32],
    modality: Modality,
    mr_scale: float | None = None,
    side: int = 512,
    place: int = 0,
) -> RestoredVolume:
    """Restore one large slice by tiles that share the instruction of the whole slice.

    The guidance looks at the whole slice, which is cheap; the U-Net sees one tile at a time, so that its memory does
    not grow with the slice.

    Args:
        restorer: the served graph.
        image: float32 [H, W] in HU, SUVbw or MR a.u., or the volume [S, H, W] whose slice it is.
        modality: modality of the slice.
        mr_scale: robust scale of an MR volume.
        side: rows and columns of a tile, a multiple of 8 from 192 up.
        place: index of the slice in the volume.

    Raises:
        ConfigurationError: for a side that cannot be used.
    """
    device = next(restorer.parameters()).device
    height, width = image.shape[-2:]
    restorer.eval()
    images = with_neighbours(image[None] if image.ndim == 2 else image, [place], restorer.network.slices)
    whole, kind, scale, instruction, weight = (
        tensor.to(device) for tensor in graph_inputs(images, modality, mr_scale, restorer.network.instruction_dim)
    )
    guidance = restorer.guide(whole, kind, scale)
    instruction, weight = guidance.instruction.float(), torch.ones_like(weight)

    names = [name for name in ("restored", "predicted_error") if name in restorer.outputs]

    def parts() -> Iterator[tuple[Tile, NDArray[np.float32]]]:
        for tile in tiles(height, width, side):
            part = whole[(..., *tile.window)].contiguous()
            answer = restorer(part, kind, scale, instruction, weight)
            yield tile, np.concatenate([getattr(answer, name)[0].cpu().numpy() for name in names])

    joined = join(parts(), height, width)
    probability = torch.softmax(guidance.modality_logits.float(), dim=1)
    return RestoredVolume(
        joined[:1],
        probability.cpu().numpy(),
        guidance.degradation.float()[:, 0].cpu().numpy(),
        instruction.cpu().numpy(),
        joined[1:] if len(names) == 2 else None,
    )
