"""A story that looks at its pixels: a known scene appears in what a finished run shows.

The model is of the built-in kind, tiny and fresh: it predicts the warped input, so that new views
show what the photograph shows of them.
"""

import math
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from sphere_world import ELEVATION_RAD, FOV_Y_RAD, ring_cameras, sphere_views
from splat_ply_reader import read_splats
from tiny_pipelines import FixedGeometry, tiny_warp

from zeronvs.cameras.view import View
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.noise_levels import constant
from zeronvs.exports import export as export_module
from zeronvs.formats.transforms_json import read_camera_path
from zeronvs.recipes.prepare import prepare_photo
from zeronvs.recipes.presets import FIELD, OutputConfig, Recipe
from zeronvs.recipes.run_folder import FinishedRun, open_run
from zeronvs.recipes.write_run import RunResult, write_scene_run
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.rasterizer import rasterize

SCENE_SCALE = 0.7
TURN_RAD = 0.5


def warping_pipe() -> ZeroNVSPipeline:
    pipe = tiny_warp(seed=3, prediction_type="sample", downscale=4)
    for parameter in pipe.unet.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    return pipe


def tiny_recipe() -> Recipe:
    assert FIELD.surround is not None
    distill = FIELD.distill.with_steps(60)
    grid = HashGridConfig(levels=6, log2_table_size=14, base_resolution=16, growth=1.5)
    distill = replace(
        distill,
        field_config=replace(distill.field_config, grid=grid),
        render_config=replace(distill.render_config, proposal_samples=24, final_samples=24),
        stages=(replace(distill.stages[0], reference_size_px=32),),
        reference_rays=192,
        supervised_rays=256,
        field_learning_rate=constant(2e-2),
        proposal_learning_rate=constant(2e-2),
    )
    return Recipe(
        distill=distill,
        surround=replace(FIELD.surround, count=4, num_inference_steps=1),
        outputs=OutputConfig(
            size_px=32, orbit_frames=4, sway_frames=2, splat_steps=4, mesh_resolution=24
        ),
    )


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[FinishedRun, RunResult, View]:
    """Return a finished run of a photograph of a known scene, its result, and the photograph."""
    truth = sphere_views(ring_cameras([0.0], 64))[0]
    assert truth.depth_z is not None
    pixels = (truth.image.permute(1, 2, 0) * 255).round().byte().numpy()
    depth_z = truth.depth_z[None] / SCENE_SCALE
    photo = prepare_photo(
        Image.fromarray(pixels),
        geometry_estimator=FixedGeometry(lambda image: depth_z.clone()),
        fov_y_rad=FOV_Y_RAD,
        elevation_rad=ELEVATION_RAD,
        scene_scale=SCENE_SCALE,
    )
    folder = tmp_path_factory.mktemp("story")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "SPLAT_SIZE_PX", 32)
        result = write_scene_run(photo, warping_pipe(), tiny_recipe(), folder, path="orbit")
    return open_run(folder), result, truth


def psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    return -10 * math.log10(float((image - truth).square().mean()))


def rendered(run: FinishedRun, azimuth_rad: float) -> torch.Tensor:
    with torch.no_grad():
        camera = ring_cameras([azimuth_rad], 32)
        return run.scene.render(camera, background=torch.full((3,), 0.5)).rgb[0]


def read_png(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255


def test_the_photograph_is_seen_from_its_own_camera(story):
    run, result, truth = story
    small = truth.resized(32, 32, "bicubic").image  # as the model saw it
    assert psnr(rendered(run, 0.0), small) > 20
    assert result.metrics["input_view_psnr_db"] == pytest.approx(
        psnr(rendered(run, 0.0), small), abs=0.1
    )
    torch.testing.assert_close(
        run.input_camera.camera_to_world, truth.camera.camera_to_world, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("azimuth_rad", [TURN_RAD, -TURN_RAD])
def test_a_view_that_was_held_out_shows_the_scene_on_the_right_side(story, azimuth_rad: float):
    run, _, _ = story
    image = rendered(run, azimuth_rad)
    here, mirrored = (
        sphere_views(ring_cameras([azimuth], 32)).image[0]
        for azimuth in (azimuth_rad, -azimuth_rad)
    )
    assert psnr(image, here) > 17
    telling = (here - mirrored).abs().amax(dim=0) > 0.15
    assert int(telling.sum()) > 100
    error, mirrored_error, flipped_error = (
        float((one - other)[:, telling].abs().mean())
        for one, other in ((image, here), (image, mirrored), (image.flip(-1), here))
    )
    assert error < 0.8 * mirrored_error
    assert error < 0.8 * flipped_error
    assert psnr(image, here) > psnr(image.flip(-2), here) + 2


def test_the_files_show_what_the_scene_shows(story):
    run, _, truth = story
    small = truth.resized(32, 32).image
    assert psnr(read_png(run.run_dir / "input.png"), truth.image) > 40
    cameras = read_camera_path(run.run_dir / "cameras" / "transforms.json")
    images = [read_png(run.run_dir / "views" / f"{k:03d}.png") for k in range(4)]
    with torch.no_grad():
        again = run.scene.render(cameras, background=torch.full((3,), 0.5)).rgb
    for image, render in zip(images, again, strict=True):
        assert psnr(image, render) > 35
    assert psnr(images[0], small) > 20
    assert psnr(images[0], small) > psnr(images[2], small) + 5  # another side, other colours
    with av.open(str(run.run_dir / "orbit.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 4
    for frame, image in zip(frames, images, strict=True):
        assert psnr(torch.from_numpy(frame).permute(2, 0, 1) / 255, image) > 24


def test_the_splats_in_the_file_look_like_the_scene(story):
    run, _, _ = story
    splats = read_splats(run.run_dir / "scene" / "scene.ply")
    drawn = rasterize(splats, ring_cameras([0.0], 32), torch.full((3,), 0.5))[0][0]
    assert psnr(drawn, rendered(run, 0.0)) > 18
    assert psnr(drawn, rendered(run, 0.0)) > psnr(drawn.flip(-1), rendered(run, 0.0)) + 3
