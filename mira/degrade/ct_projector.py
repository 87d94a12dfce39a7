"""Parallel-beam projection and filtered back-projection by the Fourier slice theorem, with non-uniform FFTs.

A view's line integrals are the inverse transform of the image's spectrum along a line through its centre. The spectrum
of an image of `side` pixels, taken at views x bins points, costs one FFT and one interpolation; the adjoint gives the
filtered back-projection. Views are evenly spread over 180 degrees; detector bins are one pixel wide and wrap around the
circle that bounds the image, bin 0 at the image's centre (pixel `side // 2`).
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_IDLE = 4  # planned projectors that wait for the next slice; the oldest goes first


class Projector:
    """Projection and filtered back-projection for one image size, for one thread at a time. Lengths are in pixels."""

    def __init__(self, side: int, views: int) -> None:
        """Plan the projection of square slices of `side` pixels.

        One slice per transform: a slice is then computed in the same way, to the last bit, whatever comes with it.
        """
        self.side, self.views = side, views
        self.bins = bins_for(side)
        self._forward = self._plan(2, self.bins // 2)
        self._adjoints: dict[int, Any] = {}

    def _plan(self, kind: int, last: int) -> Any:
        """Non-uniform FFT of `kind` between the image and frequencies 0 to `last` / `bins` along every view."""
        import finufft  # compiled, and only this simulator needs it

        frequency = np.arange(last + 1) / self.bins
        angles = np.pi * np.arange(self.views) / self.views
        rows = (2 * np.pi * np.sin(angles)[:, None] * frequency).ravel().astype(np.float32)
        columns = (2 * np.pi * np.cos(angles)[:, None] * frequency).ravel().astype(np.float32)
        sign = -1 if kind == 2 else 1
        shape = (self.side, self.side)
        plan = finufft.Plan(kind, shape, n_trans=1, eps=1e-4, isign=sign, dtype="complex64", nthreads=1)
        plan.setpts(rows, columns)
        return plan

    def project(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Line integrals [views, bins] of an image [side, side]."""
        spectrum = self._forward.execute(image.astype(np.complex64)).reshape(self.views, -1)
        return np.fft.irfft(spectrum, self.bins, axis=-1).astype(np.float32, copy=False)

    def reconstruct(
        self,
        lines: NDArray[np.float32] | None = None,
        cutoff: float = 1.0,
        noise: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Filtered back-projection [side, side] of line integrals, of the noise of readings, or of their sum.

        Line integrals are smooth between bins, and have no frequency above Nyquist. Noise is independent from reading
        to reading: it is white beyond Nyquist too, as far as the kernel lets it pass, and pixels coarser than the
        kernel fold it back, as they do on a scanner.

        Args:
            lines: line integrals [views, bins].
            cutoff: where the Hann apodisation of the ramp reaches zero, in multiples of the Nyquist frequency.
            noise: errors of line integrals [views, bins].
        """
        half = self.bins // 2
        response = filter_response(self.bins, cutoff)
        last = min(response.size, max(half, 64 * int(np.ceil(np.count_nonzero(response) / 64)))) - 1
        spectrum = np.zeros((self.views, last + 1), dtype=np.complex64)
        within = min(half, last) + 1
        if lines is not None:
            spectrum[:, :within] += np.fft.rfft(lines, axis=-1)[:, :within]
        if noise is not None:
            found = np.fft.rfft(noise, axis=-1)
            spectrum[:, :within] += found[:, :within]
            spectrum[:, within:] = found[:, self.bins - np.arange(within, last + 1)].conj()
        weights = response[: last + 1] * (2 * np.pi / self.views / self.bins)  # 2: frequencies below 0
        weights[0] /= 2
        spectrum *= weights.astype(np.float32)
        if last not in self._adjoints:
            self._adjoints[last] = self._plan(1, last)
        image: NDArray[np.complex64] = self._adjoints[last].execute(spectrum.ravel())
        return image.real


def bins_for(side: int) -> int:
    """Detector bins around the circle that bounds an image; even."""
    return 2 * int(np.ceil(side * np.sqrt(2) / 2)) + 2


def filter_response(bins: int, cutoff: float) -> NDArray[np.float64]:
    """Ramp times Hann apodisation at frequencies 0, 1 / bins, ... up to twice Nyquist, in cycles per bin.

    Up to Nyquist the ramp is that of a sampled detector, whose impulse response is 1/4 and -1/(pi n)^2 at odd n
    (Ramachandran and Lakshminarayanan 1971), which has no error at frequency 0.
    """
    lag = np.arange(bins // 2 + 1)
    odd = np.where(lag % 2 == 1, -1 / (np.pi * np.maximum(lag, 1)) ** 2, 0.0)
    sampled = np.fft.rfft(np.concatenate([[0.25], odd[1:], odd[-2:0:-1]])).real
    frequency = np.arange(bins + 1) / bins
    ramp = np.concatenate([sampled, frequency[sampled.size :]])
    return np.asarray(ramp * apodisation(frequency, cutoff))


def apodisation(frequency: NDArray[np.float64], cutoff: float) -> NDArray[np.float64]:
    """Hann window that reaches zero at `cutoff` times Nyquist; frequency in cycles per bin."""
    edge = 0.5 * cutoff
    return np.where(frequency < edge, 0.5 + 0.5 * np.cos(np.pi * frequency / edge), 0.0)


_LOCK = threading.Lock()
_IDLE: deque[Projector] = deque(maxlen=MOST_IDLE)


@contextmanager
def borrowed(side: int, views: int) -> Iterator[Projector]:
    """A planned projector for the caller alone; planned once and given back for the next slice of the same size."""
    with _LOCK:
        engine = next((idle for idle in _IDLE if (idle.side, idle.views) == (side, views)), None)
        if engine is not None:
            _IDLE.remove(engine)
    engine = engine or Projector(side, views)
    try:
        yield engine
    finally:
        with _LOCK:
            _IDLE.append(engine)
