"""What every KFP component of this project shares: how it is declared and which image it runs in.

A component is a lightweight Python component whose body only calls the step's function. So the same compiled
pipeline runs in a cluster (in the image) and by kfp.local (in this virtual environment).
"""

from collections.abc import Callable
from typing import Any

from kfp import dsl

from mira import __version__

REGISTRY = "registry.example.org/mira"


def component(extra: str) -> Callable[..., Any]:
    """Decorator for a step that runs in the image with one extra of this project installed.

    Args:
        extra: name of the extra in pyproject.toml, and of the image in deploy/.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        return dsl.component(function, base_image=f"{REGISTRY}/python-{extra}:{__version__}", install_kfp_package=False)

    return decorate
