"""The layout of weights is read from their content, whatever they are called."""

import json
import pickle

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_checkpoint import CONFIG, TINY, official_state, save
from tiny_layouts import (
    MEGASCENES_CONFIG,
    WARP,
    ZERO123,
    accelerate_state,
    cc_projection_folder,
    clip_camera_folder,
    own_folder,
)
from tiny_pipelines import FixedGeometry, input_view, orbit
from torch.nn import functional as F

from zeronvs._core.errors import InputError
from zeronvs.cameras.embedding import Representation
from zeronvs.checkpoints.convert import convert_checkpoint, export_checkpoint, inspect_weights
from zeronvs.diffusion.pipeline import ZeroNVSPipeline

UNET = "unet/diffusion_pytorch_model.safetensors"


def same_weights(folder, twin) -> None:
    files = sorted(folder.rglob("*.safetensors"))
    assert len(files) == 4
    for path in files:
        tensors, others = load_file(path), load_file(twin / path.relative_to(folder))
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items()), path


@pytest.mark.parametrize("name", ["model.safetensors", "zeronvs.ckpt"])
def test_safetensors_are_read_whatever_their_name(tmp_path, name):
    save(tmp_path / "pickle.ckpt", official_state())
    convert_checkpoint(tmp_path / "pickle.ckpt", tmp_path / "expected")
    save_file(official_state(), tmp_path / name)
    (tmp_path / name).with_suffix(".yaml").write_text(yaml.safe_dump(CONFIG))
    report = convert_checkpoint(tmp_path / name, tmp_path / "folder")
    assert report.layout == "safetensors"
    assert report.uses_ema
    same_weights(tmp_path / "expected", tmp_path / "folder")


