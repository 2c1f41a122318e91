"""Encoded training examples made of photographs without cameras.

A photograph is warped away to a random camera along its predicted depth; the warped view is the
input, the photograph the target (AdaMPI, arXiv:2205.11733), so that the warp back has the holes and
the errors of a real one.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from zeronvs._core.errors import InputError
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.embedding import Representation, embed_cameras
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import fill_holes, forward_warp, warp_view
from zeronvs.diffusion.condition import clip_pixels
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.protocols import GeometryEstimator
from zeronvs.training.pack import photographs_in
from zeronvs.training.pair_sources import FOV_RANGE_RAD

LONGEST = 1.5
"""Photographs are stored up to this width, over their height."""
SMALLEST_CROP = 0.7
"""Side of the smallest crop, over the height of a stored photograph."""
FAR_END = (0.1, 0.6)
"""Relative disparity has no zero: that of the farthest pixel, over the nearest's, log-uniform."""
KNOWN_SHARES = (0.12, 0.985)
"""Warps that know less, or more, teach little and are left out."""
PLAIN_PER_WARP = 8
"""Photographs behind the mask and camera of one warped photograph: exact pixels, cheap to make."""
ENCODED_AT_ONCE = 16
"""Images; more only take more memory."""
HELD_OUT = 64
"""Photographs that are validated on and not trained on."""


@dataclass(frozen=True)
class Photographs:
    """Photographs of one height, landscape format, in memory."""

    image: UInt8[Tensor, "n 3 h w"]
    width_px: Int[Tensor, " n"]
    """Columns in use."""
    is_tall: Bool[Tensor, " n"]
    """Whether rows and columns are exchanged."""

    def __len__(self) -> int:
        return len(self.width_px)

    def __getitem__(self, index: slice) -> "Photographs":
        return Photographs(self.image[index], self.width_px[index], self.is_tall[index])

    def to(self, device: torch.device) -> "Photographs":
        """Return the photographs on `device`."""
        return Photographs(*(getattr(self, f.name).to(device) for f in fields(self)))


def read_photographs(folder: Path, height_px: int, progress: Progress = silent) -> Photographs:
    """Read `photos/*/NAME.jpg` (or .png, .webp, .avif) below a folder, in a mixed order.

    Args:
        folder: The folder of data.
        height_px: Rows of every photograph, columns of those in portrait format.
        progress: Called after every photograph.

    Raises:
        InputError: There are too few, or one cannot be read.
    """
    folders = sorted(path for path in folder.glob("photos/*") if path.is_dir())
    paths = [path for each in folders for path in photographs_in(each)]
    if len(paths) <= HELD_OUT:
        raise InputError(
            f"{folder} has {len(paths)} photographs (photos/*/NAME.jpg, .png, .webp or .avif); "
            f"more than {HELD_OUT} are needed"
        )
    # Folders are sorted by source: held-out photographs should come from all.
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0)).tolist()
    rows = []
    with ThreadPoolExecutor() as pool:
        for row in pool.map(lambda index: _read(paths[index], height_px), order):
            rows.append(row)
            progress(ProgressEvent("read photographs", len(rows), len(paths)))
    image, width_px, is_tall = zip(*rows, strict=True)
    return Photographs(torch.stack(image), torch.tensor(width_px), torch.tensor(is_tall))


def _read(path: Path, height_px: int) -> tuple[UInt8[Tensor, "3 h w"], int, bool]:
    try:
        with Image.open(path) as opened:
            image = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    is_tall = image.shape[-2] > image.shape[-1]
    image = image.transpose(-1, -2) if is_tall else image
    width_px = max(height_px, round(image.shape[-1] * height_px / image.shape[-2]))
    resized = F.interpolate(
        image[None].float(), (height_px, width_px), mode="bicubic", antialias=True
    )[0]
    stored = torch.zeros(3, height_px, round(LONGEST * height_px), dtype=torch.uint8)
    width_px = min(width_px, stored.shape[-1])
    stored[..., :width_px] = resized[..., :width_px].round().clamp(0, 255).to(torch.uint8)
    return stored, width_px, is_tall


