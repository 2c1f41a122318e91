"""ZeroNVS: one photograph in, new views and a 360-degree scene out.

The names below are imported when they are first used, so that `import zeronvs` stays light.
"""

import importlib
from typing import TYPE_CHECKING, Any

from zeronvs._core import diffusers_lookup
from zeronvs._core.version import __version__

if TYPE_CHECKING:
    from zeronvs._core.progress import ProgressLine
    from zeronvs.cameras.camera import Camera
    from zeronvs.cameras.poses import look_at, orbit_pose
    from zeronvs.cameras.trajectories import make_trajectory
    from zeronvs.cameras.view import View
    from zeronvs.depth.builtin import DepthNet
    from zeronvs.diffusion.autoencoder import PixelShuffleAutoencoder
    from zeronvs.diffusion.pipeline import ZeroNVSPipeline
    from zeronvs.diffusion.projection import CameraProjection
    from zeronvs.exports.export import export
    from zeronvs.exports.page import show
    from zeronvs.protocols import Scene
    from zeronvs.recipes.prepare import prepare_photo
    from zeronvs.recipes.reconstruct import reconstruct
    from zeronvs.recipes.run_folder import open_run
    from zeronvs.splats import GaussianSplats

__all__ = [
    "Camera",
    "CameraProjection",
    "DepthNet",
    "GaussianSplats",
    "PixelShuffleAutoencoder",
    "ProgressLine",
    "Scene",
    "View",
    "ZeroNVSPipeline",
    "__version__",
    "export",
    "look_at",
    "make_trajectory",
    "open_run",
    "orbit_pose",
    "prepare_photo",
    "reconstruct",
    "show",
]

_HOMES = {
    "Camera": "zeronvs.cameras.camera",
    "CameraProjection": "zeronvs.diffusion.projection",
    "DepthNet": "zeronvs.depth.builtin",
    "GaussianSplats": "zeronvs.splats",
    "PixelShuffleAutoencoder": "zeronvs.diffusion.autoencoder",
    "ProgressLine": "zeronvs._core.progress",
    "Scene": "zeronvs.protocols",
    "View": "zeronvs.cameras.view",
    "ZeroNVSPipeline": "zeronvs.diffusion.pipeline",
    "export": "zeronvs.exports.export",
    "look_at": "zeronvs.cameras.poses",
    "make_trajectory": "zeronvs.cameras.trajectories",
    "open_run": "zeronvs.recipes.run_folder",
    "orbit_pose": "zeronvs.cameras.poses",
    "prepare_photo": "zeronvs.recipes.prepare",
    "reconstruct": "zeronvs.recipes.reconstruct",
    "show": "zeronvs.exports.page",
}


diffusers_lookup.register()


def __getattr__(name: str) -> Any:
    """Import a public name from its module, on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
