"""Camera paths by name: how a camera that starts at the input view moves through the scene.

Every path but around pivots at the world origin; all start at the input camera and keep its
intrinsics, but for the zooms, which are about them. Closed paths (orbit, around, roll, spiral,
lemniscate) are evenly spaced without a last frame that repeats the first, so that a video of them
loops.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import look_at

_MOVES = {
    "move-forward": (0.0, 0.0, -1.0),
    "move-backward": (0.0, 0.0, 1.0),
    "move-left": (-1.0, 0.0, 0.0),
    "move-right": (1.0, 0.0, 0.0),
    "move-up": (0.0, 1.0, 0.0),
    "move-down": (0.0, -1.0, 0.0),
}
"""Directions along the camera's own axes."""

TRAJECTORIES = (
    "orbit",
    "around",
    "spiral",
    "lemniscate",
    "zoom-in",
    "zoom-out",
    "dolly-zoom-in",
    "dolly-zoom-out",
    *_MOVES,
    "roll",
)
"""Names of the paths of `make_trajectory`."""


def make_trajectory(
    name: str,
    input_camera: Camera,
    frames: int,
    *,
    turns: float | int = 1.0,
    zoom_factor: float | int = 1.5,
    move_fraction: float | int = 0.3,
    sway_fraction: float | int = 0.2,
) -> Camera:
    """Return the cameras of a path that starts at the input camera.

    - orbit: about the vertical axis, azimuth growing; 360 degrees by default.
    - around: the camera stays near where it stands and turns about its own vertical axis, to the
      left, along a small circle that makes near things move against far ones.
    - spiral: winds outwards twice and back, looking at the origin from where it was in the image.
    - lemniscate: a figure of eight, looking likewise.
    - zoom-in, zoom-out: the field of view narrows or widens at a fixed pose.
    - dolly-zoom-in, dolly-zoom-out: the field of view narrows while the camera moves back, or
      widens while it moves ahead, so that things at the depth of the origin keep their size.
    - move-forward, -backward, -left, -right, -up, -down: along the camera's own axes.
    - roll: about the optical axis, the camera counter-clockwise.

    Args:
        name: One of `TRAJECTORIES`.
        input_camera: One camera, not a batch.
        frames: Number of cameras, >= 1.
        turns: Full circles of orbit, around and roll and rounds of spiral and lemniscate; negative
            goes the other way round. A path that does not close ends with its last camera.
        zoom_factor: Last focal length over the first, or the reverse when zooming out; > 0.
        move_fraction: Length of a move, in units of the distance from camera to origin.
        sway_fraction: Reach of spiral and lemniscate, in the same units; the circle of around is
            half as wide.

    Returns:
        A batch of `frames` cameras.

    Raises:
        InputError: The name is unknown, an amount is out of range, or the input camera is at
            the origin, or faces away from it where the path needs it ahead.
    """
    if input_camera.batch_shape:
        raise ValueError(f"a path starts at one camera, got a batch of {len(input_camera)}")
    _check(frames, zoom_factor, (turns, zoom_factor, move_fraction, sway_fraction))
    if name == "orbit":
        up = _tensor(input_camera, (0.0, 0.0, 1.0))
        turn = _turn_about(up, _angles_rad(input_camera, frames, turns))
        return input_camera.with_poses(turn @ input_camera.camera_to_world)
    if name == "around":
        up = _tensor(input_camera, (0.0, 0.0, 1.0))
        turn = _turn_about(up, _angles_rad(input_camera, frames, turns))[:, :3, :3]
        # The circle touches the input camera, and its centre lies behind it.
        radius = 0.25 * sway_fraction * _distance(input_camera)
        forward = -input_camera.camera_to_world[:3, 2] * _tensor(input_camera, (1.0, 1.0, 0.0))
        pose = input_camera.camera_to_world.repeat(frames, 1, 1)
        pose[:, :3, :3] = turn @ pose[:, :3, :3]
        pose[:, :3, 3] += radius * (turn @ forward - forward)
        return input_camera.with_poses(pose)
    if name == "roll":
        axis = _tensor(input_camera, (0.0, 0.0, 1.0))
        turn = _turn_about(axis, _angles_rad(input_camera, frames, turns))
        return input_camera.with_poses(input_camera.camera_to_world @ turn)
    if name in ("spiral", "lemniscate"):
        angle_rad = _angles_rad(input_camera, frames, turns)
        offset = _spiral(angle_rad, turns) if name == "spiral" else _lemniscate(angle_rad)
        return _sway(input_camera, sway_fraction * _distance(input_camera) * offset)
    along = _tensor(input_camera, tuple(k / max(frames - 1, 1) for k in range(frames)))
    if name in _MOVES:
        reach = move_fraction * _distance(input_camera) * _tensor(input_camera, _MOVES[name])
        return _moved(input_camera, along[:, None] * reach)
    if name in ("zoom-in", "dolly-zoom-in"):
        return _zoomed(input_camera, zoom_factor**along, dolly=name.startswith("dolly"))
    if name in ("zoom-out", "dolly-zoom-out"):
        return _zoomed(input_camera, zoom_factor**-along, dolly=name.startswith("dolly"))
    raise InputError(f"unknown camera path {name!r}; known paths: {', '.join(TRAJECTORIES)}")


