"""What users of diffusers expect of a pipeline: dtypes, callbacks, outputs, offloading, the hub."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from local_hub import local_hub, use_hub
from PIL import Image
from tiny_pipelines import input_view, orbit, tiny_warp

from zeronvs._core.errors import InputError
from zeronvs.diffusion.pipeline import ZeroNVSPipeline

SETTINGS = {"num_inference_steps": 2, "generator": 3}


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("stock", [False, True])
def test_a_dtype_is_that_of_every_part_by_either_name(name, stock, released_pipe, tmp_path):
    warnings.simplefilter("ignore", FutureWarning)  # stock diffusers renames torch_dtype
    released_pipe.save_pretrained(tmp_path)
    loader = DiffusionPipeline if stock else ZeroNVSPipeline
    loaded = loader.from_pretrained(tmp_path, **{name: torch.bfloat16})
    assert isinstance(loaded, ZeroNVSPipeline)
    parts = [part for part in loaded.components.values() if isinstance(part, torch.nn.Module)]
    assert {part.dtype for part in parts} == {torch.bfloat16}
    assert len(loaded(input_view(), orbit(1), **SETTINGS).images) == 1


def test_the_callback_sees_every_step_and_what_it_returns_is_used(released_pipe):
    seen = []

    def to_zero(pipe, step, timestep, tensors):
        assert pipe is released_pipe
        seen.append((step, int(timestep), tuple(tensors["latents"].shape)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    latent = released_pipe(
        input_view(), orbit(2), output_type="latent", callback_on_step_end=to_zero,
        callback_on_step_end_tensor_inputs=["latents"], **SETTINGS,
    ).images  # fmt: skip
    assert [step for step, _, _ in seen] == [0, 1]
    assert seen[0][1] > seen[1][1]
    assert {shape for _, _, shape in seen} == {(2, 4, 8, 8)}
    assert torch.equal(latent, torch.zeros_like(latent))


def test_every_output_type_holds_the_same_views(released_pipe):
    made = {
        kind: released_pipe(input_view(), orbit(2), output_type=kind, **SETTINGS).images
        for kind in ("pil", "np", "pt", "latent")
    }
    assert isinstance(made["pil"][0], Image.Image)
    assert made["np"].shape == (2, *made["pt"].shape[2:], 3)
    np.testing.assert_array_equal(made["np"], made["pt"].permute(0, 2, 3, 1).numpy())
    difference = np.asarray(made["pil"][1], np.float32) / 255 - made["np"][1]
    assert float(np.abs(difference).max()) <= 0.5 / 255 + 1e-6
    assert made["latent"].shape == (2, 4, 8, 8)
    (plain,) = released_pipe(
        input_view(), orbit(2), output_type="pt", return_dict=False, **SETTINGS
    )
    assert torch.equal(plain, made["pt"])


def test_a_batch_of_photographs_and_generators_is_each_of_them_alone(pipe):
    photos = [input_view(), input_view()]
    generators = [torch.Generator().manual_seed(k) for k in (5, 6)]
    both = pipe(
        photos, orbit(1), num_inference_steps=2, generator=generators, output_type="pt"
    ).images
    assert len(both) == 2
    alone = pipe(
        photos[1], orbit(1), num_inference_steps=2, output_type="pt",
        generator=[torch.Generator().manual_seed(6)],
    ).images  # fmt: skip
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=0)


def test_views_and_images_are_not_mixed(released_pipe):
    with pytest.raises(InputError, match="views and images"):
        released_pipe([input_view(), torch.rand(3, 16, 16)], orbit(1), **SETTINGS)


def test_offloading_moves_every_part_in_time_and_changes_no_view(pipe):
    modules = {k: v for k, v in pipe.components.items() if isinstance(v, torch.nn.Module)}
    assert set(pipe.model_cpu_offload_seq.split("->")) == set(modules)
    before = pipe(input_view(), orbit(1), output_type="pt", **SETTINGS).images
    pipe.enable_model_cpu_offload(device="cpu")  # from the CPU to itself: the hooks are the same
    called = dict.fromkeys(modules, 0)
    for name, module in modules.items():
        hook = module._hf_hook

        def count(*args, _name=name, _before=hook.pre_forward, **kwargs):
            called[_name] += 1
            return _before(*args, **kwargs)

        hook.pre_forward = count
    after = pipe(input_view(), orbit(1), output_type="pt", **SETTINGS).images
    assert torch.equal(before, after)
    # Two steps with guidance in one batch; the autoencoder encodes and decodes.
    assert called["unet"] == 2
    assert called["vae"] >= 2 or not list(pipe.vae.parameters())
    assert called["image_encoder"] == 1
    assert called["cc_projection"] >= 1


@pytest.mark.gpu
def test_offloading_to_a_gpu_leaves_its_memory_free(pipe):
    before = pipe(input_view(), orbit(1), output_type="pt", **SETTINGS).images
    pipe.enable_model_cpu_offload()
    after = pipe(input_view(), orbit(1), output_type="pt", **SETTINGS).images
    torch.testing.assert_close(before, after.cpu(), atol=1e-2, rtol=0)
    assert {part.device.type for part in (pipe.unet, pipe.vae, pipe.image_encoder)} == {"cpu"}


def test_what_is_pushed_to_the_hub_is_private_has_our_card_and_loads(
    warp_pipe, tmp_path, monkeypatch
):
    folder, posted = tmp_path / "hub", []
    folder.mkdir()
    with local_hub(folder, "somebody/tiny", posted=posted) as address:
        use_hub(monkeypatch, address)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", address, raising=False)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
        where = warp_pipe.push_to_hub("somebody/tiny", token="hf_none")
        assert where.startswith(address)
        made = posted[0]  # by older and newer clients
        assert made.get("private") is True or made.get("visibility") == "private"
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "# A view-conditioned diffusion model" in card
        loaded = ZeroNVSPipeline.from_pretrained("somebody/tiny", cache_dir=tmp_path / "cache")
    assert torch.equal(loaded.unet.conv_in.weight, warp_pipe.unet.conv_in.weight)


def test_saving_publishes_nothing(warp_pipe, tmp_path: Path):
    with pytest.raises(InputError, match="push_to_hub"):
        warp_pipe.save_pretrained(tmp_path / "saved", push_to_hub=True)
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("first", "settings"),
    [("import zeronvs", {}), ("", {"custom_pipeline": True, "trust_remote_code": True})],
)
def test_a_new_process_opens_a_saved_folder_by_stock_diffusers(tmp_path: Path, first, settings):
    folder = tmp_path / "model"
    tiny_warp().save_pretrained(folder)
    settings = settings | {name: str(folder) for name in settings if name == "custom_pipeline"}
    program = (
        f"{first}\nimport sys; from diffusers import DiffusionPipeline; "
        f"pipe = DiffusionPipeline.from_pretrained(sys.argv[1], **{settings}); "
        "print(type(pipe).__name__, type(pipe).__module__)"
    )
    words = [sys.executable, "-W", "ignore", "-c", program, str(folder)]
    modules = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}  # copies of pipeline.py
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, timeout=300, env=modules
    )
    assert done.stdout.split() == ["ZeroNVSPipeline", "zeronvs.diffusion.pipeline"]
