"""What a step of `paper` keeps in memory with the released sizes, known without a GPU.

Run: python benchmarks/memory.py [--tiny]      (tiny: does it run?)

What autograd keeps for the backward pass and the size of the weights are the same on every device
and are measured here. Temporaries of kernels are not: on a GPU the peak is higher by them.
"""

import argparse

import torch
from gpu_models import released_model
from torch import nn

from zeronvs.distillation.kept_memory import bytes_per_ray, field_bytes, kept_bytes
from zeronvs.distillation.objective import latents_of_views
from zeronvs.recipes.presets import PAPER

MIB, GIB = 2**20, 2**30


def weight_bytes(module: nn.Module, each: int = 4) -> int:
    """Return the bytes of a module's weights, of so many bytes each."""
    return each * sum(weight.numel() for weight in module.parameters())


def main() -> None:
    """Print the parts of a step, and their sum."""
    config = PAPER.distill
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true", help="a model of small widths")
    pipe = released_model("cpu", tiny=parser.parse_args().tiny)
    graph_rays = config.render_config.graph_rays
    ray = bytes_per_ray(config, with_normals=True)
    again = bytes_per_ray(config, with_normals=True, recomputed=True)
    plain = bytes_per_ray(config, with_normals=False)
    view = torch.rand(1, 3, 128, 128, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    encoded = kept_bytes(lambda: pipe.to_latent(view, generator), pipe.vae.parameters())
    waiting = kept_bytes(lambda: latents_of_views(pipe, view, generator), pipe.vae.parameters())
    used = weight_bytes(pipe.unet, 2) + weight_bytes(pipe.cc_projection)
    used += weight_bytes(pipe.vae) - weight_bytes(pipe.vae.decoder)
    whole = sum(weight_bytes(part) for part in (pipe.unet, pipe.vae, pipe.image_encoder))
    learned = field_bytes(config)
    print(
        f"| a ray with normals; without; rendered again in the backward pass | {ray / 1024:.1f}; "
        f"{plain / 1024:.1f}; {again / 1024:.2f} KiB |"
    )
    print(f"| {graph_rays} rays with normals | {ray * graph_rays / GIB:.2f} GiB |")
    print(
        f"| a view in the autoencoder; encoded again | {encoded / MIB:.0f}; "
        f"{waiting / MIB:.1f} MiB |"
    )
    print(
        f"| weights: all in float32; those of the steps | {whole / GIB:.2f}; {used / GIB:.2f} GiB |"
    )
    print(f"| field, its gradients and optimisers | {learned / GIB:.2f} GiB |")
    for stage in config.stages:
        views = stage.sds_views * stage.sds_size_px**2
        kept = used + learned + graph_rays * ray + views * again + stage.sds_views * waiting
        before = whole + learned + views * ray + stage.sds_views * encoded
        print(
            f"| from step {stage.from_step}: all of it; with every graph kept, in float32 | "
            f"{kept / GIB:.1f}; {before / GIB:.1f} GiB |"
        )


if __name__ == "__main__":
    main()
