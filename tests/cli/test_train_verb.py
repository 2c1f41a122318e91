"""`zeronvs train` from shards to a folder that `zeronvs views` takes."""

import json
from pathlib import Path

import pytest
import torch
from perceptual_weights import vgg_weights
from photo_folder import write_photo_data
from shard_folders import write_shards
from tiny_pipelines import tiny_released, tiny_warp

from zeronvs.depth.builtin import DepthNet
from zeronvs.diffusion.pipeline import ZeroNVSPipeline

SHORT = ("--steps", 2, "--batch", 2, "--effective-batch", 4, "--device", "cpu")


@pytest.fixture(scope="module")
def released_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "model"
    tiny_released().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data") / "rooms")


def test_shards_become_a_model_that_makes_views(
    zeronvs, shards, model_folder, photo_path, tmp_path, capsys
):
    out = tmp_path / "run"
    words = ("train", shards, "-o", out, "--from", model_folder, *SHORT, "--no-ema")
    assert zeronvs(*words, "--validate-every", 2, "--validation-steps", 2) == 0
    assert capsys.readouterr().out.strip() == str(out / "pipeline")
    assert (out / "views" / "step_000002.png").exists()
    record = json.loads((out / "run.json").read_text())
    assert record["shards"] == {"rooms": 1.0}
    views = ("views", photo_path, "-o", tmp_path / "views", "--frames", 1, "--steps", 2)
    assert zeronvs(*views, "--model", out / "pipeline") == 0
    assert zeronvs(*words, "--learning-rate", 1) == 2
    assert "learning_rate: 3e-05, now 1" in capsys.readouterr().err


def test_additions_another_representation_and_tensorboard(
    zeronvs, shards, released_folder, tmp_path
):
    pytest.importorskip("peft")
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    words = ("train", shards, "-o", out, "--from", released_folder, *SHORT, "--lora", 2)
    more = ("--representation", "3DoF", "--tensorboard", "--validate-every", 0)
    assert zeronvs(*words, *more, "--mixture", "rooms=.34") == 0
    assert list((out / "tensorboard").iterdir())
    assert (out / "lora" / "pytorch_lora_weights.safetensors").exists()
    config = json.loads((out / "pipeline" / "cc_projection" / "config.json").read_text())
    assert (config["representation"], config["camera_embed_dim"]) == ("3DoF", 4)


def test_a_dry_run_prints_size_memory_and_speed_and_writes_nothing(
    zeronvs, shards, released_folder, tmp_path, capsys
):
    out = tmp_path / "run"
    words = ("train", shards, "-o", out, "--from", released_folder, "--device", "cpu")
    assert zeronvs(*words, "--dry-run", "--lora", 2) == 0
    printed = capsys.readouterr().out
    for phrase in ("M parameters", "memory", "GB", "steps per hour", "measured on two batches"):
        assert phrase in printed
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mixture", "rooms"), "NAME=WEIGHT"),
        (("--mixture", "other=1"), "the folders are rooms"),
        (("--representation", "7dof"), "--representation '7dof' is not known"),
        (("--device", "cuda:1"), "CUDA_VISIBLE_DEVICES"),
        (("--batch", "3"), "--effective-batch 16 is not a multiple of --batch 3 times 1"),
        (("--learning-rate", "-1"), "--learning-rate -1.0 must be above 0"),
        (("--lora", "0"), "--lora 0 must be at least 1"),
        (("--preset", "builtin", "--depth-steps", "0"), "--depth-steps 0 must be at least 1"),
        (("--preset", "builtin"), "has 0 posed scenes"),
        (("--depth-steps", "3"), "--preset builtin"),
        (("--preset", "builtin", "--overlap", ".3", ".9"), "--overlap is not for --preset builtin"),
        (("--preset", "photographs"), "has 0 photographs"),
        (("--preset", "photographs", "--dry-run"), "--dry-run measures pairs of views"),
        (
            ("--preset", "photographs", "--mixture", "rooms=1"),
            "--mixture is not for --preset photographs",
        ),
        (
            ("--preset", "photographs", "--depth-steps", "3"),
            "--depth-steps is for --preset builtin",
        ),
        (("--from", "no/such/model"), "no such folder"),
    ],
)
def test_bad_settings_are_one_line_and_leave_nothing(
    words, message, zeronvs, shards, tmp_path, capsys
):
    assert zeronvs("train", shards, "-o", tmp_path / "run", *words) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "run" / "state.safetensors").exists()


def test_folders_without_shards_are_refused(zeronvs, tmp_path, capsys):
    assert zeronvs("train", tmp_path / "none", "-o", tmp_path / "run") == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.fixture(scope="module")
def photo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of one posed scene with depth and two photographs with disparity."""
    return write_photo_data(tmp_path_factory.mktemp("photo-data") / "data")


def test_posed_folders_and_photographs_become_both_built_in_networks_and_resume(
    zeronvs, photo_data, tmp_path, capsys, monkeypatch
):
    weights = tmp_path / "site" / "stlpips_pytorch" / "weights" / "vST0.0"
    weights.mkdir(parents=True)
    torch.save(vgg_weights(), weights / "vgg_shift_tolerant.pth")
    monkeypatch.syspath_prepend(tmp_path / "site")
    start = tmp_path / "start"
    tiny_warp(prediction_type="sample", downscale=4).save_pretrained(start)
    out = tmp_path / "run"
    words = ("train", photo_data, "-o", out, "--preset", "builtin", "--from", start, "--batch", 2)
    words += ("--device", "cpu", "--depth-steps", 2, "--validate-every", 0)
    assert zeronvs(*words, "--steps", 1) == 0
    assert capsys.readouterr().out.strip() == str(out / "pipeline")
    depth_state = (out / "depth_run" / "state.safetensors").read_bytes()
    assert zeronvs(*words, "--steps", 2) == 0
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2]
    assert (out / "depth_run" / "state.safetensors").read_bytes() == depth_state
    assert ZeroNVSPipeline.from_pretrained(out / "pipeline").image_size_px == 32
    assert DepthNet.from_pretrained(out / "depth_run" / "depth").config["input_size_px"] == 256


def test_a_preset_with_its_own_data_takes_one_folder(zeronvs, photo_data, tmp_path, capsys):
    words = ("train", photo_data, photo_data, "-o", tmp_path / "run", "--preset", "builtin")
    assert zeronvs(*words) == 2
    assert "takes one folder of data" in capsys.readouterr().err