@dataclass(frozen=True, eq=False)
class LatentExamples:
    """Examples as the denoiser takes them; latents are not multiplied by the scaling factor."""

    target: Float[Tensor, "n c h w"]
    input: Float[Tensor, "n c h w"]
    warped: Float[Tensor, "n c h w"]
    mask: UInt8[Tensor, "n m h w"]
    """Validity of the warp, folded to cells."""
    clip: Float[Tensor, "n 3 s s"]
    """Input views as the image encoder takes them."""
    camera: Float[Tensor, "n e"]
    """Camera embeddings."""

    def __len__(self) -> int:
        return len(self.camera)

    def __getitem__(self, index: Tensor | slice) -> "LatentExamples":
        return self.map(lambda value: value[index])

    def map(self, change: Callable[[Tensor], Tensor]) -> "LatentExamples":
        """Return the examples with every tensor changed."""
        return LatentExamples(*(change(getattr(self, field.name)) for field in fields(self)))

    def to(self, device: torch.device | str) -> "LatentExamples":
        """Return the examples with their tensors on `device`."""
        return self.map(lambda value: value.to(device))

    def half(self) -> "LatentExamples":
        """Return the examples with latents and pixels in half the memory."""
        return self.map(
            lambda value: (
                value.bfloat16() if value.is_floating_point() and value.ndim > 2 else value
            )
        )

    @staticmethod
    def cat(parts: Sequence["LatentExamples"]) -> "LatentExamples":
        """Return one batch of all."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return LatentExamples(*(torch.cat(column) for column in columns))


class PhotographWarps:
    """Makes examples of photographs: crop, depth, camera, warp away, warp back, encode."""

    def __init__(
        self, photos: Photographs, pipe: ZeroNVSPipeline, geometry: GeometryEstimator
    ) -> None:
        """Keep everything on the device of the photographs.

        Args:
            photos: Photographs as high as the model's images.
            pipe: Its autoencoder, its image encoder's size and its representation are used.
            geometry: Predicts depth.
        """
        self.photos, self.pipe, self.geometry = photos, pipe, geometry
        self.device, self.size_px = photos.image.device, pipe.image_size_px
        self.representation = Representation(pipe.cc_projection.config["representation"])

    @torch.no_grad()
    def draw(
        self, count: int, generator: torch.Generator, *, plain_per_warp: int = PLAIN_PER_WARP
    ) -> LatentExamples:
        """Draw some warped photographs, then `plain_per_warp` times as many plain ones.

        Args:
            count: Warped photographs.
            generator: On the device of the photographs.
            plain_per_warp: Photographs behind the mask and camera of each warped one.
        """
        image, side = self._crops(count, generator)
        disparity = 1.0 / self.geometry.estimate(image).depth_z
        low, high = disparity.amin((1, 2), keepdim=True), disparity.amax((1, 2), keepdim=True)
        far = math.log(FAR_END[1] / FAR_END[0]) * self._uniform(generator, count)
        far = (math.log(FAR_END[0]) + far).exp()[:, None, None]
        depth_z = 1.0 / (far + (1 - far) * (disparity - low) / (high - low + 1e-6))
        narrow, wide = FOV_RANGE_RAD
        fov_rad = (narrow + (wide - narrow) * self._uniform(generator, count)) * side
        home = torch.eye(4, device=self.device).expand(count, 4, 4)
        target = Camera.from_fov(home, fov_rad, (self.size_px, self.size_px))
        away = self._away(depth_z.flatten(1).median(1).values, fov_rad, generator)
        camera = Camera(away, target.intrinsics_px, target.image_size_px)
        source, _ = warp_view(View(image, target, depth_z), camera)
        assert source.depth_z is not None
        warped, known = forward_warp(source, target)
        share = known.mean((1, 2, 3))
        usable = torch.nonzero((share > KNOWN_SHARES[0]) & (share < KNOWN_SHARES[1]))[:, 0]
        if len(usable) == 0:
            usable = torch.arange(count, device=self.device)
        seen_z = torch.where(source.depth_z > 0, source.depth_z, torch.nan).flatten(1)
        # At most some 4,000 values: torch.nanquantile is slow.
        scale = seen_z[:, :: max(1, seen_z.shape[1] // 4096)].nanquantile(0.2, dim=1)
        embedding = embed_cameras(
            self.representation,
            target.camera_to_world,
            away,
            target.fov_y_rad,
            scale.nan_to_num(1.0),
        ).float()
        # As many as wanted, whatever was left out.
        rows = usable[torch.arange(count, device=self.device) % len(usable)]
        warps = self._encoded(image, source.image, warped, known, embedding)[rows]
        parts = [warps.half()]
        for _ in range(plain_per_warp):
            image, _ = self._crops(count, generator)
            hidden = image * known[rows]
            parts.append(self._encoded(image, None, hidden, known[rows], embedding[rows]).half())
        return LatentExamples.cat(parts)

    def _encoded(
        self,
        image: Float[Tensor, "n 3 h w"],
        source: Float[Tensor, "n 3 h w"] | None,
        warped: Float[Tensor, "n 3 h w"],
        known: Float[Tensor, "n 1 h w"],
        camera: Float[Tensor, "n e"],
    ) -> LatentExamples:
        """Encode examples; without a source, what is known of the image is the input."""
        filled = fill_holes(warped * known, known)
        images = [image, filled] if source is None else [image, filled, source]
        latents = [self._latent(each) for each in images]
        clip_px: Any = self.pipe.image_encoder.config.image_size
        return LatentExamples(
            target=latents[0],
            input=latents[-1],
            warped=latents[1],
            mask=F.pixel_unshuffle(known, self.size_px // latents[0].shape[-1]).to(torch.uint8),
            clip=clip_pixels(images[-1], clip_px),
            camera=camera,
        )

    def _latent(self, image: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        kind = self.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            parts = [self.pipe.to_latent(part) for part in image.split(ENCODED_AT_ONCE)]
        return torch.cat(parts) / self.pipe.vae.config["scaling_factor"]

    def _uniform(self, generator: torch.Generator, count: int) -> Float[Tensor, " n"]:
        return torch.rand(count, generator=generator, device=self.device)

    def _crops(
        self, count: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n 3 s s"], Float[Tensor, " n"]]:
        """Draw squares of photographs, half of them mirrored, and their sides over the height."""
        photos = self.photos
        height_px, width_px = photos.image.shape[-2:]
        index = (self._uniform(generator, count) * len(photos)).long().clamp_max(len(photos) - 1)
        # Large crops are more likely: they are sharper.
        side = 1 - (1 - SMALLEST_CROP) * self._uniform(generator, count) ** 1.5
        left = self._uniform(generator, count) * (photos.width_px[index] - side * height_px)
        top = self._uniform(generator, count) * (1 - side) * height_px
        share = (torch.arange(self.size_px, device=self.device) + 0.5) / self.size_px
        u_px = left[:, None] + side[:, None] * height_px * share
        v_px = top[:, None] + side[:, None] * height_px * share
        mirrored = self._uniform(generator, count) < 0.5
        u_px = torch.where(mirrored[:, None], u_px.flip(1), u_px)
        shape = (count, self.size_px, self.size_px)
        grid = torch.stack(
            [
                (u_px / width_px * 2 - 1)[:, None, :].expand(shape),
                (v_px / height_px * 2 - 1)[:, :, None].expand(shape),
            ],
            dim=-1,
        )
        image = F.grid_sample(
            photos.image[index].float() / 255,
            grid,
            mode="bicubic",
            padding_mode="border",
            align_corners=False,
        ).clamp(0, 1)
        tall = photos.is_tall[index][:, None, None, None]
        return torch.where(tall, image.transpose(-1, -2), image), side

    def _away(
        self,
        middle_z: Float[Tensor, " n"],
        fov_rad: Float[Tensor, " n"],
        generator: torch.Generator,
    ) -> Float[Tensor, "n 4 4"]:
        """Draw cameras to warp to: orbits with a step, turns on the spot, and some of both."""
        count = len(middle_z)
        kind = self._uniform(generator, count)
        orbits, turns = (kind < 0.62).float(), (kind > 0.48).float()

        def symmetric() -> Tensor:
            return 2 * self._uniform(generator, count) - 1

        yaw, pitch = 0.65 * symmetric() * orbits, 0.25 * symmetric() * orbits
        still = torch.zeros_like(yaw)
        pose = torch.linalg.inv(orbit_pose(still, still, middle_z)) @ orbit_pose(
            yaw, pitch, middle_z
        )
        step = torch.stack([symmetric(), 0.5 * symmetric(), symmetric()], dim=-1)
        reach = 0.2 * self._uniform(generator, count) * middle_z * orbits
        pan, tilt = 0.85 * fov_rad * symmetric() * turns, 0.25 * fov_rad * symmetric() * turns
        pose = pose @ _rotation(pan, 1) @ _rotation(tilt, 0)
        pose[:, :3, 3] += reach[:, None] * step
        return pose


def _rotation(angle_rad: Float[Tensor, " n"], axis: int) -> Float[Tensor, "n 4 4"]:
    """Return rotations about a camera's right (0) or up (1) axis."""
    vector = torch.zeros(len(angle_rad), 3, device=angle_rad.device)
    vector[:, axis] = angle_rad
    x, y, z = vector.unbind(-1)
    still = torch.zeros_like(x)
    skew = torch.stack([still, -z, y, z, still, -x, -y, x, still], dim=-1).view(-1, 3, 3)
    pose = torch.eye(4, device=angle_rad.device).repeat(len(angle_rad), 1, 1)
    pose[:, :3, :3] = torch.linalg.matrix_exp(skew)
    return pose
