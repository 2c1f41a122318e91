"""A page to look around in a scene: one HTML file that opens from disk, without a network.

The file holds the program (page/page.js), the photograph as a small JPEG, and the splats packed:

    position   3 x 22 bits   asinh(x / `_FINE`), in steps of `position_step`; fine near the origin,
                             relative far from it: 1e-5 of the distance, whatever the range
    scale      3 x 10 bits   logarithm, from `scale_low` in steps of `scale_step`
    rotation   4 x 8 bits    unit quaternion w, x, y, z with w >= 0, as round(127 q) + 128
    colour, opacity          8 bits each

Each of these is a column of whole numbers, written as differences between neighbouring splats
(folded: 0, -1, 1, -2 become 0, 1, 2, 3), low bytes first, then higher ones; all columns together
are compressed with zlib and written as base64.
"""

import base64
import hashlib
import html
import io
import json
import re
import zlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from zeronvs._core.errors import HealthError
from zeronvs._core.files import write_bytes
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.formats.video import to_bytes
from zeronvs.formats.viewer_splats import drawable
from zeronvs.scene.rasterizer import LARGEST_ALPHA, LOW_PASS_PX2, SMALLEST_ALPHA, RasterConfig
from zeronvs.scene.splat_scene import SplatScene
from zeronvs.splats import GaussianSplats

PagePath = Literal["orbit", "around"]
"""What dragging does: turn about what is ahead, or look around from where one stands."""

POSTER_SIDE_PX = 720
"""Longer side of the photograph that shows while the scene loads."""
_FINE = 0.1
"""Distance from the origin within which positions have equal steps, scene units."""
_POSITION_BITS, _SCALE_BITS = 22, 10
_SMALLEST_SCALE = 1e-7
_COLUMN_BYTES = (3,) * 3 + (2,) * 3 + (1,) * 8
"""Bytes of each column: position, scale, rotation, colour, opacity."""


MAX_EMBEDDED_BYTES = 32 * 2**20
"""Larger pages are not put into a notebook, which keeps them in its file."""


@dataclass(frozen=True)
class ScenePage:
    """A page of `write_page`, which a notebook shows as it is."""

    html: str

    def _repr_html_(self) -> str:
        """Return a frame with the page in it; its script cannot reach the notebook."""
        size_bytes = len(self.html.encode())
        if size_bytes > MAX_EMBEDDED_BYTES:
            return f"<p>A scene of {size_bytes >> 20} MiB: too large for a notebook.</p>"
        return (
            '<iframe sandbox="allow-scripts" style="width: 100%; height: 480px; border: 0" '
            f'srcdoc="{html.escape(self.html)}"></iframe>'
        )


@dataclass(frozen=True, kw_only=True)
class PagePanel:
    """Controls over the scene of a page that is served; its script runs after page.js."""

    html: str
    style: str
    script: str
    data: Any
    """What the script reads from the element `panel-data`, as JSON."""


def write_page(
    path: Path,
    scene: SplatScene,
    *,
    camera: Camera,
    poster: Float[Tensor, "3 h w"],
    path_name: PagePath,
    title: str,
    panel: PagePanel | None = None,
) -> None:
    """Write a page that shows a scene, whole or not at all.

    Args:
        path: The HTML file.
        scene: Splats; those too faint to be drawn are left out.
        camera: One camera, where the visitor starts: the photograph's.
        poster: What shows until the scene is there: the photograph, in the shape of the camera's
            image.
        path_name: "orbit": the visitor moves around the world's origin; "around": looks around
            from where the camera stands.
        title: Any text, such as the name of the photograph.
        panel: Controls laid over the scene; None: none, and the page needs no server.

    Raises:
        HealthError: No splat is left to show.
    """
    page = _page(scene, camera, poster, path_name, title, panel)
    write_bytes(path, page.encode())


def show(
    scene: SplatScene, view: View, *, path_name: PagePath = "orbit", title: str = "scene"
) -> ScenePage:
    """Return a page that a notebook shows: the last line of a cell.

    Args:
        scene: Splats.
        view: The photograph at its camera, where the visitor starts.
        path_name: As in `write_page`.
        title: Of the page.

    Raises:
        HealthError: No splat is left to show.
    """
    return ScenePage(_page(scene, view.camera, view.image, path_name, title, None))


