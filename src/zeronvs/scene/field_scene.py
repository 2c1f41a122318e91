"""A scene: a radiance field with the proposal density that finds it, rendered through cameras."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from zeronvs._core.errors import InputError
from zeronvs._core.files import parse_json, write_aside
from zeronvs._core.precision import scene_precision
from zeronvs._core.random import sent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.rays import camera_rays
from zeronvs.protocols import Rendering
from zeronvs.scene.field import FieldConfig, HashGridField
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.proposal import ProposalConfig, ProposalDensity
from zeronvs.scene.renderer import (
    RayLosses,
    RayRendering,
    RenderConfig,
    join_rays,
    march_rays,
    recomputed,
)

_FORMAT = "zeronvs-scene-1"


@dataclass(frozen=True, eq=False, kw_only=True)
class FieldRendering(Rendering):
    """Images of a radiance field, with what its training needs.

    `depth_z` is the inverse of the mean disparity.
    """

    accumulated_distance: Float[Tensor, "b h w"]
    """Sum of weight times distance along the ray, scene units; 0 where nothing is."""
    normal: Float[Tensor, "b 3 h w"] | None
    """Unit normals in world axes, on request."""
    interlevel_loss: Float[Tensor, ""]
    """Mean over rays; trains the proposal density."""
    distortion_loss: Float[Tensor, ""]
    """Mean over rays."""
    orientation_loss: Float[Tensor, ""]
    """Per ray that meets something."""


class FieldScene(nn.Module):
    """A radiance field that can be rendered, saved and loaded."""

    def __init__(
        self,
        field_config: FieldConfig | None = None,
        render_config: RenderConfig | None = None,
        proposal_config: ProposalConfig | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build a scene with random weights; every default is the published one."""
        super().__init__()
        self.render_config = render_config or RenderConfig()
        self.field = HashGridField(field_config, generator)
        self.proposal = ProposalDensity(proposal_config, generator)

    @classmethod
    def small(
        cls, render_config: RenderConfig | None = None, generator: torch.Generator | None = None
    ) -> "FieldScene":
        """Build the scene of a CPU preview."""
        render_config = render_config or RenderConfig.small()
        return cls(FieldConfig.small(), render_config, ProposalConfig.small(), generator=generator)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @scene_precision()
    def render(
        self,
        camera: Camera,
        *,
        background: Float[Tensor, "*#b 3"] | None = None,
        generator: torch.Generator | None = None,
        with_normals: bool = False,
        with_losses: RayLosses | None = None,
    ) -> FieldRendering:
        """Render images, one for each camera of the batch.

        Args:
            camera: A batch of cameras (or one, which gives a batch of one).
            background: RGB behind the scene, one for all images or one each; None: black.
            generator: Draws the shifts of the samples; None: no shifts.
            with_normals: Also render normals.
            with_losses: The losses to compute; None: all where gradients are enabled, else none.
        """
        camera = camera.to(self.device)
        batch, (height_px, width_px) = (camera.batch_shape or (1,))[0], camera.image_size_px
        rays = camera_rays(camera)
        if background is not None:
            background = sent(background, self.device).expand(batch, 3)
            background = background.repeat_interleave(height_px * width_px, dim=0)
        rendering = self.render_rays(
            rays.origins.reshape(-1, 3),
            rays.directions.reshape(-1, 3),
            background=background,
            generator=generator,
            with_normals=with_normals,
            with_losses=with_losses,
        )
        shape = (batch, height_px, width_px)
        normal = rendering.normal
        if normal is not None:
            normal = normal.view(*shape, 3).permute(0, 3, 1, 2)
        return FieldRendering(
            rgb=rendering.rgb.view(*shape, 3).permute(0, 3, 1, 2),
            opacity=rendering.opacity.view(shape),
            depth_z=rendering.distance.view(shape) * rays.z_per_unit_distance.view(shape),
            accumulated_distance=rendering.accumulated_distance.view(shape),
            normal=normal,
            interlevel_loss=rendering.interlevel_loss.mean(),
            distortion_loss=rendering.distortion_loss.mean(),
            orientation_loss=rendering.mean_orientation_loss,
        )

    def render_rays(
        self,
        origins: Float[Tensor, "r 3"],
        directions: Float[Tensor, "r 3"],
        *,
        background: Float[Tensor, "*#r 3"] | None = None,
        generator: torch.Generator | None = None,
        quantile: Float[Tensor, "r 1"] | None = None,
        with_normals: bool = False,
        with_losses: RayLosses | None = None,
    ) -> RayRendering:
        """Render single rays, e.g. random pixels in training.

        Args:
            background: RGB behind the scene, one for all rays or one each; None: black.
            generator: Draws the shifts of the samples; None: no shifts.
            quantile: In [0, 1], the share for `RayRendering.quantile_distance`; None: none.
            with_losses: The losses to compute; None: all where gradients are enabled, else none.
        """
        rays = origins.shape[0]
        jitter = None
        if generator is not None:
            jitter = torch.rand(rays, 2, generator=generator, device=generator.device) - 0.5
            jitter = sent(jitter, origins.device)
        if background is not None:
            background = sent(background, origins.device).expand(rays, 3)
        config, trained = self.render_config, torch.is_grad_enabled()
        with_losses = with_losses or RayLosses(interlevel=trained, distortion=trained)
        chunk = config.graph_rays if trained else config.chunk_rays
        parameters = [weight for weight in self.parameters() if weight.requires_grad]
        parts = []
        for start in range(0, rays, chunk):
            piece = slice(start, start + chunk)
            march = partial(
                march_rays,
                self.field,
                self.proposal,
                origins[piece],
                directions[piece],
                config,
                background=None if background is None else background[piece],
                jitter=None if jitter is None else jitter[piece],
                quantile=None if quantile is None else quantile[piece],
                with_normals=with_normals,
                with_losses=with_losses,
            )
            parts.append(recomputed(march, parameters) if trained and rays > chunk else march())
        return join_rays(parts)

    def save(self, path: Path) -> None:
        """Write weights and settings to a safetensors file, whole or not at all."""
        settings = {
            "field": asdict(self.field.config),
            "render": asdict(self.render_config),
            "proposal": asdict(self.proposal.config),
        }
        # One entry: safetensors writes several in another order each time.
        metadata = {"scene": json.dumps({"format": _FORMAT, **settings})}
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        with write_aside(path) as aside:
            save_file(tensors, aside, metadata)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> "FieldScene":
        """Read a scene that `save` wrote.

        Raises:
            InputError: The file is missing, damaged or of another kind.
        """
        try:
            with safe_open(path, framework="pt") as file:
                settings = _scene_settings(file.metadata() or {}, path)
                configs = (
                    FieldConfig(**_with_grid(settings["field"])),
                    RenderConfig(**_numbers(settings["render"])),
                    ProposalConfig(**_with_grid(settings["proposal"])),
                )
                _check_render_config(configs[1])
                with torch.device("meta"):  # sizes first: the settings may ask for any memory
                    wanted = cls(*configs).state_dict()
                for name in sorted({*wanted, *file.keys()}):
                    shape = file.get_slice(name).get_shape() if name in file.keys() else None
                    if name not in wanted or shape != list(wanted[name].shape):
                        raise ValueError(f"the tensor {name} is missing or does not fit")
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
                raise ValueError("it holds numbers that are not finite")
            scene = cls(*configs)
            scene.load_state_dict(tensors)
        except InputError:
            raise
        except (
            *(OSError, SafetensorError, ValueError, TypeError, LookupError, AttributeError),
            *(RuntimeError, ArithmeticError),
        ) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{path} cannot be read as a scene: {reason}") from error
        return scene.to(device)


