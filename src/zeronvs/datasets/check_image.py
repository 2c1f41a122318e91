"""The sheet of a check: pairs with epipolar lines, and one frame warped into the other.

Each row is a pair, from left to right: corners of the first frame; the same corners in the second
frame, each with its epipolar line; the first frame warped into the second by its depth; and a
checkerboard of the second frame and the warped first one. Where cameras and depth are correct,
corners lie on their lines and edges are continuous across the squares.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.rays import pixel_rays
from zeronvs.cameras.scene_scale import fit_disparity
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import project, unproject_depth, warp_view
from zeronvs.datasets.framing import DepthEstimate, LoadedFrame
from zeronvs.datasets.pose_hypotheses import Matches, reprojection_errors
from zeronvs.formats.images import from_bytes

PANEL_PX = 320
MARGIN_PX = 8
TEXT_PX = 15
CORNERS_SHOWN = 10
DENSE_SHARE = 0.3
CAPTIONS = ("corners", "epipolar lines", "warped by depth", "checkerboard: edges must continue")
COLOURS = tuple(ImageColor.getrgb(f"hsv({hue}, 85%, 90%)") for hue in range(0, 360, 36))
GOOD, BAD, INK, PAPER = (0, 110, 50), (190, 20, 20), (20, 20, 20), (255, 255, 255)


@dataclass(frozen=True, eq=False)
class PairRow:
    """One row of the sheet."""

    first: LoadedFrame
    second: LoadedFrame
    matches: Matches
    estimate_depth: DepthEstimate | None

    def panels(self) -> list[Image.Image]:
        """Return the four images."""
        indices = self._spread()
        warped, checkerboard = self._warped()
        return [self._corners(indices), self._lines(indices), warped, checkerboard]

    def caption(self) -> str:
        """Name the frames and the share of matches that fit."""
        error = reprojection_errors(
            self.matches, self.first.framing.target, self.second.framing.target
        )
        share = float((error < 2).float().mean()) if len(error) else 0.0
        return (
            f"{self.first.name} and {self.second.name}: {len(error)} matches, "
            f"{share:.0%} within 2 px of their lines"
        )

    def _spread(self) -> list[int]:
        """Choose matches far from each other."""
        uv = self.matches.first_uv.numpy()
        if len(uv) == 0:
            return []
        chosen = [int(np.linalg.norm(uv - uv.mean(0), axis=1).argmax())]
        away = np.linalg.norm(uv - uv[chosen[0]], axis=1)
        while len(chosen) < min(CORNERS_SHOWN, len(uv)):
            chosen.append(int(away.argmax()))
            away = np.minimum(away, np.linalg.norm(uv - uv[chosen[-1]], axis=1))
        return chosen

    def _corners(self, indices: list[int]) -> Image.Image:
        panel = _panel(self.first.image)
        draw, scale = ImageDraw.Draw(panel), PANEL_PX / self.first.image.shape[0]
        for number, index in enumerate(indices):
            _dot(draw, self.matches.first_uv[index].numpy() * scale, number)
        return panel

    def _lines(self, indices: list[int]) -> Image.Image:
        panel = _panel(self.second.image)
        draw, scale = ImageDraw.Draw(panel), PANEL_PX / self.second.image.shape[0]
        first, second = self.first.framing.target, self.second.framing.target
        for number, index in enumerate(indices):
            line = epipolar_line(self.matches.first_uv[index], first, second) * scale
            colour = COLOURS[number % len(COLOURS)]
            if len(line) > 1:
                draw.line([tuple(point) for point in line.tolist()], fill=colour, width=2)
        for number, index in enumerate(indices):
            _dot(draw, self.matches.second_uv[index].numpy() * scale, number)
        return panel

    def _warped(self) -> tuple[Image.Image, Image.Image]:
        depth_z = self._dense_depth()
        if depth_z is None:
            points = self._warped_points()
            return points, _text_panel("depth is sparse" if self._known() else "no depth known")
        first = View(
            from_bytes(self.first.image), self.first.framing.target, torch.from_numpy(depth_z)
        )
        warped, validity = warp_view(first.batched(), self.second.framing.target.batched())
        valid = validity[0, 0].numpy()[..., None] > 0
        pixels = (warped.image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        pixels = np.where(valid, pixels, np.uint8(255))
        squares = np.add.outer(np.arange(256) // 32, np.arange(256) // 32) % 2 == 1
        checkerboard = np.where(squares[..., None] & valid, pixels, self.second.image)
        return _panel(pixels), _panel(checkerboard)

    def _known(self) -> bool:
        return bool((self.first.depth_z > 0).any())

    def _dense_depth(self) -> ndarray | None:
        """Return dense depth of the first frame, filled by a disparity if need be."""
        depth_z = self.first.depth_z
        known = depth_z > 0
        if known.mean() > DENSE_SHARE:
            return depth_z
        disparity = self.first.disparity
        if disparity is None and self.estimate_depth is not None:
            estimate = self.estimate_depth(from_bytes(self.first.image)[None])
            disparity = 1 / estimate[0].clamp_min(1e-6).numpy()
        if disparity is None or known.sum() < 12:
            return None
        target = torch.from_numpy(1 / depth_z[known])
        scale, shift = fit_disparity(torch.from_numpy(disparity[known].astype(np.float32)), target)
        nearest, farthest = depth_z[known].min() * 0.7, depth_z[known].max() * 2
        filled = np.clip(scale * disparity + shift, 1 / farthest, 1 / nearest)
        return (1 / filled).astype(np.float32)

    def _warped_points(self) -> Image.Image:
        """Draw the known points of the first frame, in its colours, over the dimmed second."""
        dimmed = (self.second.image.astype(np.float32) * 0.25 + 190).astype(np.uint8)
        panel = _panel(dimmed)
        if not self._known():
            return panel
        draw, scale = ImageDraw.Draw(panel), PANEL_PX / 256
        row, column = np.nonzero(self.first.depth_z)
        points = unproject_depth(torch.from_numpy(self.first.depth_z), self.first.framing.target)
        uv, depth_z = project(points[row, column], self.second.framing.target)
        for (u, v), z, colour in zip(
            (uv * scale).tolist(), depth_z.tolist(), self.first.image[row, column], strict=True
        ):
            if z > 0:
                draw.rectangle((u - 3, v - 3, u + 3, v + 3), fill=tuple(int(c) for c in colour))
        return panel


def scene_sheet(rows: list[PairRow], title: str, verdict: str, *, good: bool) -> Image.Image | None:
    """Return the sheet of a scene; None where there is no pair."""
    if not rows:
        return None
    width = 4 * PANEL_PX + 5 * MARGIN_PX
    head, row_height = 3 * TEXT_PX + 4 * MARGIN_PX, PANEL_PX + TEXT_PX + 3 * MARGIN_PX
    sheet = Image.new("RGB", (width, head + len(rows) * row_height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_PX)
    draw.text((MARGIN_PX, MARGIN_PX), title, fill=INK, font=font)
    verdict = _fitting(draw, verdict, font, width - 2 * MARGIN_PX)
    draw.text((MARGIN_PX, 2 * MARGIN_PX + TEXT_PX), verdict, fill=GOOD if good else BAD, font=font)
    for column, caption in enumerate(CAPTIONS):
        left = MARGIN_PX + column * (PANEL_PX + MARGIN_PX)
        draw.text((left, 3 * MARGIN_PX + 2 * TEXT_PX), caption, fill=INK, font=font)
    for number, row in enumerate(rows):
        top = head + number * row_height
        for column, panel in enumerate(row.panels()):
            sheet.paste(panel, (MARGIN_PX + column * (PANEL_PX + MARGIN_PX), top))
        caption = _fitting(draw, row.caption(), font, width - 2 * MARGIN_PX)
        draw.text((MARGIN_PX, top + PANEL_PX + 2), caption, fill=INK, font=font)
    return sheet


def epipolar_line(uv: Float[Tensor, " 2"], first: Camera, second: Camera) -> Float[ndarray, "n 2"]:
    """Return the epipolar line of a pixel of one camera in the image of another, pixels.

    Only the part in front of both cameras and inside the image is returned, as a run of points.
    """
    rays = pixel_rays(first.to(dtype=torch.float64), uv[None].double())
    ray = rays.directions[0] / rays.z_per_unit_distance[0]  # to depth_z = 1
    baseline = float((second.position - first.position).norm())
    depth_z = torch.logspace(-2, 5, 3000, dtype=torch.float64) * max(baseline, 1e-9)
    points = rays.origins[0] + depth_z[:, None] * ray
    uv_px, ahead = project(points, second.to(dtype=torch.float64))
    height, width = second.image_size_px
    inside = (ahead > 0) & (uv_px >= 0).all(-1)
    inside &= (uv_px[:, 0] < width) & (uv_px[:, 1] < height)
    return uv_px[inside].numpy()


def _panel(pixels: ndarray) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return image.resize((PANEL_PX, PANEL_PX), Image.Resampling.BICUBIC)


def _text_panel(text: str) -> Image.Image:
    panel = Image.new("RGB", (PANEL_PX, PANEL_PX), (235, 235, 235))
    font = ImageFont.load_default(TEXT_PX)
    ImageDraw.Draw(panel).text((MARGIN_PX, PANEL_PX // 2), text, fill=INK, font=font)
    return panel


def _dot(draw: ImageDraw.ImageDraw, at: ndarray, number: int) -> None:
    u, v = float(at[0]), float(at[1])
    colour = COLOURS[number % len(COLOURS)]
    draw.ellipse((u - 6, v - 6, u + 6, v + 6), outline=(0, 0, 0), width=3)
    draw.ellipse((u - 5, v - 5, u + 5, v + 5), outline=colour, width=2)


def _fitting(draw: ImageDraw.ImageDraw, text: str, font: object, width: int) -> str:
    while len(text) > 20 and draw.textlength(text, font=font) > width:  # pyright: ignore
        text = text[:-4] + "..." if not text.endswith("...") else text[:-8] + "..."
    return text
