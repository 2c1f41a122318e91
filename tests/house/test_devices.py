"""Every command on a pretended GPU: a tensor that stays on the wrong device fails on a CPU, too."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from pair_world import SIZE_PX, MadeUpPairs, made_up_batch
from perceptual_weights import alex_weights, vgg_weights
from photo_folder import write_photo_data
from PIL import Image
from posed_folder import write_pairs
from pretended_cuda import CUDA, PretendedCuda
from tiny_pack import make_pack
from tiny_pipelines import tiny_released, tiny_warp

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.trajectories import make_trajectory
from zeronvs.depth.builtin import DepthNet
from zeronvs.distillation import health
from zeronvs.distillation.anchors import AnchorConfig
from zeronvs.evaluation.views import ViewsEvaluationConfig, evaluate_views
from zeronvs.evaluation.views_report import write_views_report
from zeronvs.exports import export as export_module
from zeronvs.perceptual import PerceptualDistance
from zeronvs.recipes.prepare import PreparedPhoto, prepare_photo
from zeronvs.recipes.presets import PRESETS, LiftRecipe, OutputConfig, PresetName, Recipe
from zeronvs.recipes.run_folder import export_run, open_run, render_run
from zeronvs.recipes.write_run import write_scene_run as write_scene
from zeronvs.recipes.write_run import write_views_run
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.lift import LiftConfig
from zeronvs.training import builtin
from zeronvs.training.denoising import DenoisingObjective
from zeronvs.training.depth import DepthBatches, DepthObjective, DepthTrainingConfig
from zeronvs.training.finetune import TrainingRun, finetune
from zeronvs.training.finetune_config import BUILTIN, BUILTIN_DEPTH, FinetuneConfig
from zeronvs.training.objective import Objective
from zeronvs.training.pair_sources import PairShares, PairStream
from zeronvs.training.session import Session, TrainRequest

MODELS = {"released": tiny_released, "warp": lambda: tiny_warp(downscale=4)}


@pytest.fixture
def cuda():
    with PretendedCuda() as pretended:
        yield pretended


def tiny(name: PresetName) -> LiftRecipe | Recipe:
    """Return a preset with everything small, but with all of its parts."""
    recipe = PRESETS[name]
    outputs = OutputConfig(
        size_px=16,
        orbit_frames=2,
        near_size_px=16,
        sway_frames=2,
        splat_steps=2,
        mesh_resolution=16,
    )
    if isinstance(recipe, LiftRecipe):
        lift = LiftConfig(fill_side_px=32, surround_width_px=48, color_steps=1)
        return LiftRecipe(lift=lift, outputs=outputs)
    grid = HashGridConfig(levels=3, log2_table_size=10, base_resolution=8, growth=1.6)
    distill = recipe.distill.with_steps(4)
    stages = tuple(
        replace(stage, sds_views=min(stage.sds_views, 2), sds_size_px=8, reference_size_px=8)
        for stage in distill.stages
    )
    distill = replace(
        distill,
        stages=stages,
        anchors=AnchorConfig(count=2, num_inference_steps=2),
        reference_rays=distill.reference_rays and 32,
        supervised_rays=64,
        field_config=replace(distill.field_config, grid=grid, hidden_width=8),
        proposal_config=replace(distill.proposal_config, grid=grid, hidden_width=8),
        render_config=replace(distill.render_config, proposal_samples=12, final_samples=12),
        checkpoint_seconds=0.0,
        refresh=distill.refresh and replace(distill.refresh, every=1, num_inference_steps=2),
    )
    surround = recipe.surround and replace(recipe.surround, count=2, num_inference_steps=2)
    return Recipe(distill=distill, surround=surround, outputs=outputs)


def prepared(device: torch.device | str) -> PreparedPhoto:
    """Return a photograph prepared with a depth network on the device."""
    values = np.random.default_rng(0).integers(0, 255, (80, 96, 3), dtype=np.uint8)
    return prepare_photo(Image.fromarray(values), geometry_estimator=tiny_depth().to(device))


def tiny_depth() -> DepthNet:
    torch.manual_seed(0)
    return DepthNet(input_size_px=32, decoder_channels=(8, 8, 8, 8)).eval()


def test_the_pretended_gpu_refuses_what_a_gpu_refuses(cuda):
    on_gpu, on_cpu = torch.ones(3, device="cuda"), torch.ones(3)
    assert on_gpu.device == (on_gpu * 2).device == on_cpu.to(CUDA).device == CUDA
    assert on_gpu.cpu().device == on_cpu.device == torch.device("cpu")
    for mixed in (lambda: on_gpu + on_cpu, lambda: torch.cat([on_gpu, on_cpu])):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(TypeError, match="numpy"):
        on_gpu.numpy()
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, generator=torch.Generator(), device="cuda")
    layer = torch.nn.Linear(3, 3).to("cuda")
    layer(on_gpu).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.device == CUDA


def test_a_camera_on_two_devices_is_refused(cuda):
    camera = Camera.from_fov(torch.eye(4), 0.8, (8, 8))
    with pytest.raises(ValueError, match="device"):
        Camera(camera.camera_to_world.to("cuda"), camera.intrinsics_px, (8, 8))


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize(
    ("preset", "kind"),
    [
        ("preview", "warp"),
        ("field", "warp"),
        ("fast", "warp"),
        ("fast", "released"),
        ("paper", "released"),
    ],
)
def test_a_scene_is_made_rendered_and_exported_on_the_gpu(
    cuda, tmp_path: Path, preset: PresetName, kind: str, monkeypatch: pytest.MonkeyPatch
):
    # A field of four steps may well be of one color; that is not the question here.
    monkeypatch.setattr(health, "check_images", lambda images, name: [])
    monkeypatch.setattr(export_module, "SPLAT_SIZE_PX", 12)
    pipe = MODELS[kind]().to("cuda")
    assert pipe.device == CUDA
    recipe = tiny(preset)
    if isinstance(recipe, Recipe):
        recipe = recipe.fitted_to(pipe)
    write_scene(prepared("cuda"), pipe, recipe, tmp_path)
    run = open_run(tmp_path, "cuda")
    assert run.scene.device == CUDA
    assert render_run(run, path="spiral", frames=2).is_file()
    assert export_run(run, ["nerfstudio"], out=tmp_path / "files")[0].is_file()
    assert (tmp_path / "scene" / "scene.ply").is_file()
    if preset != "preview":
        assert (tmp_path / "scene" / "mesh.glb").is_file()


@pytest.mark.parametrize("kind", MODELS)
def test_views_are_sampled_on_the_gpu(cuda, tmp_path: Path, kind: str):
    pipe = MODELS[kind]().to("cuda")
    result = write_views_run(prepared("cuda"), pipe, "orbit", 3, tmp_path)
    assert (tmp_path / "views.mp4") in result.files


@pytest.mark.parametrize("kind", MODELS)
def test_the_pipeline_takes_images_and_cameras_from_the_cpu(cuda, kind: str):
    pipe = MODELS[kind]().to("cuda")
    photo = prepared("cpu").view
    cameras = make_trajectory("lemniscate", photo.camera.center_square().resized(16, 16), 2)
    images = pipe(photo, cameras, generator=0, num_inference_steps=2, output_type="pt").images
    assert len(images) == 2


@pytest.fixture
def accelerator(cuda):
    """Return an accelerator that trains on the pretended GPU."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    PartialState().device = accelerator.state.device = CUDA
    yield accelerator
    AcceleratorState._reset_state(reset_partial_state=True)


