"""What the commands take on this machine: measured in about a minute, long runs by count.

The photograph is made up, so that nothing but the installation is needed. A recipe that needs
published weights is counted without them: its radiance field alone.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.trajectories import make_trajectory
from zeronvs.cameras.view import View
from zeronvs.depth.builtin import load_builtin_depth
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.config import DistillConfig
from zeronvs.recipes.presets import DRAFT, FAST, FIELD, PAPER, LiftRecipe
from zeronvs.recipes.reconstruct import reconstruct
from zeronvs.recipes.write_run import peak_memory_mib
from zeronvs.scene.field_scene import FieldScene

SCALE = 0.7
"""Scene scale of the made-up photograph."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a command takes."""

    command: str
    seconds: float
    memory_mib: float
    """Peak of the process so far, or of the GPU where one is used."""
    how: str
    """What was measured, and what was counted from it."""

    def row(self) -> tuple[str, str, str, str]:
        """Return the cells of a table."""
        return self.command, readable(self.seconds), f"{self.memory_mib:.0f} MiB", self.how


HEADER = ("command", "time", "peak memory", "how it was found")


@dataclass(frozen=True, kw_only=True)
class BenchmarkSizes:
    """How much is measured."""

    photo_px: int = 384
    """Side of the made-up photograph of the draft."""
    draft: LiftRecipe = DRAFT
    ray_px: tuple[int, int] = (8, 24)
    """Sides of the two images whose rays are timed: the time of one ray, and of a rendering."""
    sampling_steps: int | None = None
    """Sampling steps of a view; None: the model's own."""


def measure(
    device: str, sizes: BenchmarkSizes | None = None, pipe: ZeroNVSPipeline | None = None
) -> Iterator[Measurement]:
    """Yield what each command takes, as soon as it is known.

    Args:
        pipe: The model of a view; None: the built-in one.
    """
    sizes = sizes or BenchmarkSizes()
    for command, recipe in (("--preset field", FIELD), ("fast", FAST), ("paper", PAPER)):
        command = command if command.startswith("--") else f"--preset {command} --model NAME"
        yield _distillation(f"zeronvs scene {command}", recipe.distill, device, sizes.ray_px)
    yield _view(device, sizes.sampling_steps, pipe)
    yield _draft(device, sizes)


def _distillation(
    command: str, config: DistillConfig, device: str, sides_px: tuple[int, int]
) -> Measurement:
    """Return what fitting the field takes: steps and rays of a run times the time of one."""
    scene = FieldScene(config.field_config, config.render_config, config.proposal_config)
    scene, normals = scene.to(device), config.weights.needs_normals

    def learn(side_px: int) -> None:
        scene.zero_grad()
        seen = scene.render(Camera.from_fov(_pose(), 0.9, (side_px, side_px)), with_normals=normals)
        (seen.rgb.square().mean() + seen.interlevel_loss + seen.orientation_loss).backward()

    learn(sides_px[0])  # compiles
    few, many = (_seconds(partial(learn, side_px), device) for side_px in sides_px)
    # Seconds of a rendering are a + b * rays; b is no less than 0, however busy the machine is.
    ray = max(many - few, 0.0) / (sides_px[1] ** 2 - sides_px[0] ** 2)
    rays = sum(rays_of_step(config, step) for step in range(config.steps))
    total = config.steps * max(few - ray * sides_px[0] ** 2, 0.0) + ray * rays
    how = f"{config.steps} steps, {rays / 1e6:.3g} million rays at {1e3 * ray:.2g} ms"
    how += "; without the diffusion model" if config.uses_model else "; without sampling its views"
    return _measured(command, total, how)


def rays_of_step(config: DistillConfig, step: int) -> int:
    """Return the rays that a step renders: photo, supervised views, score distillation."""
    stage = config.stage(step)
    rays = config.reference_rays or stage.reference_size_px**2
    if config.reference_rays is not None:
        rays += config.supervised_rays
    if config.uses_sds:
        rays += stage.sds_views * stage.sds_size_px**2
    return rays


def _view(device: str, steps: int | None, pipe: ZeroNVSPipeline | None) -> Measurement:
    """Return what a view of the model takes."""
    pipe = pipe or ZeroNVSPipeline.from_pretrained("builtin").to(device)
    view = _photo(pipe.image_size_px, device)
    cameras = make_trajectory("orbit", view.camera.to("cpu"), 2)[[1]]

    def sample() -> Any:
        condition = pipe.encode(view, SCALE)
        return pipe.sample(condition, cameras, [0], num_inference_steps=steps)

    how = f"one view of {pipe.image_size_px} px by the built-in model"
    return _measured("zeronvs views --frames 1", _seconds(sample, device), how)


def _draft(device: str, sizes: BenchmarkSizes) -> Measurement:
    """Return what a draft takes: depth, lifting, and one of its frames times their number."""
    view = _photo(sizes.photo_px, device)
    outputs = sizes.draft.outputs
    began = time.perf_counter()
    load_builtin_depth(device=device).estimate(view.image[None])
    scene = reconstruct(view.to("cpu"), None, sizes.draft, scene_scale=SCALE)
    made = time.perf_counter() - began
    camera = Camera.from_fov(_pose(), 0.9, (outputs.size_px, outputs.size_px))
    frame = _seconds(lambda: scene.render(camera), device)
    frames = (outputs.orbit_frames or 0) + (outputs.sway_frames or 0)
    how = (
        f"scene in {made:.1f} s, {frames} frames at {1e3 * frame:.0f} ms; without its videos' code"
    )
    return _measured("zeronvs scene --draft", made + frames * frame, how)


def _measured(command: str, seconds: float, how: str) -> Measurement:
    peak = peak_memory_mib()
    memory = peak.get("gpu", peak.get("process", 0.0))
    return Measurement(command=command, seconds=seconds, memory_mib=memory, how=how)


def _seconds(run: Callable[[], object], device: str) -> float:
    """Return the seconds of a call, when the device has done its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _pose() -> Tensor:
    return orbit_pose(torch.zeros(1), torch.full((1,), 0.2), torch.ones(1))


def _photo(size_px: int, device: str) -> View:
    """Return a made-up photograph: smooth blobs above a floor, with its depth."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (size_px, size_px), mode="bilinear")[0]
    rows = torch.linspace(3.0, 0.7, size_px)[:, None].expand(size_px, size_px)
    near = (image[0] > 0.6).float() * 0.3
    camera = Camera.from_fov(_pose()[0], 0.9, (size_px, size_px))
    view = View(image, camera, (rows - near).clamp(min=0.4).contiguous())
    return view.to(device)


def readable(seconds: float) -> str:
    """Return a duration as a person says it."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
