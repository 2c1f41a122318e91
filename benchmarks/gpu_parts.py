"""The parts of `gpu.py` that measure the scene: steps, splats, a preview."""

# ruff: noqa: B023  (functions made in a loop are called in the same round)

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from gpu_models import (
    builtin_model,
    made_splats,
    orbit,
    peak_mib,
    photo_views,
    released_model,
    reset_peak,
    smooth_images,
    synchronize,
    timed,
)

from zeronvs.depth.builtin import DepthNet, load_builtin_depth
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.config import DistillConfig, RenderStage
from zeronvs.distillation.loop import make_optimizers
from zeronvs.distillation.model_in_use import model_in_use
from zeronvs.distillation.objective import KnownViews, Objective
from zeronvs.distillation.refresh import Refresher
from zeronvs.distillation.supervision import SupervisedViews
from zeronvs.formats.ply import write_splat_ply
from zeronvs.recipes.prepare import prepare_photo
from zeronvs.recipes.presets import DRAFT, FAST, FIELD, PAPER, PREVIEW, Recipe
from zeronvs.recipes.reconstruct import reconstruct
from zeronvs.recipes.run_folder import path_cameras
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.rasterizer import RasterConfig, rasterize
from zeronvs.scene.splat_scene import SplatScene

PHOTO = Path(__file__).parent.parent / "examples" / "coffee.png"


@dataclass(kw_only=True)
class Bench:
    """Where is measured, at which size, and what was measured so far."""

    device: str
    tiny: bool
    part: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    ends: float = 0.0
    _released: ZeroNVSPipeline | None = None

    def begin(self, part: str, rows: list[dict[str, Any]], seconds: float) -> None:
        """Begin a part that has so many seconds."""
        self.part, self.rows, self.ends = part, rows, perf_counter() + seconds

    def row(self, what: str, value: float | str, unit: str) -> None:
        """Record a number, and print it as a line of the table."""
        self.rows.append({"what": what, "value": value, "unit": unit})
        shown = value if isinstance(value, str) else f"{value:.4g}"
        print(f"| {self.part} | {what} | {shown} | {unit} |", flush=True)

    def has(self, seconds: float) -> bool:
        """Return whether the part has so many seconds left."""
        return self.tiny or self.ends - perf_counter() > seconds

    @contextlib.contextmanager
    def trial(self, what: str) -> Iterator[None]:
        """Report an error of one measurement and go on with the next; not of the budget."""
        try:
            yield
        except TimeoutError:
            raise
        except Exception as error:
            lines = (str(error).strip() or type(error).__name__).splitlines()
            self.row(f"{what}: FAILED", f"{type(error).__name__}: {lines[0][:200]}", "")

    def released(self) -> ZeroNVSPipeline:
        """Return the model of released size, made once."""
        if self._released is None:
            self._released = released_model(self.device, tiny=self.tiny)
        return self._released

    def forget(self) -> None:
        """Free the model of released size; the next one has weights that nothing has rounded."""
        self._released = None


def optimisation_steps(bench: Bench) -> None:
    """Measure steps of the presets that fit a field."""
    released = bench.released()
    for name, steps in (("paper", (0, 2000)), ("fast", (0,))):
        recipe = PAPER if name == "paper" else FAST
        for step in steps:
            with bench.trial(f"{name}, step {step}"):
                _steps(bench, f"{name}, step {step}", recipe, released, step)
    with bench.trial("fast, a refreshed view"):
        _refreshed_view(bench, released)
    with bench.trial("field"):
        pipe = builtin_model(bench.device, tiny=bench.tiny)
        _steps(bench, "field, step 0", FIELD, pipe, 0)
    with bench.trial("parts of a step"):
        _parts_of_a_step(bench, released)


def _smaller(config: DistillConfig) -> DistillConfig:
    grid = HashGridConfig(levels=3, log2_table_size=10, base_resolution=8, growth=1.6)
    stages = tuple(
        replace(stage, sds_views=min(stage.sds_views, 2), sds_size_px=8, reference_size_px=8)
        for stage in config.stages
    )
    return replace(
        config,
        stages=stages,
        reference_rays=config.reference_rays and 32,
        supervised_rays=64,
        field_config=replace(config.field_config, grid=grid),
        proposal_config=replace(config.proposal_config, grid=grid),
        render_config=replace(config.render_config, proposal_samples=8, final_samples=8),
    )


