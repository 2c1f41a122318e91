"""Files of a scene for other programs."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import HealthError, InputError
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import unproject_depth
from zeronvs.exports.cameras_json import write_transforms
from zeronvs.exports.colmap_files import write_colmap
from zeronvs.exports.field_splats import FieldSplatsConfig, splat_psnr, splats_from_scene
from zeronvs.exports.mesh import write_mesh
from zeronvs.exports.overlay import depth_colours
from zeronvs.exports.page import PagePath, write_page
from zeronvs.exports.splat_files import (
    SOLID,
    SPLAT_FORMATS,
    FileConfig,
    SplatFormat,
    check_splat_files,
    write_splat_file,
)
from zeronvs.exports.splats_for_viewers import merged, widened
from zeronvs.formats.camera_path import write_camera_path
from zeronvs.formats.images import contact_sheet, write_depth, write_image
from zeronvs.formats.ply import write_splat_ply
from zeronvs.formats.re10k import write_re10k
from zeronvs.formats.viewer_splats import drawable
from zeronvs.protocols import Scene
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.splat_scene import SplatScene

OtherFormat = Literal["html", "glb", "nerfstudio", "colmap", "path"]
Format = SplatFormat | OtherFormat
FORMATS: tuple[Format, ...] = (*SPLAT_FORMATS, *get_args(OtherFormat))
COMMON: tuple[Format, ...] = ("html", "ply", "glb", "nerfstudio")
"""What most people want, and what needs no other program."""
GREY = (0.5, 0.5, 0.5)
"""Background of everything rendered, as in the published evaluation."""
FITTED_FILE = "scene/splats.safetensors"
"""Where a folder of a radiance field keeps the splats that were fitted to it."""
SPLAT_SIZE_PX = 128
"""Side of the renders that splats are placed and refined by."""
DEPTH_UNIT = 1e-3
"""Scene units per unit of a depth file: what nerfstudio assumes."""
FAR = 50.0
"""Depth in scene units beyond which depth images have one colour."""
CENTER_SIZE_PX = 64
"""Longer side of the render that a scene's centre is found in."""


def export(
    scene: Scene,
    cameras: Camera,
    formats: Sequence[Format],
    folder: Path,
    *,
    config: FileConfig | None = None,
    splat_steps: int = 300,
    mesh_resolution: int = 384,
    fitted: SplatScene | None = None,
    photo: View | None = None,
    path: Camera | None = None,
    path_name: PagePath = "orbit",
    title: str = "A scene",
    progress: Progress = silent,
) -> list[Path]:
    """Write files of a scene for other programs and return their paths.

    All files share the scene's world (z up, scene units); a program's own axes are written in its
    own format. docs/formats.md says which program reads which file.

    Args:
        scene: The scene.
        cameras: A batch of cameras that together see what is to be exported.
        formats: "html": a page to look around in, scene.html. Gaussian splats: "ply",
            "compressed-ply", "splat", "spz", "sog" (by splat-transform, which needs Node.js),
            "splat-glb" (glTF), "usd" (by the extra `usd`): scene/scene.*; "points": their centres,
            scene/points.ply. "glb": a textured mesh, scene/mesh.glb. "nerfstudio": renders and
            16-bit depth at the cameras, cameras/transforms.json; "colmap": renders with a sparse
            model, colmap/. "path": cameras/camera_path.json (nerfstudio) and cameras/path.txt
            (RealEstate10K).
        folder: Where the files are written.
        config: Axes, centre and number of splats.
        splat_steps: Optimization steps that fit the splats to renders of a field.
        fitted: Splats that were fitted to a field before; None: they are fitted now.
        mesh_resolution: Cells along the longer side of the photograph's part of the mesh.
        photo: The photograph, where the page starts and whose pixels the mesh shows first; splats
            in files are widened for its pixels. None: the first camera and what it sees.
        path: The cameras of "path"; None: `cameras`.
        path_name: What dragging does on the page, see `write_page`.
        title: Title of the page.
        progress: Called when a format is started and when it is written.

    Raises:
        InputError: A format is unknown, or needs what is not installed; nothing is written then.
        HealthError: The cameras see no surface to make a mesh of.
    """
    config = config or FileConfig()
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise InputError(
            f"{unknown[0]!r} is unknown; known are {', '.join(FORMATS)}", argument="formats"
        )
    check_splat_files(formats, config)
    if photo is None:
        start = View(render_frames(scene, cameras[[0]])[0][0], cameras[0].to("cpu"))
    else:
        start = photo.to("cpu")
    shift = -_centre(scene, start.camera) if config.center else torch.zeros(3)
    own = files = None
    if {"html", "colmap", *SPLAT_FORMATS} & set(formats):
        own = fitted or splats_of(scene, cameras, splat_steps, progress)
        # The splats of a field have no pixels of a photograph between which gaps would show.
        lifted = photo is not None and isinstance(scene, SplatScene)
        files = widened(own.splats, start.camera) if lifted else own.splats
        if config.max_splats is not None:
            files = merged(drawable(files), config.max_splats, start.camera)
        files = files.moved(torch.eye(3), shift)
    written = []
    for name in formats:
        progress(ProgressEvent(f"export {name}", 0, 1))
        if name == "html":
            assert own is not None
            file = folder / "scene.html"
            write_page(
                file,
                own,
                camera=start.camera,
                poster=start.image,
                path_name=path_name,
                title=title,
            )
        elif name == "glb":
            file = folder / "scene" / "mesh.glb"
            write_mesh(
                file,
                scene,
                cameras,
                photo=photo,
                resolution=mesh_resolution,
                shift=shift,
                progress=progress,
            )
        elif name == "nerfstudio":
            images, depths = render_frames(scene, cameras, progress)
            file = write_view_files(folder, images, depths, _shifted(cameras, shift))
        elif name == "colmap":
            assert files is not None
            images, _ = render_frames(scene, cameras, progress)
            placed = _shifted(cameras, shift)
            file = write_colmap(folder / "colmap", images, placed, files, up=config.up)
        elif name == "path":
            along = _shifted(cameras if path is None else path, shift)
            file = folder / "cameras" / "camera_path.json"
            write_camera_path(file, along)
            write_re10k(folder / "cameras" / "path.txt", along)
        else:
            assert files is not None
            file = write_splat_file(name, folder, files, config)
        written.append(file)
        progress(ProgressEvent(f"export {name}", 1, 1))
    return written


