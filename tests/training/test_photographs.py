"""The preset `photographs`: examples from photographs, a bank that resumes, the weighted loss."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_pipelines import FixedGeometry, tiny_warp

from zeronvs._core.errors import InputError
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.training.finetune_config import PHOTOGRAPHS
from zeronvs.training.photograph_warps import (
    PLAIN_PER_WARP,
    Photographs,
    PhotographWarps,
    read_photographs,
)
from zeronvs.training.photographs import (
    KNOWN_WEIGHT,
    BankConfig,
    ExampleBank,
    LatentObjective,
    train_on_photographs,
)
from zeronvs.training.session import TrainRequest, open_session

SHORT = replace(
    PHOTOGRAPHS,
    steps=6,
    effective_batch=8,
    batch=8,
    warmup_steps=1,
    decay_steps=0,
    mixed_precision="no",
    exports_half=False,
    checkpoint_every=3,
    validate_every=3,
    validation_pairs=4,
    log_every=1,
)
BANK = BankConfig(chunks=3, warps_per_chunk=2, renew_every=2)


def sloped(image: torch.Tensor) -> torch.Tensor:
    """Return a depth that doubles from the left of an image to its right."""
    return torch.linspace(1, 2, image.shape[-1]).expand_as(image[:, 0])


@pytest.fixture
def warps() -> PhotographWarps:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 255, (5, 3, 16, 24), generator=generator).to(torch.uint8)
    is_tall = torch.tensor([False, True, False, False, True])
    photos = Photographs(image, torch.tensor([24, 20, 16, 24, 24]), is_tall)
    return PhotographWarps(photos, tiny_warp(), FixedGeometry(sloped))


def drawn(warps: PhotographWarps, count: int = 6):
    return warps.draw(count, torch.Generator().manual_seed(3))


def test_a_photograph_is_warped_away_and_back(warps: PhotographWarps):
    examples = drawn(warps)
    assert len(examples) == 6 * (1 + PLAIN_PER_WARP)
    share = examples.mask.float().mean((1, 2, 3))
    assert float(share.min()) > 0.1
    assert float(share.max()) < 1
    poses = examples.camera[:6, :16].view(6, 4, 4)
    rotation = poses[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(6, 3, 3))
    assert float((rotation - torch.eye(3)).abs().amax((1, 2)).min()) > 1e-3
    # The warped input is the photograph where it is known, up to resampling, and nothing else.
    known = examples.mask[:6].repeat_interleave(3, 1).float()
    near, far = (
        float(((one - other).abs() * known).sum() / known.sum())
        for one, other in (
            (unfolded(examples.warped), unfolded(examples.target)),
            (unfolded(examples.warped), unfolded(examples.target).roll(1, 0)),
        )
    )
    assert near < 0.7 * far


def unfolded(latent: torch.Tensor) -> torch.Tensor:
    """Return the warped rows with channels in the order of a mask's, color by color."""
    pixels = latent[:6].float().unflatten(1, (3, 4)).transpose(1, 2)
    return pixels.flatten(1, 2)


def test_plain_photographs_have_masks_and_cameras_of_warped_ones_and_their_own_pixels(
    warps: PhotographWarps,
):
    examples = drawn(warps)
    for first in range(6, len(examples), 6):
        assert torch.equal(examples.mask[first : first + 6], examples.mask[:6])
        assert torch.equal(examples.camera[first : first + 6], examples.camera[:6])
    plain = examples[6:]
    known = plain.mask.unflatten(1, (1, 4)).expand(-1, 3, -1, -1, -1).flatten(1, 2) > 0
    assert torch.equal(plain.warped[known], plain.target[known])
    assert torch.equal(plain.input, plain.warped)
    assert not torch.equal(plain.warped[~known], plain.target[~known])


def test_what_is_validated_on_is_warped_photographs_alone(warps: PhotographWarps):
    alone = warps.draw(6, torch.Generator().manual_seed(3), plain_per_warp=0)
    for name, value in vars(drawn(warps)).items():
        assert torch.equal(getattr(alone, name), value[:6]), name


def bank(warps: PhotographWarps, seed: int = 0) -> ExampleBank:
    return ExampleBank(warps, BANK, seed=seed, batch=8)


