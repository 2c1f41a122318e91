"""The network of `gpu.py`: speed and precision of the U-Net, sampling, CUDA graphs."""

# ruff: noqa: B023  (functions made in a loop are called in the same round)

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from gpu_models import (
    builtin_model,
    orbit,
    peak_mib,
    photo_views,
    reset_peak,
    smooth_images,
    timed,
)
from gpu_parts import Bench, short_name
from torch import Tensor

from zeronvs.diffusion.condition import CameraCondition
from zeronvs.diffusion.pipeline import ZeroNVSPipeline


@torch.no_grad()
def unet_forward(bench: Bench) -> None:
    """Measure one guided prediction of the U-Net of released size, ours and as others call it.

    Published: float32 weights under float16 autocast, attention in separate products.
    """
    pipe, device = bench.released(), bench.device
    unet = pipe.unet
    kinds = [("float32", torch.float32, False), ("bfloat16", torch.bfloat16, False)]
    kinds += [("float16", torch.float16, False), ("float16 channels-last", torch.float16, True)]
    kinds = kinds[:2] if device == "cpu" else kinds
    own_processors = unet.attn_processors
    for batch in (1, 8):
        latent, timestep, conditioning = _guided_inputs(pipe, batch, device)

        def ours() -> Tensor:
            return pipe.predict_noise(latent, timestep, conditioning, 9.5)

        def published() -> Tensor:
            with torch.autocast(device, torch.float16 if device == "cuda" else torch.bfloat16):
                return pipe.predict_noise(latent, timestep, conditioning, 9.5)

        try:
            unet.set_attn_processor(AttnProcessor())
            seconds = timed(published, device)
        finally:
            unet.set_attn_processor(dict(own_processors))  # it empties what it is given
        bench.row(f"batch {batch}, as published (autocast, plain attention)", 1e3 * seconds, "ms")
        seconds = timed(published, device)
        bench.row(f"batch {batch}, ours under autocast", 1e3 * seconds, "ms")
    for name, dtype, channels_last in kinds:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        with bench.trial(name), _converted(unet, dtype, layout):
            for batch in (1, 8):
                latent, timestep, conditioning = _guided_inputs(pipe, batch, device)
                inputs = (
                    torch.cat([latent, conditioning.concat], dim=1).repeat(2, 1, 1, 1).to(dtype)
                )
                tokens = conditioning.tokens.repeat(2, 1, 1).to(dtype)

                def guided() -> Tensor:
                    return pipe.predict_noise(latent, timestep, conditioning, 9.5)

                def stock() -> Any:
                    return unet(inputs, timestep.repeat(2), encoder_hidden_states=tokens)

                bench.row(f"batch {batch}, {name}, ours", 1e3 * timed(guided, device), "ms")
                bench.row(f"batch {batch}, {name}, diffusers", 1e3 * timed(stock, device), "ms")


@contextlib.contextmanager
def _converted(
    module: torch.nn.Module, dtype: torch.dtype, layout: torch.memory_format
) -> Iterator[None]:
    """Hold a network in another precision and memory layout inside the block."""
    module.to(dtype=dtype, memory_format=layout)
    try:
        yield
    finally:
        module.to(dtype=torch.float32, memory_format=torch.contiguous_format)


def _guided_inputs(
    pipe: ZeroNVSPipeline, batch: int, device: str
) -> tuple[Tensor, Tensor, CameraCondition]:
    """Return noisy latents, timesteps and conditioning of some cameras."""
    size, generator = pipe.image_size_px, torch.Generator().manual_seed(0)
    conditioning = pipe.prepare(pipe.encode(photo_views(1, size), 0.7), orbit(batch, size))
    shape = (batch, *pipe._latent_shape)
    latent = torch.randn(shape, generator=generator).to(device)
    return latent, torch.full((batch,), 400, device=device), conditioning