@torch.no_grad()
def render_frames(
    scene: Scene, cameras: Camera, progress: Progress = silent, stage: str = "render"
) -> tuple[
    Float[Tensor, "n 3 h w"],  # RGB in [0, 1] over grey
    Float[Tensor, "n h w"],  # depth along the optical axis, scene units
]:
    """Render one image per camera."""
    grey = torch.tensor(GREY, device=scene.device)
    images, depths = [], []
    for index in range(len(cameras)):
        rendering = scene.render(cameras[[index]].to(scene.device), background=grey)
        images.append(rendering.rgb.cpu())
        depths.append(rendering.depth_z.cpu())
        progress(ProgressEvent(stage, index + 1, len(cameras)))
    return torch.cat(images), torch.cat(depths)


def write_splats(
    scene: Scene,
    cameras: Camera,
    folder: Path,
    *,
    steps: int,
    photo: View | None = None,
    progress: Progress = silent,
) -> tuple[Path, float | None]:
    """Write scene/scene.ply as `export` does; return its path.

    Of a field, also keep the splats in `FITTED_FILE`, since fitting them takes minutes, and return
    their PSNR (dB) against it.
    """
    path = folder / "scene" / "scene.ply"
    path.parent.mkdir(parents=True, exist_ok=True)
    fitted = splats_of(scene, cameras, steps, progress)
    splats = fitted.splats
    if isinstance(scene, SplatScene):
        write_splat_ply(path, splats if photo is None else widened(splats, photo.camera))
        return path, None
    write_splat_ply(path, splats)
    fitted.save(folder / FITTED_FILE)
    cameras = cameras.resized(SPLAT_SIZE_PX, SPLAT_SIZE_PX)
    with torch.no_grad():
        return path, splat_psnr(splats, _field(scene), cameras[::4])


@torch.no_grad()
def _centre(scene: Scene, camera: Camera) -> Float[Tensor, "3"]:
    """Return the median of the points that a camera sees.

    Raises:
        HealthError: It sees nothing.
    """
    camera = camera.with_longer_side(CENTER_SIZE_PX)
    rendering = scene.render(camera.to(scene.device))
    points = unproject_depth(rendering.depth_z[0].cpu(), camera)[rendering.opacity[0].cpu() > SOLID]
    if len(points) == 0:
        raise HealthError(
            "The camera sees nothing of the scene, so it has no centre. Train longer."
        )
    return points.median(dim=0).values


def _shifted(cameras: Camera, shift: Float[Tensor, "3"]) -> Camera:
    pose = cameras.camera_to_world.cpu().clone()
    pose[..., :3, 3] += shift
    return replace(cameras.to("cpu"), camera_to_world=pose)


def splats_of(scene: Scene, cameras: Camera, steps: int, progress: Progress = silent) -> SplatScene:
    """Return the splats of a scene; those of a radiance field are fitted to its renders.

    Args:
        cameras: A batch that together sees the field.
        steps: Optimization steps of the fit.
    """
    if isinstance(scene, SplatScene):
        return replace(scene, splats=scene.splats.to("cpu"))
    cameras = cameras.resized(SPLAT_SIZE_PX, SPLAT_SIZE_PX)
    config = FieldSplatsConfig(refine_steps=steps)
    return SplatScene(splats_from_scene(_field(scene), cameras, config, progress=progress))


def _field(scene: Scene) -> FieldScene:
    """Return a scene that must be a radiance field."""
    if not isinstance(scene, FieldScene):
        raise TypeError(f"{type(scene).__name__} is neither splats nor a radiance field")
    return scene


def write_view_files(
    folder: Path,
    images: Float[Tensor, "n 3 h w"],
    depths: Float[Tensor, "n h w"] | None,
    cameras: Camera,
) -> Path:
    """Write views/, depth/, a contact sheet, and their cameras; return cameras/transforms.json.

    depth/ holds 16-bit PNG in thousandths of a scene unit (0: unknown or beyond 65 units), as
    nerfstudio reads them; depth_colours/ shows the same to people. The cameras stand in
    transforms.json of the folder itself, too, where programs that are given the folder look.
    """
    paths = [folder / "views" / f"{index:03d}.png" for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        write_image(path, image)
    for index, depth_z in enumerate([] if depths is None else depths):
        colours = depth_colours(depth_z.clamp_max(FAR), depth_z.shape[-1])
        write_image(folder / "depth_colours" / f"{index:03d}.png", colours)
        write_depth(folder / "depth" / f"{index:03d}.png", depth_z, unit=DEPTH_UNIT)
    write_image(folder / "sheet.png", contact_sheet(images))
    for transforms in (folder / "transforms.json", folder / "cameras" / "transforms.json"):
        extra = None
        if depths is not None:
            to_folder = os.path.relpath(folder, transforms.parent)
            extra = [
                {
                    "depth_file_path": Path(to_folder, "depth", path.name).as_posix(),
                    "depth_unit_scale_factor": DEPTH_UNIT,
                }
                for path in paths
            ]
        write_transforms(transforms, cameras, paths, extra=extra)
    return folder / "cameras" / "transforms.json"
