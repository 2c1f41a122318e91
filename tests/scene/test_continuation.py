"""What lies behind a canvas: clearly behind what hides it, and in the background's colours."""

import pytest
import torch

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.scene.continuation import (
    Canvas,
    _guide,
    behind_edges,
    blended,
    carried_on,
    extend,
    uncover,
)
from zeronvs.scene.depth_edges import grown
from zeronvs.scene.subjects import standing_free, standing_on_a_surface, subjects

CARD_Z, WALL_Z = 3.0, 8.0
ROWS, COLUMNS = slice(20, 44), slice(36, 60)


def card_before_a_wall() -> View:
    """Return a red card before a green wall, both farther than one unit away."""
    pose = orbit_pose(*(torch.tensor(value) for value in (0.0, 0.1, 1.0)))
    image = torch.tensor([0.1, 0.6, 0.2])[:, None, None].expand(3, 64, 96).clone()
    image += 0.05 * torch.sin(torch.arange(96) / 3.0)
    depth_z = torch.full((64, 96), WALL_Z)
    image[:, ROWS, COLUMNS] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    depth_z[ROWS, COLUMNS] = CARD_Z
    return View(image, Camera.from_fov(pose, 0.9, (64, 96)), depth_z)


def test_what_is_uncovered_lies_clearly_behind_and_shows_the_wall():
    view = card_before_a_wall()
    canvas = Canvas(view, torch.ones(64, 96, dtype=torch.bool))
    behind, hole, surroundings = uncover(canvas, motion=0.5, seed=0)
    assert view.depth_z is not None
    assert behind.depth_z is not None
    assert bool(hole[ROWS, COLUMNS].all())  # the card stands free
    assert not hole[:, :20].any()
    assert not hole[:, 76:].any()
    # Also at the rim, where pixels mix both sides: a copy at the same depth would flicker.
    assert float((behind.depth_z / view.depth_z)[hole].amin()) > 1.005
    # Only a rim of two pixels is moved back; the rest continues the wall.
    inner = behind.depth_z[22:42, 38:58]
    torch.testing.assert_close(inner, torch.full_like(inner, WALL_Z), rtol=0.02, atol=0)
    red, green = behind.image[0, ROWS, COLUMNS], behind.image[1, ROWS, COLUMNS]
    assert float((red < green).float().mean()) > 0.99
    assert torch.equal(behind.image[:, ~hole], view.image[:, ~hole])
    torch.testing.assert_close(behind.depth_z[~hole], view.depth_z[~hole])
    # The card stands free, so that it is not among the surroundings either.
    assert float((surroundings.image[0] > 0.6).float().mean()) == 0


def test_a_margin_keeps_the_photograph_and_continues_its_depth():
    view = card_before_a_wall()
    canvas = extend(view, side_px=96, margin=0.125, motion=0.5, seed=0)
    assert canvas.view.camera.image_size_px == (64 + 24, 96 + 24)
    assert int(canvas.known.sum()) == 64 * 96
    inside = (slice(12, 76), slice(12, 108))
    assert bool(canvas.known[inside].all())
    torch.testing.assert_close(canvas.view.image[:, *inside], view.image)
    assert canvas.view.depth_z is not None
    torch.testing.assert_close(canvas.view.depth_z[inside], view.depth_z)
    margin = canvas.view.depth_z[~canvas.known]
    torch.testing.assert_close(margin, torch.full_like(margin, WALL_Z), rtol=1e-3, atol=0)
    # The same rays: the principal point moved with the photograph.
    centre_px = canvas.view.camera.intrinsics_px[:2, 2]
    torch.testing.assert_close(centre_px, torch.tensor([60.0, 44.0]))


def test_behind_what_stands_free_is_the_wall_and_elsewhere_nothing_changes():
    view = card_before_a_wall()
    assert view.depth_z is not None
    free, disparity = standing_free(view, motion=0.5)
    assert bool(free[24:40, 40:56].all())
    torch.testing.assert_close(disparity[~free], 1 / view.depth_z[~free])
    inner = disparity[24:40, 40:56]
    torch.testing.assert_close(inner, torch.full_like(inner, 1 / WALL_Z), rtol=0.1, atol=0)


