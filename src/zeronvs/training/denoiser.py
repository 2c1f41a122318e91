"""Training the built-in denoiser (the warp kind) on pairs of views.

The network predicts the clean image (in the space of the latent), weighted as an error in v. Of the
view as it is sampled, with what the warp knows put back, comes a perceptual distance. Image encoder
and camera projection are trained along.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from zeronvs._core.files import write_json
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.diffusion.autoencoder import PixelShuffleAutoencoder
from zeronvs.diffusion.condition import CameraCondition, Condition, clip_pixels
from zeronvs.diffusion.conditioning_kind import ConcatWarp
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.diffusion.projection import CameraProjection
from zeronvs.training.compact_state import load_state, save_state
from zeronvs.training.pack import TrainingPack
from zeronvs.training.pairs import Pair, PairConfig, PairStream, collate
from zeronvs.training.perceptual import PerceptualDistance

TRAINED = ("unet", "image_encoder", "cc_projection")


@dataclass(frozen=True, kw_only=True)
class DenoiserTrainingConfig:
    """Settings of one run."""

    steps: int = 20_000
    batch: int = 8
    learning_rate: float = 2.5e-4
    warmup_steps: int = 100
    decay_steps: int = 0
    """The learning rate falls to a tenth over the last so many steps."""
    ema_decay: float = 0.999
    dropout: float = 0.05
    """Share of examples without token; the same again without image channels; and without both."""
    pure_noise_share: float = 0.5
    """Share of a batch at the last timestep, where sampling begins: all is decided there."""
    perceptual_weight: float = 0.5
    perceptual_crop_px: int = 64
    """Side of the windows that the perceptual network sees; drawn around holes."""
    max_loss_weight: float = 5.0
    """Bound of 1 / sigma^2, the weight that turns an error in the image into an error in v."""
    mixed_precision: bool = True
    checkpoint_steps: int = 100
    """Steps between two stored states; a run goes on from the last."""
    seed: int = 0


def make_builtin_pipeline(seed: int = 0) -> ZeroNVSPipeline:
    """Return the built-in architecture with random weights: 128 px, 32x32 cells of 4x4 pixels."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=48 * 3 + 16,
        out_channels=48,
        block_out_channels=(96, 160, 224, 224),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=8,
        norm_num_groups=16,
    )
    # The network starts by answering the warped input itself.
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
        prediction_type="sample",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    return ZeroNVSPipeline(
        vae=PixelShuffleAutoencoder(downscale=4, scaling_factor=1.0),
        image_encoder=image_encoder,
        unet=unet,
        scheduler=scheduler,
        cc_projection=CameraProjection(128, 19, 128, conditioning=ConcatWarp.name),
    )


def train_denoiser(
    pipe: ZeroNVSPipeline,
    pack: TrainingPack,
    perceptual: PerceptualDistance | None,
    pairs: PairConfig,
    config: DenoiserTrainingConfig,
    state_dir: Path,
    progress: Progress = silent,
    *,
    workers: int = 1,
) -> None:
    """Train `pipe` in place; at the end it holds the averaged (EMA) weights.

    Args:
        pipe: A pipeline of the warp kind.
        pack: Training images.
        perceptual: Network of the perceptual term; None leaves the term out.
        pairs: How pairs are drawn.
        config: Settings.
        state_dir: Weights, averages, optimiser and step are kept here; a run goes on from them.
        progress: Told of every step.
        workers: Processes that draw pairs; 0 draws in this one.
    """
    modules = nn.ModuleDict({name: getattr(pipe, name) for name in TRAINED})
    modules.train()
    optimizer = torch.optim.AdamW(modules.parameters(), lr=config.learning_rate, weight_decay=0.01)
    average = {name: value.detach().clone() for name, value in modules.state_dict().items()}
    step = load_state(state_dir, modules, average, optimizer)
    first = config.batch * step
    stream = PairStream(pack, pairs, config.seed, batch=config.batch, first=first)
    loader = iter(DataLoader(stream, config.batch, num_workers=workers, collate_fn=collate))
    while step < config.steps:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate(step, config)
        losses = denoising_losses(pipe, next(loader), perceptual, config, generator)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        norm = nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        step += 1
        _update_average(average, modules, min(config.ema_decay, (1 + step) / (10 + step)))
        if step % config.checkpoint_steps == 0 or step == config.steps:
            save_state(state_dir, modules, average, optimizer, step)
            write_json(state_dir / "config.json", asdict(config) | {"step": step})
        values = {name: float(value.detach()) for name, value in losses.items()}
        progress(
            ProgressEvent("train denoiser", step, config.steps, values | {"norm": float(norm)})
        )
    modules.load_state_dict(average)
    modules.eval()


