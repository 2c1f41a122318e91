"""New views of a photograph from Python, in the diffusers manner.

Run: python examples/00_sample_views.py
"""

from pathlib import Path

import torch
from PIL import Image

from zeronvs import Camera, ZeroNVSPipeline
from zeronvs.cameras.trajectories import make_trajectory
from zeronvs.depth.builtin import load_builtin_depth

photo = Image.open(Path(__file__).with_name("coffee.png"))
pipe = ZeroNVSPipeline.from_pretrained("builtin")

# The photograph's camera stands one unit before the origin and looks at it (OpenGL axes).
pose = torch.eye(4)
pose[2, 3] = 1.0
input_camera = Camera.from_fov(pose, torch.tensor(0.87), (128, 128))
cameras = make_trajectory("lemniscate", input_camera, frames=8)

images = pipe(
    photo,
    cameras,
    input_camera=input_camera,
    geometry_estimator=load_builtin_depth(),
    scene_scale=0.8,
    generator=0,
).images
for number, image in enumerate(images):
    image.save(f"view_{number}.png")
print(f"wrote {len(images)} views")
