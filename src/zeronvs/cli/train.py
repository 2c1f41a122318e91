"""`zeronvs train`: train the built-in model from a folder of data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zeronvs.cli.arguments import check_counts, parse


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Train the built-in model; run again to go on where it stopped."""

    data: tyro.conf.Positional[Path]
    """posed/train/*/scene.json and photos/*/NAME.jpg with NAME_teacher.jpg (docs/training.md)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The folder of the training state; the finished pipeline goes to its folder pipeline/."""
    steps: int = 20_000
    """Steps of the denoiser."""
    batch: int = 8
    """Pairs a step."""
    learning_rate: float = 2.5e-4
    """Learning rate of the denoiser."""
    depth_steps: int = 1100
    """Steps of the depth network."""
    seed: int = 0
    """The same seed draws the same pairs."""


def run(words: Sequence[str]) -> None:
    """Parse the arguments and train."""
    arguments = parse(TrainArguments, words, "train")
    check_counts(steps=arguments.steps, batch=arguments.batch, depth_steps=arguments.depth_steps)
    from zeronvs.cli.report import progress_bar
    from zeronvs.estimation.depth_net import DepthNet
    from zeronvs.training.builtin import BuiltinTrainingConfig, export_builtin, train_builtin
    from zeronvs.training.denoiser import DenoiserTrainingConfig
    from zeronvs.training.depth import DepthTrainingConfig

    config = BuiltinTrainingConfig(
        depth=DepthTrainingConfig(steps=arguments.depth_steps, seed=arguments.seed),
        denoiser=DenoiserTrainingConfig(
            steps=arguments.steps,
            batch=arguments.batch,
            learning_rate=arguments.learning_rate,
            seed=arguments.seed,
        ),
    )
    with progress_bar() as progress:
        train_builtin(arguments.data, arguments.out, config, progress)
    depth_net = DepthNet.from_pretrained(arguments.out / "depth_net").eval()
    export_builtin(arguments.out / "denoiser", depth_net, arguments.out / "pipeline")
    print(arguments.out / "pipeline")
