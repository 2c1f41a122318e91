"""What the pipeline takes and gives, and what stock diffusers makes of it."""

import os
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from tiny_pipelines import input_view, orbit, views
from torch.testing import assert_close

from zeronvs._core.errors import InputError
from zeronvs._core.random import draw_noise, seeded_generator
from zeronvs.cameras.view import View
from zeronvs.diffusion.pipeline import ZeroNVSPipeline


def test_initial_latents_replace_those_of_the_seeds(released_pipe):
    noise = draw_noise([seeded_generator(7 + k) for k in range(3)], (4, 8, 8))
    assert torch.equal(views(released_pipe, latents=noise), views(released_pipe))
    assert not torch.equal(views(released_pipe, latents=-noise), views(released_pipe))
    with pytest.raises(InputError, match=r"\(3, 4, 8, 8\)"):
        views(released_pipe, latents=noise[:2])
    with pytest.raises(InputError, match="finite"):
        views(released_pipe, latents=noise * torch.nan)


def test_latents_come_out_as_they_go_into_the_autoencoder(released_pipe):
    latent = views(released_pipe, output_type="latent")
    assert latent.shape == (3, 4, 8, 8)
    assert torch.equal(released_pipe.to_image(latent), views(released_pipe))


def test_several_photos_are_seen_from_every_camera_one_after_the_other(pipe):
    first, second = input_view(), View(input_view().image.flip(0), orbit(1)[0], torch.ones(16, 16))
    both = View.stack([first, second])
    settings = {"num_inference_steps": 2, "output_type": "pt"}
    images = pipe(both, orbit(2), generator=[1, 2, 3, 4], **settings).images
    one = pipe(first, orbit(2), generator=[1, 2], **settings).images
    other = pipe(second, orbit(2), generator=[3, 4], **settings).images
    assert_close(images, torch.cat([one, other]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["list", "array", "tensor", "files"])
def test_a_list_of_photos_may_be_of_every_kind(released_pipe, kind, tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(2)]
    pictures = [Image.fromarray(array) for array in arrays]
    for index, picture in enumerate(pictures):
        picture.save(tmp_path / f"{index}.png")
    given = {
        "list": pictures,
        "array": np.stack(arrays),
        "tensor": torch.from_numpy(np.stack(arrays)).movedim(-1, 1) / 255.0,
        "files": [str(tmp_path / "0.png"), tmp_path / "1.png"],
    }[kind]
    settings = {"num_inference_steps": 1, "output_type": "pt"}
    images = released_pipe(given, orbit(1), generator=[1, 2], **settings).images
    alone = [
        released_pipe(picture, orbit(1), generator=[seed], **settings).images
        for seed, picture in enumerate(pictures, 1)
    ]
    assert_close(images, torch.cat(alone), atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="3 input cameras"):
        released_pipe(given, orbit(1), input_camera=orbit(3), **settings)


def test_an_image_file_is_turned_upright_and_a_pipe_is_refused(released_pipe, tmp_path):
    upright = Image.fromarray((input_view().image.movedim(0, -1).numpy() * 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    settings = {"num_inference_steps": 1, "output_type": "pt", "generator": 1}
    turned = released_pipe(tmp_path / "turned.png", orbit(1), **settings).images
    assert torch.equal(turned, released_pipe(upright, orbit(1), **settings).images)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="not a file"):
        released_pipe(tmp_path / "pipe.png", orbit(1), **settings)
    with pytest.raises(InputError, match="mode I;16"):
        released_pipe(Image.new("I;16", (16, 16)), orbit(1), **settings)
    with pytest.raises(InputError, match="empty"):
        released_pipe([], orbit(1), **settings)


def test_each_sample_may_have_a_generator_of_its_own(released_pipe):
    generators = [seeded_generator(k) for k in (5, 6)]
    images = views(released_pipe, count=2, generator=generators)
    again = views(released_pipe, count=2, generator=[seeded_generator(5), seeded_generator(6)])
    assert torch.equal(images, again)
    assert not torch.equal(images[0], views(released_pipe, count=1, generator=8)[0])


def test_a_callback_is_told_of_latents_and_of_nothing_else(released_pipe):
    with pytest.raises(InputError, match="prompt_embeds"):
        views(released_pipe, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])


def test_a_saved_pipeline_has_a_model_card_and_keeps_one_that_is_there(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: diffusers\n")
    assert "6DoF+1, viewer" in card
    assert "16 x 16" in card
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"


def test_stock_diffusers_loads_a_saved_pipeline(warp_pipe, tmp_path):
    warp_pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded, ZeroNVSPipeline)
    assert torch.equal(views(loaded, count=1), views(warp_pipe, count=1))


def test_diffusers_knows_our_class_when_it_is_imported_after_zeronvs(tmp_path):
    assert diffusers.ZeroNVSPipeline is ZeroNVSPipeline
    assert not hasattr(diffusers, "NoSuchPipeline")
    (tmp_path / "diffusers.py").write_text("value = 3", encoding="utf-8")  # the real one is slow
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import zeronvs; "
        "assert 'diffusers' not in sys.modules and 'torch' not in sys.modules; import diffusers; "
        "print(diffusers.value, diffusers.__getattr__.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split() == [b"3", b"zeronvs._core.diffusers_lookup"]
