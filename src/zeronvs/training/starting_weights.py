"""Starting weights: a released checkpoint, a folder, the built-in model, or random numbers."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from zeronvs._core.errors import InputError
from zeronvs._core.progress import Progress, silent
from zeronvs.cameras.embedding import Representation
from zeronvs.checkpoints.convert import convert_checkpoint
from zeronvs.checkpoints.folder_architecture import architecture_of_folder
from zeronvs.checkpoints.keys import ema_name, links_of
from zeronvs.checkpoints.weight_files import find_weights
from zeronvs.diffusion.autoencoder import LEVELS, TinyAutoencoder
from zeronvs.diffusion.conditioning_kind import ConcatWarp
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.diffusion.projection import CameraProjection

SCRATCH = "scratch"
CHECKPOINT_SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")
FirstAlone = Callable[[], AbstractContextManager[None]]
"""Makes a block that the first process enters alone, and the others once it has left it."""


@dataclass(frozen=True, eq=False)
class StartingPoint:
    """A pipeline to train, and the moving average of its weights if it has one."""

    pipe: ZeroNVSPipeline
    average: dict[str, Tensor] | None
    """The average to continue, by the U-Net's names; None: start from the weights."""
    average_updates: int
    notes: tuple[str, ...]
    """Changes made to the weights, for the record."""


def load_start(
    start: str,
    representation: Representation | None,
    *,
    seed: int,
    work_dir: Path,
    takes_average: bool = True,
    first_alone: FirstAlone = nullcontext,
    progress: Progress = silent,
) -> StartingPoint:
    """Load what training starts from.

    Args:
        start: "builtin", a pipeline folder, a hub id, a checkpoint in the layout of ZeroNVS or
            Zero-1-to-3; "scratch" for the built-in architecture with random weights; or
            "scratch:" and one of the former, for a fresh U-Net and projection of its
            architecture with its autoencoder and image encoder.
        representation: Camera representation; None keeps the start's own.
        work_dir: A checkpoint is converted into its folder `start` once.
        takes_average: Continue with a checkpoint's weights as trained and their moving average, as
            the published code does; else from the averaged weights.
        first_alone: Lets one of several processes convert.

    Raises:
        InputError: There is nothing usable by this name.
    """
    if start == SCRATCH:
        with torch.random.fork_rng(devices=[]):
            pipe = make_builtin_pipeline(seed)
        notes = _give_representation(pipe, representation, seed)
        return StartingPoint(pipe, None, 0, ("random weights", *notes))
    source = start.removeprefix(f"{SCRATCH}:")
    average, updates, notes = None, 0, ()
    path = Path(source).expanduser()
    if path.is_file() and path.suffix in CHECKPOINT_SUFFIXES:
        folder = work_dir / "start"
        with first_alone():
            if not folder.exists():
                convert_checkpoint(path, folder, progress=progress)
        pipe = ZeroNVSPipeline.from_pretrained(folder)
        trained = None
        if takes_average and source == start:
            trained = _weights_as_trained(path, folder)
        if trained is not None:
            average = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
            pipe.unet.load_state_dict(trained.weights)
            updates = trained.updates
            notes = (f"the checkpoint's moving average is resumed from update {updates}",)
    else:
        if not source:
            raise InputError(f"start={start}: name a model after 'scratch:'")
        pipe = ZeroNVSPipeline.from_pretrained(source)
    if source != start:
        _reinitialize(pipe, seed)
        notes = (*notes, "fresh U-Net and projection")
    notes = (*notes, *_give_representation(pipe, representation, seed))
    return StartingPoint(pipe, average, updates, notes)


@dataclass(frozen=True, eq=False)
class _TrainedWeights:
    weights: dict[str, Tensor]
    updates: int
    """Number of updates of the checkpoint's average."""


