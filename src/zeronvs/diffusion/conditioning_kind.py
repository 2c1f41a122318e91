"""Kinds of conditioning on the input image: channels, prediction and sampling of each kind.

A model's kind is named by `conditioning` in the configuration of its `cc_projection`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import resize_image
from zeronvs.cameras.warp import fill_holes, forward_warp
from zeronvs.diffusion.autoencoder import LatentSpace
from zeronvs.diffusion.condition import CameraCondition, Condition

Warped = tuple[
    Float[Tensor, "n 3 H W"],  # known content as the targets see it, holes filled
    Float[Tensor, "n 1 H W"],  # 1 where content is known, else 0
]
"""Images at the model's size that replace the warped input view."""

PUBLISHED_LATENT_NUMBERS = 4 * 32 * 32
KNOWN_BORDER_PX = 3
"""Width of the blend between sampled and known pixels at the border of a hole."""


class SamplingDefaults(NamedTuple):
    """Default settings of the sampler."""

    num_inference_steps: int
    guidance_scale: float
    """1 = none."""
    eta: float
    """DDIM's, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class ConditioningKind(ABC):
    """One way of conditioning the denoiser on the input image, for latents of given sizes."""

    latent: LatentSpace
    latent_size: int
    """Side of the square latents."""
    predicts_clean: bool
    """Whether the network predicts clean latents rather than noise or velocity."""

    name: ClassVar[str]
    needs_depth: ClassVar[bool]
    """Whether the input view must come with depth."""
    sds_guidance_scale: ClassVar[float | None]
    """Guidance of score distillation; None: the recipe's."""

    @property
    @abstractmethod
    def in_channels(self) -> int:
        """Input channels of the denoiser."""

    @property
    @abstractmethod
    def sampling_defaults(self) -> SamplingDefaults:
        """Default settings of the sampler."""

    def warped(
        self, condition: Condition, cameras: Camera, known: Warped | None = None
    ) -> Warped | None:
        """Return the known content of the target views; None for kinds that know none.

        Args:
            condition: n input views.
            cameras: n target cameras at the model's image size.
            known: Replaces the warped input view, where more is known than it shows.
        """
        return None

    @abstractmethod
    def concat_channels(
        self,
        condition: Condition,
        encode: Callable[[Tensor], Tensor],
        warped: Warped | None,
    ) -> Float[Tensor, "n k h w"]:
        """Return the channels that are concatenated to the noisy latents.

        Args:
            condition: n input views.
            encode: Images in [0, 1] to unscaled latents.
            warped: From `warped`.
        """

    def prediction(
        self, output: Float[Tensor, "n c h w"], camera_condition: CameraCondition
    ) -> Float[Tensor, "n c h w"]:
        """Return the prediction for the network's raw output."""
        return output

    def keep_known(
        self,
        image: Float[Tensor, "n 3 H W"],
        camera_condition: CameraCondition,
    ) -> Float[Tensor, "n 3 H W"]:
        """Return samples with their known pixels restored.

        Kinds that know no pixels of the target return the samples as they are.
        """
        return image

    def sds_weight(self, published: float) -> float:
        """Scale a weight of score distillation to the model's latents.

        The loss is a sum over the latent, so the published weight is kept per latent number.
        """
        return published * PUBLISHED_LATENT_NUMBERS / (self.latent.channels * self.latent_size**2)


@dataclass(frozen=True, kw_only=True)
class ConcatInput(ConditioningKind):
    """[noisy latent, input latent]: ZeroNVS and Zero-1-to-3 as released."""

    name = "concat"
    needs_depth = False
    sds_guidance_scale = None

    @property
    def sampling_defaults(self) -> SamplingDefaults:
        """Default settings of the sampler: the published ones."""
        return SamplingDefaults(50, 3.0, 1.0)

    @property
    def in_channels(self) -> int:
        """Input channels of the denoiser."""
        return 2 * self.latent.channels

    def concat_channels(
        self,
        condition: Condition,
        encode: Callable[[Tensor], Tensor],
        warped: Warped | None,
    ) -> Float[Tensor, "n k h w"]:
        """Return the latents of the input views, whatever the cameras."""
        return condition.latent


