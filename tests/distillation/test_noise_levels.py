"""The noise range anneals as published, and views far from the photo lag behind."""

import math

import pytest
import torch

from zeronvs._core.random import seeded_generator
from zeronvs.distillation.noise_levels import (
    NoiseLevelConfig,
    PiecewiseLinear,
    anisotropic_step,
    constant,
    draw_timesteps,
    noise_level_range,
)

PUBLISHED = NoiseLevelConfig()


def test_a_schedule_is_exact_at_its_points_and_constant_outside_them():
    schedule = PiecewiseLinear(((10, 0.5), (20, 0.1), (40, 0.3)))
    assert [schedule(s) for s in (0, 10, 20, 40, 99)] == [0.5, 0.5, 0.1, 0.3, 0.3]
    assert schedule(15) == pytest.approx(0.3)
    assert schedule(30) == pytest.approx(0.2)
    assert constant(7.0)(123) == 7.0


def test_a_schedule_whose_steps_do_not_rise_is_refused():
    with pytest.raises(ValueError, match="rising"):
        PiecewiseLinear(((10, 0.5), (10, 0.1)))


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, (750, 980)), (500, (385, 980)), (1000, (20, 980)), (2500, (20, 25)), (3999, (20, 25))],
)
def test_the_range_of_timesteps_is_the_published_one(step, expected):
    assert noise_level_range(PUBLISHED, step, 1000) == expected


def test_compressing_a_schedule_moves_its_steps_and_keeps_its_values():
    half = PUBLISHED.compressed(0.5)
    for step in (0, 250, 700, 1250, 3000):
        assert noise_level_range(half, step, 1000) == noise_level_range(PUBLISHED, 2 * step, 1000)
    assert half.anisotropic_delay_steps == 500


def test_the_view_opposite_the_photo_lags_by_the_whole_delay_and_never_before_the_start():
    azimuth = torch.tensor([0.0, math.pi / 2, math.pi])
    torch.testing.assert_close(
        anisotropic_step(1500, azimuth, 1000.0), torch.tensor([1500.0, 1000.0, 500.0])
    )
    torch.testing.assert_close(
        anisotropic_step(600, azimuth, 1000.0), torch.tensor([600.0, 100.0, 0.0])
    )


def test_drawn_timesteps_fill_the_range_of_their_view_and_stay_inside():
    azimuth = torch.tensor([0.0, math.pi]).repeat(4000)
    drawn = draw_timesteps(
        PUBLISHED, 2500, azimuth, num_timesteps=1000, generator=seeded_generator(0)
    )
    near, far = drawn[0::2], drawn[1::2]
    assert near.unique().tolist() == [20, 21, 22, 23, 24, 25]
    low, high = noise_level_range(PUBLISHED, 1500, 1000)
    assert low <= far.min() < low + 10
    assert high - 10 < far.max() <= high


def test_the_highest_level_never_leaves_the_trained_timesteps():
    config = NoiseLevelConfig(lowest=constant(1.0), highest=constant(1.0))
    drawn = draw_timesteps(
        config, 0, torch.zeros(8), num_timesteps=50, generator=seeded_generator(0)
    )
    assert drawn.tolist() == [49] * 8
