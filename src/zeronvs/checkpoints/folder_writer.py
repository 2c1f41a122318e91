"""Writing a pipeline folder from planned tensors, holding one of them in memory at a time."""

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from zeronvs._core.progress import Progress, ProgressEvent
from zeronvs.checkpoints.architecture import Architecture
from zeronvs.checkpoints.folder_reader import weights_name
from zeronvs.checkpoints.writer import PlannedTensor, write_safetensors
from zeronvs.diffusion.pipeline import ZeroNVSPipeline

Plan = Mapping[str, PlannedTensor]


@contextmanager
def folder_aside(out_dir: Path) -> Iterator[Path]:
    """Yield a hidden folder that takes the name `out_dir` when the block ends well."""
    aside = out_dir.with_name(f".{out_dir.name}.{secrets.token_hex(4)}.part")
    try:
        aside.mkdir(parents=True)
        yield aside
        if out_dir.exists():
            out_dir.rmdir()
        aside.rename(out_dir)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_folder(
    folder: Path, architecture: Architecture, plans: Mapping[str, Plan], progress: Progress
) -> ZeroNVSPipeline:
    """Write weights and configurations; return the pipeline, without memory for its tensors."""
    components: dict[str, Any] = dict(architecture.empty_components())
    scheduler = DDIMScheduler(**architecture.schedule.config())
    pipeline = ZeroNVSPipeline(scheduler=scheduler, **components)
    total = sum(len(plan) for plan in plans.values())
    done = 0
    for component, plan in plans.items():
        (folder / component).mkdir()
        plan = watched(plan, progress, "convert", done, total)
        write_safetensors(folder / component / weights_name(component), plan)
        done += len(plan)
        if component == "image_encoder":
            config = components[component].config
            config.architectures = [type(components[component]).__name__]
            config.save_pretrained(folder / component)
        else:
            components[component].save_config(folder / component)
    scheduler.save_pretrained(folder / "scheduler")
    pipeline.save_config(folder)
    return pipeline


def watched(
    plan: Plan, progress: Progress, stage: str, done: int = 0, total: int | None = None
) -> dict[str, PlannedTensor]:
    """Return the plan with an event for each tensor that is made."""
    total = len(plan) if total is None else total

    def watch(step: int, tensor: PlannedTensor) -> PlannedTensor:
        def make() -> Tensor:
            progress(ProgressEvent(stage, step, total))
            return tensor.make()

        return PlannedTensor(tensor.dtype, tensor.shape, make)

    return {
        name: watch(done + index + 1, tensor) for index, (name, tensor) in enumerate(plan.items())
    }