def _page(
    scene: SplatScene,
    camera: Camera,
    poster: Float[Tensor, "3 h w"],
    path_name: PagePath,
    title: str,
    panel: PagePanel | None,
) -> str:
    """Return the page as text."""
    splats = drawable(scene.splats)
    if len(splats) == 0:
        raise HealthError("No splat is visible, so there is nothing to show.")
    packed, numbers = pack_splats(splats)
    height_px, width_px = camera.image_size_px
    config = {
        **numbers,
        "camera_to_world": camera.camera_to_world.tolist(),
        "fov_y_rad": float(camera.fov_y_rad),
        "aspect": width_px / height_px,
        "path": path_name,
        "near": RasterConfig().near,
        "photo_focal_px": float(camera.intrinsics_px[1, 1]),
        "low_pass_px2": LOW_PASS_PX2,
        "largest_alpha": LARGEST_ALPHA,
        "smallest_alpha": SMALLEST_ALPHA,
        # Where no splat is, the mean colour of the photograph: a gap hardly shows.
        "background": poster.detach().float().mean(dim=(1, 2)).clamp(0, 1).tolist(),
    }
    sources = resources.files("zeronvs.exports") / "page"
    script = (sources / "page.js").read_text(encoding="utf-8")
    parts = {
        "title": html.escape(title),
        "config": _script_json(config),
        "script": script,
        "script_hash": _hash(script),
        "poster": base64.b64encode(_jpeg(poster)).decode(),
        "splats": base64.b64encode(packed).decode(),
        **_panel_parts(panel),
    }
    template = (sources / "page.html").read_text(encoding="utf-8")
    # One pass: what is put in is not searched again, whatever it contains.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def pack_splats(splats: GaussianSplats) -> tuple[bytes, dict[str, Any]]:
    """Return splats as compressed bytes, and the numbers that it takes to read them."""
    warped = torch.asinh(splats.means.double() / _FINE)
    position_step = float(warped.abs().max().clamp(min=1e-3)) / (2 ** (_POSITION_BITS - 1) - 1)
    logs = splats.scales.double().clamp(min=_SMALLEST_SCALE).log()
    scale_low = float(logs.min())
    scale_step = max(float(logs.max()) - scale_low, 1e-3) / (2**_SCALE_BITS - 1)
    turns = torch.nn.functional.normalize(splats.rotations.double(), dim=-1)
    turns = torch.where(turns[:, :1] < 0, -turns, turns)
    columns = [
        warped / position_step,
        (logs - scale_low) / scale_step,
        127 * turns + 128,
        255 * splats.colors.double().clamp(0, 1),
        255 * splats.opacities.double().clamp(0, 1)[:, None],
    ]
    table = torch.cat(columns, dim=1).round().long().numpy()
    planes = []
    for column, size in zip(table.T, _COLUMN_BYTES, strict=True):
        half = 1 << (8 * size - 1)
        step = (np.diff(column, prepend=0) + half) % (2 * half) - half
        folded = np.where(step < 0, -2 * step - 1, 2 * step)
        planes += [(folded >> (8 * byte)).astype(np.uint8) for byte in range(size)]
    numbers = {
        "count": len(splats),
        "fine": _FINE,
        "position_step": position_step,
        "scale_low": scale_low,
        "scale_step": scale_step,
    }
    return zlib.compress(np.concatenate(planes).tobytes(), 6), numbers


def _panel_parts(panel: PagePanel | None) -> dict[str, str]:
    """Return what a panel adds to the template."""
    if panel is None:
        return dict.fromkeys(("panel", "panel_style", "panel_policy", "panel_images"), "")
    parts = [
        panel.html,
        f'<script type="application/json" id="panel-data">{_script_json(panel.data)}</script>',
        f"<script>{panel.script}</script>\n",
    ]
    return {
        "panel": "\n".join(parts),
        "panel_style": panel.style,
        "panel_policy": f" 'sha256-{_hash(panel.script)}'; connect-src 'self'; media-src 'self'",
        "panel_images": " 'self'",
    }


def _script_json(content: Any) -> str:
    """Return JSON that cannot end the script element it is put in."""
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c")


def _hash(script: str) -> str:
    """Return the hash by which a content security policy admits a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _jpeg(image: Float[Tensor, "3 h w"]) -> bytes:
    """Return an image, sRGB in [0, 1], as a JPEG file of moderate size."""
    pixels = Image.fromarray(to_bytes(image.detach().cpu()).permute(1, 2, 0).contiguous().numpy())
    pixels.thumbnail((POSTER_SIDE_PX, POSTER_SIDE_PX), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    pixels.save(file, "JPEG", quality=82, optimize=True)
    return file.getvalue()
