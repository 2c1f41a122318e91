"""What there is to do in processes of their own, as values that are sent to them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class CameraSettings:
    """Numbers that the visitor gave in place of estimates; None: as estimated."""

    fov_deg: float | None = None
    elevation_deg: float | None = None
    scene_scale: float | None = None


@dataclass(frozen=True, kw_only=True)
class EstimateTask:
    """Estimate the camera of a photograph, and show what it means."""

    photo: Path
    out: Path
    """Folder for photo.jpg, depth.png, first_look.png, and estimate.json, which comes last."""
    max_px: int
    """Photographs of more pixels are refused before they are decoded."""


@dataclass(frozen=True, kw_only=True)
class SceneTask:
    """Make a scene of a photograph, or resume it."""

    photo: Path
    out: Path
    """The run folder."""
    page: Path
    """The page to look around in, with controls; comes last."""
    title: str
    settings: CameraSettings


@dataclass(frozen=True, kw_only=True)
class RenderTask:
    """Render a video of a finished run."""

    run_dir: Path
    path: str
    """A named path, or a file with cameras."""
    out: Path


AnyTask = EstimateTask | SceneTask | RenderTask
