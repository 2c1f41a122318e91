"""A scene of Gaussian splats, rendered through cameras."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_aside
from zeronvs.cameras.camera import Camera
from zeronvs.protocols import Rendering
from zeronvs.scene.rasterizer import LOW_PASS_PX2, RasterConfig, rasterize
from zeronvs.splats import GaussianSplats

FORMAT = "zeronvs-splats-1"
_SPLAT_SHAPES = {"means": (3,), "scales": (3,), "rotations": (4,), "opacities": (), "colors": (3,)}
"""Shape of each tensor of a splat."""


@dataclass(frozen=True, eq=False)
class SplatScene:
    """Gaussian splats that can be rendered, saved and loaded."""

    splats: GaussianSplats
    focal_px: float | None = None
    """Focal length of the photograph they were lifted from, in its pixels: larger images are no
    finer than the photograph. None: unknown."""

    @property
    def device(self) -> torch.device:
        """Where the splats are."""
        return self.splats.means.device

    def render(
        self, camera: Camera, *, background: Float[Tensor, "*#b 3"] | None = None
    ) -> Rendering:
        """Render images, one for each camera of the batch.

        Args:
            camera: A batch of cameras (or one, which gives a batch of one).
            background: RGB behind the scene, one for all images or one each; None: black.
        """
        camera = camera.batched()
        config = RasterConfig()
        if self.focal_px is not None:
            # In a larger image a pixel's splats would come apart into a grid of dots.
            enlarged = max(1.0, float(camera.intrinsics_px[:, 1, 1].amax()) / self.focal_px)
            config = replace(config, low_pass_px2=LOW_PASS_PX2 * enlarged**2)
        rgb, opacity, depth_z = rasterize(self.splats, camera, background, config)
        return Rendering(rgb=rgb.clamp(0, 1), opacity=opacity, depth_z=depth_z)

    def save(self, path: Path) -> None:
        """Write the splats to a safetensors file, whole or not at all.

        Positions keep full precision; everything else has more digits in half precision than a
        viewer shows.
        """
        tensors = {
            item.name: getattr(self.splats, item.name).detach().cpu().contiguous()
            for item in fields(self.splats)
        }
        tensors = {k: v if k == "means" else v.half() for k, v in tensors.items()}
        if self.focal_px is not None:
            tensors["focal_px"] = torch.tensor(self.focal_px, dtype=torch.float64)
        with write_aside(path) as aside:
            # One entry only: safetensors writes several in an order that differs between runs.
            save_file(tensors, aside, {"format": FORMAT})

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> "SplatScene":
        """Read splats that `save` wrote.

        Raises:
            InputError: The file is missing, damaged or of another kind.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                found = metadata.get("format", "unknown")
                if found != FORMAT:
                    raise InputError(
                        f"{path} holds no splats of this program (format {found!r}); pass the "
                        "scene.safetensors of a preview."
                    )
                parts = {name: file.get_tensor(name).float() for name in _SPLAT_SHAPES}
                focal_px = file.get_tensor("focal_px") if "focal_px" in file.keys() else None
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read as a scene: {error}") from error
        count = parts["means"].shape[:1]
        fitting = all(part.shape == (*count, *_SPLAT_SHAPES[k]) for k, part in parts.items())
        if not fitting or not all(bool(part.isfinite().all()) for part in parts.values()):
            raise InputError(f"{path} is damaged: its splats do not belong together.")
        return cls(GaussianSplats(**parts).to(device), _positive(focal_px))


def _positive(number: Tensor | None) -> float | None:
    """Return the number if it is one, positive and finite."""
    value = float(number) if number is not None and number.numel() == 1 else 0.0
    return value if 0 < value < math.inf else None
