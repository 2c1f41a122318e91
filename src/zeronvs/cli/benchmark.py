"""What the commands take on this machine: measured in a minute or two, long runs by count.

The photograph is made up, so that nothing but the installation is needed. A recipe that needs
published weights is counted without them: its radiance field alone, and the weights by their size.
Rows are measured in the order of the memory they need, so that the peak of the process so far is
that of the row.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.trajectories import make_trajectory
from zeronvs.cameras.view import View
from zeronvs.depth.builtin import load_builtin_depth
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.kept_memory import rays_of_step, step_bytes
from zeronvs.recipes.presets import DRAFT, FAST, FIELD, PAPER, PREVIEW, LiftRecipe, Recipe
from zeronvs.recipes.reconstruct import reconstruct
from zeronvs.recipes.write_run import peak_memory_mib
from zeronvs.scene.field_scene import FieldScene

SCALE = 0.7
"""Scene scale of the made-up photograph."""
RELEASED_WEIGHTS = 859_532_484 + 83_653_863 + 303_966_208 + 605_184
"""U-Net, autoencoder, image encoder and pose token of the released size."""
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a command takes."""

    command: str
    """With its flags."""
    seconds: float
    memory_mib: float
    memory: Literal["measured", "counted"]
    """measured: the peak of the process so far, or of the GPU where one is used. counted: what is
    kept, without the temporaries of kernels."""
    ran: str
    """What was run here."""
    counted: str = ""
    """What the numbers were scaled by, and what they leave out."""

    def row(self) -> tuple[str, ...]:
        """Return the cells of a table."""
        memory = f"{self.memory_mib / 1024:.1f} GiB"
        memory += ", counted" if self.memory == "counted" else ""
        return f"`{self.command}`", readable(self.seconds), memory, self.ran, self.counted


HEADER = ("command", "time", "peak memory", "run here", "counted")


@dataclass(frozen=True, kw_only=True)
class BenchmarkSizes:
    """How much is measured."""

    draft_px: int = 600
    """Side of the made-up photograph of the draft."""
    preview_px: tuple[int, int, int] = (512, 1024, 2048)
    """Sides of the photograph of the preview: two that are run, and one by their difference."""
    draft: LiftRecipe = DRAFT
    preview: LiftRecipe = PREVIEW
    ray_px: tuple[int, int] = (8, 24)
    """Sides of the two images whose rays are timed: the time of one ray, and of a rendering."""
    sampling_steps: int | None = None
    """Sampling steps of a view; None: the model's own."""
    recipes: dict[str, Recipe] = field(
        default_factory=lambda: {"field": FIELD, "fast": FAST, "paper": PAPER}
    )


def measure(
    device: str, sizes: BenchmarkSizes | None = None, pipe: ZeroNVSPipeline | None = None
) -> Iterator[Measurement]:
    """Yield what each command takes, as soon as it is known.

    Args:
        pipe: The model of a view; None: the built-in one.
    """
    sizes = sizes or BenchmarkSizes()
    view = _view(device, sizes.sampling_steps, pipe)
    yield view
    for name, recipe in sizes.recipes.items():
        yield _distillation(name, recipe, device, sizes.ray_px, view.seconds)
    command = "zeronvs scene PHOTO -o OUT"
    draft = _lifted(device, sizes.draft_px, sizes.draft)
    yield draft.measurement(f"{command} --draft", sizes.draft_px)
    runs = []
    for side_px in sizes.preview_px[:2]:
        runs.append(_lifted(device, side_px, sizes.preview))
        yield runs[-1].measurement(f"{command} --resolution {side_px}", side_px)
    side_px = sizes.preview_px[2]
    shares = [side**2 for side in (*sizes.preview_px[:2], side_px)]
    how = f"by the pixels, from the rows of {sizes.preview_px[0]} and {sizes.preview_px[1]}"
    yield Measurement(
        command=f"{command} --resolution {side_px}",
        seconds=_extended(shares, [run.seconds for run in runs]),
        memory_mib=_extended(shares, [run.memory_mib for run in runs]),
        memory="counted",
        ran="nothing",
        counted=how,
    )


def _extended(places: list[int], values: list[float]) -> float:
    """Return the value at the third place, on the line through the first two, which never falls."""
    slope = max(values[1] - values[0], 0.0) / (places[1] - places[0])
    return values[1] + slope * (places[2] - places[1])


