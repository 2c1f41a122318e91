"""The layer that conditions on the camera: image embedding and pose in, one token out."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn


class CameraProjection(ModelMixin, ConfigMixin):
    """One linear layer from (image embedding, camera embedding) to a cross-attention token.

    Source: published code, ldm/models/diffusion/ddpm.py (`cc_projection`).
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        image_embed_dim: int = 768,
        camera_embed_dim: int = 19,
        cross_attention_dim: int = 768,
        representation: str = "6DoF+1, viewer",
        conditioning: str | None = None,
    ) -> None:
        """Initialise the layer so that the token is the image embedding.

        Args:
            image_embed_dim: Numbers in an image embedding (768 for CLIP ViT-L/14).
            camera_embed_dim: Numbers in a camera embedding (19, or 4 for 3DoF).
            cross_attention_dim: Numbers in a token of the denoiser.
            representation: Name of the camera representation the layer was trained with.
            conditioning: Kind of conditioning of the model on the input image ("concat", "warp" or
                "warped image");
                None: inferred from the denoiser's input channels.
        """
        super().__init__()
        self.projection = nn.Linear(image_embed_dim + camera_embed_dim, cross_attention_dim)
        with torch.no_grad():
            nn.init.eye_(self.projection.weight[:, :image_embed_dim])
            nn.init.zeros_(self.projection.bias)

    def forward(
        self,
        image_embedding: Float[Tensor, "n d"],
        camera_embedding: Float[Tensor, "n p"],
    ) -> Float[Tensor, "n 1 k"]:
        """Return one token per camera, in float32 whatever the precision of the layer."""
        joined = torch.cat([image_embedding, camera_embedding], dim=-1)
        return self.projection(joined.to(self.projection.weight.dtype)).float()[:, None]
