"""Optimisation of a scene from a photo and a diffusion model; resumable at any step."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zeronvs._core.errors import Cancelled, InputError
from zeronvs._core.files import append_lines, truncate_log
from zeronvs._core.precision import scene_precision
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs._core.random import seeded_generator, sent
from zeronvs.cameras.view import View
from zeronvs.diffusion.condition import Condition
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation import checkpoint as checkpoints
from zeronvs.distillation import health
from zeronvs.distillation.anchors import anchor_cameras, sample_anchors
from zeronvs.distillation.config import DistillConfig
from zeronvs.distillation.model_in_use import model_in_use
from zeronvs.distillation.objective import KnownViews, LossTerms, Objective
from zeronvs.distillation.refresh import Refresher
from zeronvs.distillation.supervision import SupervisedViews, digest, digest_view
from zeronvs.distillation.view_files import load_views, save_views
from zeronvs.protocols import GeometryEstimator
from zeronvs.scene.field_scene import FieldScene

Optimizers = Mapping[str, torch.optim.Optimizer]


@scene_precision()
def distill(
    pipe: ZeroNVSPipeline | None,
    input_view: View,
    elevation_rad: float,
    scene_scale: float,
    config: DistillConfig,
    *,
    run_dir: Path,
    seed: int,
    device: torch.device | str,
    supervised: SupervisedViews | None = None,
    geometry_estimator: GeometryEstimator | None = None,
    progress: Progress = silent,
    resume: bool = False,
) -> FieldScene:
    """Optimise a scene: the photo is reconstructed, unobserved regions are distilled.

    On a CPU a run that was stopped and resumed ends with exactly the weights of one that was not.

    Args:
        pipe: The diffusion model, on `device`; may be None where the recipe never evaluates it.
        input_view: The photo (one view) at the canonical camera: azimuth 0, looking at the origin.
        scene_scale: Scene units per model unit (the paper's q), > 0.
        run_dir: Gets checkpoint.safetensors, log.jsonl and anchors/.
        supervised: Further views that the scene is fitted to.
        geometry_estimator: Predicts the depth of anchors, for models that need it.
        resume: Resume from the checkpoint in `run_dir`, where there is one.

    Raises:
        InputError: The checkpoint belongs to another run, or is damaged.
        HealthError: Steps are not finite time and again, or the model ignores the camera
            conditioning.
    """
    input_view = input_view.to(device)
    supervised = None if supervised is None else supervised.to(device)
    identity = run_identity(pipe, input_view, elevation_rad, scene_scale, config, seed, supervised)
    run = _start_run(config, run_dir, seed, device, identity, resume, supervised)
    if run.step >= config.steps:
        return run.scene
    known = None
    if pipe is not None and config.uses_sds:
        anchors = obtain_anchors(
            pipe,
            input_view,
            elevation_rad,
            scene_scale,
            config,
            run_dir=run_dir,
            seed=seed,
            progress=progress,
            resume=resume,
        )
        known = KnownViews.encode(pipe, input_view, anchors, scene_scale, geometry_estimator)
    objective = Objective(
        scene=run.scene,
        config=config,
        seed=seed,
        input_view=input_view,
        elevation_rad=elevation_rad,
        supervised=run.refreshed or supervised,
        known=known,
    )
    if pipe is None or not config.uses_model:
        _run_steps(run, objective, None, progress)
        return run.scene
    condition = pipe.encode(input_view.batched(), scene_scale, geometry_estimator)
    health.raise_errors(_check_model(pipe, condition, input_view, elevation_rad))
    with model_in_use(
        pipe,
        half_precision=config.mixed_precision,
        cuda_graph=config.cuda_graph,
        whole=config.refresh is not None,
    ) as model:
        refresher = None
        if config.refresh is not None:
            refresher = Refresher(
                pipe=model,
                config=config.refresh,
                seed=seed,
                input_view=input_view,
                scene_scale=scene_scale,
                geometry_estimator=geometry_estimator,
            )
        _run_steps(run, replace(objective, pipe=model), refresher, progress)
    return run.scene


def run_identity(
    pipe: ZeroNVSPipeline | None,
    input_view: View,
    elevation_rad: float,
    scene_scale: float,
    config: DistillConfig,
    seed: int,
    supervised: SupervisedViews | None,
) -> dict[str, Any]:
    """Return what must be the same for a run to resume: settings and fingerprints of the inputs."""
    identity: dict[str, Any] = {
        "config": config.identity(),
        "photo": digest_view(input_view),
        "elevation_rad": elevation_rad,
        "scene_scale": scene_scale,
        "seed": seed,
    }
    if pipe is not None and config.uses_model:
        identity["model"] = digest(*pipe.cc_projection.parameters())
    if supervised is not None:
        identity["supervised views"] = digest_view(supervised.views)
        identity["supervision"] = digest(supervised.weight, supervised.confidence)
    return identity


def obtain_anchors(
    pipe: ZeroNVSPipeline,
    input_view: View,
    elevation_rad: float,
    scene_scale: float,
    config: DistillConfig,
    *,
    run_dir: Path,
    seed: int,
    progress: Progress = silent,
    resume: bool = False,
) -> View | None:
    """Return the anchors: read from the run folder when resuming, else sampled and saved there."""
    count = config.anchors.count
    if count == 0:
        return None
    folder = run_dir / "anchors"
    anchors = load_views(folder) if resume else None
    if anchors is None or len(anchors) != count:
        cameras = anchor_cameras(
            count,
            elevation_rad=elevation_rad,
            distance=float(input_view.camera.position.norm()),
            fov_y_rad=float(input_view.camera.fov_y_rad),
            image_size_px=(pipe.image_size_px, pipe.image_size_px),
        )
        anchors = sample_anchors(
            pipe,
            input_view.batched(),
            scene_scale,
            cameras,
            config=config.anchors,
            seeds=[seed * 1000 + index for index in range(count)],
            progress=progress,
        )
        save_views(folder, anchors)
    return anchors.to(input_view.image.device)


@dataclass(eq=False)
class _Run:
    """Mutable state of a run."""

    scene: FieldScene
    optimizers: Optimizers
    run_dir: Path
    identity: dict[str, Any]
    refreshed: SupervisedViews | None = None
    """The supervised views as refreshed so far; None: the recipe refreshes none."""
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    skipped: int = 0
    """Steps since the start, or since the run was resumed, that changed nothing."""
    updating: bool = False
    """Whether an optimiser step is in progress, so that the weights must not be saved."""

    def save(self) -> None:
        """Write the checkpoint, unless weights are not finite: then the last good one stays."""
        health.raise_errors(health.check_weights(self.scene, self.step))
        state = checkpoints.capture(
            self.scene,
            self.optimizers,
            {} if self.refreshed is None else self.refreshed.state(),
            step=self.step,
            seconds=self.seconds,
            identity=self.identity,
        )
        checkpoints.save_checkpoint(self.run_dir / checkpoints.FILE_NAME, state)


def _start_run(
    config: DistillConfig,
    run_dir: Path,
    seed: int,
    device: torch.device | str,
    identity: dict[str, Any],
    resume: bool,
    supervised: SupervisedViews | None,
) -> _Run:
    """Build the scene and its optimisers; with `resume`, load the last checkpoint."""
    scene = FieldScene(
        config.field_config,
        config.render_config,
        config.proposal_config,
        generator=seeded_generator(seed),
    ).to(device)
    refreshed = None if config.refresh is None else supervised
    run = _Run(scene, make_optimizers(scene, config), run_dir, identity, refreshed)
    path = run_dir / checkpoints.FILE_NAME
    if resume and path.is_file():
        state = checkpoints.load_checkpoint(path)
        checkpoints.check_same_run(state.identity, identity, path)
        if state.step > config.steps:
            raise InputError(f"{path} is at step {state.step} of {config.steps}; it is damaged")
        views = {} if refreshed is None else refreshed.state()
        views = checkpoints.restore(state, scene, run.optimizers, views)
        run.refreshed = None if refreshed is None else refreshed.with_state(views)
        run.step, run.seconds = state.step, state.seconds
    else:
        path.unlink(missing_ok=True)
    truncate_log(run_dir / "log.jsonl", run.step)
    return run


def make_optimizers(scene: FieldScene, config: DistillConfig) -> Optimizers:
    """Return the published optimisers of the field and of the proposal density."""
    return {
        "field": torch.optim.Adam(
            scene.field.parameters(),
            lr=config.field_learning_rate(0),
            betas=(0.9, 0.99),
            eps=1e-8,
        ),
        "proposal": torch.optim.Adam(
            scene.proposal.parameters(),
            lr=config.proposal_learning_rate(0),
            eps=1e-15,
            weight_decay=1e-6,
        ),
    }


def _run_steps(
    run: _Run, objective: Objective, refresher: Refresher | None, progress: Progress
) -> None:
    """Run the remaining steps, with checkpoints."""
    config, started, saved = objective.config, time.monotonic() - run.seconds, time.monotonic()
    try:
        while run.step < config.steps:
            if refresher is not None and run.refreshed is not None:
                if refresher.config.is_due(run.step):
                    # A run that is stopped before the step is done repeats this, to the same end.
                    run.refreshed = refresher.refreshed(run.scene, run.refreshed, run.step)
                    objective = replace(objective, supervised=run.refreshed)
            values = _train_step(run, objective)
            run.seconds = time.monotonic() - started
            if run.step % config.log_every == 0 or run.step == config.steps or "skipped" in values:
                line = {"step": run.step, "seconds": round(run.seconds, 3), **values}
                append_lines(run.run_dir / "log.jsonl", [line])
            progress(ProgressEvent("fit the scene", run.step, config.steps, values))
            if time.monotonic() - saved >= config.checkpoint_seconds:
                run.save()
                saved = time.monotonic()
    except (KeyboardInterrupt, Cancelled):
        if not run.updating:
            run.save()
        raise
    run.save()


def _train_step(run: _Run, objective: Objective) -> dict[str, float]:
    """Take one optimiser step; return the loss terms and the norm of the gradient.

    A step that is not finite changes no weight; it is counted, and too many of them end the run.
    """
    for optimizer in run.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    losses: LossTerms = {}
    for terms in objective.parts(run.step):
        torch.stack(list(terms.values())).sum().backward()
        losses |= {name: term.detach() for name, term in terms.items()}
    norms = {
        "field gradient": _gradient_norm(run.scene.field),
        "proposal gradient": _gradient_norm(run.scene.proposal),
    }
    # All numbers are read at once: the only time in a step that the host waits for the GPU.
    read = torch.stack([*losses.values(), *norms.values()]).tolist()
    values = dict(zip(losses, read, strict=False))
    norms = dict(zip(norms, read[len(losses) :], strict=True))
    if "sds" in values:
        health.raise_errors(health.check_sds_gradient(values["sds"], run.step + 1))
    findings = health.check_step(values | norms, run.step + 1, run.skipped)
    if findings:
        health.raise_errors(findings)
        run.step, run.skipped = run.step + 1, run.skipped + 1
        return {"skipped": float(run.skipped)}
    values = {"loss": sum(values.values()), **values}
    if (run.step + 1) % objective.config.log_every == 0:
        values["field gradient"] = norms["field gradient"]
    _update(run, objective.config)
    return values


def _update(run: _Run, config: DistillConfig) -> None:
    """Let the optimisers take the step."""
    run.updating = True
    rates = {"field": config.field_learning_rate, "proposal": config.proposal_learning_rate}
    for name, optimizer in run.optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = rates[name](run.step)
        optimizer.step()
    run.step += 1
    run.updating = False


def _gradient_norm(module: nn.Module) -> Float[Tensor, ""]:
    """Return the Euclidean norm of the gradient of all parameters."""
    gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
    return sent(torch.nn.utils.get_total_norm(gradients), next(module.parameters()).device)


def _check_model(
    pipe: ZeroNVSPipeline, condition: Condition, input_view: View, elevation_rad: float
) -> list[health.Finding]:
    """Check that the model's prediction depends on the camera."""
    cameras = anchor_cameras(
        4,
        elevation_rad=elevation_rad,
        distance=float(input_view.camera.position.norm()),
        fov_y_rad=float(input_view.camera.fov_y_rad),
        image_size_px=(pipe.image_size_px, pipe.image_size_px),
    )
    return health.check_camera_conditioning(pipe, condition, cameras)
