import hashlib
import json
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from tiny_checkpoint import CONFIG, TINY, official_state, save
from transformers import CLIPVisionModelWithProjection

from zeronvs._core.errors import InputError
from zeronvs.cameras.embedding import Representation
from zeronvs.checkpoints import known
from zeronvs.checkpoints.convert import convert_checkpoint, export_checkpoint
from zeronvs.checkpoints.keys import ema_name
from zeronvs.diffusion.pipeline import ZeroNVSPipeline


@pytest.fixture
def checkpoint(tmp_path):
    return save(tmp_path / "model.ckpt", official_state())


def refusal(path, folder, **settings) -> str:
    before = sorted(folder.parent.iterdir())
    with pytest.raises(InputError) as caught:
        convert_checkpoint(path, folder, **settings)
    assert "\n" not in str(caught.value)
    assert sorted(folder.parent.iterdir()) == before
    return str(caught.value)


def test_a_converted_folder_is_read_by_stock_classes_and_by_the_pipeline(checkpoint, tmp_path):
    folder = tmp_path / "folder"
    report = convert_checkpoint(checkpoint, folder)
    UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    AutoencoderKL.from_pretrained(folder, subfolder="vae")
    CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder")
    pipe = ZeroNVSPipeline.from_pretrained(folder)
    assert pipe.image_size_px == 8
    assert pipe.scheduler.config["set_alpha_to_one"] is False
    assert report.architecture == TINY
    assert report.unused == ("cond_stage_model.model.token_embedding.weight",)


def test_the_denoiser_gets_the_moving_average(checkpoint, tmp_path):
    report = convert_checkpoint(checkpoint, tmp_path / "folder")
    state = official_state()
    stored = load_file(tmp_path / "folder" / "unet" / "diffusion_pytorch_model.safetensors")
    average = state["model_ema.diffusion_modelout2weight"]
    assert report.uses_ema
    assert torch.equal(stored["conv_out.weight"], average)
    assert not torch.equal(stored["conv_out.weight"], state["model.diffusion_model.out.2.weight"])


def test_without_a_moving_average_the_trained_weights_are_taken(tmp_path):
    state = {k: v for k, v in official_state().items() if not k.startswith("model_ema.")}
    path = save(tmp_path / "model.ckpt", state)
    report = convert_checkpoint(path, tmp_path / "folder")
    stored = load_file(tmp_path / "folder" / "unet" / "diffusion_pytorch_model.safetensors")
    assert not report.uses_ema
    assert torch.equal(stored["conv_out.weight"], state["model.diffusion_model.out.2.weight"])


def test_there_and_back_gives_the_same_numbers(checkpoint, tmp_path):
    convert_checkpoint(checkpoint, tmp_path / "folder")
    export_checkpoint(tmp_path / "folder", tmp_path / "again.ckpt")
    again = torch.load(tmp_path / "again.ckpt", weights_only=True)["state_dict"]
    state = official_state()
    assert set(state) - set(again) == {"cond_stage_model.model.token_embedding.weight"}
    assert set(again) <= set(state)
    for name, tensor in again.items():
        trained = name.startswith("model.diffusion_model.")
        expected = state[ema_name(name)] if trained else state[name]
        if name != "model_ema.num_updates":
            assert tensor.dtype == expected.dtype
            assert torch.equal(tensor, expected), name
    convert_checkpoint(tmp_path / "again.ckpt", tmp_path / "second")
    for path in (tmp_path / "folder").rglob("*"):
        if path.is_file() and path.name != "README.md":  # it names the file that was converted
            twin = tmp_path / "second" / path.relative_to(tmp_path / "folder")
            assert path.read_bytes() == twin.read_bytes()


def test_a_sharded_folder_is_exported_too(checkpoint, tmp_path):
    convert_checkpoint(checkpoint, tmp_path / "folder")
    pipe = ZeroNVSPipeline.from_pretrained(tmp_path / "folder")
    pipe.save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
    assert len(list((tmp_path / "sharded" / "unet").glob("*.safetensors"))) > 1
    export_checkpoint(tmp_path / "sharded", tmp_path / "a.ckpt")
    again = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(again["cc_projection.weight"], official_state()["cc_projection.weight"])


def test_the_projection_of_zero123_is_recognised_by_its_width(tmp_path):
    zero123 = replace(TINY, representation=Representation.THREE_DOF, camera_embed_dim=4)
    path = save(tmp_path / "zero123.ckpt", official_state(zero123))
    convert_checkpoint(path, tmp_path / "folder")
    pipe = ZeroNVSPipeline.from_pretrained(tmp_path / "folder")
    assert pipe.cc_projection.config["representation"] == "3DoF"
    assert pipe.cc_projection.config["camera_embed_dim"] == 4


def test_the_configuration_of_the_checkpoint_is_read_and_written_back(tmp_path):
    config = {"model": {"params": dict(CONFIG["model"]["params"])}}
    config["model"]["params"]["unet_config"] = {"params": {"image_size": 4, "num_heads": 4}}
    config["model"]["params"]["conditioning_config"] = {"params": {"mode": "7dof"}}
    path = save(tmp_path / "model.ckpt", official_state(), config)
    report = convert_checkpoint(path, tmp_path / "folder")
    assert report.architecture.unet.num_heads == 4
    assert report.architecture.representation is Representation.SIX_DOF_NORM
    export_checkpoint(tmp_path / "folder", tmp_path / "again.ckpt")
    again = convert_checkpoint(tmp_path / "again.ckpt", tmp_path / "second")
    assert again.architecture == report.architecture


