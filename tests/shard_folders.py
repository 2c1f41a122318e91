"""Folders of shards with a few procedural scenes."""

from pathlib import Path

import torch

from zeronvs.datasets.procedural import random_cameras, random_scene
from zeronvs.shards.writer import ShardScene, ShardWriter, encode_frame

SIDE_PX = 256


def write_shards(folder: Path, *, scenes: int = 2, frames: int = 4, seed: int = 0) -> Path:
    """Write a folder of shards, a scene each; every frame has dense depth."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(8, 3, 4, 4, generator=generator)
    textures = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    with ShardWriter(folder, max_scenes_per_shard=1) as writer:
        for number in range(scenes):
            scene = random_scene(generator, textures)
            cameras = random_cameras(generator, frames, 0.9, (SIDE_PX, SIDE_PX))
            encoded = []
            for index in range(frames):
                view = scene.render(cameras[index])
                pixels = (view.image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
                name = f"frame{index + 1:06d}"
                depth_z = view.depth_z.numpy()
                encoded.append(encode_frame(pixels, cameras[index], depth_z, name=name))
            writer.add(ShardScene(f"{folder.name}/scene{number}", tuple(encoded)))
    return folder