def test_a_bank_resumes_with_the_examples_that_it_would_hold(warps: PhotographWarps):
    whole, stream = [], iter(bank(warps))
    for _ in range(9):
        whole.append(next(stream))
    for taken in (1, 4, 8):
        resumed = bank(warps)
        resumed.load_state_dict({"taken": taken})
        batch = next(iter(resumed))
        for name, value in vars(whole[taken]).items():
            assert torch.equal(getattr(batch, name), value), name
    assert not torch.equal(whole[0].target, whole[1].target)
    assert not torch.equal(bank(warps, 1).read(0).target, whole[0].target)


def test_a_bank_is_renewed(warps: PhotographWarps):
    stream = bank(warps)
    stream.read(0)
    assert stream._bank is not None
    before = stream._bank.target.clone()
    stream.read(2)
    changed = (stream._bank.target != before).flatten(1).any(1)
    per_chunk = 2 * (1 + PLAIN_PER_WARP)
    assert bool(changed[:per_chunk].all())
    assert not changed[per_chunk:].any()


def test_a_quarter_of_a_batch_are_warps(warps: PhotographWarps):
    batch = bank(warps).read(0)
    is_plain = (batch.input == batch.warped).flatten(1).all(1)
    assert is_plain.tolist() == [False] * 2 + [True] * 6


def test_holes_count_more_than_what_is_known(warps: PhotographWarps):
    objective = LatentObjective(warps.pipe, SHORT)
    with torch.no_grad():
        for parameter in warps.pipe.unet.conv_out.parameters():
            parameter.zero_()
    noisy = objective.draw_examples(bank(warps).read(0), list(range(8)))
    losses = objective(noisy)["denoising"]
    alpha_bar = warps.pipe.alphas_cumprod[noisy.timestep][:, None, None, None]
    clean = noisy.examples.target.float() * 2.0  # the scaling factor of the tiny autoencoder
    velocity = alpha_bar.sqrt() * noisy.noise - (1 - alpha_bar).sqrt() * clean
    known = noisy.examples.mask.float().mean(1, keepdim=True)
    weight = known * KNOWN_WEIGHT + (1 - known)
    expected = (velocity**2 * weight).mean((1, 2, 3)) / weight.mean()
    torch.testing.assert_close(losses, expected)
    assert objective.usable(noisy).tolist() == [1.0] * 8


def test_dropped_channels_are_zero(warps: PhotographWarps):
    objective = LatentObjective(warps.pipe, SHORT)
    batch = bank(warps).read(0)
    keeps = torch.tensor([1.0, 0.0] * 4)
    conditioning = objective.encoded_conditioning(batch, torch.ones(8), keeps)
    assert conditioning.concat[::2].flatten(1).any(1).all()
    assert not conditioning.concat[1::2].any()
    channels = torch.cat([batch.input.float(), batch.warped.float(), batch.mask.float()], 1)
    assert torch.equal(conditioning.concat[::2], channels[::2])


def test_crops_are_squares_of_the_photograph_half_of_them_mirrored():
    ramp = torch.linspace(0, 255, 24).round().to(torch.uint8)
    image = ramp.expand(1, 3, 16, 24).contiguous()
    photos = Photographs(image, torch.tensor([24]), torch.tensor([False]))
    warps = PhotographWarps(photos, tiny_warp(), FixedGeometry(sloped))
    crops, side = warps._crops(200, torch.Generator().manual_seed(0))
    assert 0.7 <= float(side.min()) < 0.72
    assert 0.98 < float(side.max()) <= 1
    # A crop of all 16 rows spans 15 of the ramp's 23 steps, a smaller one less.
    rise = crops[:, 0, :, 12] - crops[:, 0, :, 3]
    expected = side * 9 / 23
    torch.testing.assert_close(rise.abs().mean(1), expected, atol=0.01, rtol=0)
    assert 0.35 < float((rise.mean(1) < 0).float().mean()) < 0.65


def test_cameras_orbit_or_turn_on_the_spot(warps: PhotographWarps):
    fov_rad = torch.full((400,), 1.0)
    pose = warps._away(torch.full((400,), 2.0), fov_rad, torch.Generator().manual_seed(0))
    step = pose[:, :3, 3].norm(dim=-1)
    still = step < 1e-5
    assert 0.3 < float(still.float().mean()) < 0.46  # 38 % do not orbit
    forward = -pose[:, :3, 2]
    pan_rad = torch.atan2(forward[:, 0].abs(), -forward[:, 2])
    assert 0.7 < float(pan_rad[still].max()) <= 0.86
    # Who orbits without a turn still faces the middle, at depth 2, but for the step aside.
    toward = torch.tensor([0.0, 0.0, -2.0]) - pose[:, :3, 3]
    facing = torch.nn.functional.cosine_similarity(toward, forward)
    assert float((facing[~still] > 0.97).float().mean()) > 0.6