@dataclass(frozen=True, kw_only=True)
class ConcatWarp(ConditioningKind):
    """[noisy latent, input latent, latent of the warped input, its validity mask].

    The input is warped into the target camera along its depth and its holes are filled; the mask is
    folded to the latent's size. A network that predicts clean latents predicts the residual
    to the warped input: known content passes through unchanged, and only what the warp lacks is
    learned.

    Sampled and distilled without guidance: the null condition lacks the warped input, so the
    difference that guidance would amplify is the image itself (docs/log.md).
    """

    name = "warp"
    needs_depth = True
    sds_guidance_scale = 1.0

    @property
    def in_channels(self) -> int:
        """Input channels of the denoiser."""
        return 3 * self.latent.channels + self.latent.pixels_per_cell**2

    @property
    def sampling_defaults(self) -> SamplingDefaults:
        """Default settings of the sampler; a residual is regressed in fewer steps."""
        return SamplingDefaults(2 if self.predicts_clean else 8, 1.0, 0.0)

    def warped(
        self, condition: Condition, cameras: Camera, known: Warped | None = None
    ) -> Warped | None:
        """Return the warped input view with its holes filled, and where it is valid.

        A residual is predicted to the filling that comes with the warp. Networks that sample what
        is in the holes are conditioned on a smooth filling: texture there would pass for content.
        """
        image, validity = forward_warp(condition.view, cameras) if known is None else known
        if not self.predicts_clean:
            image = fill_holes(image * validity, validity)
        return image, validity

    def concat_channels(
        self,
        condition: Condition,
        encode: Callable[[Tensor], Tensor],
        warped: Warped | None,
    ) -> Float[Tensor, "n k h w"]:
        """Return input latent, latent of the warped input, and folded validity mask."""
        assert warped is not None
        image, validity = warped
        mask = F.pixel_unshuffle(validity, self.latent.pixels_per_cell)
        return torch.cat([condition.latent, encode(image), mask], dim=1)

    def prediction(
        self, output: Float[Tensor, "n c h w"], camera_condition: CameraCondition
    ) -> Float[Tensor, "n c h w"]:
        """Add the warped input to a predicted residual."""
        if not self.predicts_clean:
            return output
        return output + self._warped_latent(camera_condition).to(output)

    def keep_known(
        self,
        image: Float[Tensor, "n 3 H W"],
        camera_condition: CameraCondition,
    ) -> Float[Tensor, "n 3 H W"]:
        """Blend the warped input back into samples, softly at the borders of holes.

        A sample carries a little noise everywhere, an autoencoder blurs, and where the warp is
        valid the input is the better estimate (docs/log.md).
        """
        assert camera_condition.warped is not None
        warped, known = camera_condition.warped
        reach = KNOWN_BORDER_PX
        # Pixels outside the image count as known, so that its border does not fade.
        padded = F.pad(known, (reach, reach, reach, reach), value=1.0)
        weight = known * F.avg_pool2d(padded, 2 * reach + 1, stride=1)
        return torch.lerp(image, warped.to(image), weight.to(image))

    def _warped_latent(self, camera_condition: CameraCondition) -> Float[Tensor, "n c h w"]:
        channels = self.latent.channels
        warped = camera_condition.concat[:, channels : 2 * channels]
        return self.latent.scaling_factor * warped


@dataclass(frozen=True, kw_only=True)
class ConcatWarpedImage(ConditioningKind):
    """[noisy latent, input latent, warped input in pixels]: "warp and pose" of MegaScenes.

    The warped input is an image in [-1, 1] at the size of the latents, black where nothing is known
    (MegaScenes/nvs, video_script.py and ldm/models/diffusion/ddpm.py, `get_input`). Sampled with
    guidance as published there, against a null condition without the warped input.
    """

    name = "warped image"
    needs_depth = True
    sds_guidance_scale = 3.0

    @property
    def in_channels(self) -> int:
        """Input channels of the denoiser."""
        return 2 * self.latent.channels + 3

    @property
    def sampling_defaults(self) -> SamplingDefaults:
        """Default settings of the sampler: those of MegaScenes."""
        return SamplingDefaults(50, 3.0, 1.0)

    def warped(
        self, condition: Condition, cameras: Camera, known: Warped | None = None
    ) -> Warped | None:
        """Return the warped input view, black in its holes, and where it is valid."""
        image, validity = forward_warp(condition.view, cameras) if known is None else known
        return image * validity, validity

    def concat_channels(
        self,
        condition: Condition,
        encode: Callable[[Tensor], Tensor],
        warped: Warped | None,
    ) -> Float[Tensor, "n k h w"]:
        """Return input latent and the shrunk warped input."""
        assert warped is not None
        small = resize_image(warped[0], (self.latent_size, self.latent_size))
        return torch.cat([condition.latent, small * 2.0 - 1.0], dim=1)


KINDS = (ConcatInput, ConcatWarp, ConcatWarpedImage)


def conditioning_kind(
    name: str | None,
    *,
    in_channels: int,
    latent: LatentSpace,
    latent_size: int,
    predicts_clean: bool,
) -> ConditioningKind:
    """Return the kind of a model.

    Args:
        name: Name in the model's configuration; None (folders of older versions) selects the kind
            with as many input channels.
        predicts_clean: Whether the scheduler's prediction type is "sample".

    Raises:
        InputError: There is no such kind, or it does not fit the denoiser's input channels.
    """
    kinds = [
        kind(latent=latent, latent_size=latent_size, predicts_clean=predicts_clean)
        for kind in KINDS
    ]
    if name is not None and name not in {kind.name for kind in kinds}:
        known = ", ".join(f'"{kind.name}"' for kind in kinds)
        raise InputError(f'the conditioning is "{name}"; this version has {known}.')
    candidates = [kind for kind in kinds if name in (None, kind.name)]
    for kind in candidates:
        if kind.in_channels == in_channels:
            return kind
    expected = " or ".join(f'{kind.in_channels} ("{kind.name}")' for kind in candidates)
    raise InputError(
        f"the denoiser has {in_channels} input channels; with this autoencoder it must have "
        f"{expected}."
    )
