"""Camera poses as pure functions: making them, inverting them, comparing them.

Every pose is an OpenGL camera-to-world matrix: its columns are the camera's right, up and backward
axes and its position, in world coordinates. World z is up.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_PARALLEL = 1e-6
"""Below this sine the viewing direction counts as parallel to the up vector."""


def look_at(
    position: Float[Tensor, "*batch 3"],
    target: Float[Tensor, "*#batch 3"] | None = None,
    up: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> Float[Tensor, "*batch 4 4"]:
    """Return the poses of upright cameras at `position` facing `target`.

    Args:
        position: Optical centres, scene units.
        target: Points on the optical axes; the world origin where None.
        up: World direction that points up in the image. Where a camera looks along it, a fixed
            horizontal axis takes its place, so that the pose is always a rotation.

    Raises:
        ValueError: A camera's position equals its target.
    """
    target = torch.zeros_like(position) if target is None else target
    backward = position - target
    distance = backward.norm(dim=-1, keepdim=True)
    if bool((distance == 0).any()):
        raise ValueError("the position of a camera equals its target; move one of them")
    backward = backward / distance
    up_axis = torch.tensor(up, dtype=position.dtype, device=position.device)
    up_axis = up_axis / up_axis.norm()
    right = torch.linalg.cross(up_axis.expand_as(backward), backward)
    spare_axis = torch.zeros_like(up_axis)
    spare_axis[up_axis.abs().argmin()] = 1.0
    spare_up = -torch.sign((backward * up_axis).sum(-1, keepdim=True)) * spare_axis
    spare_right = torch.linalg.cross(spare_up, backward)
    right = torch.where(right.norm(dim=-1, keepdim=True) > _PARALLEL, right, spare_right)
    right = right / right.norm(dim=-1, keepdim=True)
    return _pose_from_axes(right, torch.linalg.cross(backward, right), backward, position)


def orbit_pose(
    azimuth_rad: Float[Tensor, "*batch"],
    elevation_rad: Float[Tensor, "*batch"],
    distance: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch 4 4"]:
    """Return the poses of cameras on spheres about the world origin, facing it.

    The position is distance * (cos e cos a, cos e sin a, sin e), as threestudio and the published
    code have it. The pose is smooth everywhere, the poles included.

    Args:
        azimuth_rad: Counter-clockwise seen from above, radians; 0 lies on +x.
        elevation_rad: Above the horizontal plane, radians.
        distance: From the origin, scene units.
    """
    sin_a, cos_a = torch.sin(azimuth_rad), torch.cos(azimuth_rad)
    sin_e, cos_e = torch.sin(elevation_rad), torch.cos(elevation_rad)
    right = torch.stack([-sin_a, cos_a, torch.zeros_like(sin_a)], dim=-1)
    up = torch.stack([-sin_e * cos_a, -sin_e * sin_a, cos_e], dim=-1)
    backward = torch.stack([cos_e * cos_a, cos_e * sin_a, sin_e], dim=-1)
    return _pose_from_axes(right, up, backward, distance[..., None] * backward)


def invert_pose(pose: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Return the inverse: world-to-camera of a camera-to-world pose, and back."""
    return torch.linalg.inv(pose)


def relative_pose(
    target_to_world: Float[Tensor, "*#batch 4 4"], input_to_world: Float[Tensor, "*#batch 4 4"]
) -> Float[Tensor, "*batch 4 4"]:
    """Return the target camera in the input camera's frame (target_to_input), E_i^-1 E_j in §3.2.

    It does not change when the whole scene is moved rigidly.
    """
    # Unlike `inv`, `inv_ex` does not wait for a GPU to report singular matrices, which no pose is.
    return torch.linalg.inv_ex(input_to_world).inverse @ target_to_world


def rotation_angle_rad(
    a: Float[Tensor, "*#batch 4 4"], b: Float[Tensor, "*#batch 4 4"]
) -> Float[Tensor, "*batch"]:
    """Return the angle of the rotation between two poses, radians in [0, pi] (geodesic distance).

    Accurate at both ends, unlike the arc cosine of the trace.
    """
    between = a[..., :3, :3].mT @ b[..., :3, :3]
    twice_sine = torch.stack(
        [
            between[..., 2, 1] - between[..., 1, 2],
            between[..., 0, 2] - between[..., 2, 0],
            between[..., 1, 0] - between[..., 0, 1],
        ],
        dim=-1,
    ).norm(dim=-1)
    twice_cosine = between.diagonal(dim1=-2, dim2=-1).sum(-1) - 1.0
    return torch.atan2(twice_sine, twice_cosine)


def _pose_from_axes(
    right: Float[Tensor, "*batch 3"],
    up: Float[Tensor, "*batch 3"],
    backward: Float[Tensor, "*batch 3"],
    position: Float[Tensor, "*batch 3"],
) -> Float[Tensor, "*batch 4 4"]:
    """Put the axes and the position of cameras into matrices."""
    top = torch.stack([right, up, backward, position], dim=-1)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=top.dtype, device=top.device)
    return torch.cat([top, bottom.expand(*top.shape[:-2], 1, 4)], dim=-2)
