"""How far views sampled around a scene, and the field fitted to them, are from one possible scene.

Run: python benchmarks/around.py [--seeds 12] [--tiny]          (tiny: does it run?)

The model is the ideal one of `tests/possible_worlds.py`: it knows twelve scenes that differ where
the photograph does not show them. Each switch of the preset `fast` alone, and all of them. The
number is the mean colour error against the scene that fits all views of a run best, 0 to 1.
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zeronvs.distillation.surround import (
    SurroundConfig,
    free_orbit,
    sample_surround,
    surround_azimuths_rad,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from possible_worlds import (
    SIZE,
    PossibleWorlds,
    WorldDepth,
    distance_to_one_world,
    possible_worlds,
)
from sphere_world import ring_cameras, sphere_views

ALONE = SurroundConfig(count=7, max_depth=10.0, guidance_scale=1.0)
SWITCHES: dict[str, dict[str, Any]] = {
    "each view from the photograph alone": {},
    "shared noise": {"shared_noise": True},
    "stochastic conditioning, .5 rad": {"nearness_rad": 0.5},
    "stochastic conditioning, 1 rad": {"nearness_rad": 1.0},
    "... and shared noise": {"nearness_rad": 1.0, "shared_noise": True},
    "start from the warp at .8": {"start_level": 0.8},
    "... at .9": {"start_level": 0.9},
    "... at .8, nothing put back": {"start_level": 0.8, "known_share": 0.0},
    "stochastic conditioning, 1 rad, start at .8": {"start_level": 0.8, "nearness_rad": 1.0},
    "all three": {"start_level": 0.8, "nearness_rad": 1.0, "shared_noise": True},
}


def distances(worlds: PossibleWorlds, config: SurroundConfig, seeds: int) -> list[float]:
    """Return the distance of the views of each run to one scene."""
    view = sphere_views(ring_cameras([0.0], SIZE))[0]
    cameras = free_orbit(view, torch.tensor(surround_azimuths_rad(config.count)), config)
    found = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            sampled = sample_surround(
                worlds,
                view,
                1.0,
                config,
                geometry_estimator=WorldDepth(cameras),
                seed=seed,
                folder=Path(folder),
            )
        found.append(distance_to_one_world(sampled.views))
    return found


def main() -> None:
    """Print a row for each switch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    worlds = possible_worlds()
    print("| switch | mean; standard error | runs that show one scene |\n|---|---|---|", flush=True)
    for name, switch in SWITCHES.items():
        steps, seeds = (2, 2) if arguments.tiny else (10, arguments.seeds)
        config = replace(ALONE, num_inference_steps=steps, **switch)
        found = distances(worlds, config, seeds)
        error = statistics.stdev(found) / seeds**0.5
        agreeing = sum(distance < 0.015 for distance in found)
        print(
            f"| {name} | {statistics.mean(found):.3f}; {error:.3f} | {agreeing} of {seeds} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
