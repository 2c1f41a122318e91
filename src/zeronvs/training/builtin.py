"""The preset `builtin`: training of the networks that ship with the package.

A preset of the one training loop: packed posed scenes and photographs as pair sources, first for
the depth network (run folder `out/depth_run`, the network in its folder `depth`), then for the
denoiser (run folder `out`).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from zeronvs._core.errors import InputError
from zeronvs._core.optional import packaged_file
from zeronvs._core.progress import Progress, silent
from zeronvs.depth.builtin import (
    ENCODER_FILE,
    ENCODER_PACKAGE,
    DepthNet,
    load_builtin_depth,
    load_imagenet_encoder,
)
from zeronvs.perceptual import PerceptualDistance
from zeronvs.training.denoising import DenoisingObjective
from zeronvs.training.depth import DepthBatches, DepthObjective, DepthTrainingConfig
from zeronvs.training.finetune import TrainingRun, finetune
from zeronvs.training.finetune_config import BUILTIN_DEPTH, FinetuneConfig
from zeronvs.training.pack import PHOTO_SIZE_PX, open_pack
from zeronvs.training.pair_sources import PairShares, PairStream
from zeronvs.training.session import Session

PERCEPTUAL_FILE = "stlpips_pytorch/weights/vST0.0/vgg_shift_tolerant.pth"


@dataclass(frozen=True, kw_only=True)
class BuiltinPreset:
    """Settings beyond those of the denoiser's loop."""

    depth: FinetuneConfig = BUILTIN_DEPTH
    depth_loss: DepthTrainingConfig = field(default_factory=DepthTrainingConfig)
    depth_input_px: int = 256
    """Side of the depth network's square input."""
    pairs: PairShares = field(default_factory=PairShares)


def train_builtin(session: Session, preset: BuiltinPreset, progress: Progress = silent) -> Path:
    """Train the depth network and the denoiser, or resume; return the pipeline's folder.

    Args:
        session: Its request names one folder with `posed/train/*/scene.json` and
            `photos/*/NAME.jpg` with `NAME_teacher.jpg`, and a start of the warping kind (or
            "scratch").

    Raises:
        InputError: The data or the start do not fit, or a package with start weights is missing.
        HealthError: The training diverged, or the memory is used up.
    """
    request, config, accelerator = session.request, session.request.config, session.accelerator
    if len(request.data) != 1:
        raise InputError("the preset builtin takes one folder of data (docs/training.md)")
    with session.opened() as folder:
        start = session.load_start(progress)
        if not start.pipe.conditioning.needs_depth:
            raise InputError("this model does not warp its input; train it on shards instead")
        train_depth(session, preset, progress)
        with session.first_alone():
            path = request.out / "pack.safetensors"
            pack = open_pack(request.data[0], path, start.pipe.image_size_px, progress)
        perceptual = None
        if config.perceptual_weight > 0:
            weights = packaged_file(PERCEPTUAL_FILE, "stlpips-pytorch")
            perceptual = PerceptualDistance.from_file(weights)

        def stream(seed: int, batch: int, *, alone: bool = False) -> PairStream:
            return PairStream(
                preset.pairs.sources(pack),
                seed=seed,
                batch=batch,
                mirrored=preset.pairs.mirrored,
                rank=0 if alone else accelerator.process_index,
                processes=1 if alone else accelerator.num_processes,
                workers=0 if alone else request.workers,
            )

        validation = None
        if config.validate_every and config.validation_pairs:
            validation = stream(config.seed + 1, config.validation_pairs, alone=True).read(0)
        seed = session.data_seed(request.out)
        return session.run(
            start=start,
            folder=folder,
            objective=DenoisingObjective(start.pipe, config, perceptual=perceptual),
            data=stream(seed, config.batch),
            data_seed=seed,
            validation=validation,
            origin={"data": request.data[0].resolve().name},
            progress=progress,
        )


def train_depth(session: Session, preset: BuiltinPreset, progress: Progress = silent) -> Path:
    """Train the depth network in a run folder of its own, or resume; return its folder."""
    request, accelerator = session.request, session.accelerator
    config = replace(preset.depth, effective_batch=preset.depth.batch * accelerator.num_processes)
    out = request.out / "depth_run"
    with session.first_alone():
        path = request.out / "pack_depth.safetensors"
        pack = open_pack(request.data[0], path, PHOTO_SIZE_PX, progress)
    size_px = preset.depth_input_px
    if request.start == "scratch":
        net = start_depth(config.seed, size_px)
    else:
        net = load_builtin_depth().at_input_size(size_px)
    steps = accelerator.gradient_accumulation_steps
    accelerator.gradient_accumulation_steps = 1
    trained = finetune(
        TrainingRun(
            objective=DepthObjective(net, config, preset.depth_loss),
            data=DepthBatches(
                pack,
                config,
                preset.depth_loss,
                size_px=size_px,
                seed=config.seed,
                rank=accelerator.process_index,
                processes=accelerator.num_processes,
            ),
            config=config,
            out=out,
            accelerator=accelerator,
            origin={"from": request.start, "data": request.data[0].resolve().name},
            progress=progress,
        )
    )
    accelerator.free_memory()
    accelerator.gradient_accumulation_steps = steps
    return trained


def start_depth(seed: int, input_size_px: int) -> DepthNet:
    """Return a new depth network with an encoder trained on ImageNet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = DepthNet(input_size_px=input_size_px)
    encoder = packaged_file(ENCODER_FILE, ENCODER_PACKAGE)
    load_imagenet_encoder(net, torch.load(encoder, map_location="cpu", weights_only=True))
    return net