def test_behind_an_edge_the_far_surface_continues_as_far_as_motion_uncovers_it():
    view = card_before_a_wall()
    column = torch.arange(96).expand(64, -1)
    near, far = 1 / 1.0, 1 / 4.0
    step = view.with_depth(torch.where(column < 48, 1 / near, 1 / far))
    motion = 0.1
    known = torch.ones(64, 96, dtype=torch.bool)
    hidden, disparity = behind_edges(step, known, motion)
    gap_px = motion * float(view.camera.intrinsics_px[0, 0]) * (near - far)
    assert gap_px > 4
    expected = (column < 48) & (47 - column <= gap_px + 3)
    assert torch.equal(hidden, expected)
    torch.testing.assert_close(disparity, torch.where(hidden, far, 1 / step.depth_z))
    # Edges outside of what is known are not looked for.
    assert not behind_edges(step, known & (column > 60), motion)[0].any()


def test_the_ground_before_an_edge_hides_no_more_than_the_edge():
    """Else all of a carpet were a hole, and nothing left to fill it from."""
    view = card_before_a_wall()
    row = torch.arange(64.0)[:, None].expand(-1, 96)
    # A wall, the upper edge of a box at row 30, and a ground before it that comes ever nearer.
    disparity = torch.where(row < 30, 0.25, torch.where(row < 36, 0.5, 0.5 + 0.05 * (row - 36)))
    motion = 0.3
    known = torch.ones(64, 96, dtype=torch.bool)
    hidden, _ = behind_edges(view.with_depth(1 / disparity), known, motion)
    gap_px = motion * float(view.camera.intrinsics_px[0, 0]) * (0.5 - 0.25)
    assert 4 < gap_px < 12
    assert torch.equal(hidden, (row >= 30) & (row - 30 <= gap_px + 3))


def test_what_is_hidden_is_carried_on_behind_its_surface_in_one_piece():
    row = torch.arange(64.0)[:, None].expand(-1, 200)
    column = torch.arange(200.0).expand(64, -1)
    # A post, columns 40 to 119, before a wall; the lower rows are a ground that comes nearer.
    disparity = torch.where((column >= 40) & (column < 120), 0.5, 0.25)
    disparity = torch.where(row >= 48, 0.5 + 0.1 * (row - 47), disparity)
    hidden = (column >= 40) & (column < 50) & (row < 48)
    behind = torch.where(row < 24, 0.25, 0.35)  # two depths side by side, which would part
    hole, far = carried_on(disparity, hidden, torch.where(hidden, behind, disparity))
    beside = (column >= 50) & (column < 60) & (row > 8) & (row < 40)
    assert bool(hole[hidden | beside].all())
    assert not hole[:, 120:].any()  # no farther than a share of the image
    assert not hole[56:, :].any()  # nor the ground
    torch.testing.assert_close(far[beside & (row < 20)], torch.tensor(0.25).expand(110))
    steps = far[4:44, 44:56].diff(dim=0).abs()
    assert float(steps.max()) < 0.04
    assert bool((far <= disparity).all())


def test_a_filled_hole_is_blended_in_but_not_with_what_stands_before_it():
    column = torch.arange(96).expand(64, -1)
    hole = (column >= 30) & (column < 60)
    ramp = (0.3 + 0.003 * column).expand(3, -1, -1)
    image = torch.where(hole, ramp + 0.06, ramp)  # filled too bright
    image = torch.where(column >= 60, torch.ones(3, 1, 1), image)
    disparity = torch.where(column >= 60, 0.5, 0.2)
    mended = blended(image, hole, disparity, torch.full((64, 96), 0.2))
    assert torch.equal(mended[:, ~hole], image[:, ~hole])
    # Not pulled to the white surface before it, at column 60.
    torch.testing.assert_close(mended[:, hole], ramp[:, hole], atol=0.015, rtol=0)
    # What differs more is content: it is shifted by the limit at most.
    other = torch.where(hole, ramp + 0.5, ramp)
    change = other - blended(other, hole, disparity, torch.full((64, 96), 0.2))
    assert float(change.amax()) < 0.11


