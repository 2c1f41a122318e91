"""One process of a training, to be killed: made-up pairs, a tiny model, the real loop.

    python train_process.py OUT STEPS BATCH

The environment describes the other processes, as accelerate's launcher sets it.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from pair_world import MadeUpPairs
from tiny_pipelines import tiny_released

from zeronvs.training.denoising import DenoisingObjective
from zeronvs.training.finetune import TrainingRun, finetune
from zeronvs.training.finetune_config import FinetuneConfig

PAIRS_A_STEP = 4


def train(out: Path, steps: int, batch: int) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    processes = accelerator.num_processes
    config = FinetuneConfig(
        steps=steps,
        batch=batch,
        effective_batch=PAIRS_A_STEP,
        learning_rate=1e-3,
        warmup_steps=2,
        checkpoint_every=5,
        log_every=1,
        validate_every=0,
    )
    accelerator.gradient_accumulation_steps = config.accumulation(processes)
    pairs = MadeUpPairs(batch, accelerator.process_index, processes)
    objective = DenoisingObjective(tiny_released(), config)
    finetune(
        TrainingRun(
            objective=objective, data=pairs, config=config, out=out, accelerator=accelerator
        )
    )
    accelerator.end_training()


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
