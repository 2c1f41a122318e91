"""A pinhole camera as a frozen value.

Axes are OpenGL's: x right, y up, looking along -z; poses are camera-to-world. Pixel (0, 0) is the
top-left pixel and its centre lies at (0.5, 0.5); pixel rows run down. All other conventions are
converted in `zeronvs.cameras.conventions` and nowhere else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.random import sent


@dataclass(frozen=True, eq=False)
class Camera:
    """One pinhole camera, or a batch of them with any leading axes; all share one image size."""

    camera_to_world: Float[Tensor, "*batch 4 4"]
    """OpenGL camera-to-world poses, scene units."""
    intrinsics_px: Float[Tensor, "*batch 3 3"]
    """[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels, rows running down."""
    image_size_px: tuple[int, int]
    """(height, width)."""

    def __post_init__(self) -> None:
        """Refuse tensors that do not make a camera together.

        Raises:
            ValueError: Shapes, devices or dtypes differ, or the image size is not positive.
        """
        pose, matrix = self.camera_to_world, self.intrinsics_px
        if pose.shape[-2:] != (4, 4) or matrix.shape != (*pose.shape[:-2], 3, 3):
            raise ValueError(
                f"a camera needs poses (*batch, 4, 4) and intrinsics (*batch, 3, 3) with the same "
                f"leading axes, got {tuple(pose.shape)} and {tuple(matrix.shape)}"
            )
        if pose.device != matrix.device or pose.dtype != matrix.dtype:
            raise ValueError(
                "the poses and intrinsics of a camera must share device and dtype, got "
                f"{pose.device} {pose.dtype} and {matrix.device} {matrix.dtype}; use Camera.to"
            )
        if min(self.image_size_px) < 1:
            raise ValueError(f"image_size_px is {self.image_size_px}; both sides must be positive")

    @classmethod
    def from_fov(
        cls,
        camera_to_world: Float[Tensor, "*batch 4 4"],
        fov_y_rad: float | int | Float[Tensor, "*#batch"],
        image_size_px: tuple[int, int],
    ) -> "Camera":
        """Make a camera with square pixels and a centred principal point.

        Args:
            fov_y_rad: Vertical field of view in radians, in (0, pi).
        """
        height_px, width_px = image_size_px
        fov_y_rad = torch.as_tensor(
            fov_y_rad, dtype=camera_to_world.dtype, device=camera_to_world.device
        )
        focal_px = (0.5 * height_px / torch.tan(0.5 * fov_y_rad)).expand(camera_to_world.shape[:-2])
        middle_px = focal_px.new_tensor([0.5 * width_px, 0.5 * height_px])
        intrinsics_px = intrinsics_matrix(torch.stack([focal_px, focal_px], dim=-1), middle_px)
        return cls(camera_to_world, intrinsics_px, image_size_px)

    @property
    def fov_y_rad(self) -> Float[Tensor, "*batch"]:
        """Vertical field of view in radians, of a centred principal point."""
        return 2.0 * torch.atan2(
            torch.full_like(self.intrinsics_px[..., 1, 1], 0.5 * self.image_size_px[0]),
            self.intrinsics_px[..., 1, 1],
        )

    @property
    def position(self) -> Float[Tensor, "*batch 3"]:
        """Optical centres in world coordinates."""
        return self.camera_to_world[..., :3, 3]

    @property
    def batch_shape(self) -> torch.Size:
        """The leading axes."""
        return self.camera_to_world.shape[:-2]

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.camera_to_world.device

    @property
    def elevation_rad(self) -> Float[Tensor, "*batch"]:
        """Angle of the optical centre above the horizontal plane through the world's origin."""
        return torch.atan2(self.position[..., 2], self.position[..., :2].norm(dim=-1))

    def with_poses(self, camera_to_world: Float[Tensor, "*poses 4 4"]) -> "Camera":
        """Return cameras with these intrinsics at other poses; one camera may get many poses."""
        batch = camera_to_world.shape[:-2]
        return Camera(
            camera_to_world, self.intrinsics_px.expand(*batch, 3, 3).clone(), self.image_size_px
        )

    def with_intrinsics(self, intrinsics_px: Float[Tensor, "*batch 3 3"]) -> "Camera":
        """Return the cameras with other intrinsics, for images of the same size."""
        return replace(self, intrinsics_px=intrinsics_px)

    def batched(self) -> "Camera":
        """Return the cameras along one leading axis; a single camera becomes a batch of one."""
        return Camera(
            self.camera_to_world.reshape(-1, 4, 4),
            self.intrinsics_px.reshape(-1, 3, 3),
            self.image_size_px,
        )

    def center_square(self) -> "Camera":
        """Return the camera of the central square of this camera's image."""
        height_px, width_px = self.image_size_px
        rows, columns = center_window(height_px, width_px)
        side_px = min(height_px, width_px)
        return self.cropped(rows.start, columns.start, side_px, side_px)

    def cropped(
        self, top_px: float | int, left_px: float | int, height_px: int, width_px: int
    ) -> "Camera":
        """Return the camera of the window that starts at (top, left) of this camera's image."""
        intrinsics_px = self.intrinsics_px.clone()
        intrinsics_px[..., 0, 2] -= left_px
        intrinsics_px[..., 1, 2] -= top_px
        return replace(self, intrinsics_px=intrinsics_px, image_size_px=(height_px, width_px))

    def with_longer_side(self, side_px: int) -> "Camera":
        """Return the camera at another image size of (nearly) the same shape."""
        height_px, width_px = self.image_size_px
        factor = side_px / max(height_px, width_px)
        return self.resized(max(1, round(height_px * factor)), max(1, round(width_px * factor)))

    def resized(self, height_px: int, width_px: int) -> "Camera":
        """Return the camera of this camera's image resized to (height, width)."""
        intrinsics_px = self.intrinsics_px.clone()
        intrinsics_px[..., 0, :] *= width_px / self.image_size_px[1]
        intrinsics_px[..., 1, :] *= height_px / self.image_size_px[0]
        return replace(self, intrinsics_px=intrinsics_px, image_size_px=(height_px, width_px))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Camera":
        """Return the same camera with its tensors on another device or of another type."""
        return replace(
            self,
            camera_to_world=_moved(self.camera_to_world, device, dtype),
            intrinsics_px=_moved(self.intrinsics_px, device, dtype),
        )

    def __getitem__(self, index: "int | slice | Tensor | list[int]") -> "Camera":
        """Index the first leading axis."""
        return replace(
            self,
            camera_to_world=self.camera_to_world[index],
            intrinsics_px=self.intrinsics_px[index],
        )

    def __len__(self) -> int:
        """Size of the first leading axis."""
        if not self.batch_shape:
            raise TypeError("a single camera has no length; index a batch of cameras")
        return self.batch_shape[0]

    @staticmethod
    def stack(cameras: "Sequence[Camera]") -> "Camera":
        """Stack cameras of one image size along a new first axis.

        Raises:
            ValueError: There are none, or their image sizes differ.
        """
        return _joined(torch.stack, cameras)

    @staticmethod
    def cat(cameras: "Sequence[Camera]") -> "Camera":
        """Concatenate batches of cameras of one image size along the first axis.

        Raises:
            ValueError: There are none, or their image sizes differ.
        """
        return _joined(torch.cat, cameras)


def _joined(join: Callable[..., Tensor], cameras: Sequence[Camera]) -> Camera:
    sizes = {camera.image_size_px for camera in cameras}
    if len(sizes) != 1:
        raise ValueError(f"cameras must share one image size to be joined, got {sorted(sizes)}")
    return Camera(
        join([camera.camera_to_world for camera in cameras]),
        join([camera.intrinsics_px for camera in cameras]),
        sizes.pop(),
    )


def intrinsics_matrix(
    focal_px: Float[Tensor, "*batch 2"], principal_px: Float[Tensor, "*#batch 2"]
) -> Float[Tensor, "*batch 3 3"]:
    """Return [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] for (fx, fy) and (cx, cy), pixels."""
    matrix = torch.diag_embed(torch.cat([focal_px, torch.ones_like(focal_px[..., :1])], dim=-1))
    matrix[..., :2, 2] = principal_px
    return matrix


def center_window(height_px: int, width_px: int) -> tuple[slice, slice]:
    """Return rows and columns of the central square; an odd margin is larger at the end."""
    side_px = min(height_px, width_px)
    top_px, left_px = (height_px - side_px) // 2, (width_px - side_px) // 2
    return slice(top_px, top_px + side_px), slice(left_px, left_px + side_px)


def _moved(matrix: Tensor, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    matrix = matrix if dtype is None else matrix.to(dtype)
    return matrix if device is None else sent(matrix, device)