def _check(frames: int, zoom_factor: float | int, amounts: tuple[float | int, ...]) -> None:
    """Refuse amounts that make no path."""
    if frames < 1:
        raise InputError(f"a camera path needs at least 1 frame, got {frames}")
    if not all(math.isfinite(amount) for amount in amounts):
        raise InputError(f"the amounts of a camera path must be finite numbers, got {amounts}")
    if zoom_factor <= 0:
        raise InputError(f"the zoom factor must be above 0, got {zoom_factor}")


def _angles_rad(camera: Camera, frames: int, turns: float | int) -> Float[Tensor, " frames"]:
    """Return evenly spaced angles from 0; full circles leave out the last, which is the first."""
    steps = frames if float(turns).is_integer() else max(frames - 1, 1)
    return _tensor(camera, tuple(2 * math.pi * turns * k / steps for k in range(frames)))


def _spiral(angle_rad: Float[Tensor, " frames"], turns: float | int) -> Float[Tensor, "frames 3"]:
    """Return offsets in camera axes that wind out to 1 and back within each round."""
    reach = torch.sin(0.5 * angle_rad)
    winding = 2.0 * angle_rad
    return torch.stack(
        [
            reach * torch.cos(winding),
            reach * torch.sin(winding),
            0.5 * math.copysign(1.0, turns) * torch.sin(angle_rad),
        ],
        dim=-1,
    )


def _lemniscate(angle_rad: Float[Tensor, " frames"]) -> Float[Tensor, "frames 3"]:
    """Return offsets in camera axes along Bernoulli's lemniscate of half width 1, from its node."""
    sin, cos = torch.sin(angle_rad), torch.cos(angle_rad)
    return torch.stack([sin, sin * cos, torch.zeros_like(sin)], dim=-1) / (1 + cos**2)[:, None]


def _sway(camera: Camera, offset: Float[Tensor, "frames 3"]) -> Camera:
    """Translate a camera by offsets in its own axes, rotated so that it keeps facing the origin."""
    position = camera.position + offset @ camera.camera_to_world[:3, :3].mT
    turn = look_at(position)[:, :3, :3] @ look_at(camera.position)[:3, :3].mT
    pose = camera.camera_to_world.repeat(len(offset), 1, 1)
    pose[:, :3, :3] = turn @ camera.camera_to_world[:3, :3]
    pose[:, :3, 3] = position
    return camera.with_poses(pose)


def _moved(camera: Camera, offset: Float[Tensor, "frames 3"]) -> Camera:
    """Move a camera by offsets in its own axes without turning it."""
    pose = camera.camera_to_world.repeat(len(offset), 1, 1)
    pose[:, :3, 3] += offset @ camera.camera_to_world[:3, :3].mT
    return camera.with_poses(pose)


def _zoomed(camera: Camera, zoom: Float[Tensor, " frames"], *, dolly: bool) -> Camera:
    """Multiply focal lengths, and with `dolly` the depth of the origin by the same factor."""
    offset = torch.zeros(len(zoom), 3, dtype=zoom.dtype, device=zoom.device)
    if dolly:
        depth_z = (camera.position * camera.camera_to_world[:3, 2]).sum()
        if depth_z <= 0:
            raise InputError("a dolly zoom needs the world origin ahead of the input camera")
        offset[:, 2] = depth_z * (zoom - 1)
    cameras = _moved(camera, offset)
    intrinsics_px = cameras.intrinsics_px.clone()
    intrinsics_px[:, [0, 1], [0, 1]] *= zoom[:, None]
    return Camera(cameras.camera_to_world, intrinsics_px, camera.image_size_px)


def _distance(camera: Camera) -> Float[Tensor, ""]:
    """Return the distance from the camera to the origin, which paths take as their unit."""
    distance = camera.position.norm()
    if distance == 0:
        raise InputError(
            "the input camera is at the world origin, where this path has no length; "
            "place it at the scene's distance first"
        )
    return distance


def _turn_about(axis: Float[Tensor, "3"], angle_rad: Float[Tensor, " n"]) -> Float[Tensor, "n 4 4"]:
    """Return rotations about an axis through the origin, counter-clockwise seen from its tip."""
    x, y, z = axis.unbind()
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    sin, cos = torch.sin(angle_rad)[:, None, None], torch.cos(angle_rad)[:, None, None]
    turn = torch.eye(4, dtype=axis.dtype, device=axis.device).repeat(len(angle_rad), 1, 1)
    turn[:, :3, :3] += sin * cross + (1 - cos) * (cross @ cross)
    return turn


def _tensor(camera: Camera, values: tuple[float, ...]) -> Float[Tensor, " n"]:
    """Return numbers as a tensor with the type and device of a camera."""
    pose = camera.camera_to_world
    return torch.tensor(values, dtype=pose.dtype, device=pose.device)
