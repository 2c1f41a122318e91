"""A checkpoint in the released layout with very narrow layers and random weights."""

from pathlib import Path
from typing import Any

import torch
import yaml

from zeronvs.cameras.embedding import Representation
from zeronvs.checkpoints.architecture import Architecture, ClipShape, UNetShape, VaeShape
from zeronvs.checkpoints.keys import ema_name, links_of
from zeronvs.diffusion.sampling import NoiseSchedule

TINY = Architecture(
    unet=UNetShape(
        channels=(32, 64),
        has_attention=(True, False),
        layers_per_block=1,
        transformer_depth=1,
        linear_projection=False,
        in_channels=8,
        out_channels=4,
        cross_attention_dim=24,
        num_heads=8,
        sample_size=4,
    ),
    vae=VaeShape(
        channels=(32, 64),
        layers_per_block=1,
        latent_channels=4,
        sample_size=8,
        scaling_factor=0.18215,
    ),
    clip=ClipShape(
        width=64,
        hidden=32,
        layers=1,
        heads=1,
        patch_px=14,
        image_size_px=28,
        projection_dim=24,
    ),
    schedule=NoiseSchedule(),
    representation=Representation.SIX_DOF_VIEWER,
    camera_embed_dim=19,
)
CONFIG = {"model": {"params": {"unet_config": {"params": {"image_size": 4}}}}}


def official_state(architecture: Architecture = TINY) -> dict[str, torch.Tensor]:
    """Return random weights in the released layout, trained and averaged ones different."""
    generator = torch.Generator().manual_seed(0)
    state = dict(architecture.schedule.buffers())
    components = architecture.empty_components()
    for component, links in links_of(architecture).items():
        stored = components[component].state_dict()
        for link in links:
            shape = link.to_official([stored[name] for name in link.stored]).shape
            state[link.official] = 0.1 * torch.randn(shape, generator=generator)
            if component == "unet":
                state[ema_name(link.official)] = 0.1 * torch.randn(shape, generator=generator)
    state["model_ema.decay"] = torch.tensor(0.9999)
    state["model_ema.num_updates"] = torch.tensor(5, dtype=torch.int32)
    state["cond_stage_model.model.token_embedding.weight"] = torch.zeros(3, 2)
    return state


def save(path: Path, state: dict[str, torch.Tensor], config: Any = CONFIG) -> Path:
    torch.save({"state_dict": state, "epoch": 1}, path)
    path.with_suffix(".yaml").write_text(yaml.safe_dump(config))
    return path
