"""Routes of the page to look around in: its views, camera paths that are saved, videos of them."""

import asyncio
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import FileResponse

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_json
from zeronvs.cameras.trajectories import TRAJECTORIES
from zeronvs.formats.camera_path import write_camera_path
from zeronvs.formats.transforms_json import read_camera_path
from zeronvs.web.guard import read_json_body
from zeronvs.web.look import VIEW_FOLDERS, view_folder
from zeronvs.web.server import file_inside
from zeronvs.web.task_queue import TaskQueue, TaskStatus
from zeronvs.web.tasks import RenderTask

MAX_FRAMES = 1000
"""Frames of a saved path: over half a minute."""
MAX_PATHS = 100
"""Saved paths of one run."""
PAGE_POLICY = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
"""Beside the stricter policy that the page itself has, which names its scripts by their hashes."""
_SAVED = re.compile(r"path_\d{3}")


class Place(NamedTuple):
    """A finished run that a visitor may see."""

    run_dir: Path
    page: Path
    """From `look.write_look_page`."""
    key: str = ""
    """What the names of its tasks in the queue begin with."""


def look_router(
    prefix: str, find: Callable[..., Place], queue: TaskQueue[Any], *, may_wait: int = 10
) -> APIRouter:
    """Return the routes of runs.

    Args:
        prefix: What the paths of the routes begin with, with the parameters of `find`.
        find: Dependency that returns the run of a request, or raises an `HTTPException`.
        queue: Renders videos; takes `RenderTask`.
        may_wait: Tasks in the queue above which no more are taken.
    """
    router = APIRouter(prefix=prefix)

    @router.get("/", response_model=None)
    def page(place: Annotated[Place, Depends(find)]) -> FileResponse:
        headers = {"content-security-policy": PAGE_POLICY}
        return FileResponse(place.page, media_type="text/html; charset=utf-8", headers=headers)

    @router.get("/views/{index}.png", response_model=None)
    def view(place: Annotated[Place, Depends(find)], index: int) -> FileResponse:
        folder = view_folder(place.run_dir)
        if folder not in VIEW_FOLDERS or not 0 <= index < 1000:
            raise HTTPException(404, "there is no such view")
        image = file_inside(place.run_dir, folder, f"{index:03d}.png")
        return FileResponse(image, media_type="image/png")

    @router.get("/paths", response_model=None)
    def paths(place: Annotated[Place, Depends(find)]) -> dict[str, list[str]]:
        return {"paths": saved_paths(place.run_dir)}

    @router.get("/paths/{name}.json", response_model=None)
    def path(place: Annotated[Place, Depends(find)], name: str) -> FileResponse:
        file = _path_file(place.run_dir, name)
        if file is None:
            raise HTTPException(404, "there is no such path")
        return FileResponse(file, media_type="application/json", filename=f"{name}.json")

    @router.post("/paths", status_code=201, response_model=None)
    async def save(place: Annotated[Place, Depends(find)], request: Request) -> dict[str, str]:
        content = await read_json_body(request)
        return {"name": await asyncio.to_thread(save_path, place.run_dir, content)}

    @router.get("/renders/{name}.mp4", response_model=None)
    def video(place: Annotated[Place, Depends(find)], name: str) -> FileResponse:
        _path_file(place.run_dir, name)
        file = file_inside(place.run_dir, "renders", f"{name}.mp4")
        return FileResponse(file, media_type="video/mp4", filename=f"{name}.mp4")

    @router.get("/renders/{name}", response_model=None)
    def rendering(place: Annotated[Place, Depends(find)], name: str) -> dict[str, Any]:
        _path_file(place.run_dir, name)
        status = queue.status(f"{place.key} {name}")
        if status is None:
            rendered = (place.run_dir / "renders" / f"{name}.mp4").is_file()
            return {"state": "done" if rendered else "none"}
        return status_json(status)

    @router.post("/renders/{name}", status_code=202, response_model=None)
    def render(place: Annotated[Place, Depends(find)], name: str) -> dict[str, Any]:
        file = _path_file(place.run_dir, name)
        if len(queue) >= may_wait:
            raise HTTPException(503, f"{len(queue)} others are waiting; try again later")
        out = _own_folder(place.run_dir, "renders") / f"{name}.mp4"
        task = RenderTask(run_dir=place.run_dir, path=str(file or name), out=out)
        queue.put(key := f"{place.key} {name}", task)
        status = queue.status(key)
        assert status is not None
        return status_json(status)

    @router.delete("/renders/{name}", response_model=None)
    def cancel(place: Annotated[Place, Depends(find)], name: str) -> dict[str, Any]:
        queue.cancel(f"{place.key} {name}")
        return {"state": "cancelled"}

    return router


def status_json(status: TaskStatus) -> dict[str, Any]:
    """Return a status as the pages read it."""
    answer: dict[str, Any] = {"state": status.state, "ahead": status.ahead}
    if status.event is not None:
        answer |= {
            "stage": status.event.stage,
            "step": status.event.step,
            "total": status.event.total,
        }
    return answer | ({"message": status.message} if status.message else {})


def saved_paths(run_dir: Path) -> list[str]:
    """Return the names of the camera paths that visitors have saved in a run folder."""
    return sorted(
        file.stem
        for file in (run_dir / "paths").glob("path_*.json")
        if _SAVED.fullmatch(file.stem) and file.is_file()
    )


def save_path(run_dir: Path, content: Any) -> str:
    """Check a camera path in nerfstudio's layout, save it in a run folder, and return its name.

    Raises:
        InputError: It is no camera path, or too long, or there are too many.
    """
    frames = content.get("camera_path") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not 2 <= len(frames) <= MAX_FRAMES:
        raise InputError(f"a path has 2 to {MAX_FRAMES} frames")
    with tempfile.TemporaryDirectory(prefix="zeronvs-") as folder:
        given = Path(folder) / "path.json"
        sizes = {side: content.get(side) for side in ("render_height", "render_width")}
        write_json(given, {"camera_path": frames, **sizes})
        cameras = read_camera_path(given)
    saved = saved_paths(run_dir)
    if len(saved) >= MAX_PATHS:
        raise InputError(
            f"this scene has {MAX_PATHS} saved paths already; delete some of its files"
        )
    folder = _own_folder(run_dir, "paths")
    name = f"path_{int(saved[-1][-3:]) + 1 if saved else 1:03d}"
    write_camera_path(folder / f"{name}.json", cameras)
    return name


def _path_file(run_dir: Path, name: str) -> Path | None:
    """Return the file of a saved path; None for a named one."""
    if name in TRAJECTORIES:
        return None
    if not _SAVED.fullmatch(name):
        raise HTTPException(404, "there is no such path")
    return file_inside(run_dir, "paths", f"{name}.json")


def _own_folder(run_dir: Path, name: str) -> Path:
    """Return a folder to write to in a run folder; it must not lead out of it."""
    folder = run_dir / name
    if not folder.resolve().is_relative_to(run_dir.resolve()):
        raise InputError(f"{name} in the run folder is a link to another place; remove it")
    return folder
