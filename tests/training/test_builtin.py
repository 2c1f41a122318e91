"""The preset `builtin`: its architecture, its perceptual term, its trainings in the one loop."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from perceptual_weights import alex_weights
from safetensors.torch import load_file

from zeronvs.diffusion.condition import CameraCondition
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.perceptual import PerceptualDistance
from zeronvs.training.denoising import DenoisingObjective, hole_windows, perceptual_losses
from zeronvs.training.finetune import TrainingRun, finetune
from zeronvs.training.finetune_config import BUILTIN, FinetuneConfig
from zeronvs.training.pack import TrainingPack
from zeronvs.training.pair_sources import PairShares, PairStream
from zeronvs.training.starting_weights import make_builtin_pipeline

TRAINED = ("unet", "image_encoder", "cc_projection")
SHORT = replace(
    BUILTIN,
    steps=6,
    effective_batch=2,
    batch=2,
    learning_rate=3e-3,
    warmup_steps=2,
    perceptual_weight=0.0,
    mixed_precision="no",
    exports_half=False,
    checkpoint_every=3,
    validate_every=0,
    log_every=1,
)


def stream(pack: TrainingPack, seed: int = 0, batch: int = 2) -> PairStream:
    shares = PairShares(photographs=0.5, procedural=0.0)
    return PairStream(shares.sources(pack), seed=seed, batch=batch)


def train(pipe, pack: TrainingPack, out: Path, config: FinetuneConfig = SHORT, **more) -> list:
    perceptual = more.pop("perceptual", None)
    finetune(
        TrainingRun(
            objective=DenoisingObjective(pipe, config, perceptual=perceptual),
            data=stream(pack),
            config=config,
            out=out,
            accelerator=Accelerator(cpu=True),
            **more,
        )
    )
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_loss_of_fixed_pairs_falls(pack: TrainingPack, tiny_pipe, tmp_path: Path):
    pipe = tiny_pipe()
    fixed = stream(pack, seed=99, batch=4).read(0)
    config = replace(SHORT, steps=15, dropout=0.0)

    def loss() -> float:
        objective = DenoisingObjective(pipe, config)
        with torch.no_grad():
            losses = objective(objective.draw_examples(fixed, list(range(4))))
        return float(losses["denoising"].mean())

    before = loss()
    train(pipe, pack, tmp_path, config)
    assert loss() < 0.8 * before


def test_an_interrupted_run_resumes_bit_by_bit(pack: TrainingPack, tiny_pipe, tmp_path: Path):
    whole = train(tiny_pipe(), pack, tmp_path / "whole")
    train(tiny_pipe(), pack, tmp_path / "cut", replace(SHORT, steps=3))
    resumed = train(tiny_pipe(7), pack, tmp_path / "cut")  # other weights: all come from the state
    assert [line["loss"] for line in resumed] == [line["loss"] for line in whole]
    states = [load_file(tmp_path / run / "state.safetensors") for run in ("whole", "cut")]
    assert {name.split(".")[0] for name in states[0]} == {
        "weights",
        "average",
        "optimizer",
        "place",
    }
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    assert all(v.dtype == torch.float32 for n, v in states[0].items() if n[:5] != "place")


def test_everything_trained_is_averaged_and_the_average_is_exported(
    pack: TrainingPack, tiny_pipe, tmp_path: Path
):
    train(tiny_pipe(), pack, tmp_path, replace(SHORT, exports_half=True))
    state = load_file(tmp_path / "state.safetensors")
    exported = ZeroNVSPipeline.from_pretrained(tmp_path / "pipeline")
    start = tiny_pipe()
    for part in TRAINED:
        weights = dict(getattr(exported, part).named_parameters())
        changed = False
        for name, value in weights.items():
            average = state[f"average.{part}.{name}"]
            assert torch.equal(value, average.half().float())
            changed |= not torch.equal(average, dict(getattr(start, part).named_parameters())[name])
            changed &= True
        assert changed
    stored = load_file(tmp_path / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}


def test_exporting_in_half_precision_leaves_the_training_as_it_is(
    pack: TrainingPack, tiny_pipe, tmp_path: Path
):
    plain = train(tiny_pipe(), pack, tmp_path / "plain")
    half = train(tiny_pipe(), pack, tmp_path / "half", replace(SHORT, exports_half=True))
    assert [line["loss"] for line in half] == [line["loss"] for line in plain]


def test_pairs_of_the_stream_are_validated_on(pack: TrainingPack, tiny_pipe, tmp_path: Path):
    config = replace(SHORT, steps=2, validate_every=1)
    lines = train(tiny_pipe(), pack, tmp_path, config, validation=stream(pack, seed=1).read(0))
    assert [line["step"] for line in lines if "validation_loss" in line] == [1, 2]
    assert (tmp_path / "views" / "step_000002.png").exists()


def test_a_finished_run_does_nothing_more(pack: TrainingPack, tiny_pipe, tmp_path: Path):
    config = replace(SHORT, steps=2)
    first = train(tiny_pipe(), pack, tmp_path, config)
    before = load_file(tmp_path / "state.safetensors")
    assert train(tiny_pipe(5), pack, tmp_path, config) == first
    after = load_file(tmp_path / "state.safetensors")
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_perceptual_term_is_weighted_logged_and_reaches_the_network(
    pack: TrainingPack, tiny_pipe, tmp_path: Path
):
    pipe, perceptual = tiny_pipe(), PerceptualDistance(alex_weights())
    pairs = stream(pack, seed=1, batch=4).read(0)

    def term(weight: float) -> torch.Tensor | None:
        config = replace(SHORT, perceptual_weight=weight, perceptual_crop_px=32, dropout=0.0)
        objective = DenoisingObjective(pipe, config, perceptual=perceptual)
        return objective(objective.draw_examples(pairs, [0, 1, 2, 3])).get("perceptual")

    assert term(0.0) is None
    one, two = term(1.0), term(2.0)
    assert one is not None
    assert two is not None
    torch.testing.assert_close(2 * one, two)
    assert int((one > 0).sum()) == 2  # the noisier half
    one.mean().backward()
    assert float(pipe.unet.conv_out.weight.grad.abs().sum()) > 0
    assert float(pipe.cc_projection.projection.weight.grad.abs().sum()) > 0
    config = replace(SHORT, steps=1, perceptual_weight=1.0, perceptual_crop_px=32)
    (line,) = train(tiny_pipe(), pack, tmp_path, config, perceptual=perceptual)
    assert line["loss"] == pytest.approx(line["denoising"] + line["perceptual"], rel=1e-5)
    assert line["perceptual"] > 0


def test_the_perceptual_term_is_the_mean_over_the_noisier_half():
    perceptual = PerceptualDistance(alex_weights())
    generator = torch.Generator().manual_seed(0)
    image, truth = torch.rand(2, 3, 3, 48, 48, generator=generator)
    losses = perceptual_losses(
        perceptual,
        image,
        truth,
        hole=torch.zeros(3, 1, 48, 48),
        timestep=torch.tensor([5, 900, 30]),
        draw=torch.zeros(3),
        crop_px=48,
    )
    assert losses[[0, 2]].tolist() == [0.0, 0.0]
    assert float(losses.mean()) == pytest.approx(float(perceptual(image, truth)[1]), rel=1e-4)


def test_known_pixels_do_not_enter_the_perceptual_term(pack: TrainingPack, tiny_pipe):
    pipe, pairs = tiny_pipe(), stream(pack, seed=1, batch=4).read(0)
    assert pairs.warped is not None
    truth = pairs.target_view.image
    everywhere = replace(pairs, warped=(truth, torch.ones(4, 1, 32, 32)))
    config = replace(SHORT, perceptual_weight=1.0, perceptual_crop_px=32, dropout=0.0)
    perceptual = PerceptualDistance(alex_weights())
    objective = DenoisingObjective(pipe, config, perceptual=perceptual)
    with torch.no_grad():
        for parameter in pipe.unet.conv_out.parameters():
            parameter.add_(1.0)  # whatever the network predicts, the known truth replaces it
        losses = objective(objective.draw_examples(everywhere, [0, 1, 2, 3]))
    assert float(losses["denoising"].min()) > 0.01
    assert float(losses["perceptual"].max()) < 1e-6


def test_a_fresh_network_predicts_no_velocity():
    pipe = make_builtin_pipeline()
    assert pipe.image_size_px == 256
    assert pipe.conditioning.needs_depth
    concat = torch.rand(1, 128, 32, 32, generator=torch.Generator().manual_seed(0))
    conditioning = CameraCondition(torch.zeros(1, 1, 128), concat)
    with torch.no_grad():
        predicted = pipe.predict(torch.randn(1, 32, 32, 32), torch.tensor([900]), conditioning)
    assert not predicted.any()


def test_a_fresh_network_has_the_architecture_of_the_shipped_one():
    fresh, shipped = make_builtin_pipeline(), ZeroNVSPipeline.from_pretrained("builtin")
    for name in (*TRAINED, "vae"):
        weights = [getattr(pipe, name).state_dict() for pipe in (fresh, shipped)]
        shapes = [{key: value.shape for key, value in each.items()} for each in weights]
        assert shapes[0] == shapes[1], name
    for part in ("scheduler", "cc_projection"):
        configs = [dict(getattr(pipe, part).config) for pipe in (fresh, shipped)]
        for config in configs:
            for key in [key for key in config if key.startswith("_")]:
                del config[key]
        assert configs[0] == configs[1]


def test_perceptual_windows_are_drawn_around_holes():
    hole = torch.zeros(6, 1, 128, 128)
    hole[..., 80:, 90:] = 1
    draw = torch.rand(6, generator=torch.Generator().manual_seed(0))
    windows = hole_windows(hole, 64, draw)
    assert len(windows) == 6
    for rows, columns in windows:
        assert rows.stop - rows.start == columns.stop - columns.start == 64
        assert 80 < rows.stop <= 128
        assert 90 < columns.stop <= 128


def test_without_holes_every_perceptual_window_is_as_likely():
    draw = (torch.arange(25) + 0.5) / 25
    windows = hole_windows(torch.zeros(25, 1, 128, 128), 64, draw)
    corners = [(rows.start, columns.start) for rows, columns in windows]
    assert corners == [(top, left) for top in range(0, 65, 16) for left in range(0, 65, 16)]