def test_half_stores_float16_in_both_directions(checkpoint, tmp_path):
    convert_checkpoint(checkpoint, tmp_path / "folder", half=True)
    for path in (tmp_path / "folder").rglob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
    export_checkpoint(tmp_path / "folder", tmp_path / "again.ckpt", half=True)
    state = torch.load(tmp_path / "again.ckpt", weights_only=True)["state_dict"]
    assert state["cc_projection.weight"].dtype == torch.float16


def test_conversion_reports_its_progress(checkpoint, tmp_path):
    events = []
    convert_checkpoint(checkpoint, tmp_path / "folder", progress=events.append)
    steps = [event.step for event in events if event.stage == "convert"]
    assert steps == list(range(1, events[0].total + 1))
    assert events[-1].stage == "hash (MiB)"
    assert events[-1].step == events[-1].total


def test_a_converted_folder_says_what_it_was_made_from(checkpoint, tmp_path, monkeypatch):
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    convert_checkpoint(checkpoint, tmp_path / "folder")
    card = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    assert f"`model.ckpt`, {checkpoint.stat().st_size:,} bytes (torch checkpoint)" in card
    assert f"| sha256 | `{digest}` |" in card
    assert "24 numbers of the image and 19 of the camera" in card
    assert "| weights of the denoiser | their moving average (EMA) |" in card
    assert "| licence | not known" in card
    file = known.RemoteFile(name="model.ckpt", address="", sha256=digest)
    entry = replace(known.KNOWN[0], files=(file,), licence="MIT (a test)")
    monkeypatch.setattr(known, "KNOWN", (entry,))
    convert_checkpoint(checkpoint, tmp_path / "again")
    card = (tmp_path / "again" / "README.md").read_text(encoding="utf-8")
    assert "| licence | MIT (a test) |" in card


def test_unknown_tensors_outside_the_model_are_reported_not_dropped_in_silence(tmp_path):
    state = official_state() | {"logvar": torch.zeros(3)}
    report = convert_checkpoint(save(tmp_path / "a.ckpt", state), tmp_path / "folder")
    assert report.unknown == ("logvar",)


def test_checkpoints_of_other_models_are_refused(tmp_path):
    folder = tmp_path / "folder"
    state = official_state()

    def says(changed) -> str:
        return refusal(save(tmp_path / "a.ckpt", changed), folder)

    save(tmp_path / "a.ckpt", {})
    assert "state_dict" in says({"x": 1})
    assert "input_blocks" in says({"weight": torch.zeros(3)})
    lacking = {k: v for k, v in state.items() if k != "first_stage_model.quant_conv.bias"}
    assert "quant_conv.bias" in says(lacking)
    extra = state | {"model.diffusion_model.label_emb.weight": torch.zeros(3)}
    assert "label_emb" in says(extra)
    bent = state | {"first_stage_model.quant_conv.bias": torch.zeros(9)}
    assert "quant_conv.bias" in says(bent)
    wide = state | {"cc_projection.weight": torch.zeros(24, 30)}
    assert "cc_projection" in says(wide)


@pytest.mark.parametrize(
    "text", ["{", "- a", "!!python/object/apply:os.system ['touch mark']", "\x00"]
)
def test_a_broken_configuration_is_refused(checkpoint, tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.with_suffix(".yaml").write_text(text)
    refusal(checkpoint, tmp_path / "folder")
    assert not (tmp_path / "mark").exists()


def test_a_folder_with_something_in_it_is_left_alone(checkpoint, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "note").write_text("mine")
    assert "already exists" in refusal(checkpoint, folder)
    assert (folder / "note").read_text() == "mine"


def test_a_flipped_bit_among_the_numbers_is_noticed(checkpoint, tmp_path):
    content = bytearray(checkpoint.read_bytes())
    weight = official_state()["first_stage_model.quant_conv.weight"].numpy().tobytes()
    content[content.index(weight) + 5] ^= 64
    checkpoint.write_bytes(content)
    assert "checksum" in refusal(checkpoint, tmp_path / "folder")


def test_a_checkpoint_damaged_inside_leaves_nothing_half_written(checkpoint, tmp_path):
    content = bytearray(checkpoint.read_bytes())
    place = content.rindex(b"PK\x01\x02")
    content[place : place + 4] = b"XXXX"
    checkpoint.write_bytes(content)
    assert "damaged" in refusal(checkpoint, tmp_path / "folder")


def test_only_pipelines_of_the_released_kind_go_back(warp_pipe, checkpoint, tmp_path):
    warp_pipe.save_pretrained(tmp_path / "warp")
    with pytest.raises(InputError, match="released"):
        export_checkpoint(tmp_path / "warp", tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"config\.json"):
        export_checkpoint(tmp_path, tmp_path / "a.ckpt")
    convert_checkpoint(checkpoint, tmp_path / "folder")
    weights = tmp_path / "folder" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="vae"):
        export_checkpoint(tmp_path / "folder", tmp_path / "a.ckpt")
    config_path = tmp_path / "folder" / "cc_projection" / "config.json"
    config = json.loads(config_path.read_text())
    del config["representation"]
    config_path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="representation"):
        export_checkpoint(tmp_path / "folder", tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt").exists()
