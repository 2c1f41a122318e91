"""Which part of a run may compute in TF32: torch's settings are read while the part computes."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from sphere_world import ring_cameras
from tiny_pipelines import tiny_released

from zeronvs.diffusion.condition import CameraCondition
from zeronvs.distillation.loop import distill
from zeronvs.scene.field_scene import FieldScene

NONE, CONVOLUTIONS, EVERYTHING = (False, False), (False, True), (True, True)


def allowed() -> tuple[bool, bool]:
    """Return whether matrix products and convolutions may be in TF32."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(params=[(False, True), (True, False)], ids=["torch", "opposite"])
def program(request):
    """Yield the settings of the program around ours: torch's own, and their opposite."""
    before = allowed()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = request.param
    yield request.param
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def watched(pipe, seen):
    """Note the settings whenever a part of the model computes."""

    def note(name):
        return lambda *_: seen.setdefault(name, set()).add(allowed())

    for name in ("unet", "vae.encoder", "vae.decoder", "image_encoder", "cc_projection"):
        part = pipe
        for attribute in name.split("."):
            part = getattr(part, attribute)
        part.register_forward_hook(note(name))
    pipe.vae.encoder.register_full_backward_hook(note("vae.encoder, backwards"))
    return pipe


def test_a_run_has_tf32_in_the_unet_and_in_the_autoencoders_convolutions_alone(
    program, input_view, tiny_config, tmp_path, monkeypatch
):
    seen = {}
    pipe = watched(tiny_released(seed=7), seen)
    with torch.no_grad():
        for weight in pipe.cc_projection.parameters():
            weight.copy_(torch.randn(weight.shape) * 0.3)
    march = FieldScene.render_rays

    def render_rays(self, *args, **settings):
        seen.setdefault("field", set()).add(allowed())
        rendering = march(self, *args, **settings)
        if rendering.rgb.requires_grad:
            rendering.rgb.register_hook(lambda _: seen["field"].add(allowed()))
        return rendering

    monkeypatch.setattr(FieldScene, "render_rays", render_rays)
    config = replace(tiny_config, steps=1)
    scene = distill(pipe, input_view, 0.3, 0.7, config, run_dir=tmp_path, seed=3, device="cpu")
    scene.render(ring_cameras([0.3], 8))
    assert seen == {
        "unet": {EVERYTHING},
        "vae.encoder": {NONE, CONVOLUTIONS},  # as a condition; of a rendering
        "vae.encoder, backwards": {CONVOLUTIONS},
        "vae.decoder": {CONVOLUTIONS},
        "image_encoder": {NONE},
        "cc_projection": {NONE},
        "field": {CONVOLUTIONS},
    }
    assert allowed() == program


def test_the_field_is_rendered_without_tf32_outside_of_a_run_too(program, monkeypatch):
    seen, march = [], FieldScene.render_rays

    def render_rays(self, *args, **settings):
        seen.append(allowed())
        return march(self, *args, **settings)

    monkeypatch.setattr(FieldScene, "render_rays", render_rays)
    with torch.no_grad():
        FieldScene().render(ring_cameras([0.3], 4))
    assert seen == [CONVOLUTIONS]
    assert allowed() == program


def test_training_keeps_the_settings_of_the_program(program):
    seen = {}
    pipe = watched(tiny_released(seed=7), seen)
    condition = CameraCondition(torch.zeros(1, 1, 12), torch.zeros(1, 4, 8, 8))
    pipe.predict(torch.zeros(1, 4, 8, 8), torch.tensor([3]), condition).sum().backward()
    assert seen["unet"] == {program}


def test_nothing_is_set_by_importing_the_package():
    code = (
        "import torch; b = torch.backends; f = lambda: (b.cuda.matmul.allow_tf32,"
        "b.cudnn.allow_tf32, torch.get_float32_matmul_precision()); x = f();"
        "import zeronvs, zeronvs.distillation.loop, zeronvs.recipes.reconstruct, "
        "zeronvs.training.finetune; assert f() == x"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