def test_what_is_smoothed_behind_an_edge_comes_no_nearer():
    view = card_before_a_wall()
    column, row = torch.arange(96).expand(64, -1), torch.arange(64)[:, None].expand(-1, 96)
    far = torch.where(row < 32, 1 / 8.0, 1 / 3.0)
    step = view.with_depth(1 / torch.where(column < 48, 1.0, far))
    hidden, disparity = behind_edges(step, torch.ones(64, 96, dtype=torch.bool), motion=0.1)
    assert hidden[:, 44].all()
    assert float((disparity - far)[hidden].amax()) < 1e-6


def test_what_is_hardly_nearer_than_its_surroundings_does_not_stand_free():
    view = card_before_a_wall()
    depth_z = torch.full((64, 96), 1.05)
    depth_z[ROWS, COLUMNS] = 1.0
    free, _ = standing_free(view.with_depth(depth_z), motion=2.0)
    assert not free.any()
    depth_z[ROWS, COLUMNS] = 0.9
    free, _ = standing_free(view.with_depth(depth_z), motion=2.0)
    assert bool(free[24:40, 40:56].all())


def test_what_the_frame_cuts_does_not_stand_free():
    view = card_before_a_wall()
    assert view.depth_z is not None
    depth_z = view.depth_z.roll(-COLUMNS.start, 1)
    free, _ = standing_free(view.with_depth(depth_z), motion=0.5)
    assert not free.any()
    uncovered = uncover(
        Canvas(View(view.image.roll(-COLUMNS.start, 2), view.camera, depth_z), free | True),
        motion=0.5,
        seed=0,
    )
    assert float(uncovered.surroundings.image[0, ROWS, :20].amin()) > 0.6


def test_a_level_ground_does_not_stand_free_and_goes_on_below_the_frame():
    pose = orbit_pose(*(torch.tensor(value) for value in (0.0, 0.4, 1.0)))
    rows = torch.arange(64.0)[:, None].expand(64, 96)
    disparity = 0.2 + 0.02 * rows
    view = View(torch.full((3, 64, 96), 0.5), Camera.from_fov(pose, 0.9, (64, 96)), 1 / disparity)
    free, _ = standing_free(view, motion=0.5)
    assert not free.any()
    canvas = extend(view, side_px=96, margin=0.125, motion=0.5, seed=0)
    assert canvas.view.depth_z is not None
    below = 1 / canvas.view.depth_z[-12:, 20:100]
    # The disparity of a plane is linear in the image; smoothing flattens its end a little.
    torch.testing.assert_close(below[4, 40], torch.tensor(0.2 + 0.02 * 68), rtol=0.05, atol=0)
    assert bool((below.diff(dim=0) >= 0).all())
    # Beside the frame it is as it was.
    torch.testing.assert_close(
        1 / canvas.view.depth_z[20:70, 2], disparity[8:58, 0], rtol=0.15, atol=0
    )


def test_the_guide_orders_elevation_and_depth_within_half_a_period():
    """It is periodic: were zenith and nadir a whole period apart, clouds would continue ground."""
    rows = torch.arange(64.0)[:, None].expand(64, 96)
    depth_z = 1 / (0.05 + 0.05 * rows)
    pose = orbit_pose(*(torch.tensor(value) for value in (0.0, 0.0, 1.0)))
    view = View(torch.rand(3, 64, 96), Camera.from_fov(pose, 0.9, (64, 96)), depth_z)
    elevation, nearness = _guide(view, torch.ones(64, 96, dtype=torch.bool))
    assert float(elevation.min()) == float(nearness.min()) == 0
    assert float(elevation.max()) == float(nearness.max()) == 0.5
    assert bool((elevation[:, 48].diff() < 0).all())
    assert bool((nearness[:, 48].diff() > 0).all())


