"""The tiny model in every layout in which models of the released family are published."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_checkpoint import CONFIG, TINY, official_state, save

from zeronvs.cameras.embedding import Representation
from zeronvs.checkpoints.convert import convert_checkpoint

ZERO123 = replace(TINY, representation=Representation.THREE_DOF, camera_embed_dim=4)
WARP = replace(
    TINY,
    unet=replace(TINY.unet, in_channels=11),
    representation=Representation.SIX_DOF_MEGASCENES,
)
MEGASCENES_CONFIG = {
    "training": {"pose_cond": "zeronvs_baseline"},
    "model": {
        "params": {
            "unet_config": {"params": {"image_size": 4}},
            "extra_layer_config": {"params": {"in_features": 43, "out_features": 24}},
        }
    },
}


def accelerate_state(folder: Path, architecture=TINY, *, name: str = "model.safetensors") -> Path:
    """Write NAME/config.yaml and NAME/iter_9, as MegaScenes publishes its models."""
    state = folder / "iter_9"
    state.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(MEGASCENES_CONFIG))
    (state / "random_states_0.pkl").write_bytes(b"\x80\x04.")
    tensors = official_state(architecture)
    if name.endswith(".safetensors"):
        save_file(tensors, state / name)
    else:
        torch.save(tensors, state / name)
    return state


def own_folder(folder: Path) -> Path:
    """Return the tiny Zero-1-to-3 as a folder of ours."""
    checkpoint = save(folder.with_name("source.ckpt"), official_state(ZERO123), CONFIG)
    convert_checkpoint(checkpoint, folder)
    return folder


def clip_camera_folder(folder: Path) -> Path:
    """Rewrite a folder of ours as bennyguo/zero123-xl-diffusers has it.

    Its variant of the moving average differs from the weights as trained.
    """
    own_folder(folder)
    _index(folder, "Zero123Pipeline")
    place = folder / "clip_camera_projection"
    (folder / "cc_projection").rename(place)
    config = {"_class_name": "CLIPCameraProjection", "embedding_dim": 24}
    (place / "config.json").write_text(json.dumps(config | {"additional_embeddings": 4}))
    path = place / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({name.replace("projection.", "proj."): t for name, t in tensors.items()}, path)
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    average = {name: (tensor + 1).half() for name, tensor in load_file(unet).items()}
    save_file(average, unet.with_name("diffusion_pytorch_model.fp16_ema.safetensors"))
    return folder


def cc_projection_folder(folder: Path) -> Path:
    """Rewrite a folder of ours as kxic/zero123-xl has it: pickles, and former names."""
    own_folder(folder)
    _index(folder, "Zero1to3StableDiffusionPipeline")
    (folder / "cc_projection" / "config.json").write_text('{"_class_name": "CCProjection"}')
    former = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    for path in list(folder.rglob("*.safetensors")):
        tensors = load_file(path)
        if path.parent.name == "vae":
            for ours, theirs in former.items():
                tensors = {name.replace(ours, theirs): t for name, t in tensors.items()}
        is_clip = path.parent.name == "image_encoder"
        name = "pytorch_model.bin" if is_clip else "diffusion_pytorch_model.bin"
        torch.save(tensors, path.with_name(name))
        path.unlink()
    unet_config = folder / "unet" / "config.json"
    config = json.loads(unet_config.read_text())
    del config["transformer_layers_per_block"]  # younger than the folder: its default is 1
    unet_config.write_text(json.dumps(config))
    return folder


def _index(folder: Path, class_name: str) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": class_name}))
    (folder / "safety_checker").mkdir()
    shutil.copy(folder / "vae" / "config.json", folder / "safety_checker" / "config.json")
