"""A tiny pack of procedural images for the preset `builtin`."""

import torch

from zeronvs.datasets.procedural import random_cameras, random_scene
from zeronvs.training.pack import TrainingPack

SIZE_PX, PHOTO_PX = 32, 40


def make_pack() -> TrainingPack:
    """Return two scenes of four frames, and three photographs."""
    generator = torch.Generator().manual_seed(0)
    textures = torch.nn.functional.interpolate(
        torch.rand(4, 3, 4, 4, generator=generator), (16, 16), mode="bilinear"
    )
    views = []
    for _ in range(2):
        scene = random_scene(generator, textures)
        cameras = random_cameras(generator, 4, 0.9, (SIZE_PX, SIZE_PX))
        views += [scene.render(cameras[index]) for index in range(4)]
    quantile = torch.stack([torch.quantile(view.depth_z, 0.2) for view in views])
    depth = torch.stack([view.depth_z for view in views]) / quantile[:, None, None]
    photos = torch.rand(3, 3, 5, 5, generator=generator)
    photos = torch.nn.functional.interpolate(photos, (PHOTO_PX, PHOTO_PX), mode="bilinear")
    ramp = torch.linspace(0, 255, PHOTO_PX)[:, None].expand(3, PHOTO_PX, PHOTO_PX)
    return TrainingPack(
        frame_image=(torch.stack([view.image for view in views]) * 255).to(torch.uint8),
        frame_depth_z=depth.half(),
        frame_quantile_depth=quantile,
        frame_camera_to_world=torch.stack([view.camera.camera_to_world for view in views]),
        frame_intrinsics_px=torch.stack([view.camera.intrinsics_px for view in views]),
        frame_scene=torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]),
        photo_image=(photos * 255).to(torch.uint8),
        photo_disparity=ramp.to(torch.uint8),
    )