def _distillation(
    name: str, recipe: Recipe, device: str, sides_px: tuple[int, int], view_seconds: float
) -> Measurement:
    """Return what fitting the field takes: steps and rays of a run times the time of one."""
    config = recipe.distill
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
    rays = sum(sum(rays_of_step(config, step)) for step in range(config.steps))
    seconds = config.steps * max(few - ray * sides_px[0] ** 2, 0.0) + ray * rays
    bytes_kept, command = step_bytes(config), f"zeronvs scene PHOTO -o OUT --preset {name}"
    counted = f"{config.steps} steps, {rays / 1e6:.3g} million rays at {1e3 * ray:.2g} ms"
    if config.uses_model:
        command += " --model NAME"
        # Anchors and views around are sampled in float32, before the steps: the peak is there.
        bytes_kept = max(4.0 * RELEASED_WEIGHTS, bytes_kept + 2.0 * RELEASED_WEIGHTS)
        counted += f"; without the {evaluations(recipe)} evaluations of the model, videos and mesh"
    else:
        views = recipe.surround.count if recipe.surround else 0
        seconds += views * view_seconds
        bytes_kept += _peak_mib() * MIB  # of the process with the built-in model, so far
        counted += f", {views} views at {view_seconds:.2g} s; without videos and mesh"
    return Measurement(
        command=command,
        seconds=seconds,
        memory_mib=bytes_kept / MIB,
        memory="counted",
        ran=f"{sides_px[0] ** 2} and {sides_px[1] ** 2} rays of a step",
        counted=counted,
    )


def evaluations(recipe: Recipe) -> int:
    """Return how often a recipe evaluates a model with guidance: once for each view and step."""
    config, count = recipe.distill, 0
    if recipe.surround is not None:
        count += recipe.surround.count * (recipe.surround.num_inference_steps or 0)
    if config.uses_sds:
        count += config.anchors.count * config.anchors.num_inference_steps
        count += sum(config.stage(step).sds_views for step in range(config.steps))
    if config.refresh is not None:
        due = sum(config.refresh.is_due(step) for step in range(config.steps))
        count += due * config.refresh.num_inference_steps
    return count


def _view(device: str, steps: int | None, pipe: ZeroNVSPipeline | None) -> Measurement:
    """Return what a view of the model takes."""
    pipe = pipe or ZeroNVSPipeline.from_pretrained("builtin").to(device)
    view = _photo(pipe.image_size_px, device)
    cameras = make_trajectory("orbit", view.camera.to("cpu"), 2)[[1]]

    def sample() -> Any:
        condition = pipe.encode(view, SCALE)
        return pipe.sample(condition, cameras, [0], num_inference_steps=steps)

    return Measurement(
        command="zeronvs views PHOTO -o OUT --frames 1",
        seconds=_seconds(sample, device),
        memory_mib=_peak_mib(),
        memory="measured",
        ran=f"one view of {pipe.image_size_px} px by the built-in model",
        counted="each further frame as much; --batch-size 1 needs the least memory",
    )


@dataclass(frozen=True, kw_only=True)
class _Lifted:
    """What a scene of splats takes."""

    made: float
    """Seconds of depth and lifting."""
    frame: tuple[float, float]
    """Seconds of a frame near the photograph, and all the way round."""
    frames: tuple[int, int]
    memory_mib: float

    @property
    def seconds(self) -> float:
        """Of all that is counted."""
        drawn = (count * each for count, each in zip(self.frames, self.frame, strict=True))
        return self.made + sum(drawn)

    def measurement(self, command: str, side_px: int) -> Measurement:
        """Return the row of a command."""
        milliseconds = [f"{1e3 * each:.0f} ms" for each in self.frame]
        return Measurement(
            command=command,
            seconds=self.seconds,
            memory_mib=self.memory_mib,
            memory="measured",
            ran=f"depth and scene of {side_px} x {side_px} px in {self.made:.1f} s, two frames",
            counted=f"{self.frames[0]} frames at {milliseconds[0]}, {self.frames[1]} at "
            f"{milliseconds[1]}; without the code of videos and page",
        )


def _lifted(device: str, side_px: int, recipe: LiftRecipe) -> _Lifted:
    """Make a scene of splats, and draw a frame of either video."""
    view, outputs = _photo(side_px, device), recipe.outputs
    began = time.perf_counter()
    load_builtin_depth(device=device).estimate(view.image[None])
    scene = reconstruct(view.to("cpu"), None, recipe, scene_scale=SCALE)
    made = time.perf_counter() - began
    drawn = []
    for size_px in (min(side_px, outputs.near_size_px), outputs.size_px):
        camera = Camera.from_fov(_pose(), 0.9, (size_px, size_px))
        scene.render(camera)  # compiles
        drawn.append(_seconds(partial(scene.render, camera), device))
    return _Lifted(
        made=made,
        frame=(drawn[0], drawn[1]),
        frames=(outputs.sway_frames, outputs.orbit_frames),
        memory_mib=_peak_mib(),
    )


def _peak_mib() -> float:
    """Return the peak of the GPU where one is used, else of the process, so far."""
    peak = peak_memory_mib()
    return peak.get("gpu", peak.get("process", 0.0))


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
