"""A run in a process of its own, which may be killed in the midst of writing a video.

Run as: python video_process.py KIND FOLDER FRAME, where KIND is views or scene, and FRAME the frame
at which the process kills itself.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_pipelines import FixedGeometry, tiny_released

from zeronvs.formats import video
from zeronvs.recipes.prepare import prepare_photo
from zeronvs.recipes.presets import LiftRecipe, OutputConfig
from zeronvs.recipes.write_run import SamplerSettings, write_scene_run, write_views_run
from zeronvs.scene.lift import LiftConfig

WHOLE = video.to_bytes


def main(kind: str, out: Path, killed_at: int = -1) -> None:
    """Make the run; die at a frame of a video, unless it is negative."""
    encoded = 0

    def dying(image: torch.Tensor) -> torch.Tensor:
        nonlocal encoded
        encoded += 1
        if encoded == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return WHOLE(image)

    if killed_at >= 0:
        video.to_bytes = dying
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    photo = prepare_photo(Image.fromarray(pixels), geometry_estimator=FixedGeometry())
    if kind == "views":
        sampler = SamplerSettings(num_inference_steps=2)
        write_views_run(photo, tiny_released(), "orbit", 4, out, sampler=sampler, resume=True)
        return
    lift = LiftConfig(fill_side_px=32, surround_width_px=48, color_steps=1)
    outputs = OutputConfig(size_px=16, near_size_px=16, orbit_frames=4, sway_frames=4)
    recipe = LiftRecipe(lift=lift, outputs=outputs)
    write_scene_run(photo, None, recipe, out, path="orbit", resume=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
