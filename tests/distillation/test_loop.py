"""Stories of whole runs with a tiny model: they work, stop, go on, and say when they cannot."""

import json
import math
from dataclasses import replace

import pytest
import torch
from sphere_world import FOV_Y_RAD, ring_cameras, sphere_views

from zeronvs._core.errors import HealthError, InputError
from zeronvs._core.random import seeded_generator
from zeronvs.cameras.view import View
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.anchors import anchor_cameras, sample_anchors
from zeronvs.distillation.loop import distill, make_optimizers, obtain_anchors
from zeronvs.distillation.losses import LossWeights
from zeronvs.distillation.noise_levels import PiecewiseLinear, constant
from zeronvs.distillation.supervision import SupervisedViews
from zeronvs.distillation.view_files import load_views
from zeronvs.protocols import Geometry
from zeronvs.scene.field import FieldConfig
from zeronvs.scene.field_scene import FieldScene


def run(pipe, view, config, folder, **settings):
    arguments = {"run_dir": folder, "seed": 3, "device": "cpu"} | settings
    return distill(pipe, view, 0.3, 0.7, config, **arguments)


class FlatDepth:
    def estimate(self, image):
        return Geometry(depth_z=torch.ones_like(image[:, 0]), kind="relative")


def log_lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same_weights(a, b):
    return all(torch.equal(a.state_dict()[name], b.state_dict()[name]) for name in a.state_dict())


def stop_after(step):
    def progress(event):
        if event.stage == "fit the scene" and event.step == step:
            raise KeyboardInterrupt

    return progress


def psnr(scene, view):
    with torch.no_grad():
        rgb = scene.render(view.camera, background=torch.full((3,), 0.5)).rgb
    return -10 * math.log10((rgb - view.image).square().mean().item())


def test_the_published_recipe_runs_end_to_end_and_logs_every_term(
    pipe, input_view, tiny_config, tmp_path
):
    events = []
    scene = run(pipe, input_view, tiny_config, tmp_path, progress=events.append)
    fitting = [event for event in events if event.stage == "fit the scene"]
    assert [(event.step, event.total) for event in fitting] == [(k, 4) for k in (1, 2, 3, 4)]
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    kinds = ("interlevel", "orientation", "smoothness")
    expected = {"rgb", "sds", *(f"{n} {kind}" for n in ("photo", "sds") for kind in kinds)}
    assert expected <= lines[0].keys()
    assert sorted(path.name for path in (tmp_path / "anchors").iterdir()) == [
        "000.png",
        "001.png",
        "transforms.json",
    ]
    assert all(weight.isfinite().all() for weight in scene.parameters())


def test_a_model_that_warps_the_photo_distils_as_well(warp_pipe, input_view, tiny_config, tmp_path):
    config = replace(tiny_config, steps=2)
    scene = run(warp_pipe, input_view, config, tmp_path, geometry_estimator=FlatDepth())
    assert all(weight.isfinite().all() for weight in scene.parameters())
    assert "sds" in log_lines(tmp_path)[0]


