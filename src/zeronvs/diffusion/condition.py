"""Conditioning of the denoiser: per input view (`Condition`), per target (`CameraCondition`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from zeronvs.cameras.view import View

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Index = int | slice | Tensor | list[int]


@dataclass(frozen=True, eq=False)
class Condition:
    """Encoding of b input views, independent of the target cameras."""

    image_embedding: Float[Tensor, "b d"]
    """CLIP image embeddings."""
    latent: Float[Tensor, "b c h w"]
    """Mode of the autoencoder's posterior, not multiplied by the scaling factor."""
    view: View
    """The b views at the model's size, with depth where the model needs it."""
    scene_scale: Float[Tensor, " b"]
    """Scene units per model unit, > 0."""

    def __len__(self) -> int:
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
    return Condition(
        torch.cat([condition.image_embedding for condition in conditions]),
        torch.cat([condition.latent for condition in conditions]),
        View.cat(views),
        torch.cat([condition.scene_scale for condition in conditions]),
    )


@dataclass(frozen=True, eq=False)
class CameraCondition:
    """Conditioning of the denoiser on n cameras, constant over the sampling steps."""

    tokens: Float[Tensor, "n 1 d"]
    """One cross-attention token per camera."""
    concat: Float[Tensor, "n k h w"]
    """Channels concatenated to the noisy latent: the input latent, and for the warp kind the latent
    of the warped input and the folded validity mask."""
    warped: (
        tuple[
            Float[Tensor, "n 3 H W"],  # known content, holes filled
            Float[Tensor, "n 1 H W"],  # 1 where content is known, else 0
        ]
        | None
    ) = None
    """For the warp kind, the known content of the targets at the model's image size."""

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, index: Index) -> "CameraCondition":
        """Return the conditions of the cameras at `index`, always as a batch."""
        index = [index] if isinstance(index, int) else index
        warped = None if self.warped is None else (self.warped[0][index], self.warped[1][index])
        return CameraCondition(self.tokens[index], self.concat[index], warped)

    def null(self) -> "CameraCondition":
        """Return the published null condition: a zero token and zero channels.

        Training projects [0, pose] instead; the published samplers do not (published code,
        ldm/models/diffusion/ddpm.py and threestudio/models/guidance/zero123_guidance.py).
        """
        return CameraCondition(
            torch.zeros_like(self.tokens), torch.zeros_like(self.concat), self.warped
        )


def fit_view(view: View, size_px: int) -> View:
    """Return the view cut to its central square and resized, its camera and depth with it."""
    return view.center_square().resized(size_px, size_px)


def clip_pixels(image: Float[Tensor, "b 3 h w"], size_px: int) -> Float[Tensor, "b 3 s s"]:
    """Return an image in [0, 1] preprocessed for CLIP as in the published code.

    Bicubic with corners aligned and no antialiasing, then CLIP's mean and deviation (published
    code, ldm/modules/encoders/modules.py, `FrozenCLIPImageEmbedder.preprocess`).
    """
    resized = F.interpolate(image, (size_px, size_px), mode="bicubic", align_corners=True)
    mean = torch.tensor(CLIP_MEAN, dtype=image.dtype, device=image.device)
    deviation = torch.tensor(CLIP_STD, dtype=image.dtype, device=image.device)
    return (resized - mean[:, None, None]) / deviation[:, None, None]
