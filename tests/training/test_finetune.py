"""The loop: learning, averaging, accumulating, additions, and what it leaves behind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from pair_world import MadeUpPairs, made_up_batch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_pipelines import tiny_released, tiny_warp

from zeronvs._core.errors import HealthError, InputError
from zeronvs._core.resumable import ResumableRun
from zeronvs.depth.builtin import DepthNet
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.training.denoising import DenoisingObjective
from zeronvs.training.finetune import TrainingRun, finetune, learning_rate_share
from zeronvs.training.finetune_config import (
    PAPER,
    FinetuneConfig,
    autocast_precision,
    memory_advice,
)
from zeronvs.training.session import with_precision
from zeronvs.training.training_state import WeightAverage

SHORT = FinetuneConfig(
    steps=4,
    batch=2,
    effective_batch=4,
    learning_rate=2e-3,
    warmup_steps=2,
    checkpoint_every=2,
    validate_every=0,
    log_every=1,
    validation_sampling_steps=2,
)


def train(out: Path, config: FinetuneConfig = SHORT, pipe=None, **settings: Any) -> list[dict]:
    accelerator = Accelerator(cpu=True)
    accelerator.gradient_accumulation_steps = config.accumulation(1)
    settings = {"data": MadeUpPairs(config.batch, total=4)} | settings
    pipe = pipe or tiny_released()
    run = TrainingRun(
        objective=DenoisingObjective(
            pipe, config, geometry_estimator=settings.pop("geometry_estimator", None)
        ),
        config=config,
        out=out,
        accelerator=accelerator,
        **settings,
    )
    finetune(run)
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_published_recipe():
    assert (PAPER.steps, PAPER.effective_batch, PAPER.batch) == (60_000, 1536, 48)
    assert PAPER.accumulation(processes=8) == 4
    assert (PAPER.learning_rate, PAPER.projection_rate) == (1e-4, 10.0)
    assert (PAPER.weight_decay, PAPER.max_gradient_norm) == (0.01, None)
    assert (PAPER.warmup_steps, PAPER.ema_decay, PAPER.dropout) == (100, 0.9999, 0.05)
    assert PAPER.gradient_checkpointing
    assert PAPER.mixed_precision == "no"


def test_the_learning_rate_rises_from_a_millionth_and_stays():
    shares = [learning_rate_share(step, PAPER) for step in (0, 50, 100, 59_999)]
    assert shares == pytest.approx([1e-6, 0.5, 1.0, 1.0], abs=1e-6)


def test_the_learning_rate_falls_to_0_as_half_a_cosine():
    config = replace(SHORT, steps=100, warmup_steps=10, decay_steps=40)
    shares = [learning_rate_share(step, config) for step in (5, 60, 80, 90, 100)]
    expected = [0.5, 1.0, 0.5, (1 - 2**-0.5) / 2, 0.0]
    assert shares == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("device", "capability", "cuda_has_bf16", "precision"),
    [
        ("cpu", "AVX512", False, "bf16"),
        ("cpu", "AVX2", True, "no"),
        ("cpu", "DEFAULT", True, "no"),
        ("cuda", "AVX2", True, "bf16"),
        ("cuda", "AVX512", False, "no"),
        ("mps", "AVX512", True, "no"),
    ],
)
def test_auto_is_bfloat16_only_where_the_hardware_is_fast_at_it(
    device, capability, cuda_has_bf16, precision
):
    chosen = autocast_precision(device, cpu_capability=capability, cuda_has_bf16=cuda_has_bf16)
    assert chosen == precision


def test_auto_is_resolved_for_this_machine():
    resolved = with_precision(replace(SHORT, mixed_precision="auto"), torch.device("cpu"))
    is_fast = torch.backends.cpu.get_cpu_capability() == "AVX512"
    assert resolved.mixed_precision == ("bf16" if is_fast else "no")
    fp16 = replace(SHORT, mixed_precision="fp16")
    assert with_precision(fp16, torch.device("cpu")) == fp16


def test_the_average_warms_up_as_published():
    weight = torch.nn.Parameter(torch.zeros(1))
    average = WeightAverage({"weight": weight}, 0.9999)
    with torch.no_grad():
        weight.fill_(1.0)
    expected = 0.0
    for update in range(1, 200):
        average.update()
        decay = min(0.9999, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay)
    assert float(average.tensors["weight"]) == pytest.approx(expected, rel=1e-5)
    with average.in_place():
        assert weight.item() == pytest.approx(expected, rel=1e-5)
    assert weight.item() == 1.0


def test_the_loss_of_a_few_pairs_falls_and_the_sheets_are_there(tmp_path: Path):
    config = replace(SHORT, steps=60, effective_batch=2, validate_every=60, checkpoint_every=60)
    lines = train(tmp_path, config, validation=made_up_batch([0, 1]))
    losses = [line["loss"] for line in lines if "loss" in line]
    assert sum(losses[-15:]) < 0.85 * sum(losses[:15])
    assert [line["step"] for line in lines if "validation_loss" in line] == [60]
    with Image.open(tmp_path / "views" / "step_000060.png") as sheet:
        assert sheet.size == (3 * 16, 2 * 16)  # input, truth, sample; two pairs
    assert {"examples_per_s", "eta_s"} <= set(lines[3])


def test_the_folder_that_is_left_behind_holds_the_average(tmp_path: Path):
    train(tmp_path)
    pipe = ZeroNVSPipeline.from_pretrained(tmp_path / "pipeline")
    state = load_file(tmp_path / "state.safetensors")
    assert torch.equal(pipe.unet.conv_in.weight, state["average.unet.conv_in.weight"])
    assert not torch.equal(pipe.unet.conv_in.weight, state["weights.unet.conv_in.weight"])
    # The projection is trained and not averaged.
    projection = "weights.cc_projection.projection.weight"
    assert torch.equal(pipe.cc_projection.projection.weight, state[projection])
    assert "average.cc_projection.projection.weight" not in state
    frozen = tiny_released()
    assert torch.equal(pipe.vae.encoder.conv_in.weight, frozen.vae.encoder.conv_in.weight)


def test_accumulated_batches_are_one_large_batch(tmp_path: Path):
    parts = train(tmp_path / "parts", replace(SHORT, batch=1))
    whole = train(tmp_path / "whole", replace(SHORT, batch=4))
    for one, other in zip(parts, whole, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_checkpointing_gradients_changes_nothing(tmp_path: Path):
    plain = train(tmp_path / "plain")
    saving = train(tmp_path / "saving", replace(SHORT, gradient_checkpointing=True))
    for one, other in zip(plain, saving, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_another_batch_size_resumes_the_run(tmp_path: Path):
    train(tmp_path, replace(SHORT, steps=2))
    lines = train(tmp_path, replace(SHORT, batch=4, steps=3), data_seed=9)
    assert [line["step"] for line in lines] == [1, 2, 3]


def test_other_settings_are_refused_by_name(tmp_path: Path):
    train(tmp_path, replace(SHORT, steps=2))
    with pytest.raises(InputError, match=r"learning_rate: 0.002, now 0.1"):
        train(tmp_path, replace(SHORT, learning_rate=0.1))


def test_a_second_training_of_the_folder_is_refused_and_changes_nothing(tmp_path: Path):
    train(tmp_path, replace(SHORT, steps=2))
    before = (tmp_path / "state.safetensors").read_bytes()
    with ResumableRun(tmp_path), pytest.raises(InputError, match="another process is working"):
        train(tmp_path)
    assert (tmp_path / "state.safetensors").read_bytes() == before
    assert len(train(tmp_path)) == SHORT.steps


def test_settings_without_a_state_to_resume_are_replaced(tmp_path: Path):
    with ResumableRun(tmp_path) as folder:
        folder.claim({"learning_rate": 7})
    train(tmp_path, replace(SHORT, steps=2))


@pytest.mark.parametrize("damage", [{"step": -1}, {"step": "2"}, {"average_updates": None}])
def test_a_state_with_an_impossible_header_is_refused(tmp_path: Path, damage):
    train(tmp_path, replace(SHORT, steps=2))
    path = tmp_path / "state.safetensors"
    with safe_open(path, "pt") as opened:
        header = json.loads(opened.metadata()["run"])
    save_file(load_file(path), path, {"run": json.dumps(header | damage)})
    with pytest.raises(InputError, match="whole number of at least 0"):
        train(tmp_path)


def test_a_state_that_is_not_finite_is_refused(tmp_path: Path):
    train(tmp_path, replace(SHORT, steps=2))
    path = tmp_path / "state.safetensors"
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(path)
    tensors["average.unet.conv_in.bias"][0] = torch.nan
    save_file(tensors, path, metadata)
    with pytest.raises(InputError, match=r"not finite, in average\.unet\.conv_in\.bias"):
        train(tmp_path)


def test_a_model_that_warps_trains_on_clean_images(tmp_path: Path):
    depth_net = DepthNet(input_size_px=32, decoder_channels=(8, 8, 8, 8)).eval()
    pipe = tiny_warp(prediction_type="sample")
    pairs = MadeUpPairs(SHORT.batch, total=4)
    pairs.with_depth = True
    config = replace(SHORT, trains_image_encoder=True)
    lines = train(tmp_path, config, pipe, data=pairs, geometry_estimator=depth_net)
    assert len(lines) == 4
    trained = ZeroNVSPipeline.from_pretrained(tmp_path / "pipeline")
    before = tiny_warp(seed=2).image_encoder.visual_projection.weight
    assert not torch.equal(trained.image_encoder.visual_projection.weight, before)


def test_additions_alone_are_trained_and_added_in(tmp_path: Path):
    pytest.importorskip("peft")
    train(tmp_path, replace(SHORT, lora_rank=2, learning_rate=0.05))
    merged = ZeroNVSPipeline.from_pretrained(tmp_path / "pipeline").unet
    base = tiny_released().unet
    stored = load_file(tmp_path / "state.safetensors")
    trained = {name for name in stored if name.startswith("weights.")}
    assert all(".lora_" in name or "cc_projection" in name for name in trained)
    assert torch.equal(merged.conv_in.weight, base.conv_in.weight)
    inputs = (torch.randn(1, 8, 8, 8), torch.tensor([3]), torch.randn(1, 1, 12))
    with torch.no_grad():
        unchanged = base(*inputs).sample
        base.load_lora_adapter(tmp_path / "lora", prefix=None, use_safetensors=True)
        added, wanted = base(*inputs).sample, merged(*inputs).sample
    assert not torch.allclose(unchanged, wanted, atol=1e-4)
    torch.testing.assert_close(added, wanted, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path: Path):
    with pytest.raises(HealthError, match="lower learning_rate"):
        train(tmp_path, replace(SHORT, learning_rate=1e30))


def test_when_the_memory_is_used_up_each_hint_saves_more():
    gpu = torch.device("cuda", 0)
    config = replace(PAPER, gradient_checkpointing=False)
    changes = [
        ("batch=24", {"batch": 1}),
        ("gradient_checkpointing=True", {"gradient_checkpointing": True}),
        ("mixed_precision=bf16", {"mixed_precision": "bf16"}),
        ("lora_rank=16", {"lora_rank": 16}),
        ("ema_decay=None", {"ema_decay": None}),
        ("every setting", {}),
    ]
    for setting, change in changes:
        line = memory_advice(config, gpu, 8)
        assert setting in line
        assert "\n" not in line
        config = replace(config, **change)


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"batch": 3}, "effective_batch="),
        ({"steps": 0}, "steps=0"),
        ({"dropout": 0.5}, "dropout=0.5"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"ema_decay": 1.0}, "ema_decay=1.0"),
        ({"lora_rank": 0}, "lora_rank=0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change, setting, tmp_path: Path):
    with pytest.raises(InputError, match=setting):
        train(tmp_path, replace(SHORT, **change))