def _weights_as_trained(checkpoint: Path, folder: Path) -> _TrainedWeights | None:
    """Read the U-Net's weights as trained; the conversion takes their average.

    Returns:
        None where the checkpoint has no average, so that the conversion took these.
    """
    links = links_of(architecture_of_folder(folder))["unet"]
    with find_weights(checkpoint).reader() as reader:
        names = [link.official for link in links]
        complete = all(name in reader.tensors for name in names)
        if not complete or ema_name(names[0]) not in reader.tensors:
            return None
        weights = {}
        for link in links:
            parts = link.to_stored(reader.load(link.official))
            weights.update(zip(link.stored, (part.float() for part in parts), strict=True))
        counter = "model_ema.num_updates"
        updates = int(reader.load(counter)) if counter in reader.tensors else 0
    return _TrainedWeights(weights, updates)


def _reinitialize(pipe: ZeroNVSPipeline, seed: int) -> None:
    """Replace U-Net and projection by randomly initialised ones of the same sizes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config(pipe.unet.config)
        projection = CameraProjection.from_config(pipe.cc_projection.config)
    pipe.register_modules(unet=unet, cc_projection=projection)


def _give_representation(
    pipe: ZeroNVSPipeline, representation: Representation | None, seed: int
) -> tuple[str, ...]:
    """Replace the projection by one of another representation, if it differs."""
    old = pipe.cc_projection
    had = Representation(old.config["representation"])
    if representation is None or representation is had:
        return ()
    generator = torch.Generator().manual_seed(seed)
    pipe.register_modules(cc_projection=swap_projection(old, representation, generator))
    if representation.size == had.size:
        return (f"camera columns of {had} kept for {representation}",)
    return (
        f"{old.config['camera_embed_dim']} camera columns of {had} dropped, "
        f"{representation.size} of {representation} fresh",
    )


def swap_projection(
    old: CameraProjection, representation: Representation, generator: torch.Generator
) -> CameraProjection:
    """Return a projection of another representation (published code, main.py, 772 to 787 columns).

    The columns of the image embedding and the bias are copied. Camera columns are fresh, uniform
    within 1 / sqrt(columns) as in a new linear layer, unless both representations have as many:
    then they mean nearly the same and are kept.
    """
    image_dim = int(old.config["image_embed_dim"])
    new = CameraProjection(
        image_dim,
        representation.size,
        int(old.config["cross_attention_dim"]),
        str(representation),
        old.config.get("conditioning"),
    )
    with torch.no_grad():
        weight, before = new.projection.weight, old.projection.weight
        bound = weight.shape[1] ** -0.5
        weight.uniform_(-bound, bound, generator=generator)
        columns = weight.shape[1] if weight.shape == before.shape else image_dim
        weight[:, :columns] = before[:, :columns]
        new.projection.bias.copy_(old.projection.bias)
    return new


def make_builtin_pipeline(seed: int = 0) -> ZeroNVSPipeline:
    """Return the built-in architecture with random weights: 256 px, 32x32 cells of 32 channels.

    The autoencoder is the one of the built-in model: its weights are not trained here.
    """
    folder = Path(str(resources.files("zeronvs"))) / "models" / "builtin"
    vae: Any = TinyAutoencoder.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _random_builtin(vae)


def _random_builtin(vae: TinyAutoencoder) -> ZeroNVSPipeline:
    channels, cell_px = vae.config["latent_channels"], 2**LEVELS
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=3 * channels + cell_px**2,
        out_channels=channels,
        block_out_channels=(128, 256, 256),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=32,
    )
    for parameter in unet.conv_out.parameters():
        nn.init.zeros_(parameter)
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=256,
            projection_dim=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=64,
            patch_size=8,
        )
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    return ZeroNVSPipeline(
        vae=vae,
        image_encoder=image_encoder,
        unet=unet,
        scheduler=scheduler,
        cc_projection=CameraProjection(128, 19, 128, conditioning=ConcatWarp.name),
    )
