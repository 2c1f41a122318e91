"""On a GPU the U-Net alone is in half precision, and what the steps do not use is elsewhere."""

from dataclasses import replace

import pytest
import torch
from pretended_cuda import CUDA, PretendedCuda, is_marked
from tiny_pipelines import tiny_released, tiny_warp

from zeronvs.distillation.loop import distill
from zeronvs.distillation.model_in_use import model_in_use


@pytest.fixture
def cuda():
    with PretendedCuda() as pretended:
        yield pretended


def watch(module, seen, name):
    """Note the types of what a module takes and returns, and the precision of its weights."""

    def note(module, arguments, output):
        weight = next(module.parameters())
        output = getattr(output, "sample", output)
        seen.setdefault(name, set()).add((weight.dtype, arguments[0].dtype, output.dtype))
        assert is_marked(weight)

    return module.register_forward_hook(note)


def test_the_steps_of_a_run_evaluate_the_unet_alone_in_half_precision(
    cuda, input_view, tiny_config, tmp_path
):
    pipe, seen = tiny_released(seed=7).to("cuda"), {}
    with torch.no_grad():
        for weight in pipe.cc_projection.parameters():
            weight.copy_(torch.randn(weight.shape, device="cuda") * 0.3)

    def watch_the_steps(event):
        if event.stage == "fit the scene" and event.step == 1:
            watch(pipe.vae.encoder, seen, "autoencoder")
            watch(pipe.cc_projection, seen, "pose token")

    hook = watch(pipe.unet, seen, "unet")  # goes along with the copy
    settings = {"run_dir": tmp_path, "seed": 3, "device": "cuda", "progress": watch_the_steps}
    config = replace(tiny_config, steps=2)
    distill(pipe, input_view, 0.3, 0.7, config, **settings)
    full, half = torch.float32, torch.float16
    assert seen["autoencoder"] == {(full, full, full)}
    assert {types[0] for types in seen["pose token"]} == {full}
    assert {types[2] for types in seen["pose token"]} == {full}
    assert (half, half, half) in seen["unet"]  # the steps
    assert seen["unet"] == {(half, half, half), (full, full, full)}  # anchors before them
    hook.remove()


def test_what_the_steps_do_not_use_waits_on_the_cpu_and_comes_back_unchanged(cuda):
    pipe = tiny_released(seed=7).to("cuda")
    unet, before = pipe.unet, {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    with model_in_use(pipe, half_precision=True) as model:
        assert model.device == CUDA
        assert model.unet is not unet
        assert model.unet.dtype == torch.float16
        idle = [unet, pipe.image_encoder, pipe.vae.decoder]
        assert {w.device.type for part in idle for w in part.parameters()} == {"cpu"}
        used = [model.unet, model.vae.encoder, model.cc_projection]
        assert all(w.device == CUDA for part in used for w in part.parameters())
        assert not any(w.requires_grad for part in used for w in part.parameters())
    assert pipe.unet is unet
    modules = [pipe.unet, pipe.vae, pipe.image_encoder, pipe.cc_projection]
    assert all(w.device == CUDA and w.requires_grad for m in modules for w in m.parameters())
    for name, weight in pipe.unet.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_a_failed_run_leaves_the_model_as_it_was(cuda):
    pipe = tiny_warp(seed=8).to("cuda")  # an autoencoder without a decoder to move
    with pytest.raises(KeyboardInterrupt), model_in_use(pipe, half_precision=True):
        raise KeyboardInterrupt
    assert {w.device for w in pipe.unet.parameters()} == {CUDA}
    assert pipe.unet.dtype == torch.float32


def test_full_precision_and_a_cpu_keep_the_unet(cuda):
    pipe = tiny_released(seed=7)
    with model_in_use(pipe, half_precision=True) as model:
        assert model is pipe
        assert pipe.unet.dtype == torch.float32
    pipe.to("cuda")
    with model_in_use(pipe, half_precision=False) as model:
        assert model.unet is pipe.unet
        assert pipe.unet.dtype == torch.float32
        assert {w.device for w in pipe.unet.parameters()} == {CUDA}