def test_a_pickle_named_safetensors_is_named_as_what_it_is(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"is a torch checkpoint; rename it to model\.ckpt"):
        inspect_weights(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_state_of_accelerate_is_megascenes_without_squash_or_average(tmp_path, name):
    state = accelerate_state(tmp_path / "zeronvs_finetune", name=name)
    report = convert_checkpoint(state, tmp_path / "folder")
    assert report.architecture.representation is Representation.SIX_DOF_MEGASCENES
    assert report.layout.startswith("state of accelerate")
    assert not report.uses_ema
    assert any("MegaScenes" in note for note in report.notes)
    stored = load_file(tmp_path / "folder" / UNET)
    trained = official_state()["model.diffusion_model.out.2.weight"]
    assert torch.equal(stored["conv_out.weight"], trained)
    pipe = ZeroNVSPipeline.from_pretrained(tmp_path / "folder")
    assert pipe.cc_projection.config["representation"] == "6DoF+1, MegaScenes"
    assert not pipe.conditioning.needs_depth


def test_a_state_in_shards_is_read_whole(tmp_path):
    state = accelerate_state(tmp_path / "one")
    tensors = load_file(state / "model.safetensors")
    (state / "model.safetensors").unlink()
    halves = (sorted(tensors)[::2], sorted(tensors)[1::2])
    weight_map = {}
    for index, names in enumerate(halves):
        save_file({name: tensors[name] for name in names}, state / f"part{index}.safetensors")
        weight_map |= dict.fromkeys(names, f"part{index}.safetensors")
    index_path = state / "model.safetensors.index.json"
    index_path.write_text(json.dumps({"weight_map": weight_map}))
    assert len(inspect_weights(state).paths) == 2
    index_path.write_text(json.dumps({"weight_map": weight_map | {"x": "../../x.safetensors"}}))
    with pytest.raises(InputError, match="weight_map"):
        inspect_weights(state)


def test_eleven_input_channels_are_the_warped_input_as_an_image(tmp_path):
    state = accelerate_state(tmp_path / "warp_plus_pose", WARP)
    report = convert_checkpoint(state, tmp_path / "folder")
    assert report.architecture == WARP
    pipe = ZeroNVSPipeline.from_pretrained(tmp_path / "folder")
    assert pipe.conditioning.name == "warped image"
    images = pipe(
        input_view(8), orbit(2, 8), num_inference_steps=2, output_type="pt", generator=0
    ).images
    assert images.shape == (2, 3, 8, 8)
    assert images.isfinite().all()


def test_the_columns_decide_where_the_configuration_contradicts_the_weights(tmp_path):
    config = {"model": {"params": dict(CONFIG["model"]["params"])}}
    config["model"]["params"]["conditioning_config"] = {"params": {"mode": "3dof"}}
    report = inspect_weights(save(tmp_path / "vista.ckpt", official_state(), config))
    assert report.architecture.representation is Representation.SIX_DOF_VIEWER
    assert any("3dof" in note and "19" in note for note in report.notes)
    config["model"]["params"]["conditioning_config"] = {"params": {"mode": "7dof"}}
    report = inspect_weights(save(tmp_path / "b.ckpt", official_state(ZERO123), config))
    assert report.architecture.representation is Representation.THREE_DOF


def test_a_configuration_of_megascenes_says_so_without_accelerate(tmp_path):
    path = save(tmp_path / "model.ckpt", official_state(), MEGASCENES_CONFIG)
    report = inspect_weights(path)
    assert report.architecture.representation is Representation.SIX_DOF_MEGASCENES
    assert not report.uses_ema


def test_megascenes_goes_back_to_a_checkpoint_that_its_code_configures(tmp_path):
    convert_checkpoint(accelerate_state(tmp_path / "m", WARP), tmp_path / "folder")
    export_checkpoint(tmp_path / "folder", tmp_path / "again.ckpt")
    config = yaml.safe_load((tmp_path / "again.yaml").read_text())["model"]["params"]
    assert config["extra_layer_config"]["params"] == {"in_features": 43, "out_features": 24}
    assert "conditioning_config" not in config
    assert convert_checkpoint(tmp_path / "again.ckpt", tmp_path / "second").architecture == WARP
    same_weights(tmp_path / "folder", tmp_path / "second")


def test_a_folder_with_clip_camera_projection_is_read_with_its_moving_average(tmp_path):
    own = own_folder(tmp_path / "own")
    report = convert_checkpoint(clip_camera_folder(tmp_path / "theirs"), tmp_path / "folder")
    assert report.architecture == ZERO123
    assert report.layout == "diffusers folder"
    assert report.uses_ema
    stored, trained = load_file(tmp_path / "folder" / UNET), load_file(own / UNET)
    expected = (trained["conv_in.weight"] + 1).half().float()
    assert torch.equal(stored["conv_in.weight"], expected)
    for name in ("cc_projection", "vae"):
        path = f"{name}/diffusion_pytorch_model.safetensors"
        ours, theirs = load_file(own / path), load_file(tmp_path / "folder" / path)
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    pipe = ZeroNVSPipeline.from_pretrained(tmp_path / "folder")
    assert pipe.cc_projection.config["representation"] == "3DoF"


def test_a_folder_with_pickles_and_former_names_is_read(tmp_path):
    report = convert_checkpoint(cc_projection_folder(tmp_path / "theirs"), tmp_path / "folder")
    assert report.architecture == ZERO123
    assert not report.uses_ema
    same_weights(own_folder(tmp_path / "own"), tmp_path / "folder")
    ZeroNVSPipeline.from_pretrained(tmp_path / "folder")


def test_nothing_of_a_pickle_in_a_folder_runs(tmp_path):
    folder = cc_projection_folder(tmp_path / "theirs")
    weights = folder / "unet" / "diffusion_pytorch_model.bin"
    mark = tmp_path / "mark"

    class Bomb:
        def __reduce__(self):
            return (mark.touch, ())

    torch.save({"conv_in.weight": torch.zeros(3), "x": Bomb()}, weights)
    with pytest.raises(InputError, match=r"lacks the tensor|shape"):
        convert_checkpoint(folder, tmp_path / "folder")
    weights.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match=r"torch before 1\.6"):
        convert_checkpoint(folder, tmp_path / "folder")
    assert not mark.exists()
    assert not (tmp_path / "folder").exists()


def test_other_folders_are_refused_in_one_line(tmp_path, released_pipe):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        inspect_weights(tmp_path / "empty")
    with pytest.raises(InputError, match="already"):
        inspect_weights(own_folder(tmp_path / "own"))
    folder = clip_camera_folder(tmp_path / "theirs")
    path = folder / "image_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": "gelu"}))
    with pytest.raises(InputError, match="quick_gelu"):
        inspect_weights(folder)
    (folder / "clip_camera_projection" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match="clip_camera_projection"):
        inspect_weights(folder)


def test_a_pipeline_of_the_warped_image_estimates_the_depth_that_it_lacks(tmp_path):
    convert_checkpoint(accelerate_state(tmp_path / "m", WARP), tmp_path / "folder")
    pipe = ZeroNVSPipeline.from_pretrained(tmp_path / "folder")
    view = input_view(8)
    condition = pipe.encode(type(view)(view.image, view.camera), 1.0, FixedGeometry())
    prepared = pipe.prepare(condition, orbit(3, 8))
    small = prepared.concat[:, 4:]
    assert small.shape == (3, 3, 4, 4)
    assert prepared.warped is not None
    image, validity = prepared.warped
    assert (image[(validity == 0).expand_as(image)] == 0).all()
    shrunk = F.interpolate(image, (4, 4), mode="bilinear", antialias=True)
    torch.testing.assert_close(small, shrunk * 2 - 1)
    assert prepared.null().concat.abs().max() == 0
    assert TINY.unet.in_channels + 3 == pipe.unet.config["in_channels"]
