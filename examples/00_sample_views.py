"""New views of a photograph from Python, in the manner of diffusers.

Run: python examples/00_sample_views.py
"""

from pathlib import Path

from zeronvs import ZeroNVSPipeline, make_trajectory, prepare_photo

photo = prepare_photo(Path(__file__).with_name("coffee.png"))
pipe = ZeroNVSPipeline.from_pretrained("builtin")

size_px = pipe.image_size_px
camera = photo.view.camera.center_square().resized(size_px, size_px)
cameras = make_trajectory("lemniscate", camera, frames=8)

scene_scale = photo.estimates.scene_scale.value
images = pipe(photo.view, cameras, scene_scale=scene_scale, generator=0).images
for number, image in enumerate(images):
    image.save(f"view_{number}.png")
print(f"wrote {len(images)} views")
