"""Conversion from other camera conventions; the only module that handles them.

    ours            camera-to-world; x right, y up, z backward (OpenGL); pixels, rows running down
    OpenCV          x right, y down, z forward
    COLMAP          world-to-camera quaternion (w, x, y, z) and translation; OpenCV axes
    RealEstate10K   world-to-camera 3x4; OpenCV axes; intrinsics divided by the image size
    PyTorch3D       world-to-camera for row vectors; x left, y up, z forward; NDC intrinsics
    DTU             3x4 projections of a world with y down, in millimetres

In every convention the image plane is continuous and the centre of the first pixel lies at
(0.5, 0.5) of the pixel grid, so nothing is shifted. World axes are kept, but for DTU and for
exports, which turn the world as a whole (`world_axes`).
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera, intrinsics_matrix
from zeronvs.cameras.poses import invert_pose

PyTorch3dNdc = Literal["short_side", "image_bounds"]
"""Range of NDC: +-1 at the short side of the image (PyTorch3D), or at every side (CO3D's files)."""
WorldUp = Literal["y-down", "y-up", "z-up"]
"""World axes of exported files, named by where the vertical axis points."""

LARGEST_NUMBER = 1e9
"""Larger entries of a pose are damage."""


def check_rigid(pose: Float[Tensor, "rows 4"], *, tolerance: float = 1e-2, where: str = "") -> None:
    """Refuse a pose that is not a rotation and a translation.

    Args:
        pose: Camera-to-world or world-to-camera, 3x4 or 4x4.
        tolerance: Entries of R^T R may differ from the identity by this much.

    Raises:
        InputError: It is not finite or very large, or scaled, sheared or mirrored.
    """
    if not bool((pose[:3].abs() < LARGEST_NUMBER).all()):
        raise InputError(f"{where}the pose is not finite, or larger than any scene")
    rotation = pose[:3, :3].double()
    gram = rotation.mT @ rotation
    off = float((gram - torch.eye(3, dtype=torch.float64)).abs().max())
    determinant = float(torch.linalg.det(rotation))
    if off <= tolerance and determinant > 0:
        return
    # R^T R of a scaled rotation is a multiple of the identity: name the scale.
    scale = abs(determinant) ** (1 / 3)
    scaled = float((gram / max(scale, 1e-12) ** 2 - torch.eye(3).double()).abs().max()) < tolerance
    reason = f"; its axes are scaled by {scale:.3g}: remove the scale" if scaled else ""
    raise InputError(
        f"{where}the pose is not rigid (a rotation and a translation): off by {off:.2g}, "
        f"determinant {determinant:.2g}{reason}"
    )


def opengl_from_opencv(camera_to_world: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Turn camera-to-world poses with OpenCV axes into ours."""
    return camera_to_world * _like(camera_to_world, (1.0, -1.0, -1.0, 1.0))


def world_axes(up: WorldUp) -> Float[Tensor, "3 3"]:
    """Return the rotation from our world (z up) to the world of a file; x stays x.

    "y-down" is the world of COLMAP captures, which splat files share; "y-up" that of glTF.
    """
    rows = {
        "y-down": [[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]],
        "y-up": [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]],
        "z-up": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    }
    return torch.tensor(rows[up])


def opencv_world_to_camera(
    camera_to_world: Float[Tensor, "*batch 4 4"],
) -> Float[Tensor, "*batch 4 4"]:
    """Turn our poses into world-to-camera with OpenCV axes: COLMAP's and RealEstate10K's."""
    return invert_pose(opengl_from_opencv(camera_to_world))


def opengl_from_colmap(
    qvec: Float[Tensor, "*batch 4"], tvec: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """Turn COLMAP's image poses into ours.

    Args:
        qvec: World-to-camera rotation as a quaternion (w, x, y, z), of any length but zero.
        tvec: World-to-camera translation, scene units.
    """
    world_to_camera = _homogeneous(torch.cat([rotation_matrix(qvec), tvec[..., None]], dim=-1))
    return opengl_from_opencv(invert_pose(world_to_camera))


def camera_from_re10k(
    intrinsics_normalized: Float[Tensor, "*batch 4"],
    world_to_camera: Float[Tensor, "*batch 3 4"],
    image_size_px: tuple[int, int],
) -> Camera:
    """Turn the cameras of RealEstate10K (and ACID) into ours.

    Args:
        intrinsics_normalized: fx, fy, cx, cy; those of x in units of the image's width, those of y
            of its height.
        world_to_camera: Poses with OpenCV axes.
        image_size_px: (height, width) of the images, which the files lack.
    """
    size_px = _like(intrinsics_normalized, (image_size_px[1], image_size_px[0]))
    focal_px = intrinsics_normalized[..., :2] * size_px
    centre_px = intrinsics_normalized[..., 2:] * size_px
    pose = opengl_from_opencv(invert_pose(_homogeneous(world_to_camera)))
    return Camera(pose, intrinsics_matrix(focal_px, centre_px), image_size_px)


def camera_from_pytorch3d(
    rotation: Float[Tensor, "*batch 3 3"],
    translation: Float[Tensor, "*batch 3"],
    focal_ndc: Float[Tensor, "*batch 2"],
    principal_point_ndc: Float[Tensor, "*batch 2"],
    image_size_px: tuple[int, int],
    *,
    ndc: PyTorch3dNdc = "short_side",
) -> Camera:
    """Turn PyTorch3D's perspective cameras (`R`, `T`, NDC intrinsics) into ours.

    Args:
        rotation: `R`; a world point x, as a row, is x R + T in the camera.
        translation: `T`, scene units.
        principal_point_ndc: (x, y); +x is left and +y up, 0 the middle of the image.
        ndc: What +-1 means: "short_side" is PyTorch3D's own, "image_bounds" that of CO3D's files.
    """
    world_to_camera = _homogeneous(torch.cat([rotation.mT, translation[..., None]], dim=-1))
    # PyTorch3D's x and z point against ours.
    pose = invert_pose(world_to_camera) * _like(rotation, (-1.0, 1.0, -1.0, 1.0))
    middle_px, unit_px = _ndc_grid(focal_ndc, image_size_px, ndc)
    centre_px = middle_px - principal_point_ndc * unit_px
    return Camera(pose, intrinsics_matrix(focal_ndc * unit_px, centre_px), image_size_px)


def camera_from_projection(
    projection: Float[Tensor, "*batch 3 4"], image_size_px: tuple[int, int]
) -> Camera:
    """Decompose projection matrices K [R | t] with OpenCV axes (RQ decomposition).

    Args:
        projection: World to homogeneous pixels, of any scale and sign. Use float64.

    Returns:
        Our cameras. Skew is dropped: `Camera` has none.
    """
    left = projection[..., :3]
    # With F reversing the order of rows: (F M)^T = Q R gives M = (F R^T F) (F Q^T), upper
    # triangular times orthogonal.
    q, r = torch.linalg.qr(left.flip(-2).mT)
    intrinsics_px, rotation = r.mT.flip(-2).flip(-1), q.mT.flip(-2)
    # The factors are unique up to signs: choose a positive diagonal of K.
    signs = torch.sign(intrinsics_px.diagonal(dim1=-2, dim2=-1))
    intrinsics_px, rotation = intrinsics_px * signs[..., None, :], signs[..., None] * rotation
    # The projection has an arbitrary sign: choose the one that makes R a rotation.
    rotation = rotation * torch.sign(torch.linalg.det(rotation))[..., None, None]
    # The camera centre c is the null space of the projection: M c + p = 0.
    position = -torch.linalg.solve(left, projection[..., 3:])
    intrinsics_px = intrinsics_px / intrinsics_px[..., 2:, 2:]
    pose = opengl_from_opencv(_homogeneous(torch.cat([rotation.mT, position], dim=-1)))
    focal_px, centre_px = intrinsics_px[..., [0, 1], [0, 1]], intrinsics_px[..., :2, 2]
    return Camera(pose, intrinsics_matrix(focal_px, centre_px), image_size_px)


def camera_from_dtu(
    world_mat: Float[Tensor, "*batch 4 4"],
    scale_mat: Float[Tensor, "*batch 4 4"],
    image_size_px: tuple[int, int],
) -> Camera:
    """Turn the cameras of DTU's `cameras.npz` into ours, as pixelNeRF and the published code do.

    Args:
        world_mat: World (y down, z forward) to homogeneous pixels. Use float64.
        scale_mat: Normalised coordinates to that world: a scale and a shift.

    Returns:
        Cameras in normalised scene units; the world is turned to y up, z backward.
    """
    camera = camera_from_projection((world_mat @ scale_mat)[..., :3, :], image_size_px)
    turned = camera.camera_to_world * _like(world_mat, (1.0, -1.0, -1.0, 1.0))[:, None]
    return camera.with_poses(turned)


def rotation_matrix(quaternion: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the rotations of quaternions (w, x, y, z) of any length but zero."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    entries = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def quaternion(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Return the unit quaternions (w, x, y, z) of rotations, with w >= 0.

    The rows of the outer product q q^T are built from the matrix; the one with the largest
    diagonal is the most accurate multiple of q.
    """
    # Entries of the rotation, row by row.
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in rotation.unbind(-2))
    # 4 q q^T: its diagonal is 4 w^2, 4 x^2, 4 y^2, 4 z^2, from 1 +- a +- e +- i; the off-diagonal
    # entries are 4 wx = h - f, 4 xy = b + d, and so on.
    outer = torch.stack(
        [
            torch.stack([1 + a + e + i, h - f, c - g, d - b], dim=-1),
            torch.stack([h - f, 1 + a - e - i, b + d, c + g], dim=-1),
            torch.stack([c - g, b + d, 1 - a + e - i, f + h], dim=-1),
            torch.stack([d - b, c + g, f + h, 1 - a - e + i], dim=-1),
        ],
        dim=-2,
    )
    # Each row is a multiple of q; the one with the largest diagonal has not cancelled.
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)[..., None, None]
    chosen = outer.take_along_dim(best, dim=-2)[..., 0, :]
    # q and -q are the same rotation: take the one with w >= 0.
    chosen = chosen / chosen.norm(dim=-1, keepdim=True)
    return torch.where(chosen[..., :1] < 0, -chosen, chosen)


def _ndc_grid(
    like: Float[Tensor, "*batch 2"], image_size_px: tuple[int, int], ndc: PyTorch3dNdc
) -> tuple[
    Float[Tensor, "2"],  # middle of the image (u, v), pixels
    Float[Tensor, "2"],  # pixels per NDC unit along u and v
]:
    """Return where NDC's zero and one lie in the image."""
    half_px = _like(like, (0.5 * image_size_px[1], 0.5 * image_size_px[0]))
    return half_px, half_px if ndc == "image_bounds" else half_px.min().expand(2)


def _like(other: Tensor, values: tuple[float | int, ...]) -> Float[Tensor, " n"]:
    """Return numbers as a tensor with the type and device of another."""
    return torch.tensor(values, dtype=other.dtype, device=other.device)


def _homogeneous(top: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Append the row 0 0 0 1."""
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=top.dtype, device=top.device)
    return torch.cat([top, bottom.expand(*top.shape[:-2], 1, 4)], dim=-2)
