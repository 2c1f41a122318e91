"""One process of a training, to be killed: made-up pairs, a tiny model, the real loop.

    python train_process.py OUT STEPS BATCH

What accelerate's launcher says of other processes is in the environment.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from pair_world import MadeUpPairs
from tiny_pipelines import tiny_released

from zeronvs.training.finetune import TrainingRun, finetune
from zeronvs.training.finetune_config import FinetuneConfig
from zeronvs.training.starting_weights import StartingPoint

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
    start = StartingPoint(tiny_released(), None, 0, ())
    finetune(TrainingRun(start=start, pairs=pairs, config=config, out=out, accelerator=accelerator))
    accelerator.end_training()


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