def test_a_canvas_that_is_reflected_has_no_margin_at_its_sides():
    view = card_before_a_wall()
    canvas = extend(view, side_px=96, margin=0.125, sideways=False, motion=0.5, seed=0)
    assert canvas.view.camera.image_size_px == (64 + 24, 96)
    assert torch.equal(canvas.known.sum(1), torch.tensor([0] * 12 + [96] * 64 + [0] * 12))
    torch.testing.assert_close(canvas.view.image[:, 12:76], view.image)
    centre_px = canvas.view.camera.intrinsics_px[:2, 2]
    torch.testing.assert_close(centre_px, torch.tensor([48.0, 44.0]))


def test_what_is_small_stays_among_the_surroundings():
    view = card_before_a_wall()
    small = (slice(30, 40), slice(40, 50))  # 100 of 6,144 pixels
    depth_z = torch.full((64, 96), WALL_Z)
    depth_z[small] = CARD_Z
    image = torch.tensor([0.1, 0.6, 0.2])[:, None, None].expand(3, 64, 96).clone()
    image[:, *small] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    canvas = Canvas(View(image, view.camera, depth_z), torch.ones(64, 96, dtype=torch.bool))
    background, hole, surroundings = uncover(canvas, motion=0.5, seed=0)
    assert bool(hole[small].all())
    assert float(background.image[0, *small].amax()) < 0.6
    assert torch.equal(surroundings.image, image)
    assert surroundings.depth_z is not None
    torch.testing.assert_close(surroundings.depth_z, depth_z)


def portrait() -> View:
    """Return a head on shoulders as wide as the frame, before a wall, behind a level table."""
    view = card_before_a_wall()
    disparity = torch.full((64, 96), 1 / WALL_Z)
    disparity[10:30, 36:60] = 1 / CARD_Z
    disparity[30:50] = 1 / CARD_Z
    # A plane below the camera: its disparity grows linearly down the image.
    disparity[50:] = (1 / CARD_Z + 0.05 * torch.arange(1, 15.0))[:, None]
    image = torch.tensor([0.1, 0.6, 0.2])[:, None, None].expand(3, 64, 96).clone()
    image[:, disparity > 0.9 / CARD_Z] = torch.tensor([0.9, 0.1, 0.1])[:, None]
    image[:, 50:] = torch.tensor([0.2, 0.2, 0.8])[:, None, None]
    return View(image, view.camera, 1 / disparity)


def test_the_shoulders_belong_to_the_head_that_stands_free_and_the_table_does_not():
    view = portrait()
    free, behind = standing_free(view, motion=0.5)
    assert bool(free[12:28, 38:58].all())
    assert not free[32:].any()
    subject = subjects(view, free, behind, motion=0.5)
    assert bool(subject[12:28, 38:58].all())
    assert bool(subject[32:48].all())
    assert not subject[54:].any()
    assert not subject[:20, :30].any()


def test_all_around_there_is_neither_the_head_nor_the_shoulders():
    view = portrait()
    canvas = Canvas(view, torch.ones(64, 96, dtype=torch.bool))
    surroundings = uncover(canvas, motion=0.5, seed=0).surroundings
    red = (surroundings.image[0] > 0.6) & (surroundings.image[1] < 0.3)
    # Where the frame cuts the shoulders, they fade.
    assert float(red[:, 12:-12].float().mean()) < 0.01
    assert surroundings.depth_z is not None
    # Behind the shoulders, the wall comes down to the table.
    assert float(surroundings.depth_z[32:38, 40:56].amin()) > 1.3 * CARD_Z
    # The table is as it was.
    torch.testing.assert_close(surroundings.image[:, 56:], view.image[:, 56:])


