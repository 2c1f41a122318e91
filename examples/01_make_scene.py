"""A scene of a photograph from Python, and a look at it from above.

Run: python examples/01_make_scene.py
"""

import math
from pathlib import Path

import torch

from zeronvs import Camera, reconstruct
from zeronvs.cameras.poses import orbit_pose
from zeronvs.formats.images import write_image
from zeronvs.recipes.reconstruct import SceneSettings
from zeronvs.recipes.run_folder import open_run

photo = Path(__file__).with_name("coffee.png")
result = reconstruct(SceneSettings(photo=photo, out=Path("out/example")))
print(f"{result.run_dir}: {result.metrics}")

run = open_run(result.run_dir)
above = orbit_pose(torch.tensor(0.5), torch.tensor(math.radians(70)), torch.tensor(1.2))
camera = Camera.from_fov(above[None], float(run.input_camera.fov_y_rad), (256, 256))
with torch.no_grad():
    write_image(Path("out/example/from_above.png"), run.scene.render(camera).rgb[0])