def _steps(bench: Bench, name: str, recipe: Recipe, pipe: ZeroNVSPipeline, first: int) -> None:
    """Measure a few steps from one on: seconds, split by render, and the peak of memory."""
    device, size = bench.device, pipe.image_size_px
    config = recipe.fitted_to(pipe).distill
    config = _smaller(config) if bench.tiny else config
    view = photo_views(1, size)[0].to(device)
    views = photo_views(8, size, 5.0).to(device)
    known = None
    if config.uses_sds:
        anchors = photo_views(2, size, 4.0).to(device)
        known = KnownViews.encode(pipe, view, anchors, 0.7)
    supervised = None if recipe.surround is None else SupervisedViews(views)
    scene = FieldScene(config.field_config, config.render_config, config.proposal_config)
    scene = scene.to(device)
    objective = Objective(
        scene=scene,
        config=config,
        seed=0,
        input_view=view,
        elevation_rad=0.3,
        supervised=supervised,
        known=known,
    )
    graphs = (False, True) if device == "cuda" and known is not None else (False,)
    for graph in graphs:
        half = config.mixed_precision
        with model_in_use(pipe, half_precision=half, cuda_graph=graph) as model:
            reset_peak(device)
            what = f"{name}, CUDA graph" if graph else name
            _timed_steps(bench, what, replace(objective, pipe=model), first)


def _refreshed_view(bench: Bench, pipe: ZeroNVSPipeline) -> None:
    """Measure what `fast` does to refresh a view: render, denoise, estimate depth."""
    device, size = bench.device, pipe.image_size_px
    config = FAST.fitted_to(pipe).distill
    config = _smaller(config) if bench.tiny else config
    assert config.refresh is not None
    scene = FieldScene(config.field_config, config.render_config, config.proposal_config)
    scene, views = scene.to(device), photo_views(7, size, 5.0).to(device)
    supervised, half = SupervisedViews(views), config.mixed_precision
    with model_in_use(pipe, half_precision=half, whole=True) as model:
        refresher = Refresher(
            pipe=model,
            config=config.refresh,
            seed=0,
            input_view=photo_views(1, size)[0].to(device),
            scene_scale=0.7,
            geometry_estimator=load_builtin_depth(device=device),
        )
        first = config.refresh.from_step
        reset_peak(device)
        seconds = timed(lambda: refresher.refreshed(scene, supervised, first), device)
    bench.row("fast, a refreshed view", 1e3 * seconds, "ms")
    bench.row("fast, a refreshed view: peak, with the model", peak_mib(device), "MiB")