def test_a_thing_on_a_table_is_no_context_of_the_table_beyond_the_frame():
    """A cup on a saucer that nearly touches the frame: below it the table goes on."""
    pose = orbit_pose(*(torch.tensor(value) for value in (0.0, 0.7, 1.0)))
    row, column = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    table = 0.7 + 0.006 * row
    saucer = ((column - 48) / 30).square() + ((row - 38) / 25).square() < 1
    cup = ((column - 48) / 12).square() + ((row - 30) / 12).square() < 1
    disparity = torch.where(cup, 1.25 * table, torch.where(saucer, 1.07 * table, table))
    green, red = (
        torch.tensor(color)[:, None, None] for color in ([0.1, 0.6, 0.2], [0.9, 0.1, 0.1])
    )
    image = torch.where(saucer | cup, red, green + 0.05 * torch.sin(column / 3))
    view = View(image, Camera.from_fov(pose, 0.9, (64, 96)), 1 / disparity)
    thing = standing_on_a_surface(view)
    assert float((thing == grown(saucer | cup, 3)).float().mean()) > 0.97  # and its shadow
    canvas = extend(view, side_px=96, margin=0.2, sideways=True, motion=0.3, seed=0)
    outside = canvas.view.image[:, ~canvas.known]
    assert float((outside[1] > outside[0]).float().mean()) > 0.98
    assert torch.equal(canvas.view.image[:, canvas.known], view.image.flatten(1))
    # Nothing stands on a bare table.
    assert not standing_on_a_surface(view.with_depth(1 / table)).any()


@pytest.mark.parametrize(("shoulders_row", "smooth"), [(26, True), (64, False)])
def test_the_place_of_a_subject_that_fills_the_image_is_filled_smoothly(
    shoulders_row: int, smooth: bool
):
    """Too little is left to copy from: patches would repeat, or one dark corner take all."""
    view = portrait()
    disparity = torch.full((64, 96), 1 / WALL_Z)
    disparity[10:, 36:60] = 1 / CARD_Z  # a head ...
    disparity[shoulders_row:, 4:92] = 1 / CARD_Z  # ... on shoulders, or none
    noise = 0.3 * torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(0))
    wall = (torch.tensor([0.3, 0.5, 0.4])[:, None, None] + noise).clamp(0, 1)
    body = disparity > 0.9 / CARD_Z
    image = torch.where(body, torch.tensor([0.9, 0.1, 0.1])[:, None, None], wall)
    canvas = Canvas(View(image, view.camera, 1 / disparity), torch.ones(64, 96, dtype=torch.bool))
    uncovered = uncover(canvas, motion=0.5, seed=0)
    # All around, and behind the body itself.
    for image in (uncovered.surroundings.image, uncovered.background.image):
        place = image[:, 30:60, 40:56]
        assert float((place[0] > 0.8).float().mean()) < 0.1  # no body
        roughness = float(place.diff(dim=-1).abs().mean())
        assert (roughness < 0.05) == smooth


def test_a_subject_that_the_frame_cuts_fades_beyond_it():
    """The surroundings are reflected at their sides: were it gone there, its cut would show."""
    view = portrait()
    disparity = torch.full((64, 96), 1 / WALL_Z)
    disparity[10:, 36:60] = 1 / CARD_Z  # a head ...
    disparity[30:, :92] = 1 / CARD_Z  # ... on shoulders, which the left border cuts
    body = disparity > 0.9 / CARD_Z
    image = torch.where(body, torch.tensor([0.9, 0.1, 0.1])[:, None, None], torch.tensor(0.5))
    canvas = Canvas(View(image, view.camera, 1 / disparity), torch.ones(64, 96, dtype=torch.bool))
    redness = uncover(canvas, motion=0.5, seed=0).surroundings.image[0, 45:60].mean(0) - 0.5
    assert float(redness[0]) > 0.35
    assert 0.02 < float(redness[7]) < 0.3
    assert float(redness[12:84].abs().amax()) < 0.02
    assert float(redness[-1].abs()) < 0.02  # where it is not cut
