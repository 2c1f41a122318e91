"""Training the denoiser at tiny width."""

import json
from pathlib import Path

import pytest
import torch
from perceptual_weights import alex_weights

from zeronvs.diffusion.condition import CameraCondition
from zeronvs.training.denoiser import (
    TRAINED,
    DenoiserTrainingConfig,
    _dropped,
    denoising_losses,
    hole_windows,
    make_builtin_pipeline,
    train_denoiser,
)
from zeronvs.training.pack import TrainingPack
from zeronvs.training.pairs import PairConfig, PairStream, collate
from zeronvs.training.perceptual import PerceptualDistance

PAIRS = PairConfig(photo_share=0.5, procedural_share=0.0)


def settings(**changes) -> DenoiserTrainingConfig:
    plain = {
        "steps": 6,
        "batch": 2,
        "learning_rate": 3e-3,
        "warmup_steps": 2,
        "perceptual_weight": 0.0,
        "mixed_precision": False,
        "checkpoint_steps": 3,
    }
    return DenoiserTrainingConfig(**(plain | changes))


def train(pipe, pack: TrainingPack, config: DenoiserTrainingConfig, folder: Path) -> list[float]:
    events = []
    train_denoiser(pipe, pack, None, PAIRS, config, folder, events.append, workers=0)
    return [event.values["mse"] for event in events]


def test_the_loss_of_fixed_pairs_falls(pack: TrainingPack, tiny_pipe, tmp_path: Path):
    pipe = tiny_pipe()
    stream = PairStream(pack, PAIRS, seed=99)
    fixed = collate([stream.pair(number) for number in range(4)])
    config = settings(steps=15, ema_decay=0.5, dropout=0.0)

    def loss() -> float:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            return float(denoising_losses(pipe, fixed, None, config, generator)["mse"])

    before = loss()
    train(pipe, pack, config, tmp_path)
    assert loss() < 0.8 * before


def test_a_run_that_was_cut_off_goes_on_with_the_same_losses(
    pack: TrainingPack, tiny_pipe, tmp_path: Path
):
    whole_pipe, cut_pipe, resumed_pipe = tiny_pipe(), tiny_pipe(), tiny_pipe(7)
    whole = train(whole_pipe, pack, settings(), tmp_path / "whole")
    cut = train(cut_pipe, pack, settings(steps=3), tmp_path / "cut")
    rest = train(resumed_pipe, pack, settings(), tmp_path / "cut")
    assert len(rest) == 3
    assert cut + rest == pytest.approx(whole, rel=1e-5)
    for name in TRAINED:
        ours = getattr(resumed_pipe, name).state_dict()
        for key, value in getattr(whole_pipe, name).state_dict().items():
            torch.testing.assert_close(ours[key], value, atol=1e-5, rtol=1e-4)


def test_sampling_begins_where_half_of_a_batch_is_trained(pack: TrainingPack, tiny_pipe):
    pipe, stream, seen = tiny_pipe(), PairStream(pack, PAIRS, seed=3), []
    pairs = collate([stream.pair(number) for number in range(4)])
    answer = pipe.predict

    def listening(noisy, timestep, told):
        seen.append(timestep)
        return answer(noisy, timestep, told)

    pipe.predict = listening
    denoising_losses(pipe, pairs, None, settings(), torch.Generator().manual_seed(0))
    last = len(pipe.alphas_cumprod) - 1
    assert seen[0][:2].tolist() == [last, last]
    assert max(seen[0][2:].tolist()) < last


def test_a_finished_run_does_nothing_more(pack: TrainingPack, tiny_pipe, tmp_path: Path):
    train(tiny_pipe(), pack, settings(steps=2), tmp_path)
    assert train(tiny_pipe(), pack, settings(steps=2), tmp_path) == []
    assert json.loads((tmp_path / "config.json").read_text())["step"] == 2


def test_a_pipeline_of_other_weights_becomes_the_average_of_a_finished_run(
    pack: TrainingPack, tiny_pipe, tmp_path: Path
):
    trained, other = tiny_pipe(), tiny_pipe(5)
    train(trained, pack, settings(steps=3), tmp_path)
    train(other, pack, settings(steps=3), tmp_path)
    for name in TRAINED:
        module = getattr(other, name)
        assert not module.training
        for key, value in getattr(trained, name).state_dict().items():
            assert torch.equal(module.state_dict()[key], value)


def test_the_perceptual_term_is_weighted_and_reaches_the_network(pack: TrainingPack, tiny_pipe):
    pipe = tiny_pipe()
    stream = PairStream(pack, PAIRS, seed=1)
    pairs = collate([stream.pair(number) for number in range(4)])
    perceptual = PerceptualDistance(alex_weights())

    def losses(weight: float) -> dict[str, torch.Tensor]:
        config = settings(perceptual_weight=weight, perceptual_crop_px=32, dropout=0.0)
        generator = torch.Generator().manual_seed(2)
        return denoising_losses(pipe, pairs, perceptual, config, generator)

    assert "perceptual" not in losses(0.0)
    one, two = losses(1.0)["perceptual"], losses(2.0)["perceptual"]
    torch.testing.assert_close(2 * one, two)
    one.backward()
    assert float(pipe.unet.conv_out.weight.grad.abs().sum()) > 0
    assert float(pipe.cc_projection.state_dict(keep_vars=True).popitem()[1].grad.abs().sum()) > 0


def test_conditions_are_dropped_in_three_equal_shares():
    count = 20_000
    told = CameraCondition(torch.ones(count, 1, 2), torch.ones(count, 1, 1, 1))
    kept = _dropped(told, 0.05, torch.Generator().manual_seed(0))
    token, channels = kept.tokens[:, 0, 0] > 0, kept.concat[:, 0, 0, 0] > 0
    shares = {
        "both": float((~token & ~channels).float().mean()),
        "token": float((~token & channels).float().mean()),
        "channels": float((token & ~channels).float().mean()),
    }
    assert shares == pytest.approx(dict.fromkeys(shares, 0.05), abs=0.006)


def test_a_fresh_builtin_network_answers_the_warped_input(pack: TrainingPack):
    pipe = make_builtin_pipeline()
    assert pipe.image_size_px == 128
    assert pipe.conditioning.needs_depth
    concat = torch.rand(1, 112, 32, 32, generator=torch.Generator().manual_seed(0))
    told = CameraCondition(torch.zeros(1, 1, 128), concat)
    with torch.no_grad():
        answer = pipe.predict(torch.randn(1, 48, 32, 32), torch.tensor([900]), told)
    torch.testing.assert_close(answer, concat[:, 48:96])


def test_perceptual_windows_are_drawn_around_holes():
    hole = torch.zeros(6, 1, 128, 128)
    hole[..., 80:, 90:] = 1
    generator = torch.Generator().manual_seed(0)
    windows = hole_windows(hole, 64, generator)
    assert len(windows) == 6
    for rows, columns in windows:
        assert rows.stop - rows.start == columns.stop - columns.start == 64
        assert 80 < rows.stop <= 128
        assert 90 < columns.stop <= 128
    # Without a hole any window will do.
    assert len(hole_windows(torch.zeros(3, 1, 128, 128), 64, generator)) == 3
