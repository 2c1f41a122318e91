"""Which way all round is suggested for a photograph."""

import math

import torch

from zeronvs.cameras.view import View
from zeronvs.recipes.far_path import suggest_path
from zeronvs.recipes.prepare import canonical_camera


def photo(elevation_deg: float, depth_z: torch.Tensor) -> View:
    camera = canonical_camera(0.8, math.radians(elevation_deg), tuple(depth_z.shape))
    return View(torch.zeros(3, *depth_z.shape), camera, depth_z)


def thing_on_a_table() -> torch.Tensor:
    depth_z = torch.linspace(1.6, 0.9, 48)[:, None].expand(48, 64).clone()
    depth_z[16:32, 24:40] = 0.8
    return depth_z


def test_a_thing_seen_from_above_is_orbited():
    choice = suggest_path(photo(45, thing_on_a_table()))
    assert choice.name == "orbit"
    assert "45 degrees" in choice.reason


def test_a_room_is_looked_around_in():
    assert suggest_path(photo(10, thing_on_a_table())).name == "around"


def test_a_flat_ground_from_above_is_looked_around_on():
    assert suggest_path(photo(45, torch.full((48, 64), 1.2))).name == "around"


def test_before_a_wall_one_looks_around():
    depth_z = thing_on_a_table()
    # A wall behind the table: the upper rows are as far as its foot.
    depth_z[:16] = depth_z[16, 0]
    choice = suggest_path(photo(35, depth_z))
    assert choice.name == "around"
    assert "rises" in choice.reason


def test_what_is_farther_beside_and_below_does_not_make_the_middle_stand_free():
    depth_z = torch.full((48, 64), 2.4)
    depth_z[:12] = 1.2
    depth_z[16:32, 20:44] = 1.2
    choice = suggest_path(photo(45, depth_z))
    assert choice.name == "around"
    assert "nothing stands free" in choice.reason
