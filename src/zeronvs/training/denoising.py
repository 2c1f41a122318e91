"""Denoising loss of a view-conditioned model on target views: epsilon, v or x0 prediction.

Everything random about pair k of a run comes from (seed, k) alone, so that a resumed run, and a run
on other processes, draw what one uninterrupted process would have drawn. Models that predict the
image have a perceptual term as well, on windows around holes of the warped input.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from zeronvs.cameras.embedding import Representation
from zeronvs.diffusion.condition import CameraCondition, clip_pixels
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.perceptual import PerceptualDistance
from zeronvs.protocols import GeometryEstimator
from zeronvs.shards.loader import PairBatch
from zeronvs.training.export import add_lora, export_pipeline
from zeronvs.training.finetune_config import FinetuneConfig
from zeronvs.training.objective import Objective, ValidationResult, validation_sheet
from zeronvs.training.training_state import WeightAverage, trained_parameters
from zeronvs.training.view_pairs import ViewPairs, missing_scale, pairs_of_shards

VALIDATION_DRAWS = 4
"""Noise levels per pair in the validation loss."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Pairs with everything that is drawn for them."""

    pairs: ViewPairs
    """Their scale is 1 where a pair has none."""
    usable: Float[Tensor, " n"]
    """0 for pairs without a scale, else 1."""
    clean_latent: Float[Tensor, "n c h w"]
    """Scaled latents of the target views."""
    noise: Float[Tensor, "n c h w"]
    timestep: Int[Tensor, " n"]
    keeps_image: Float[Tensor, " n"]
    """0 where the image embedding is dropped, else 1."""
    keeps_channels: Float[Tensor, " n"]
    """0 where the image channels are dropped, else 1."""
    window_draw: Float[Tensor, " n"]
    """Random number in [0, 1) that determines the window of the perceptual term."""


