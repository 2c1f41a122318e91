"""On a GPU the U-Net alone is in half precision, and what the steps do not use is elsewhere."""

from dataclasses import replace

import pytest
import torch
from pretended_cuda import CUDA, PretendedCuda, is_marked
from sphere_world import ring_cameras, sphere_views
from tiny_pipelines import tiny_released, tiny_warp

from zeronvs.distillation.graphed import GraphedForward
from zeronvs.distillation.loop import distill
from zeronvs.distillation.losses import LossWeights
from zeronvs.distillation.model_in_use import model_in_use
from zeronvs.distillation.supervision import SupervisedViews


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


@pytest.mark.parametrize("kind", ["distilled", "fitted"])
def test_a_step_waits_for_the_gpu_once(cuda, input_view, tiny_config, tmp_path, kind):
    pipe, counts = tiny_released(seed=7).to("cuda"), []

    def count(event):
        if event.stage == "fit the scene":
            counts.append(dict(cuda.waits))
            cuda.waits.clear()

    settings = {"run_dir": tmp_path, "seed": 3, "device": "cuda", "progress": count}
    config = replace(tiny_config, log_every=100)
    if kind == "fitted":
        weights = LossWeights(supervised_depth=10.0, free_space=10.0)
        config = replace(config, supervised_rays=32, reference_rays=16, weights=weights)
        around = sphere_views(ring_cameras([0.5, 1.0]))
        settings["supervised"] = SupervisedViews(around, torch.ones(2))
    with torch.no_grad():
        for weight in pipe.cc_projection.parameters():
            weight.copy_(torch.randn(weight.shape, device="cuda") * 0.3)
    distill(pipe, input_view, 0.3, 0.7, config, **settings)
    assert sum(counts[0].values()) > 1  # what is read once in a run
    assert counts[1] == counts[2] == {("distillation/loop.py, _train_step", "values read"): 1}


def test_what_the_steps_do_not_use_waits_on_the_cpu_and_comes_back_unchanged(cuda):
    pipe = tiny_released(seed=7).to("cuda")
    unet, before = pipe.unet, {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    with model_in_use(pipe, half_precision=True) as model:
        assert model.device == CUDA
        assert model.unet is not unet
        assert model.unet.dtype == torch.float16
        kernel = model.unet.conv_in.weight
        assert kernel.is_contiguous(memory_format=torch.channels_last)
        assert unet.conv_in.weight.is_contiguous()
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


def test_the_unet_is_launched_as_a_graph_only_where_that_is_switched_on(cuda):
    pipe = tiny_released(seed=7).to("cuda")
    plain = type(pipe.unet).forward
    with model_in_use(pipe, half_precision=True, cuda_graph=True) as model:
        assert isinstance(model.unet.forward, GraphedForward)
        assert pipe.unet.forward.__func__ is plain
    with model_in_use(pipe, half_precision=True) as model:
        assert model.unet.forward.__func__ is plain
    on_cpu = tiny_released(seed=7)
    with model_in_use(on_cpu.to("cpu"), half_precision=True, cuda_graph=True) as model:
        assert model is on_cpu


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


def test_what_refreshes_views_keeps_image_encoder_and_decoder_on_the_gpu(cuda):
    pipe = tiny_released(seed=7).to("cuda")
    with model_in_use(pipe, half_precision=True, whole=True) as model:
        used = [model.unet, model.image_encoder, model.vae]
        assert {w.device for part in used for w in part.parameters()} == {CUDA}
        assert {w.device.type for w in pipe.unet.parameters()} == {"cpu"}
    assert {w.device for w in pipe.unet.parameters()} == {CUDA}
