"""The preset `photographs`: the built-in denoiser learns from photographs without cameras.

Autoencoder, depth network and warps are costly beside a small denoiser: examples are encoded once,
kept on the device, and renewed while training goes on.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.depth.builtin import load_builtin_depth
from zeronvs.diffusion.condition import CameraCondition
from zeronvs.diffusion.sampling import ddim_sample
from zeronvs.training.denoising import (
    DenoisingObjective,
    dropout_masks,
    pair_generator,
    timesteps,
    velocity,
)
from zeronvs.training.objective import NumberedStream, ValidationResult, validation_sheet
from zeronvs.training.photograph_warps import (
    HELD_OUT,
    PLAIN_PER_WARP,
    LatentExamples,
    PhotographWarps,
    read_photographs,
)
from zeronvs.training.session import Session
from zeronvs.training.training_state import WeightAverage

KNOWN_WEIGHT = 0.2
"""Weight of the loss in cells that are known, over that in holes."""
WARPS_SHARE = 0.25
"""Share of a batch that are warped photographs; the others are plain ones."""
SHOWN = 4
"""Examples on a validation sheet."""


@dataclass(frozen=True, kw_only=True)
class BankConfig:
    """Sizes of the bank of encoded examples."""

    chunks: int = 80
    """Chunks that are kept; a batch is drawn from all."""
    warps_per_chunk: int = 64
    renew_every: int = 80
    """Batches between two new chunks, each of which replaces the oldest."""

    @classmethod
    def for_device(cls, device: torch.device) -> "BankConfig":
        """Return sizes that suit a device: 13 GB on a GPU; elsewhere minutes of encoding."""
        if device.type == "cuda":
            return cls()
        return cls(chunks=4, warps_per_chunk=4, renew_every=20)


class ExampleBank(NumberedStream):
    """Batches drawn from a bank of encoded examples, on the device.

    Chunk c is made from (seed, c), batch k drawn with (seed, k) from the chunks that belong to k:
    a resumed run fills its bank with the chunks that the uninterrupted one would hold.
    """

    def __init__(
        self,
        warps: PhotographWarps,
        config: BankConfig,
        *,
        seed: int,
        batch: int,
        rank: int = 0,
        processes: int = 1,
        progress: Progress = silent,
    ) -> None:
        """Keep the settings; the bank is filled for the first batch."""
        super().__init__(rank, processes)
        self.warps, self.config, self.seed, self.batch = warps, config, seed, batch
        self.progress = progress
        self._held = range(0)
        self._bank: LatentExamples | None = None

    def read(self, index: int) -> LatentExamples:
        """Return batch `index` of this process."""
        config = self.config
        oldest = index // config.renew_every
        self._fill(range(oldest, oldest + config.chunks))
        assert self._bank is not None
        generator = self._generator(2 * (index * self.processes + self.rank))
        device, warps = self.warps.device, config.warps_per_chunk
        per_chunk = warps * (1 + PLAIN_PER_WARP)

        def draw(count: int, first: int, last: int) -> Tensor:
            share = torch.rand(2, count, generator=generator, device=device)
            chunk = (share[0] * config.chunks).long().clamp_max(config.chunks - 1)
            row = first + (share[1] * (last - first)).long().clamp_max(last - first - 1)
            return chunk * per_chunk + row

        whole = round(WARPS_SHARE * self.batch)
        rows = [draw(whole, 0, warps), draw(self.batch - whole, warps, per_chunk)]
        return self._bank[torch.cat(rows)]

    def _fill(self, wanted: range) -> None:
        """Make the chunks that are missing; chunk c lies in slot c modulo their number."""
        missing = [chunk for chunk in wanted if chunk not in self._held]
        for number, chunk in enumerate(missing):
            made = self.warps.draw(self.config.warps_per_chunk, self._generator(2 * chunk + 1))
            if self._bank is None:
                self._bank = made.map(
                    lambda value: value.new_empty(
                        (self.config.chunks * len(value), *value.shape[1:])
                    )
                )
            first = chunk % self.config.chunks * len(made)
            for name, value in vars(made).items():
                getattr(self._bank, name)[first : first + len(made)] = value
            if len(missing) > 1:
                self.progress(ProgressEvent("encode photographs", number + 1, len(missing)))
        self._held = wanted

    def _generator(self, number: int) -> torch.Generator:
        generator = torch.Generator(self.warps.device)
        return generator.manual_seed((self.seed * 1_000_000_007 + number) % 2**63)


@dataclass(frozen=True, eq=False)
class NoisyExamples:
    """Examples with everything that is drawn for them."""

    examples: LatentExamples
    noise: Float[Tensor, "n c h w"]
    timestep: Int[Tensor, " n"]
    keeps_image: Float[Tensor, " n"]
    """0 where the image embedding is dropped, else 1."""
    keeps_channels: Float[Tensor, " n"]
    """0 where the image channels are dropped, else 1."""


class LatentObjective(DenoisingObjective):
    """Denoising loss on encoded examples; holes count more than what is known."""

    def draw_examples(self, batch: Any, numbers: list[int]) -> Any:
        """Draw noise, timesteps and dropout, on the device: a batch of them for its number."""
        device, count = batch.camera.device, len(batch)
        seed = pair_generator(self.config.seed, numbers[0]).initial_seed()
        generator = torch.Generator(device).manual_seed(seed)
        draws = torch.rand(2, count, generator=generator, device=device)
        keeps_image, keeps_channels = dropout_masks(draws[1], self.config.dropout)
        return NoisyExamples(
            examples=batch,
            noise=torch.randn(batch.target.shape, generator=generator, device=device),
            timestep=timesteps(draws[0], len(self.pipe.alphas_cumprod), self.config),
            keeps_image=keeps_image,
            keeps_channels=keeps_channels,
        )

    def usable(self, examples: Any) -> Float[Tensor, " n"]:
        """Return 1: photographs have the scale of their depth."""
        return torch.ones(len(examples.timestep), device=examples.timestep.device)

    def forward(self, examples: Any) -> dict[str, Float[Tensor, " n"]]:
        """Return the loss of each example: the mean over cells, weighted."""
        hole = 1 - examples.examples.mask.float().mean(1, keepdim=True)
        weight = KNOWN_WEIGHT + (1 - KNOWN_WEIGHT) * hole
        error = self.squared_error(examples)
        # Over the mean weight of the batch: a hole counts the same in every example.
        weighted = (error * weight).mean((1, 2, 3)) / weight.mean()
        return {"denoising": weighted}

    def squared_error(self, examples: NoisyExamples) -> Float[Tensor, "n c h w"]:
        """Return the squared error of the predicted velocity."""
        pipe = self.pipe
        clean = examples.examples.target.float() * pipe.vae.config["scaling_factor"]
        alpha_bar = pipe.alphas_cumprod[examples.timestep][:, None, None, None]
        noisy = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * examples.noise
        conditioning = self.encoded_conditioning(
            examples.examples, examples.keeps_image, examples.keeps_channels
        )
        predicted = pipe.predict(noisy, examples.timestep, conditioning).float()
        return (predicted - velocity(clean, examples.noise, alpha_bar)) ** 2

    def encoded_conditioning(
        self,
        batch: LatentExamples,
        keeps_image: Float[Tensor, " n"],
        keeps_channels: Float[Tensor, " n"],
    ) -> CameraCondition:
        """Return the conditioning on encoded examples.

        Args:
            batch: n examples.
            keeps_image: 0 where the image embedding is dropped, else 1.
            keeps_channels: 0 where the image channels are dropped, else 1.
        """
        embedding = self.pipe.image_encoder(batch.clip.float()).image_embeds.float()
        tokens = self.pipe.cc_projection(embedding * keeps_image[:, None], batch.camera)
        parts = [part.float() for part in (batch.input, batch.warped, batch.mask)]
        return CameraCondition(tokens, torch.cat(parts, 1) * keeps_channels[:, None, None, None])

    @torch.no_grad()
    def validate(self, batch: Any, average: WeightAverage | None) -> ValidationResult:
        """Return the error in holes, mean over noise levels, and sampled views."""
        was_training, count = self.training, len(batch)
        device = batch.camera.device
        self.eval()
        ones = torch.ones(count, device=device)
        last = len(self.pipe.alphas_cumprod) - 1
        generator = torch.Generator(device).manual_seed(self.config.seed + 1)
        try:
            with average.in_place() if average is not None else nullcontext():
                noise = torch.randn(batch.target.shape, generator=generator, device=device)
                timestep = torch.linspace(0, last, count, device=device).long()
                error = self.squared_error(NoisyExamples(batch, noise, timestep, ones, ones))
                hole = (1 - batch.mask.float().mean(1, keepdim=True)).expand_as(error)
                loss = float((error * hole).sum() / hole.sum().clamp_min(1e-6))
                shown = batch[:SHOWN]
                conditioning = self.encoded_conditioning(shown, ones[:SHOWN], ones[:SHOWN])
                latent = ddim_sample(
                    lambda x, t: self.pipe.predict(x, t, conditioning),
                    self.pipe.scheduler,
                    noise[:SHOWN],
                    [],
                    num_inference_steps=self.pipe.conditioning.sampling_defaults.num_inference_steps,
                    eta=0.0,
                )
                factor = self.pipe.vae.config["scaling_factor"]
                columns = [shown.target.float() * factor, shown.warped.float() * factor, latent]
                sheet = validation_sheet([self.pipe.to_image(each) for each in columns])
        finally:
            self.train(was_training)
        return ValidationResult(loss, sheet)


def train_on_photographs(
    session: Session, bank: BankConfig | None = None, progress: Progress = silent
) -> Path:
    """Train a warping latent model on photographs, or resume; return the pipeline's folder.

    Args:
        session: Its request names one folder with `photos/*/NAME.jpg`, and a start of the warping
            kind that predicts velocities (or "scratch").

    Raises:
        InputError: The data or the start do not fit.
        HealthError: The training diverged, or the memory is used up.
    """
    request, config, accelerator = session.request, session.request.config, session.accelerator
    if len(request.data) != 1:
        raise InputError("the preset photographs takes one folder of data (docs/training.md)")
    with session.opened() as folder:
        start = session.load_start(progress)
        pipe = start.pipe
        if not pipe.conditioning.needs_depth or pipe.conditioning.predicts_clean:
            raise InputError(
                "the preset photographs trains models that warp their input and predict "
                "velocities, such as the built-in one; train this model on shards instead"
            )
        pipe.to(accelerator.device)
        photos = read_photographs(request.data[0], pipe.image_size_px, progress)
        photos = photos.to(accelerator.device)
        geometry = load_builtin_depth(device=accelerator.device)
        seed = session.data_seed(request.out)
        held_out = PhotographWarps(photos[:HELD_OUT], pipe, geometry)
        generator = torch.Generator(accelerator.device).manual_seed(config.seed)
        validation = None
        if config.validate_every and config.validation_pairs:
            validation = held_out.draw(config.validation_pairs, generator, plain_per_warp=0)
        return session.run(
            start=start,
            folder=folder,
            objective=LatentObjective(pipe, config),
            data=ExampleBank(
                PhotographWarps(photos[HELD_OUT:], pipe, geometry),
                bank or BankConfig.for_device(accelerator.device),
                seed=seed,
                batch=config.batch,
                rank=accelerator.process_index,
                processes=accelerator.num_processes,
                progress=progress,
            ),
            data_seed=seed,
            validation=validation,
            origin={"data": request.data[0].resolve().name},
            progress=progress,
        )