class DenoisingObjective(Objective):
    """Train U-Net and camera projection of a pipeline, and its image encoder on request."""

    def __init__(
        self,
        pipe: ZeroNVSPipeline,
        config: FinetuneConfig,
        *,
        geometry_estimator: GeometryEstimator | None = None,
        perceptual: PerceptualDistance | None = None,
    ) -> None:
        """Set which parts of a pipeline are trained; the pipeline keeps its modules.

        Args:
            geometry_estimator: Completes the depth of pairs from shards.
            perceptual: Network of the perceptual term, for a `perceptual_weight` above 0.
        """
        super().__init__()
        config.check()
        self.config = config
        self.pipe = pipe  # not a module: the parts below are registered, the others are not
        self.geometry_estimator = geometry_estimator
        self.perceptual = [perceptual]  # in a list: its buffers are not of the trained model
        for part in (pipe.vae, pipe.image_encoder):
            part.requires_grad_(False)
            part.eval()
        pipe.unet.requires_grad_(True)
        pipe.cc_projection.requires_grad_(True)
        if config.lora_rank is not None:
            add_lora(pipe.unet, config.lora_rank, config.seed)
        if config.trains_image_encoder:
            pipe.image_encoder.requires_grad_(True)
        if config.gradient_checkpointing:
            pipe.unet.enable_gradient_checkpointing()
        self.unet = pipe.unet
        self.cc_projection = pipe.cc_projection
        self.image_encoder = pipe.image_encoder if config.trains_image_encoder else None

    @property
    def representation(self) -> Representation:
        """Camera representation of the model."""
        return Representation(self.pipe.cc_projection.config["representation"])

    @property
    def no_usable_examples(self) -> str:
        """One line for pairs of which none is usable."""
        return missing_scale(self.representation)

    def place(self, device: torch.device) -> None:
        """Move the pipeline to the device."""
        self.pipe.to(device)
        for network in self.perceptual:
            if network is not None:
                network.to(device)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters, with the projection at its own rate."""
        trained, rate = trained_parameters(self), self.config.learning_rate
        projection = [v for name, v in trained.items() if name.startswith("cc_")]
        others = [v for name, v in trained.items() if not name.startswith("cc_")]
        return [
            {"params": others, "peak_lr": rate},
            {"params": projection, "peak_lr": rate * self.config.projection_rate},
        ]

    def averaged(self) -> dict[str, nn.Parameter]:
        """Return the parameters whose moving average is kept: as published, the U-Net's."""
        trained = super().averaged()
        if self.config.averages_everything:
            return trained
        return {name: value for name, value in trained.items() if name.startswith("unet.")}

    @torch.no_grad()
    def draw_examples(self, batch: PairBatch | ViewPairs, numbers: list[int]) -> Examples:
        """Encode the targets of a batch and draw noise, timesteps and dropout.

        Raises:
            InputError: The pairs lack what the model needs altogether.
        """
        pipe, config = self.pipe, self.config
        pairs = self.view_pairs(batch)
        device = pairs.input_view.image.device
        generators = [pair_generator(config.seed, number) for number in numbers]
        # The order of the draws is part of what makes runs repeatable.
        draws = torch.stack([torch.rand(3, generator=generator) for generator in generators])
        clean = pipe.to_latent(pairs.target_view.image, generators)
        noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in generators])
        keeps_image, keeps_channels = dropout_masks(draws[:, 1], config.dropout)
        return Examples(
            pairs=replace(pairs, scene_scale=torch.nan_to_num(pairs.scene_scale, nan=1.0)),
            usable=pairs.scene_scale.isfinite().float(),
            clean_latent=clean,
            noise=noise.to(clean),
            timestep=timesteps(draws[:, 0], len(pipe.alphas_cumprod), config).to(device),
            keeps_image=keeps_image.to(device),
            keeps_channels=keeps_channels.to(device),
            window_draw=draws[:, 2],
        )

    def usable(self, examples: Examples) -> Float[Tensor, " n"]:
        """Return 0 for pairs without a scale, else 1."""
        return examples.usable

    def view_pairs(self, batch: PairBatch | ViewPairs) -> ViewPairs:
        """Return pairs from any source as the model takes them."""
        if isinstance(batch, ViewPairs):
            return batch
        return pairs_of_shards(
            batch,
            self.representation,
            needs_depth=self.pipe.conditioning.needs_depth,
            geometry_estimator=self.geometry_estimator,
        )

    def forward(self, examples: Examples) -> dict[str, Float[Tensor, " n"]]:
        """Return the weighted terms of the loss for each pair."""
        pipe, pairs = self.pipe, examples.pairs
        alpha_bar = pipe.alphas_cumprod[examples.timestep][:, None, None, None]
        clean, noise = examples.clean_latent, examples.noise
        noisy = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
        complete, conditioning = self.conditioning(examples)
        predicted = pipe.predict(noisy, examples.timestep, conditioning).float()
        prediction = pipe.scheduler.config["prediction_type"]
        if prediction == "epsilon":
            error = (predicted - noise) ** 2
        elif prediction == "v_prediction":
            error = (predicted - velocity(clean, noise, alpha_bar)) ** 2
        else:
            # An error in x_0 over sigma^2 is an error in v; bounded, since it diverges at t = 0.
            weight = (1 / (1 - alpha_bar)).clamp_max(self.config.max_loss_weight)
            error = weight * (predicted - clean) ** 2
        losses = {"denoising": error.mean(dim=(1, 2, 3))}
        network = self.perceptual[0]
        if network is not None and self.config.perceptual_weight > 0:
            # x_0 of any prediction type would do; only models that predict it use this term.
            unscaled = predicted / pipe.vae.config["scaling_factor"]
            image = pipe.vae.decode(unscaled).sample * 0.5 + 0.5  # pyright: ignore
            assert complete.warped is not None
            sampled = pipe.conditioning.keep_known(image, complete)
            losses["perceptual"] = self.config.perceptual_weight * perceptual_losses(
                network,
                sampled,
                pairs.target_view.image,
                hole=1 - complete.warped[1],
                timestep=examples.timestep,
                draw=examples.window_draw,
                crop_px=self.config.perceptual_crop_px,
            )
        return losses

    def conditioning(self, examples: Examples) -> tuple[CameraCondition, CameraCondition]:
        """Return the conditioning on the target cameras, complete and with dropout.

        Dropout of the image embedding leaves [0, pose] to the projection, never drops the pose
        (published code, ddpm.py, `get_input`).
        """
        pairs = examples.pairs
        condition = self.pipe.encode(pairs.input_view, pairs.scene_scale)
        embedding = condition.image_embedding
        if self.image_encoder is not None:
            size_px: Any = self.image_encoder.config.image_size
            pixels = clip_pixels(condition.view.image, size_px)
            embedding = self.image_encoder(pixels).image_embeds.float()
        embedding = embedding * examples.keeps_image[:, None]
        # Poses and warps need full precision, whatever the network computes in.
        with torch.autocast(embedding.device.type, enabled=False):
            complete = self.pipe.prepare(
                replace(condition, image_embedding=embedding),
                pairs.target_view.camera,
                pairs.warped,
            )
        keeps = examples.keeps_channels[:, None, None, None]
        dropped = CameraCondition(complete.tokens, complete.concat * keeps, complete.warped)
        return complete, dropped

    @torch.no_grad()
    def validate(
        self, batch: PairBatch | ViewPairs, average: WeightAverage | None
    ) -> ValidationResult:
        """Sample fixed pairs with the averaged weights, always with the same noise."""
        pairs = self.view_pairs(batch)
        count, config, was_training = len(pairs), self.config, self.training
        # Noise that training does not use, and no dropout.
        self.config = replace(config, seed=config.seed + 1, dropout=0.0)
        self.eval()
        try:
            with average.in_place() if average is not None else nullcontext():
                losses = []
                for draw in range(VALIDATION_DRAWS):
                    numbers = [draw * count + index for index in range(count)]
                    losses.append(self(self.draw_examples(pairs, numbers))["denoising"])
                sampled = sample_pairs(self.pipe, pairs, config.validation_sampling_steps)
        finally:
            self.config = config
            self.train(was_training)
        columns = [pairs.input_view.image, pairs.target_view.image, sampled]
        return ValidationResult(float(torch.cat(losses).mean()), validation_sheet(columns))

    def export(self, average: WeightAverage | None, out: Path) -> Path:
        """Write `out/pipeline`."""
        config = self.config
        return export_pipeline(
            self.pipe,
            average,
            out,
            has_lora=config.lora_rank is not None,
            dtype=torch.float16 if config.exports_half else None,
        )


