"""A scene of a photograph from Python, and a look at it from above.

Run: python examples/01_make_scene.py
"""

import math
from pathlib import Path

import torch

from zeronvs import Camera, export, orbit_pose, prepare_photo, reconstruct
from zeronvs.formats.images import write_image

photo = prepare_photo(Path(__file__).with_name("coffee.png"))
scene = reconstruct(photo.view, None, "preview", scene_scale=photo.estimates.scene_scale.value)

azimuth_rad = torch.arange(12) * (2 * math.pi / 12)
poses = orbit_pose(azimuth_rad, torch.full((12,), 0.4), torch.ones(12))
cameras = Camera.from_fov(poses, photo.view.camera.center_square().fov_y_rad.item(), (128, 128))
for path in export(scene, cameras, ["ply"], Path("out/example")):
    print(path)

above = orbit_pose(torch.tensor([0.5]), torch.tensor([math.radians(70)]), torch.tensor([1.2]))
with torch.no_grad():
    image = scene.render(cameras[[0]].with_poses(above).resized(256, 256)).rgb[0]
write_image(Path("out/example/from_above.png"), image)