def denoising_losses(
    pipe: ZeroNVSPipeline,
    pair: Pair,
    perceptual: PerceptualDistance | None,
    config: DenoiserTrainingConfig,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return the terms of the loss of a batch of pairs, weighted."""
    device = pipe.unet.device
    view, target = pair.input_view.to(device), pair.target_view.to(device)
    clip_size_px: Any = pipe.image_encoder.config.image_size
    with torch.autocast(device.type, torch.bfloat16, enabled=config.mixed_precision):
        pixels = clip_pixels(view.image, clip_size_px)
        embedding = pipe.image_encoder(pixels).image_embeds.float()
    signed = view.image * 2 - 1
    latent = pipe.vae.encode(signed).latent_dist.mode()  # pyright: ignore
    condition = Condition(embedding, latent, view, pair.scene_scale.to(device))
    warped = None if pair.warped is None else tuple(part.to(device) for part in pair.warped)
    whole = pipe.prepare(condition, target.camera, warped)  # pyright: ignore[reportArgumentType]
    told = _dropped(whole, config.dropout, generator)
    clean = pipe.to_latent(target.image)
    noise = torch.randn(clean.shape, generator=generator).to(device)
    # Later (noisier) times more often: there it is decided what the view shows.
    uniform = torch.rand(len(clean), generator=generator).sqrt()
    timestep = (uniform * len(pipe.alphas_cumprod)).long().to(device)
    timestep[: round(config.pure_noise_share * len(clean))] = len(pipe.alphas_cumprod) - 1
    signal = pipe.alphas_cumprod[timestep][:, None, None, None]
    noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
    with torch.autocast(device.type, torch.bfloat16, enabled=config.mixed_precision):
        predicted = pipe.predict(noisy, timestep, told)
    predicted = predicted.float()
    weight = (1 / (1 - signal)).clamp_max(config.max_loss_weight)
    losses = {"mse": (weight * (predicted - clean) ** 2).mean()}
    if perceptual is not None and config.perceptual_weight > 0:
        # Half of the batch is enough, and where there is little noise there is little to say.
        kind = pipe.conditioning
        assert isinstance(kind, ConcatWarp)
        noisiest = timestep.argsort(descending=True, stable=True)[: max(1, len(timestep) // 2)]
        shown = kind.keep_known(_to_image(pipe, predicted), whole, pipe.to_image)[noisiest]
        hole = 1 - kind.known(whole)[noisiest]
        losses["perceptual"] = config.perceptual_weight * _perceptual_loss(
            perceptual, shown, target.image[noisiest], hole, config, generator
        )
    return losses


def _perceptual_loss(
    perceptual: PerceptualDistance,
    shown: Float[Tensor, "n 3 h w"],
    truth: Float[Tensor, "n 3 h w"],
    hole: Float[Tensor, "n 1 h w"],
    config: DenoiserTrainingConfig,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    side_px = min(config.perceptual_crop_px, truth.shape[-1])
    windows = hole_windows(hole, side_px, generator)
    shown, truth = (
        torch.stack([image[:, *window] for image, window in zip(images, windows, strict=True)])
        for images in (shown, truth)
    )
    with torch.autocast(truth.device.type, torch.bfloat16, enabled=config.mixed_precision):
        with torch.no_grad():
            wanted = perceptual.features(truth)
        distance = perceptual.compare(perceptual.features(shown), wanted)
    return distance.float().mean()


def hole_windows(
    hole: Float[Tensor, "n 1 h w"], side_px: int, generator: torch.Generator
) -> list[tuple[slice, slice]]:
    """Draw one square window of each image, likelier where more of it is a hole.

    Args:
        hole: 1 where the image is invented, else 0.
        side_px: Side of the windows.
        generator: Draws; on the CPU.
    """
    stride = max(1, side_px // 4)
    share = F.avg_pool2d(hole, side_px, stride=stride)[:, 0].cpu()
    columns = share.shape[-1]
    # Squared: windows full of holes teach most. A little for all, where there are no holes.
    chosen = torch.multinomial(share.flatten(1).square() + 1e-4, 1, generator=generator)[:, 0]
    corners = [(int(i) // columns * stride, int(i) % columns * stride) for i in chosen]
    return [(slice(top, top + side_px), slice(left, left + side_px)) for top, left in corners]


def _to_image(pipe: ZeroNVSPipeline, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
    unscaled = latent / pipe.vae.config["scaling_factor"]
    return pipe.vae.decode(unscaled).sample * 0.5 + 0.5  # pyright: ignore


def _dropped(told: CameraCondition, dropout: float, generator: torch.Generator) -> CameraCondition:
    """Drop token, channels or both in three equal shares (published code, ddpm.py `get_input`)."""
    draw = torch.rand(len(told), generator=generator).to(told.tokens.device)
    token = (draw >= 2 * dropout).float()
    channels = ((draw < dropout) | (draw >= 3 * dropout)).float()
    return CameraCondition(
        told.tokens * token[:, None, None], told.concat * channels[:, None, None, None]
    )


def _rate(step: int, config: DenoiserTrainingConfig) -> float:
    warm = min(1.0, (step + 1) / config.warmup_steps)
    left = config.steps - step
    if left < config.decay_steps:
        return warm * (0.1 + 0.9 * left / config.decay_steps)
    return warm


@torch.no_grad()
def _update_average(average: dict[str, Tensor], modules: nn.Module, decay: float) -> None:
    for name, value in modules.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