SHORT = FinetuneConfig(
    steps=2,
    batch=2,
    effective_batch=2,
    warmup_steps=1,
    checkpoint_every=1,
    validate_every=1,
    validation_sampling_steps=2,
    log_every=1,
    max_gradient_norm=1.0,
)


def trained(
    objective: Objective, accelerator: Accelerator, out: Path, config, data, **more
) -> Path:
    """Train, resumed after each step; return the path of the model."""
    for steps in range(1, config.steps + 1):
        path = finetune(
            TrainingRun(
                objective=objective,
                data=data(),
                config=replace(config, steps=steps),
                out=out,
                accelerator=accelerator,
                **more,
            )
        )
    assert all(value.device == CUDA for value in objective.parameters())
    return path


@pytest.mark.parametrize("kind", ["released", "warp"])
def test_a_model_is_fine_tuned_on_the_gpu(accelerator, tmp_path: Path, kind: str):
    downscale = {"released": tiny_released, "warp": lambda: tiny_warp(downscale=2)}
    pipe, estimator = downscale[kind](), tiny_depth().to("cuda")
    assert pipe.image_size_px == SIZE_PX
    objective = DenoisingObjective(pipe, SHORT, geometry_estimator=estimator)
    path = trained(
        objective,
        accelerator,
        tmp_path,
        SHORT,
        lambda: MadeUpPairs(2, total=4),
        validation=made_up_batch([8, 9]),
    )
    assert (path / "model_index.json").is_file()
    assert (tmp_path / "views" / "step_000002.png").is_file()