def test_the_preset_is_what_the_model_card_says(repository: Path):
    card = (repository / "src" / "zeronvs" / "models" / "builtin" / "README.md").read_text()
    steps, batch = PHOTOGRAPHS.steps, PHOTOGRAPHS.effective_batch
    assert f"{steps:,} steps of {batch} samples" in card
    assert round(steps * batch, -3) == 676_000
    assert "676,000 in all" in card
    assert f"moving average {PHOTOGRAPHS.ema_decay:g}".replace("0.", ".") in card
    assert "3e-4 falling over the last 45 %" in card
    assert PHOTOGRAPHS.learning_rate == 3e-4
    assert PHOTOGRAPHS.decay_steps / steps == pytest.approx(0.45, abs=0.005)
    assert PHOTOGRAPHS.trains_image_encoder
    assert PHOTOGRAPHS.perceptual_weight == 0


def test_a_bank_on_a_gpu_is_large_and_elsewhere_small():
    large, small = (BankConfig.for_device(torch.device(name)) for name in ("cuda", "cpu"))
    per_example = (3 * 32 + 32) * 32 * 32 * 2  # bfloat16 latents and bytes of the mask
    examples = [b.chunks * b.warps_per_chunk * (1 + PLAIN_PER_WARP) for b in (large, small)]
    assert 8e9 < examples[0] * per_example < 16e9
    assert examples[1] < 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for source in ("rooms", "streets"):
        (folder / "photos" / source).mkdir(parents=True)
        for number in range(34):
            size = (16, 24, 3) if number % 2 else (20, 16, 3)
            pixels = rng.integers(0, 255, size).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / source / f"{number}.png")
    (folder / "photos" / "rooms" / "0_teacher.jpg").write_bytes(b"not a photograph")
    return folder


def test_photographs_are_read_upright_and_wide(folder: Path):
    photos = read_photographs(folder, 16)
    assert photos.image.shape == (68, 3, 16, 24)
    assert set(photos.width_px.tolist()) == {20, 24}
    assert int(photos.is_tall.sum()) == 34
    tall = photos.image[photos.is_tall]
    assert not tall[..., 20:].any()


@pytest.mark.parametrize("count", [0, 30])
def test_too_few_photographs_are_refused(tmp_path: Path, count: int):
    (tmp_path / "photos" / "few").mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "few" / f"{number}.png")
    with pytest.raises(InputError, match=f"has {count} photographs"):
        read_photographs(tmp_path, 16)


def train(folder: Path, out: Path, start: Path, steps: int = 6) -> list[dict]:
    request = TrainRequest(
        data=(folder,),
        out=out,
        config=replace(SHORT, steps=steps),
        start=str(start),
        device="cpu",
    )
    train_on_photographs(open_session(request), BANK)
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_training_on_photographs_resumes_and_exports(folder: Path, tmp_path: Path):
    tiny_warp().save_pretrained(tmp_path / "start")
    whole = train(folder, tmp_path / "whole", tmp_path / "start")
    train(folder, tmp_path / "cut", tmp_path / "start", steps=3)
    resumed = train(folder, tmp_path / "cut", tmp_path / "start")
    assert [line.get("loss") for line in resumed] == [line.get("loss") for line in whole]
    states = [load_file(tmp_path / run / "state.safetensors") for run in ("whole", "cut")]
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    assert [line["step"] for line in whole if "validation_loss" in line] == [3, 6]
    with Image.open(tmp_path / "whole" / "views" / "step_000006.png") as sheet:
        assert sheet.size == (3 * 16, 4 * 16)
    exported = ZeroNVSPipeline.from_pretrained(tmp_path / "whole" / "pipeline")
    for part in ("unet", "image_encoder", "cc_projection"):
        before = dict(getattr(tiny_warp(), part).named_parameters())
        after = dict(getattr(exported, part).named_parameters())
        assert any(not torch.equal(after[name], value) for name, value in before.items()), part


def test_a_model_that_predicts_a_residual_is_refused(folder: Path, tmp_path: Path):
    tiny_warp(prediction_type="sample").save_pretrained(tmp_path / "start")
    with pytest.raises(InputError, match="predict velocities"):
        train(folder, tmp_path / "run", tmp_path / "start")