def _scene_settings(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    if "scene" in metadata:
        settings = parse_json(metadata["scene"], str(path))
    else:  # files of older versions have an entry for each
        settings = {name: metadata[name] for name in ("format",) if name in metadata}
        names = [name for name in ("field", "render", "proposal") if name in metadata]
        settings |= {name: parse_json(metadata[name], str(path)) for name in names}
    form = settings.get("format", "unknown") if isinstance(settings, dict) else "unknown"
    if form != _FORMAT:
        raise InputError(
            f"{path} is not a scene of this program (format {str(form)[:40]!r}); pass a "
            "scene.safetensors."
        )
    return settings


def _with_grid(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the nested grid settings back into their dataclass."""
    grid = HashGridConfig(**_numbers(settings["grid"]))
    if not (1 <= grid.levels <= 64 and grid.growth > 0 and grid.base_resolution >= 1):
        raise ValueError("its hash grid is out of range")
    plain = {name: value for name, value in settings.items() if name != "grid"}
    return {**_numbers(plain), "grid": grid}


def _numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, all of which must be numbers of a sensible size (or None)."""
    for name, value in settings.items():
        if value is not None and not (isinstance(value, int | float) and abs(value) <= 1e6):
            raise ValueError(f"its {name} is {str(value)[:40]!r}")
    return dict(settings)


def _check_render_config(config: RenderConfig) -> None:
    counts = (config.final_samples, config.chunk_rays, config.graph_rays)
    if min(counts) < 1 or config.proposal_samples < 0 or not 0 < config.near < config.far:
        raise ValueError("its settings of rendering are out of range")