def velocity(
    clean: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    alpha_bar: Float[Tensor, "n 1 1 1"],
) -> Float[Tensor, "n c h w"]:
    """Return v = sqrt(a) eps - sqrt(1 - a) x_0 (arXiv:2202.00512, appendix D)."""
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean


def sample_pairs(
    pipe: ZeroNVSPipeline, pairs: ViewPairs, steps: int | None = None
) -> Float[Tensor, "n 3 H W"]:
    """Sample the target views of pairs; seeds are 0, 1, ..."""
    scale = torch.nan_to_num(pairs.scene_scale, nan=1.0)
    condition = pipe.encode(pairs.input_view, scale)
    seeds = list(range(len(pairs)))
    return pipe.sample(condition, pairs.target_view.camera, seeds, num_inference_steps=steps)


def pair_generator(seed: int, number: int) -> torch.Generator:
    """Return the generator of everything that is drawn for one example of a run."""
    return torch.Generator().manual_seed((seed * 1_000_000_007 + number) % 2**63)


def timesteps(draw: Float[Tensor, " n"], count: int, config: FinetuneConfig) -> Int[Tensor, " n"]:
    """Return timesteps in [0, count) of uniform numbers in [0, 1).

    A share `pure_noise_share` is the last timestep, where sampling starts; the others are
    distributed as u ** `timestep_exponent`.
    """
    uniform = (draw / (1 - config.pure_noise_share)).clamp_max(1)
    spread = (uniform**config.timestep_exponent * count).long().clamp_max(count - 1)
    return torch.where(draw < 1 - config.pure_noise_share, spread, count - 1)


def dropout_masks(
    draw: Float[Tensor, " n"], dropout: float
) -> tuple[
    Float[Tensor, " n"],  # 1 where the image embedding stays
    Float[Tensor, " n"],  # 1 where the image channels stay
]:
    """Drop the embedding alone, both, or the channels alone, in three equal shares.

    One uniform number u decides (published code, ddpm.py, `get_input`): u < 2p drops the embedding,
    p <= u < 3p the channels.
    """
    image = (draw >= 2 * dropout).float()
    channels = ((draw < dropout) | (draw >= 3 * dropout)).float()
    return image, channels


def perceptual_losses(
    network: PerceptualDistance,
    image: Float[Tensor, "n 3 h w"],
    truth: Float[Tensor, "n 3 h w"],
    *,
    hole: Float[Tensor, "n 1 h w"],
    timestep: Int[Tensor, " n"],
    draw: Float[Tensor, " n"],
    crop_px: int,
) -> Float[Tensor, " n"]:
    """Return perceptual distances whose mean over the batch is the term.

    Only the noisier half of the batch is evaluated (the others predict nearly what they are given);
    its distances count twice, the others are 0.

    Args:
        image: Predicted target views as they are sampled, known pixels restored.
        hole: 1 where pixels are generated, else 0.
        draw: Uniform numbers in [0, 1) that choose the windows.
    """
    chosen = timestep.argsort(descending=True, stable=True)[: max(1, len(timestep) // 2)]
    windows = hole_windows(hole[chosen], min(crop_px, truth.shape[-1]), draw[chosen.cpu()])
    crops, targets = (
        torch.stack(
            [values[index][:, *window] for index, window in zip(chosen, windows, strict=True)]
        )
        for values in (image, truth)
    )
    with torch.no_grad():
        features = network.features(targets)
    distance = network.compare(network.features(crops), features).float()
    share = len(timestep) / len(chosen)
    return torch.zeros(len(timestep), device=distance.device).index_add(0, chosen, share * distance)


def hole_windows(
    hole: Float[Tensor, "n 1 h w"], side_px: int, draw: Float[Tensor, " n"]
) -> list[tuple[slice, slice]]:
    """Choose one square window per image, more likely where more of it is a hole.

    Args:
        hole: 1 where pixels are generated, else 0.
        draw: Uniform numbers in [0, 1).
    """
    stride = max(1, side_px // 4)
    share = F.avg_pool2d(hole, side_px, stride=stride)[:, 0].cpu()
    columns = share.shape[-1]
    # Squared: windows that are mostly holes teach most. The offset is for images without holes.
    weight = share.flatten(1).square() + 1e-4
    # Inverse of the cumulative distribution: the first window whose cumulative weight exceeds u.
    cumulative = weight.cumsum(1) / weight.sum(1, keepdim=True)
    index = torch.searchsorted(cumulative, draw.cpu()[:, None], right=True)[:, 0]
    index = index.clamp_max(weight.shape[1] - 1)
    corners = [(int(i) // columns * stride, int(i) % columns * stride) for i in index]
    return [(slice(top, top + side_px), slice(left, left + side_px)) for top, left in corners]