@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_weights(
    pipe, input_view, tiny_config, tmp_path, stop
):
    whole = run(pipe, input_view, tiny_config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(pipe, input_view, tiny_config, tmp_path / "parts", progress=stop_after(stop))
    parts = run(pipe, input_view, tiny_config, tmp_path / "parts", resume=True)
    assert same_weights(whole, parts)
    assert [line["step"] for line in log_lines(tmp_path / "parts")] == [1, 2, 3, 4]


def test_a_run_killed_between_checkpoints_resumes_from_the_last_one(
    pipe, input_view, tiny_config, tmp_path
):
    whole = run(pipe, input_view, tiny_config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(pipe, input_view, tiny_config, tmp_path / "parts", progress=stop_after(2))
    with (tmp_path / "parts" / "log.jsonl").open("a") as handle:
        handle.write('{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    parts = run(pipe, input_view, tiny_config, tmp_path / "parts", resume=True)
    assert same_weights(whole, parts)
    assert [line["step"] for line in log_lines(tmp_path / "parts")] == [1, 2, 3, 4]


def test_a_finished_run_is_returned_as_it_is(pipe, input_view, tiny_config, tmp_path):
    whole = run(pipe, input_view, tiny_config, tmp_path)
    assert same_weights(whole, run(pipe, input_view, tiny_config, tmp_path, resume=True))


def test_resuming_with_other_settings_names_what_differs(pipe, input_view, tiny_config, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(pipe, input_view, tiny_config, tmp_path, progress=stop_after(1))
    other = replace(tiny_config, guidance_scale=7.5)
    with pytest.raises(InputError, match=r"config.guidance_scale: 9.5, now 7.5"):
        run(pipe, input_view, other, tmp_path, resume=True)
    darker = View(0.5 * input_view.image, input_view.camera)
    with pytest.raises(InputError, match="photo: "):
        run(pipe, darker, tiny_config, tmp_path, resume=True)


def test_how_often_a_run_logs_may_change_when_it_resumes(pipe, input_view, tiny_config, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(pipe, input_view, tiny_config, tmp_path, progress=stop_after(1))
    run(pipe, input_view, replace(tiny_config, log_every=2), tmp_path, resume=True)


def test_the_model_collects_no_gradients_and_stays_trainable(
    pipe, input_view, tiny_config, tmp_path
):
    run(pipe, input_view, replace(tiny_config, steps=1), tmp_path)
    weights = [weight for weight in pipe.vae.parameters()]
    assert all(weight.grad is None and weight.requires_grad for weight in weights)


@pytest.fixture
def broken_before(pipe):
    """Return a function from steps to a listener; after them the model predicts NaN for a step."""
    bias = pipe.unet.conv_out.bias
    whole = bias.detach().clone()

    def listener(*steps: int):
        def listen(event):
            with torch.no_grad():
                bias.copy_(whole)
                if event.stage == "fit the scene" and event.step in steps:
                    bias.add_(math.nan)

        return listen

    yield listener
    with torch.no_grad():
        bias.copy_(whole)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(
    pipe, input_view, tiny_config, tmp_path, broken_before
):
    config = replace(tiny_config, log_every=10)
    one = run(pipe, input_view, replace(config, steps=1), tmp_path / "one")
    two = run(
        pipe,
        input_view,
        replace(config, steps=2),
        tmp_path / "two",
        progress=broken_before(1),
    )
    assert same_weights(one, two)
    (line,) = log_lines(tmp_path / "two")
    assert (line["step"], line["skipped"]) == (2, 1)


def test_two_steps_that_are_not_finite_are_survived_and_three_end_the_run(
    pipe, input_view, tiny_config, tmp_path, broken_before
):
    config = replace(tiny_config, steps=6, log_every=10)
    scene = run(pipe, input_view, config, tmp_path / "two", progress=broken_before(1, 3))
    assert all(weight.isfinite().all() for weight in scene.parameters())
    counted = [(line["step"], line.get("skipped")) for line in log_lines(tmp_path / "two")]
    assert counted == [(2, 1), (4, 2), (6, None)]
    with pytest.raises(
        HealthError, match=r"sds became nan at step 5, after 2 skipped.*resume the run"
    ):
        run(pipe, input_view, config, tmp_path / "three", progress=broken_before(1, 3, 4))


class InfiniteGradients(ZeroNVSPipeline):
    """A model through which gradients become infinite, while the loss stays a number."""

    def to_latent(self, image, generator=None):
        latent = super().to_latent(image, generator)
        latent.register_hook(lambda gradient: gradient * math.inf)
        return latent


def test_an_infinite_gradient_of_a_finite_loss_does_not_reach_the_weights(
    pipe, input_view, tiny_config, tmp_path
):
    broken = InfiniteGradients(**pipe.components)
    with pytest.raises(HealthError, match=r"field gradient became (nan|inf) at step 3"):
        run(broken, input_view, tiny_config, tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_the_third_broken_step_keeps_the_last_good_checkpoint(
    pipe, input_view, tiny_config, tmp_path, broken_before
):
    config = replace(tiny_config, steps=7)
    with pytest.raises(KeyboardInterrupt):
        run(pipe, input_view, config, tmp_path, progress=stop_after(2))
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(HealthError, match="at step 6, after 2"):
        run(pipe, input_view, config, tmp_path, resume=True, progress=broken_before(3, 4, 5))
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_model_that_ignores_the_camera_is_refused(pipe, input_view, tiny_config, tmp_path):
    saved = {k: v.clone() for k, v in pipe.cc_projection.state_dict().items()}
    try:
        with torch.no_grad():
            for weight in pipe.cc_projection.parameters():
                weight.zero_()
        with pytest.raises(HealthError, match="ignores the camera"):
            run(pipe, input_view, tiny_config, tmp_path)
    finally:
        pipe.cc_projection.load_state_dict(saved)


def fitting_config(tiny_config, steps):
    weights = LossWeights(
        sds=0.0,
        normal_smoothness=0.0,
        orientation=0.0,
        supervised_depth=200.0,
        free_space=100.0,
    )
    grid = replace(tiny_config.field_config.grid, levels=4, log2_table_size=12)
    return replace(
        tiny_config,
        steps=steps,
        stages=(replace(tiny_config.stages[0], reference_size_px=24),),
        weights=weights,
        render_config=replace(tiny_config.render_config, near=0.2, far=20.0),
        field_config=FieldConfig(
            grid=grid, hidden_width=16, hidden_layers=1, blob_strength=0.0, density_bias=-1.0
        ),
        proposal_config=replace(tiny_config.proposal_config, contracted=True),
        reference_rays=64,
        supervised_rays=448,
        free_space_margin=0.15,
        field_learning_rate=constant(2e-2),
        proposal_learning_rate=constant(2e-2),
    )


def test_views_around_a_known_scene_make_it_appear_in_views_that_were_held_out(
    input_view, tiny_config, tmp_path
):
    others = sphere_views(ring_cameras(torch.arange(1, 8) * (2 * math.pi / 8)))
    held_out = sphere_views(ring_cameras([math.pi / 8, 5 * math.pi / 8]))
    config = fitting_config(tiny_config, steps=100)
    supervised = SupervisedViews(others)
    before = run(None, input_view, replace(config, steps=1), tmp_path / "a", supervised=supervised)
    after = run(None, input_view, config, tmp_path / "b", supervised=supervised)
    lines = log_lines(tmp_path / "b")
    assert lines[-1]["loss"] < 0.4 * lines[0]["loss"]
    assert psnr(after, held_out) > psnr(before, held_out) + 3.5


def test_the_optimisers_are_the_published_ones(tiny_config):
    config = replace(tiny_config, field_learning_rate=constant(1e-3))
    scene = FieldScene(config.field_config, config.render_config, config.proposal_config)
    optimizers = make_optimizers(scene, config)
    field, proposal = optimizers["field"].defaults, optimizers["proposal"].defaults
    assert (field["lr"], field["betas"], field["eps"]) == (1e-3, (0.9, 0.99), 1e-8)
    assert field["weight_decay"] == 0
    assert (proposal["lr"], proposal["betas"], proposal["eps"]) == (5e-3, (0.9, 0.999), 1e-15)
    assert proposal["weight_decay"] == 1e-6


@pytest.mark.parametrize("still", ["field", "proposal"])
def test_field_and_proposal_learn_at_rates_of_their_own(input_view, tiny_config, tmp_path, still):
    weights = LossWeights(sds=0.0, normal_smoothness=0.0, orientation=0.0)
    config = replace(
        tiny_config, weights=weights, reference_rays=64, **{f"{still}_learning_rate": constant(0.0)}
    )
    fresh = run(None, input_view, replace(config, steps=1), tmp_path / "a")
    later = run(None, input_view, replace(config, steps=3), tmp_path / "b")
    moved = {
        part: not torch.equal(fresh.state_dict()[name], later.state_dict()[name])
        for part, name in (("field", "field.grid.table"), ("proposal", "proposal.grid.table"))
    }
    assert moved == {"field": still != "field", "proposal": still != "proposal"}


def test_the_rate_of_a_step_is_read_before_it_is_taken(input_view, tiny_config, tmp_path):
    """A schedule that is 0 at step 0 leaves the field of a run of one step as it was made."""
    weights = LossWeights(sds=0.0, normal_smoothness=0.0, orientation=0.0)
    rising = PiecewiseLinear(((0, 0.0), (1, 1e-2)))
    config = replace(
        tiny_config, weights=weights, reference_rays=64, field_learning_rate=rising, steps=1
    )
    made = FieldScene(
        config.field_config,
        config.render_config,
        config.proposal_config,
        generator=seeded_generator(3),
    )
    one = run(None, input_view, config, tmp_path / "a")
    assert torch.equal(one.field.grid.table, made.field.grid.table)
    two = run(None, input_view, replace(config, steps=2), tmp_path / "b")
    assert not torch.equal(two.field.grid.table, made.field.grid.table)


def test_anchors_are_those_of_the_seed_at_the_height_of_the_photo(
    pipe, input_view, tiny_config, tmp_path
):
    anchors = obtain_anchors(pipe, input_view, 0.3, 0.7, tiny_config, run_dir=tmp_path, seed=3)
    cameras = anchor_cameras(
        2, elevation_rad=0.3, distance=1.0, fov_y_rad=FOV_Y_RAD, image_size_px=(16, 16)
    )
    torch.testing.assert_close(anchors.camera.camera_to_world, cameras.camera_to_world)
    torch.testing.assert_close(anchors.camera.intrinsics_px, cameras.intrinsics_px)
    expected = sample_anchors(
        pipe,
        input_view.batched(),
        0.7,
        cameras,
        config=tiny_config.anchors,
        seeds=[3000, 3001],
    )
    assert torch.equal(anchors.image, expected.image)
    kept = load_views(tmp_path / "anchors")
    assert kept is not None
    assert torch.equal(kept.image, anchors.image)
    darker = View(0.5 * input_view.image, input_view.camera)
    resumed = obtain_anchors(
        pipe, darker, 0.3, 0.7, tiny_config, run_dir=tmp_path, seed=4, resume=True
    )
    assert torch.equal(resumed.image, anchors.image)  # read, not sampled again
    three = replace(tiny_config, anchors=replace(tiny_config.anchors, count=3))
    again = obtain_anchors(pipe, input_view, 0.3, 0.7, three, run_dir=tmp_path, seed=3, resume=True)
    assert len(again) == 3
    none = replace(tiny_config, anchors=replace(tiny_config.anchors, count=0))
    assert obtain_anchors(pipe, input_view, 0.3, 0.7, none, run_dir=tmp_path, seed=3) is None


def test_the_log_has_a_line_every_so_many_steps_and_one_at_the_end(
    input_view, tiny_config, tmp_path
):
    weights = LossWeights(sds=0.0, normal_smoothness=0.0, orientation=0.0)
    config = replace(tiny_config, weights=weights, reference_rays=32, steps=5, log_every=2)
    events = []
    run(None, input_view, config, tmp_path, progress=events.append)
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert [event.step for event in events] == [1, 2, 3, 4, 5]
    assert all(line["seconds"] >= 0 for line in lines)
    assert sorted({line["seconds"] for line in lines}) == [line["seconds"] for line in lines]
    assert lines[0]["field gradient"] > 0
    for line in lines:
        terms = set(line) - {"step", "seconds", "loss", "field gradient"}
        assert line["loss"] == pytest.approx(sum(line[name] for name in terms), rel=1e-5)
