"""What the denoiser is told: of the input view (`Condition`), and of each camera on top of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Index = int | slice | Tensor | list[int]


@dataclass(frozen=True, eq=False)
class Condition:
    """What is known of b input views, whatever camera is asked for."""

    image_embedding: Float[Tensor, "b d"]
    """CLIP image embeddings."""
    latent: Float[Tensor, "b c h w"]
    """Mode of the autoencoder's posterior, not multiplied by the scaling factor."""
    view: View
    """The b views at the model's size, with depth where the model needs it."""
    scene_scale: Float[Tensor, " b"]
    """Scene units per model unit, > 0."""

    def __len__(self) -> int:
        """Number of input views."""
        return self.latent.shape[0]

    def __getitem__(self, index: Index) -> "Condition":
        """Return the conditions at `index`, always as a batch."""
        index = [index] if isinstance(index, int) else index
        return Condition(
            self.image_embedding[index],
            self.latent[index],
            self.view[index],
            self.scene_scale[index],
        )


def join_conditions(conditions: Sequence[Condition]) -> Condition:
    """Return one batch of conditions, e.g. of the input view and of the anchors."""
    views = [condition.view for condition in conditions]
    depths = [view.depth_z for view in views if view.depth_z is not None]
    camera = Camera(
        torch.cat([view.camera.camera_to_world for view in views]),
        torch.cat([view.camera.intrinsics_px for view in views]),
        views[0].camera.image_size_px,
    )
    depth_z = torch.cat(depths) if len(depths) == len(views) else None
    return Condition(
        torch.cat([condition.image_embedding for condition in conditions]),
        torch.cat([condition.latent for condition in conditions]),
        View(torch.cat([view.image for view in views]), camera, depth_z),
        torch.cat([condition.scene_scale for condition in conditions]),
    )


@dataclass(frozen=True, eq=False)
class CameraCondition:
    """What the denoiser is told for n cameras; made once per camera, used at every step."""

    tokens: Float[Tensor, "n 1 d"]
    """One cross-attention token per camera."""
    concat: Float[Tensor, "n k h w"]
    """Channels put beside the noisy latent: the input latent, and for the warp kind the latent of
    the warped input and the folded validity mask."""

    def __len__(self) -> int:
        """Number of cameras."""
        return self.tokens.shape[0]

    def __getitem__(self, index: Index) -> "CameraCondition":
        """Return the conditions of the cameras at `index`, always as a batch."""
        index = [index] if isinstance(index, int) else index
        return CameraCondition(self.tokens[index], self.concat[index])

    def null(self) -> "CameraCondition":
        """Return the published null condition: a zero token and zero channels.

        Training projects [0, pose] instead; the published samplers do not (published code,
        ldm/models/diffusion/ddpm.py and threestudio/models/guidance/zero123_guidance.py).
        """
        return CameraCondition(torch.zeros_like(self.tokens), torch.zeros_like(self.concat))


def resize_image(
    image: Float[Tensor, "*batch c h w"], size_px: int
) -> Float[Tensor, "*batch c s s"]:
    """Resize to a square bilinearly, with antialiasing when shrinking; differentiable."""
    if tuple(image.shape[-2:]) == (size_px, size_px):
        return image
    flat = image.reshape(-1, *image.shape[-3:])
    resized = F.interpolate(
        flat, (size_px, size_px), mode="bilinear", align_corners=False, antialias=True
    )
    return resized.reshape(*image.shape[:-2], size_px, size_px)


def fit_view(view: View, size_px: int) -> View:
    """Return the view cut to its central square and resized, its camera and depth with it."""
    height_px, width_px = view.image.shape[-2:]
    side_px = min(height_px, width_px)
    top_px, left_px = (height_px - side_px) // 2, (width_px - side_px) // 2
    window = (..., slice(top_px, top_px + side_px), slice(left_px, left_px + side_px))
    camera = view.camera.resized(height_px, width_px)
    camera = camera.cropped(top_px, left_px, side_px, side_px).resized(size_px, size_px)
    depth_z = None
    if view.depth_z is not None:
        # Nearest: a mean of two depths lies on neither surface, and 0 means unknown.
        depth_z = view.depth_z[window]
        depth_z = F.interpolate(
            depth_z.reshape(-1, 1, side_px, side_px), (size_px, size_px), mode="nearest-exact"
        ).reshape(*depth_z.shape[:-2], size_px, size_px)
    return View(resize_image(view.image[window], size_px), camera, depth_z)


def clip_pixels(image: Float[Tensor, "b 3 h w"], size_px: int) -> Float[Tensor, "b 3 s s"]:
    """Return an image in [0, 1] as the published code shows it to CLIP.

    Bicubic with corners aligned and no antialiasing, then CLIP's mean and deviation (published
    code, ldm/modules/encoders/modules.py, `FrozenCLIPImageEmbedder.preprocess`).
    """
    resized = F.interpolate(image, (size_px, size_px), mode="bicubic", align_corners=True)
    mean = torch.tensor(CLIP_MEAN, dtype=image.dtype, device=image.device)
    deviation = torch.tensor(CLIP_STD, dtype=image.dtype, device=image.device)
    return (resized - mean[:, None, None]) / deviation[:, None, None]
