"""Statistics of scenes: laws that hold for any cameras and depths."""

import math

import made_shards as made
import numpy as np
import pytest
import torch

from zeronvs.cameras.embedding import Representation
from zeronvs.cameras.scene_scale import viewer_scale
from zeronvs.shards.statistics import (
    UNKNOWN_DEPTH,
    aggregate_scale,
    camera_radius,
    depth_statistics,
    scene_scales,
)


def orbit(count=7):
    return np.stack([made.camera(k).camera_to_world.numpy() for k in range(count)])


def test_the_radius_is_that_of_a_circle_of_cameras_wherever_it_is():
    angle = np.arange(8) * (np.pi / 4)
    poses = np.tile(np.eye(4), (8, 1, 1))
    poses[:, :3, 3] = np.stack([3 * np.cos(angle), 3 * np.sin(angle), 0 * angle + 7], axis=-1)
    assert camera_radius(poses) == pytest.approx(3.0)


def test_the_radius_grows_with_the_scene_and_does_not_move_with_it():
    poses = orbit()
    moved = poses.copy()
    moved[:, :3, 3] = 4.0 * poses[:, :3, 3] + np.array([3.0, -2.0, 5.0])
    assert camera_radius(moved) == pytest.approx(4 * camera_radius(poses))


def test_depth_statistics_are_those_of_the_cameras_room():
    depth = np.random.default_rng(0).uniform(1, 5, (64, 64)).astype(np.float32)
    dense = depth_statistics(depth)
    assert dense.viewer_scale == pytest.approx(float(viewer_scale(torch.from_numpy(depth))))
    sparse = np.where(np.random.default_rng(1).random((3, 64, 64)) < 0.1, depth, 0)
    near = np.array([depth_statistics(view.astype(np.float32)).aggregate_near for view in sparse])
    expected = np.quantile([np.quantile(view[view > 0], 0.05) for view in sparse], 0.1)
    assert aggregate_scale(near) == pytest.approx(float(expected), rel=1e-6)
    # A view without known depth is ignored; a view of the near ground counts.
    assert aggregate_scale(np.append(near, np.nan)) == pytest.approx(float(expected))
    assert aggregate_scale(np.append(near, 0.05 * near[0])) < 0.9 * expected
    assert math.isnan(aggregate_scale(np.array([np.nan])))


def test_a_disparity_fills_the_holes_of_sparse_depth():
    depth = np.linspace(1, 5, 64 * 64, dtype=np.float32).reshape(64, 64)
    rng = np.random.default_rng(2)
    # Points lie on near things more often than on far ones, as features do.
    sparse = np.where(rng.random((64, 64)) < 0.2 / depth**2, depth, 0)
    filled = depth_statistics(sparse, (3.0 / depth + 0.5).astype(np.float32))
    truth = depth_statistics(depth).viewer_scale
    assert filled.viewer_scale == pytest.approx(truth, rel=1e-3)
    assert abs(depth_statistics(sparse).viewer_scale - truth) > 0.1


def test_depth_statistics_grow_with_the_unit():
    depth = made.depth_map(3)[:, :256]
    grown = depth_statistics(2 * depth)
    scaled = depth_statistics(depth).scaled(2)
    assert grown.viewer_scale == pytest.approx(scaled.viewer_scale)
    assert grown.depth_quantiles == pytest.approx(scaled.depth_quantiles)


def test_unknown_depth_is_marked_and_replaced():
    assert depth_statistics(np.zeros((8, 8), np.float32)) is UNKNOWN_DEPTH
    assert math.isnan(aggregate_scale(np.array([np.nan, np.nan])))
    scales = scene_scales(1.5, math.nan, math.nan)
    assert scales[Representation.SIX_DOF_AGG] == 1.0
    assert scales[Representation.SIX_DOF_VIEWER] == 1.5