def _timed_steps(bench: Bench, name: str, objective: Objective, first: int) -> None:
    """Measure the steps of an objective from one on."""
    device, config = bench.device, objective.config
    optimizers = make_optimizers(objective.scene, config)
    parts: dict[str, float] = {}
    seconds = []
    for index in range(2 if bench.tiny else 5):
        parts = {}
        synchronize(device)
        began = perf_counter()
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        iterator = objective.parts(first + index)
        while True:
            start = perf_counter()
            terms = next(iterator, None)
            synchronize(device)
            forward = perf_counter()
            if terms is None:
                break
            torch.stack(list(terms.values())).sum().backward()
            synchronize(device)
            part = next(iter(terms))
            parts[f"{part} forward"] = forward - start
            parts[f"{part} backward"] = perf_counter() - forward
        for optimizer in optimizers.values():
            optimizer.step()
        synchronize(device)
        seconds.append(perf_counter() - began)
    warm = sorted(seconds[1:])
    bench.row(f"{name}", 1e3 * warm[len(warm) // 2], "ms")
    bench.row(f"{name}: first step", 1e3 * seconds[0], "ms")
    for part, value in parts.items():
        bench.row(f"{name}: {part}", 1e3 * value, "ms")
    bench.row(f"{name}: peak, with the model", peak_mib(device), "MiB")


def _parts_of_a_step(bench: Bench, pipe: ZeroNVSPipeline) -> None:
    """Measure what the SDS render of `paper` consists of, each alone."""
    device, tiny = bench.device, bench.tiny
    config = _smaller(PAPER.distill) if tiny else PAPER.distill
    stage = config.stages[0]
    scene = FieldScene(config.field_config, config.render_config, config.proposal_config)
    scene = scene.to(device)
    rays = stage.sds_views * stage.sds_size_px**2
    points = torch.rand(rays * config.render_config.final_samples, 3, device=device)
    grid = scene.field.grid
    with torch.no_grad():
        features = grid(points)
        milliseconds = 1e3 * timed(lambda: grid(points), device)
        bench.row(f"hash grid, {len(points)} points: features", milliseconds, "ms")
        milliseconds = 1e3 * timed(lambda: grid.spatial_gradient(points, features), device)
        bench.row("hash grid: spatial gradient", milliseconds, "ms")

    def learn() -> None:
        grid.table.grad = None
        grid(points).sum().backward()

    def learn_normals() -> None:
        grid.table.grad = None
        grid.spatial_gradient(points, features).sum().backward()

    bench.row("hash grid: features and backward", 1e3 * timed(learn, device), "ms")
    milliseconds = 1e3 * timed(learn_normals, device)
    bench.row("hash grid: spatial gradient and backward", milliseconds, "ms")
    _autoencoder(bench, pipe, stage)


def _autoencoder(bench: Bench, pipe: ZeroNVSPipeline, stage: RenderStage) -> None:
    device, tiny = bench.device, bench.tiny
    images = smooth_images(stage.sds_views, stage.sds_size_px).to(device).requires_grad_(True)
    for kind in (torch.bfloat16, torch.float32):
        with torch.autocast(device, kind, enabled=kind != torch.float32 and not tiny):
            reset_peak(device)
            milliseconds = 1e3 * timed(lambda: pipe.to_latent(images).sum().backward(), device)
        name = f"autoencoder, {stage.sds_views} views, {short_name(kind)}"
        bench.row(f"{name}: forward and backward", milliseconds, "ms")
        bench.row(f"{name}: peak, with the model", peak_mib(device), "MiB")


def short_name(dtype: torch.dtype) -> str:
    """Return the name of a precision without its module."""
    return str(dtype).removeprefix("torch.")


@torch.no_grad()
def splat_rendering(bench: Bench) -> None:
    """Measure the rasteriser."""
    count = 2_000 if bench.tiny else 500_000
    splats = made_splats(count).to(bench.device)
    for size_px in (32, 64) if bench.tiny else (512, 1024):
        for tile_px in (6, 8, 16):
            if not bench.has(2.0):
                bench.row(f"{size_px} px, tiles of {tile_px} px", "no time left", "")
                continue
            cameras, config = orbit(3, size_px), RasterConfig(tile_px=tile_px)
            reset_peak(bench.device)
            seconds = timed(
                lambda: rasterize(splats, cameras, None, config), bench.device, repeats=2
            )
            name = f"{count} splats, {size_px} px, tiles of {tile_px} px"
            bench.row(name, 3 / seconds, "frames/s")
            bench.row(f"{name}: peak", peak_mib(bench.device), "MiB")


def preview(bench: Bench) -> None:
    """Measure a preview of the example photograph by stage, without its videos and page."""
    device = bench.device
    estimator = _depth_network(bench)
    recipe, side_px = (DRAFT, 160) if bench.tiny else (PREVIEW, 1024)
    began = perf_counter()
    photo = prepare_photo(PHOTO, geometry_estimator=estimator, max_side_px=side_px)
    bench.row("photo: depth and camera", perf_counter() - began, "s")
    began = perf_counter()
    scale = photo.estimates.scene_scale.value
    scene = reconstruct(photo.view, None, recipe, scene_scale=scale)
    bench.row("reconstruct (on the CPU)", perf_counter() - began, "s")
    assert isinstance(scene, SplatScene)
    bench.row("splats", float(len(scene.splats)), "")
    outputs, camera = recipe.outputs, photo.view.camera
    far_px, near_px = (48, 64) if bench.tiny else (outputs.size_px, outputs.near_size_px)
    for where in dict.fromkeys((device, "cpu")):
        placed = SplatScene(scene.splats.to(where))
        for path, size_px in (("lemniscate", near_px), ("orbit", far_px)):
            frames = path_cameras(path, camera, 4, size_px)

            def render() -> None:
                with torch.no_grad():
                    for index in range(len(frames)):
                        placed.render(frames[[index]].to(where)).rgb.cpu()

            seconds = timed(render, device, repeats=1) / len(frames)
            bench.row(f"a frame of {path} at {size_px} px, {where}", 1e3 * seconds, "ms")
    began = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        write_splat_ply(Path(folder) / "scene.ply", scene.splats)
    bench.row("scene.ply", perf_counter() - began, "s")


def _depth_network(bench: Bench) -> DepthNet:
    """Return the built-in depth network; one with random weights where that is missing."""
    try:
        return load_builtin_depth(device=bench.device)
    except Exception as error:
        bench.row("depth network with random weights", str(error).splitlines()[0], "")
        torch.manual_seed(0)
        return DepthNet().eval().to(bench.device)