def test_the_builtin_denoiser_is_trained_on_the_gpu(accelerator, tmp_path: Path):
    pack = make_pack()
    config = replace(
        BUILTIN,
        steps=2,
        batch=2,
        effective_batch=2,
        warmup_steps=1,
        perceptual_weight=1.0,
        perceptual_crop_px=32,
        mixed_precision="no",
        checkpoint_every=1,
        validate_every=1,
        log_every=1,
    )

    def stream(seed: int = 0) -> PairStream:
        return PairStream(PairShares(procedural=0.2).sources(pack), seed=seed, batch=2)

    pipe = tiny_warp(prediction_type="sample", downscale=4)
    objective = DenoisingObjective(pipe, config, perceptual=PerceptualDistance(alex_weights()))
    path = trained(objective, accelerator, tmp_path, config, stream, validation=stream(1).read(0))
    assert (path / "model_index.json").is_file()


def test_the_depth_network_is_trained_on_the_gpu(accelerator, tmp_path: Path):
    pack, loss = make_pack(), DepthTrainingConfig()
    config = replace(
        BUILTIN_DEPTH.shortened(1), effective_batch=2, batch=2, checkpoint_every=1, log_every=1
    )
    objective = DepthObjective(tiny_depth(), config, loss)
    path = trained(
        objective,
        accelerator,
        tmp_path,
        config,
        lambda: DepthBatches(pack, config, loss, size_px=32, seed=0),
    )
    assert path.is_dir()


def test_the_whole_builtin_preset_is_trained_on_the_gpu(
    accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    weights = tmp_path / "site" / builtin.PERCEPTUAL_FILE
    weights.parent.mkdir(parents=True)
    torch.save(vgg_weights(), weights)
    monkeypatch.syspath_prepend(tmp_path / "site")
    tiny_warp(prediction_type="sample", downscale=4).save_pretrained(tmp_path / "start")
    config = replace(
        BUILTIN,
        steps=2,
        batch=2,
        effective_batch=2,
        warmup_steps=1,
        perceptual_weight=0.5,
        perceptual_crop_px=32,
        mixed_precision="no",
        validate_every=2,
        validation_pairs=2,
        validation_sampling_steps=2,
    )
    request = TrainRequest(
        data=(write_photo_data(tmp_path / "data"),),
        out=tmp_path / "run",
        config=config,
        start=str(tmp_path / "start"),
    )
    depth = replace(BUILTIN_DEPTH.shortened(1), batch=2)
    preset = builtin.BuiltinPreset(depth=depth)
    path = builtin.train_builtin(Session(request, accelerator), preset)
    assert (path / "model_index.json").is_file()
    assert (tmp_path / "run" / "depth_run" / "depth" / "config.json").is_file()
    assert (tmp_path / "run" / "views" / "step_000002.png").is_file()


@pytest.mark.parametrize("kind", MODELS)
def test_held_out_views_are_evaluated_on_the_gpu(cuda, tmp_path: Path, kind: str):
    write_pairs(tmp_path / "scenes")
    evaluation = evaluate_views(
        MODELS[kind]().to("cuda"),
        tmp_path / "scenes",
        PerceptualDistance(alex_weights()),
        ViewsEvaluationConfig(batch_size=2, limit=2, num_inference_steps=2, given_depth=True),
        geometry_estimator=tiny_depth().to("cuda"),
    )
    assert evaluation.metrics == ("PSNR", "SSIM", "ST-LPIPS")
    files = write_views_report(tmp_path / "report", evaluation, source="here", model=kind)
    assert all(file.is_file() for file in files)
