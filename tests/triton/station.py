"""A serving station in a folder of its own, with releases whose networks differ in their gain."""

from pathlib import Path
from typing import Self

import numpy as np

from components.promote import registry, server
from components.promote.step import PromoteConfig, PromoteSummary, promote
from mira.client import RestorationClient
from tests.triton.tiny_network import make_release

MODELS = ("mira_net", "mira_net_ct")
IMAGE = np.random.default_rng(3).normal(0, 100, (3, 40, 56)).astype(np.float32)


class Station:
    """Promotes, and asks what serves; its server is stopped at the end of a `with` block.

    Args:
        root: folder for everything; the workspace is `ws`, the model repository `models`.
        tracking_uri: registry with the champion alias.
    """

    def __init__(self, root: Path, tracking_uri: str = registry.OFF) -> None:
        self.root = root
        self.config = PromoteConfig(
            workspace=root / "ws",
            repository=root / "models",
            tracking_uri=tracking_uri,
            engine="onnxruntime",
            threads=1,
            load_timeout_s=20,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        server.stop(self.config)

    def release(self, version: int, models: tuple[str, ...] = MODELS) -> tuple[Path, Path, Path]:
        """Files of a release: exported networks, version and decision."""
        return make_release(self.root / f"v{version}", version, gain=0.1 * version, models=models)

    def network(self, version: int, model: str = MODELS[0]) -> Path:
        """The exported network of a release."""
        return self.root / f"v{version}" / "exported" / model / "model.onnx"

    def promote(self, version: int, models: tuple[str, ...] = MODELS) -> PromoteSummary:
        """Make a release and promote it."""
        return promote(*self.release(version, models), self.root / f"out{version}", self.config)

    def promote_files(self, files: tuple[Path, Path, Path]) -> PromoteSummary:
        """Promote a release that is there."""
        return promote(*files, self.root / "out", self.config)

    @property
    def url(self) -> str:
        """HOST:PORT of the running server."""
        state = server.running(self.config)
        assert state is not None
        return state.url

    def answer(self) -> tuple[str, np.ndarray]:
        """Version that answers, and its answer to one request."""
        with RestorationClient(self.url, deadline_s=10) as client:
            restored = client.restore_slices(IMAGE, "CT")
        return restored.version, restored.voxels