@torch.no_grad()
def sampling(bench: Bench) -> None:
    """Measure 80 views with 50 guided steps, extrapolated from a few steps of one batch."""
    pipe, device = bench.released(), bench.device
    size = pipe.image_size_px
    condition = pipe.encode(photo_views(1, size), 0.7)
    kinds = [("float16", torch.float16, 40), ("float32", torch.float32, 8)]
    kinds += [("float16", torch.float16, 8), ("bfloat16", torch.bfloat16, 16)]
    if bench.tiny:
        kinds = [("float32", torch.float32, 2)]

    def sampled(batch: int, steps: int) -> Callable[[], Tensor]:
        cameras, seeds = orbit(batch, size), list(range(batch))
        return lambda: pipe.sample(
            condition, cameras, seeds, num_inference_steps=steps, batch_size=batch, decode=False
        )

    for name, dtype, batch in kinds:
        with bench.trial(name), _converted(pipe.unet, dtype, torch.contiguous_format):
            reset_peak(device)
            few = timed(sampled(batch, 2), device, repeats=1)
            more = timed(sampled(batch, 6), device, repeats=1, warm_up=0)
            latent = torch.randn(batch, *pipe._latent_shape, device=device)
            decode = timed(lambda: pipe.to_image(latent), device, repeats=1)
            step = (more - few) / 4
            whole = 80 / batch * (50 * step + decode)
            what = f"U-Net in {name}, batches of {batch}"
            bench.row(f"{what}: a step of the batch", 1e3 * step, "ms")
            bench.row(f"{what}: decoding the batch (float32)", 1e3 * decode, "ms")
            bench.row(f"{what}: 80 views x 50 steps, extrapolated", whole, "s")
            bench.row(f"{what}: peak, with the model", peak_mib(device), "MiB")
    pipe = builtin_model(device, tiny=bench.tiny)
    size, count = pipe.image_size_px, 2 if bench.tiny else 16
    condition = pipe.encode(photo_views(1, size), 0.7)
    seconds = timed(
        lambda: pipe.sample(condition, orbit(count, size), list(range(count))), device, repeats=2
    )
    bench.row(f"built-in model, {count} views at {size} px", seconds, "s")


@torch.no_grad()
def precision(bench: Bench) -> None:
    """Measure the relative error of half precision through guidance 9.5."""
    bench.forget()
    pipe, device = bench.released(), bench.device
    latent, timestep, conditioning = _guided_inputs(pipe, 4, device)
    images = smooth_images(4, pipe.image_size_px).to(device)

    def guided() -> Tensor:
        return pipe.predict_noise(latent, timestep, conditioning, 9.5).double()

    def error(value: Tensor, truth: Tensor) -> float:
        return float((value.double() - truth.double()).norm() / truth.double().norm())

    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    truth, true_latent = guided(), pipe.to_latent(images)
    torch.backends.cudnn.allow_tf32 = True
    bench.row("guided noise, convolutions in TF32", error(guided(), truth), "relative")
    torch.backends.cuda.matmul.allow_tf32 = True
    bench.row("guided noise, everything in TF32", error(guided(), truth), "relative")
    tf32_latent = pipe.to_latent(images)
    bench.row("latent, everything in TF32", error(tf32_latent, true_latent), "relative")
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    for dtype in (torch.bfloat16,) if device == "cpu" else (torch.bfloat16, torch.float16):
        with torch.autocast(device, dtype):
            value, encoded = guided(), pipe.to_latent(images)
        bench.row(f"guided noise, autocast {short_name(dtype)}", error(value, truth), "relative")
        bench.row(f"latent, autocast {short_name(dtype)}", error(encoded, true_latent), "relative")
        # A copy: rounding the weights cannot be undone.
        weights = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
        pipe.unet.to(dtype)
        bench.row(f"guided noise, U-Net in {short_name(dtype)}", error(guided(), truth), "relative")
        pipe.unet.float().load_state_dict(weights)


@torch.no_grad()
def cuda_graph(bench: Bench) -> None:
    """Measure what launching the U-Net as one CUDA graph saves; last, as a failed capture hurts."""
    pipe, device = bench.released(), bench.device
    if device != "cuda":
        bench.row("CUDA graph", "needs CUDA", "")
        return
    for batch in (1, 6):
        latent, timestep, conditioning = _guided_inputs(pipe, batch, device)
        inputs = torch.cat([latent, conditioning.concat], dim=1).repeat(2, 1, 1, 1).half()
        tokens, steps = conditioning.tokens.repeat(2, 1, 1).half(), timestep.repeat(2)
        with _converted(pipe.unet, torch.float16, torch.channels_last):
            inputs = inputs.contiguous(memory_format=torch.channels_last)

            def call() -> Any:
                return pipe.unet(inputs, steps, encoder_hidden_states=tokens).sample

            eager = timed(call, device)
            graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                call()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                call()
            bench.row(f"batch {batch} guided, float16 channels-last: eager", 1e3 * eager, "ms")
            milliseconds = 1e3 * timed(graph.replay, device)
            bench.row(f"batch {batch} guided, float16 channels-last: graph", milliseconds, "ms")
            del graph
