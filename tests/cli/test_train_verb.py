"""`zeronvs train` from shards to a folder that `zeronvs views` takes."""

import json
from pathlib import Path

import pytest
from shard_folders import write_shards
from tiny_pipelines import tiny_released

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
    assert "learning_rate" in capsys.readouterr().err


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


def test_a_dry_run_says_size_memory_and_speed_and_writes_nothing(
    zeronvs, shards, released_folder, tmp_path, capsys
):
    out = tmp_path / "run"
    words = ("train", shards, "-o", out, "--from", released_folder, "--device", "cpu")
    assert zeronvs(*words, "--dry-run", "--lora", 2) == 0
    printed = capsys.readouterr().out
    for said in ("M parameters", "memory", "GB", "steps an hour", "measured on two batches"):
        assert said in printed
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--mixture", "rooms"), "NAME=WEIGHT"),
        (("--mixture", "other=1"), "the folders are rooms"),
        (("--representation", "7dof"), "6DoF+1, viewer"),
        (("--device", "cuda:1"), "CUDA_VISIBLE_DEVICES"),
        (("--batch", "3"), "--effective-batch"),
        (("--depth-steps", "3"), "--preset builtin"),
        (("--preset", "builtin", "--lora", "3"), "--lora is not for --preset builtin"),
        (("--from", "no/such/model"), "no such folder"),
    ],
)
def test_bad_settings_are_one_line_and_leave_nothing(
    words, said, zeronvs, shards, tmp_path, capsys
):
    assert zeronvs("train", shards, "-o", tmp_path / "run", *words) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run" / "state.safetensors").exists()


def test_folders_without_shards_are_refused(zeronvs, tmp_path, capsys):
    assert zeronvs("train", tmp_path / "none", "-o", tmp_path / "run") == 2
    assert "no such folder" in capsys.readouterr().err
