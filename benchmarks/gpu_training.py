"""Throughput of training on one device: samples a second, and the share of the peak."""

from contextlib import nullcontext
from dataclasses import replace

import torch
from gpu_models import (
    builtin_model,
    orbit,
    peak_mib,
    released_model,
    reset_peak,
    smooth_images,
    timed,
)
from gpu_parts import Bench
from torch.utils.flop_counter import FlopCounterMode

from zeronvs._core.errors import memory_used_up
from zeronvs.cameras.view import View
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.training.denoising import DenoisingObjective
from zeronvs.training.finetune_config import BUILTIN, FINETUNE, FinetuneConfig
from zeronvs.training.view_pairs import ViewPairs

PEAK_TFLOPS = {"H100 PCIe": 756.0, "H100": 989.0, "H200": 989.0, "A100": 312.0, "4090": 165.0}
"""Dense bfloat16 peak by name of the device, from the vendor's data sheets."""


def training(bench: Bench) -> None:
    """Measure training steps in bfloat16: examples, loss, gradients and AdamW."""
    device, tiny = bench.device, bench.tiny
    bench.forget()
    sizes = (4,) if tiny else (48, 24, 12)
    for batch in sizes:
        try:
            pipe = released_model(device, tiny=tiny)
            _measure(bench, "released size", pipe, FINETUNE, batch)
            break
        except Exception as error:
            if memory_used_up(error) is None:
                raise
            bench.row(f"released size, batch {batch}", "out of memory", "")
        pipe = None
        reset_peak(device)
    pipe = None
    reset_peak(device)
    for batch in (2,) if tiny else (8, 64):
        pipe = builtin_model(device, tiny=tiny)
        _measure(bench, "built-in model", pipe, BUILTIN, batch)


def _pairs(pipe: ZeroNVSPipeline, batch: int) -> ViewPairs:
    """Return pairs of random images, with depth."""
    size = pipe.image_size_px
    input_camera = orbit(1, size)[[0] * batch]
    views = View(smooth_images(batch, size), input_camera, torch.ones(batch, size, size))
    target = View(smooth_images(batch, size, seed=1), orbit(batch, size, 0.5))
    return ViewPairs(views, target, torch.full((batch,), 0.7))


def _measure(
    bench: Bench, name: str, pipe: ZeroNVSPipeline, config: FinetuneConfig, batch: int
) -> None:
    """Measure a step with a batch."""
    device, what = bench.device, f"{name}, bfloat16, batch {batch}"
    reset_peak(device)
    config = replace(config, batch=batch, effective_batch=batch)
    objective = DenoisingObjective(pipe, config)
    objective.place(torch.device(device))
    objective.train()
    groups = [{"params": group["params"]} for group in objective.parameter_groups()]
    optimizer = torch.optim.AdamW(groups, lr=1e-6)
    pairs, numbers = _pairs(pipe, batch).to(device), list(range(batch))

    def learn() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16) if device == "cuda" else nullcontext():
            examples = objective.draw_examples(pairs, numbers)
            loss = torch.stack(list(objective(examples).values())).sum(0).mean()
        loss.backward()
        optimizer.step()

    counter = FlopCounterMode(display=False)
    with counter:
        learn()
    flops = counter.get_total_flops()
    seconds = timed(learn, device, repeats=2, warm_up=1)
    bench.row(f"{what}: a step", 1e3 * seconds, "ms")
    bench.row(f"{what}: throughput", batch / seconds, "samples/s")
    bench.row(f"{what}: counted", flops / 1e12 / batch, "TFLOP a sample")
    bench.row(f"{what}: computed", flops / seconds / 1e12, "TFLOP/s")
    card = torch.cuda.get_device_name() if device == "cuda" else ""
    peaks = [peak for known, peak in PEAK_TFLOPS.items() if known in card]
    if peaks:
        bench.row(f"{what}: MFU", 100 * flops / seconds / 1e12 / peaks[0], "% of dense bfloat16")
    bench.row(f"{what}: peak", peak_mib(device), "MiB")
