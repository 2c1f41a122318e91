"""Annealed noise levels of score distillation.

The published recipe anneals from high to low noise, later for views farther from the photo (paper,
supplement B.2). Step numbers refer to the published run of 4,000 steps; `compressed` rescales them.
"""

import bisect
import itertools
import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

PUBLISHED_STEPS = 4000
"""Length of the published run; every default step number of this room refers to it."""


@dataclass(frozen=True)
class PiecewiseLinear:
    """A number that changes linearly between (step, value) points and is constant outside them."""

    points: tuple[tuple[int | float, int | float], ...]
    """(step, value), steps strictly rising, at least one."""

    def __post_init__(self) -> None:
        steps = [step for step, _ in self.points]
        if not steps or any(late <= early for early, late in itertools.pairwise(steps)):
            raise ValueError(f"a schedule needs points with rising steps, got {self.points}")

    def __call__(self, step: int | float) -> float:
        """Return the value at `step`, exact at the points."""
        after = bisect.bisect_right(self.points, step, key=lambda point: point[0])
        if after == 0:
            return float(self.points[0][1])
        if after == len(self.points):
            return float(self.points[-1][1])
        (step_0, value_0), (step_1, value_1) = self.points[after - 1], self.points[after]
        return value_0 + (value_1 - value_0) * (step - step_0) / (step_1 - step_0)

    def compressed(self, factor: float) -> "PiecewiseLinear":
        """Return the same curve with every step number multiplied by `factor` (> 0)."""
        return PiecewiseLinear(tuple((step * factor, value) for step, value in self.points))


def constant(value: int | float) -> PiecewiseLinear:
    """Return a constant schedule."""
    return PiecewiseLinear(((0, value),))


@dataclass(frozen=True, kw_only=True)
class NoiseLevelConfig:
    """The annealed, anisotropic noise range (published configs, zero123_scene.yaml; paper B.2)."""

    lowest: PiecewiseLinear = PiecewiseLinear(((0, 0.75), (1000, 0.02)))
    """Lower end of the range as a fraction of the training timesteps."""
    highest: PiecewiseLinear = PiecewiseLinear(((0, 0.98), (1000, 0.98), (2500, 0.025)))
    """Upper end of the range, likewise."""
    anisotropic_delay_steps: float = 1000.0
    """Steps by which the view opposite the photo lags behind; 0 = all views alike."""

    def compressed(self, factor: float) -> "NoiseLevelConfig":
        """Return the same annealing with every step number multiplied by `factor`."""
        return replace(
            self,
            lowest=self.lowest.compressed(factor),
            highest=self.highest.compressed(factor),
            anisotropic_delay_steps=self.anisotropic_delay_steps * factor,
        )


def anisotropic_step(
    step: int, azimuth_distance_rad: Float[Tensor, " n"], delay_steps: float
) -> Float[Tensor, " n"]:
    """Return the step at which each view reads the schedule: max(0, step - delay * angle / pi).

    Args:
        azimuth_distance_rad: Angle in azimuth between each view and the photo, in [0, pi].
        delay_steps: How far the opposite view lags behind.
    """
    return (step - delay_steps * azimuth_distance_rad.double() / math.pi).clamp(min=0).float()


def noise_level_range(
    config: NoiseLevelConfig, step: int | float, num_timesteps: int
) -> tuple[
    int,  # lowest timestep, inclusive
    int,  # highest timestep, inclusive
]:
    """Return the timesteps that may be drawn when the schedule is read at `step`."""
    lowest = math.floor(num_timesteps * config.lowest(step))
    highest = math.floor(num_timesteps * config.highest(step))
    last = num_timesteps - 1
    return min(lowest, last), min(max(lowest, highest), last)


def draw_timesteps(
    config: NoiseLevelConfig,
    step: int,
    azimuth_distance_rad: Float[Tensor, " n"],
    *,
    num_timesteps: int,
    generator: torch.Generator,
) -> Int[Tensor, " n"]:
    """Draw one diffusion timestep per view, uniform over the range that the view has reached.

    Args:
        step: Step of the run, from 0.
        azimuth_distance_rad: Angle in azimuth between each view and the photo, in [0, pi].
    """
    steps = anisotropic_step(step, azimuth_distance_rad, config.anisotropic_delay_steps)
    ranges = torch.tensor([noise_level_range(config, float(s), num_timesteps) for s in steps])
    lowest, highest = ranges.unbind(-1)
    fraction = torch.rand(len(steps), generator=generator, dtype=torch.float64)
    drawn = lowest + (fraction * (highest - lowest + 1)).floor().long()
    return torch.minimum(drawn, highest)
