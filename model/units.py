"""Fixed physical normalisation between native units (HU, SUVbw, MR a.u.) and the network's units.

CT is (x + 1024) / 4095, PET x / 20, MR x / mr_scale (the AMIR convention; MR by the robust scale of its case). On top
of this value the network sees a contrast map per modality, because soft tissue is a tenth of the CT range and most of
PET lies near zero; and its residual has a unit per modality, so that one network output means a like effort
everywhere: 20 HU, a tenth of an SUV near zero and more where uptake is high, 3 % of the MR scale.

Activity is a quantity: few counts make a PET image noisy and do not change its mean. So what is restored is scaled to
the local mean of the input (`scaled_to_local_mean`), and a network decides where the uptake lies, not how much it is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mira.tasks import Modality

CT_OFFSET, CT_RANGE = 1024.0, 4095.0
PET_RANGE = 20.0
# Per modality in the order of `Modality` (CT, PET, MR), in normalised units: the network restores fully between the
# limits, and fades out over `FADE` beyond them, where the input passes through untouched.
LOW = (-0.1, -0.05, -0.05)
HIGH = (1.0, 1.5, 2.0)
FADE = 0.1
# Error that counts as one in the training loss, near the spread of the degradations: 20 HU, 0.2 SUV, 3 % of MR scale.
LOSS_UNIT = (20.0 / CT_RANGE, 0.2 / PET_RANGE, 0.03)
# Side in pixels of the square whose mean a PET image keeps; what keeps the quotient of two means of air near one, in
# normalised units (0.02 SUV); and how far an image is scaled at most, up or down.
LOCAL_SIDE = 17
LOCAL_FLOOR = 0.02 / PET_RANGE
LOCAL_LIMIT = 2.0


def one_hot(modality: Tensor) -> Tensor:
    """Modality indices int64 [B, 1] as float32 [B, 3]."""
    return (modality == torch.arange(len(Modality), device=modality.device)).float()


def choose(selector: Tensor, values: tuple[float, ...]) -> Tensor:
    """The value of each image's modality, as [B, 1, 1, 1]."""
    return (selector * torch.tensor(values, device=selector.device)).sum(dim=1)[:, None, None, None]


def normalise(image: Tensor, selector: Tensor, mr_scale: Tensor) -> Tensor:
    """Native units [B, slices, H, W] to normalised units, unclipped."""
    return (image + choose(selector, (CT_OFFSET, 0.0, 0.0))) / native_range(selector, mr_scale)


def native_range(selector: Tensor, mr_scale: Tensor) -> Tensor:
    """How many native units are one normalised unit, as [B, 1, 1, 1]."""
    fixed = choose(selector, (CT_RANGE, PET_RANGE, 0.0))
    return fixed + (selector[:, Modality.MR.number :] * mr_scale)[:, :, None, None]


def trust(value: Tensor, selector: Tensor) -> Tensor:
    """1 inside the range that the network restores, fading to 0 outside it."""
    below = (value - choose(selector, LOW)) / FADE + 1
    above = (choose(selector, HIGH) - value) / FADE + 1
    return torch.minimum(below, above).clamp(0.0, 1.0)


def centre(image: Tensor) -> Tensor:
    """The slice [B, 1, H, W] in the middle of its neighbours [B, slices, H, W]."""
    middle = image.shape[1] // 2
    return image if middle == 0 else image[:, middle : middle + 1]


def features(value: Tensor, selector: Tensor) -> Tensor:
    """What the network sees of slices [B, slices, H, W] in normalised units, [B, 1 + slices, H, W].

    The clipped value of the slice in the middle, the contrast map of its modality, and that of each neighbour in order.
    """
    value = torch.maximum(torch.minimum(value, choose(selector, HIGH) + FADE), choose(selector, LOW) - FADE)
    soft_tissue = torch.tanh((value * CT_RANGE - CT_OFFSET - 40) / 200)
    root = torch.sqrt(value.clamp_min(0.0) + 1e-3)
    contrast = torch.where(selector[:, 0, None, None, None] > 0, soft_tissue, 2 * root)
    middle = value.shape[1] // 2
    neighbours = [contrast[:, :middle], contrast[:, middle + 1 :]] if middle else []
    return torch.cat([centre(value), centre(contrast), *neighbours], dim=1)


def residual_unit(value: Tensor, selector: Tensor) -> Tensor:
    """What a network output of one is worth, in normalised units."""
    pet = 0.1 / PET_RANGE + 0.2 * value.clamp(0.0, HIGH[Modality.PET.number])
    fixed = choose(selector, (LOSS_UNIT[0], 0.0, LOSS_UNIT[2]))
    return fixed + selector[:, Modality.PET.number, None, None, None] * pet


def restored(value: Tensor, residual: Tensor, selector: Tensor, keeps_local_mean: bool) -> Tensor:
    """What a residual makes of an image, [B, 1, H, W] in normalised units.

    Args:
        value: the degraded image in normalised units.
        residual: what the network says, in its own unit.
        selector: one-hot modality [B, 3].
        keeps_local_mean: scale PET to the local mean of the input.
    """
    change = residual.float() * residual_unit(value, selector)
    trusted = trust(value, selector)
    if keeps_local_mean:
        kept = scaled_to_local_mean(value + change * trusted, value) - value
        change = torch.where(selector[:, Modality.PET.number, None, None, None] > 0, kept, change)
    return value + change * trusted


def scaled_to_local_mean(image: Tensor, source: Tensor) -> Tensor:
    """The non-negative part of an image times the quotient of the local means of its source and of itself.

    Negative noise of the source counts in its mean, but no more than the network restores: noise around nothing is
    nothing, and a padding value is no activity. Pixels beyond the border count in neither mean. Exactly the image where
    it is its source and not negative.
    """
    image = image.clamp_min(0.0)
    kept = _local_mean(source.clamp_min(LOW[Modality.PET.number])).clamp_min(0.0)
    quotient = (kept + LOCAL_FLOOR) / (_local_mean(image) + LOCAL_FLOOR)
    return image * quotient.clamp(1 / LOCAL_LIMIT, LOCAL_LIMIT)


def _local_mean(image: Tensor) -> Tensor:
    """Mean over the part of a square that lies in the image, along one axis after the other."""
    half = LOCAL_SIDE // 2
    rows = F.avg_pool2d(image, (LOCAL_SIDE, 1), stride=1, padding=(half, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, LOCAL_SIDE), stride=1, padding=(0, half), count_include_pad=False)
