"""ZeroNVS: one photograph in, new views and a 360-degree scene out.

The names below are imported when they are first used, so that `import zeronvs` stays light.
"""

import importlib
from typing import TYPE_CHECKING, Any

from zeronvs._core.version import __version__

if TYPE_CHECKING:
    from zeronvs.cameras.camera import Camera
    from zeronvs.cameras.view import View
    from zeronvs.depth.builtin import DepthNet
    from zeronvs.diffusion.autoencoder import PixelShuffleAutoencoder
    from zeronvs.diffusion.pipeline import ZeroNVSPipeline
    from zeronvs.diffusion.projection import CameraProjection
    from zeronvs.recipes.reconstruct import reconstruct

__all__ = [
    "Camera",
    "CameraProjection",
    "DepthNet",
    "PixelShuffleAutoencoder",
    "View",
    "ZeroNVSPipeline",
    "__version__",
    "reconstruct",
]

_HOMES = {
    "Camera": "zeronvs.cameras.camera",
    "CameraProjection": "zeronvs.diffusion.projection",
    "DepthNet": "zeronvs.depth.builtin",
    "PixelShuffleAutoencoder": "zeronvs.diffusion.autoencoder",
    "View": "zeronvs.cameras.view",
    "ZeroNVSPipeline": "zeronvs.diffusion.pipeline",
    "reconstruct": "zeronvs.recipes.reconstruct",
}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives, on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
