import json
import os

import pytest
import torch
from local_hub import local_hub, use_hub

from zeronvs._core.errors import InputError
from zeronvs.diffusion.pipeline import ZeroNVSPipeline


def refusal(name, **settings) -> str:
    with pytest.raises(InputError) as caught:
        ZeroNVSPipeline.from_pretrained(name, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_file_is_sent_to_the_converter(tmp_path):
    path = tmp_path / "zeronvs.ckpt"
    path.write_bytes(b"weights")
    assert "zeronvs.checkpoints.convert" in refusal(path)


def test_a_folder_without_an_index_is_refused(tmp_path):
    assert "model_index.json" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"vae": []}', "\u0000"])
def test_a_broken_index_is_refused(tmp_path, content):
    (tmp_path / "model_index.json").write_text(content)
    refusal(tmp_path)


def test_a_pipeline_of_another_kind_is_refused(tmp_path):
    index = {"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert "cc_projection" in refusal(tmp_path)


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    assert "no such folder" in refusal(tmp_path / "nothing" / "here")


def test_a_hub_id_that_is_not_at_hand_is_refused_without_asking_the_network(tmp_path):
    says = refusal("nobody/nothing", local_files_only=True, cache_dir=str(tmp_path))
    assert "nobody/nothing" in says


def test_a_hub_id_is_fetched_and_what_is_no_model_file_is_left(
    released_pipe, tmp_path, monkeypatch
):
    folder = tmp_path / "published"
    released_pipe.save_pretrained(folder)
    (folder / "optimizer.bin").write_bytes(b"x")
    with local_hub(folder, "somebody/tiny") as address:
        use_hub(monkeypatch, address)
        pipe = ZeroNVSPipeline.from_pretrained("somebody/tiny", cache_dir=str(tmp_path / "cache"))
    for name, part in pipe.unet.state_dict().items():
        assert torch.equal(part, released_pipe.unet.state_dict()[name]), name
    fetched = {path.name for path in (tmp_path / "cache").rglob("*")}
    assert "model_index.json" in fetched
    assert "optimizer.bin" not in fetched


@pytest.mark.parametrize(
    "answer",
    [b"<html>", b"[]", b"null", b"{}", b'{"sha": 3}', b'{"id": 1, "sha": [], "siblings": 7}', b"7"],
)
def test_an_odd_answer_of_the_hub_is_one_line(tmp_path, monkeypatch, answer):
    with local_hub(tmp_path, "somebody/tiny", answer=answer) as address:
        use_hub(monkeypatch, address)
        says = refusal("somebody/tiny", cache_dir=str(tmp_path / "cache"))
    assert "somebody/tiny is no folder here" in says


def test_a_missing_weight_file_is_named(released_pipe, tmp_path):
    released_pipe.save_pretrained(tmp_path)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert "unet" in refusal(tmp_path)


def test_a_truncated_weight_file_is_refused(released_pipe, tmp_path):
    released_pipe.save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refusal(tmp_path)


def test_an_index_cannot_make_a_foreign_module_run(released_pipe, tmp_path, monkeypatch):
    released_pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "strangers_module.py").write_text("raise SystemExit('code ran')")
    monkeypatch.syspath_prepend(tmp_path)
    index_path = tmp_path / "model" / "model_index.json"
    index = json.loads(index_path.read_text())
    index["cc_projection"] = ["strangers_module", "CameraProjection"]
    index_path.write_text(json.dumps(index))
    refusal(tmp_path / "model")
    index["cc_projection"] = ["zeronvs.no_such_module", "CameraProjection"]
    index_path.write_text(json.dumps(index))
    assert "this version" in refusal(tmp_path / "model")


def test_an_index_cannot_make_our_own_command_line_run(released_pipe, tmp_path):
    released_pipe.save_pretrained(tmp_path)
    index_path = tmp_path / "model_index.json"
    index = json.loads(index_path.read_text())
    index_path.write_text(json.dumps(index | {"x": ["zeronvs.cli.__main__", "X"]}))
    assert "zeronvs.cli.__main__" in refusal(tmp_path)
    index_path.write_text(json.dumps(index | {"vae": ["zeronvs.cli.__main__", "X"]}))
    assert "zeronvs.cli.__main__" in refusal(tmp_path)
    index_path.write_text("[" * 100_000)
    refusal(tmp_path)


@pytest.mark.parametrize("change", [{"attn_implementation": "stranger/kernel:attention"}, None])
def test_a_configuration_cannot_name_an_attention_to_fetch(released_pipe, tmp_path, change):
    released_pipe.save_pretrained(tmp_path)
    path = tmp_path / "image_encoder" / "config.json"
    content = [] if change is None else json.loads(path.read_text()) | change
    path.write_text(json.dumps(content))
    assert str(path) in refusal(tmp_path)


def edited(path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def as_pipe(path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: as_pipe(f / "model_index.json"),
        lambda f: as_pipe(f / "unet" / "config.json"),
        lambda f: as_pipe(f / "unet" / "diffusion_pytorch_model.safetensors"),
        lambda f: as_pipe(f / "scheduler" / "scheduler_config.json"),
        lambda f: (f / "model_index.json").write_text("[]"),
        lambda f: (f / "vae" / "config.json").write_text("null"),
        lambda f: (f / "vae" / "config.json").write_text("[" * 100_000),
        lambda f: (f / "scheduler" / "scheduler_config.json").write_text('{"beta_end": 1e999}'),
        lambda f: edited(f / "unet" / "config.json", lambda c: c.update(attention_head_dim=0)),
        lambda f: edited(f / "unet" / "config.json", lambda c: c.update(norm_num_groups=0)),
        lambda f: edited(f / "unet" / "config.json", lambda c: c.update(block_out_channels=[])),
        lambda f: edited(f / "unet" / "config.json", lambda c: c.update(block_out_channels=[7, 9])),
        lambda f: edited(f / "vae" / "config.json", lambda c: c.update(block_out_channels=3)),
        lambda f: edited(f / "image_encoder" / "config.json", lambda c: c.update(patch_size=0)),
        lambda f: edited(f / "model_index.json", lambda c: c.update(unet=[])),
        lambda f: edited(f / "model_index.json", lambda c: c.update(vae=["diffusers", "Nobody"])),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_damage_of_a_folder_is_refused_in_one_line(released_pipe, tmp_path, damage):
    released_pipe.save_pretrained(tmp_path)
    damage(tmp_path)
    refusal(tmp_path)


@pytest.mark.parametrize(
    "weights", [[], {"a": 3}, {"a": ""}, {"a": "../x.safetensors"}, {"a": None}, {}]
)
def test_an_index_of_weights_names_files_beside_it(released_pipe, tmp_path, weights):
    released_pipe.save_pretrained(tmp_path)
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    assert "weight_map" in refusal(tmp_path)
