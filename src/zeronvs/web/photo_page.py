"""The photo page: send a photograph, check the estimates, make the scene, look around, download."""

import asyncio
import hashlib
import re
import secrets
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import quote
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from fastapi import APIRouter, Cookie, Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json
from zeronvs.photo.camera_estimate import check_given
from zeronvs.web.guard import read_json_body
from zeronvs.web.jobs import SCENE_STATES, Job, Jobs
from zeronvs.web.look_routes import Place, look_router, status_json
from zeronvs.web.server import file_inside, make_app, page_source
from zeronvs.web.tasks import CameraSettings
from zeronvs.web.work import radians

COOKIE = "zeronvs_visitor"
YEAR_S = 365 * 24 * 3600
TITLE_CHARACTERS = 80
PAGE_FILES = {
    "photo.html": "text/html; charset=utf-8",
    "photo.css": "text/css; charset=utf-8",
    "photo.js": "text/javascript; charset=utf-8",
}
JOB_FILES = {
    "photo.jpg": "image/jpeg",
    "depth.png": "image/png",
    "first_look.png": "image/png",
    "scene/views.mp4": "video/mp4",
    "scene/orbit.mp4": "video/mp4",
    "scene/around.mp4": "video/mp4",
}
"""What a visitor may fetch of a job, beside the scene as a whole."""
_TOKEN = re.compile(r"[\w-]{43}", re.ASCII)
_KINDS = (
    re.compile(rb"\xff\xd8\xff"),
    re.compile(rb"\x89PNG\r\n\x1a\n"),
    re.compile(rb"RIFF....WEBP", re.DOTALL),
    re.compile(rb"....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1|avif)", re.DOTALL),
)
"""Beginnings of JPEG, PNG, WebP, HEIC and AVIF files; no other decoder meets what was sent."""


def make_photo_app(jobs: Jobs, *, host: str) -> FastAPI:
    """Return the application of the photo page.

    Args:
        jobs: Entered before the server starts.
        host: The address or name that is served.
    """

    def owned(job_id: str, owner: Annotated[str, Depends(visitor)]) -> Job:
        return _owned(jobs, job_id, owner)

    def place(job: Annotated[Job, Depends(owned)]) -> Place:
        folder = jobs.path(job)
        if job.state != "done" or not (folder / "look.html").is_file():
            raise HTTPException(404, "there is no such scene")
        return Place(folder / "scene", folder / "look.html", job.id)

    looking = look_router("/scenes/{job_id}", place, jobs.scenes, may_wait=jobs.limits.waiting)
    routers = [_page_routes(), _upload_routes(jobs), _job_routes(jobs, owned), looking]
    return make_app(routers, host=host)


def visitor(zeronvs_visitor: Annotated[str | None, Cookie()] = None) -> str:
    """Return the hash of a visitor's secret, which is all that is kept of it."""
    if zeronvs_visitor is None or not _TOKEN.fullmatch(zeronvs_visitor):
        raise HTTPException(401, "this browser sent no cookie; allow cookies here, then reload")
    return hashlib.sha256(zeronvs_visitor.encode()).hexdigest()


Visitor = Annotated[str, Depends(visitor)]


def _owned(jobs: Jobs, job_id: str, owner: str) -> Job:
    """Return a job of a visitor; that of another is as missing as an unknown one."""
    job = jobs.find(job_id, owner)
    if job is None:
        raise HTTPException(404, "there is no such scene")
    return job


def _page_routes() -> APIRouter:
    """Return the page itself; it gives a new visitor the secret by which they are known."""
    router = APIRouter()

    @router.get("/", response_model=None)
    def page(zeronvs_visitor: Annotated[str | None, Cookie()] = None) -> Response:
        kind = PAGE_FILES["photo.html"]
        response = Response(page_source("photo.html"), media_type=kind)
        if zeronvs_visitor is None or not _TOKEN.fullmatch(zeronvs_visitor):
            response.set_cookie(
                COOKIE, secrets.token_urlsafe(32), max_age=YEAR_S, httponly=True, samesite="lax"
            )
        return response

    @router.get("/page/{name}", response_model=None)
    def part(name: str) -> Response:
        if name not in PAGE_FILES:
            raise HTTPException(404, "there is no such file")
        return Response(page_source(name), media_type=PAGE_FILES[name])

    return router


def _upload_routes(jobs: Jobs) -> APIRouter:
    router, limits = APIRouter(), jobs.limits

    @router.post("/jobs", status_code=201, response_model=None)
    async def send(request: Request, owner: Visitor, title: str = "") -> dict[str, str]:
        if request.headers.get("content-type") != "application/octet-stream":
            raise HTTPException(415, "a photograph is sent as application/octet-stream")
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > limits.upload_bytes:
            _refuse_size(limits.upload_bytes)
        job = jobs.reserve(owner, clean_title(title))
        try:
            async with asyncio.timeout(limits.upload_s):
                await _receive(request, jobs.path(job) / "photo", limits.upload_bytes)
        except BaseException as error:
            jobs.delete(job)
            if isinstance(error, TimeoutError):
                raise HTTPException(408, "sending the photograph took too long") from error
            if isinstance(error, ClientDisconnect):  # nobody is there to read an answer
                return {}
            raise
        jobs.submit(job)
        return {"id": job.id}

    return router


def _job_routes(jobs: Jobs, owned: Any) -> APIRouter:
    router = APIRouter()

    @router.get("/jobs", response_model=None)
    def listing(owner: Visitor) -> dict[str, Any]:
        limits = jobs.limits
        return {
            "jobs": [job_json(jobs, job) for job in jobs.of(owner)],
            "upload_bytes": limits.upload_bytes,
            "photo_px": limits.photo_px,
        }

    @router.get("/jobs/{job_id}", response_model=None)
    def one(job: Annotated[Job, Depends(owned)]) -> dict[str, Any]:
        return job_json(jobs, job)

    @router.post("/jobs/{job_id}/start", status_code=202, response_model=None)
    async def start(job: Annotated[Job, Depends(owned)], request: Request) -> dict[str, Any]:
        settings = camera_settings(await read_json_body(request))
        return job_json(jobs, await asyncio.to_thread(jobs.start, job, settings))

    @router.post("/jobs/{job_id}/cancel", status_code=202, response_model=None)
    def cancel(job: Annotated[Job, Depends(owned)], owner: Visitor) -> dict[str, Any]:
        jobs.cancel(job)
        return job_json(jobs, _owned(jobs, job.id, owner))

    @router.delete("/jobs/{job_id}", response_model=None)
    def delete(job: Annotated[Job, Depends(owned)]) -> dict[str, Any]:
        jobs.delete(job)
        return {}

    @router.get("/jobs/{job_id}/files/{name:path}", response_model=None)
    def file(job: Annotated[Job, Depends(owned)], name: str) -> FileResponse:
        if name not in JOB_FILES:
            raise HTTPException(404, "there is no such file")
        return FileResponse(file_inside(jobs.path(job), name), media_type=JOB_FILES[name])

    @router.get("/jobs/{job_id}/scene.zip", response_model=None)
    def download(job: Annotated[Job, Depends(owned)]) -> StreamingResponse:
        if job.state != "done":
            raise HTTPException(404, "this scene is not finished")
        name = f"attachment; filename*=UTF-8''{quote(job.title or 'scene', safe='')}.zip"
        return StreamingResponse(
            zip_chunks(jobs.path(job) / "scene"),
            media_type="application/zip",
            headers={"content-disposition": name},
        )

    return router


def job_json(jobs: Jobs, job: Job) -> dict[str, Any]:
    """Return what the page shows of a job."""
    folder = jobs.path(job)
    estimate = None
    with suppress(InputError):
        estimate = read_json(folder / "estimate.json")
    task = jobs.scenes.status(job.id) if job.state in SCENE_STATES else None
    return {
        "id": job.id,
        "title": job.title,
        "state": job.state,
        "message": job.message,
        "made_at": job.made_at,
        "began_at": job.began_at,
        "settings": asdict(job.settings),
        "estimate": estimate,
        "task": task and status_json(task),
        "files": [name for name in JOB_FILES if (folder / name).is_file()],
    }


def camera_settings(content: Any) -> CameraSettings:
    """Return the settings that the page has sent.

    Raises:
        InputError: They are no numbers, or such that no camera has.
    """
    names = CameraSettings.__dataclass_fields__
    if not isinstance(content, dict) or not set(content) <= set(names):
        raise InputError(f"the settings are {', '.join(names)}")
    for name, value in content.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError("it must be a number", argument=name)
    given = {name: float(value) for name, value in content.items() if value is not None}
    settings = CameraSettings(**given)
    check_given(
        fov_y_rad=radians(settings.fov_deg),
        elevation_rad=radians(settings.elevation_deg),
        scene_scale=settings.scene_scale,
    )
    return settings


def clean_title(name: str) -> str:
    """Return the name of a visitor's file as a title: no path, no suffix, only what is shown."""
    stem = re.split(r"[/\\]", name)[-1].rsplit(".", 1)[0]
    shown = "".join(c for c in stem if not unicodedata.category(c).startswith("C"))
    return " ".join(shown.split())[:TITLE_CHARACTERS] or "A scene"


async def _receive(request: Request, path: Path, max_bytes: int) -> None:
    """Write what is sent to a file.

    Raises:
        HTTPException: It is too large, empty, or no photograph.
    """
    size = 0
    with path.open("wb") as file:
        async for chunk in request.stream():
            start = chunk if size == 0 else b""
            size += len(chunk)
            if size > max_bytes:
                _refuse_size(max_bytes)
            if start and not any(kind.match(start) for kind in _KINDS):
                raise HTTPException(
                    415, "this is no photograph that is taken here: send JPEG, PNG, WebP or HEIC"
                )
            file.write(chunk)
    if size == 0:
        raise HTTPException(422, "no photograph was sent")


def _refuse_size(max_bytes: int) -> NoReturn:
    raise HTTPException(413, f"this photograph is larger than {max_bytes / 1e6:g} MB")


def zip_chunks(folder: Path) -> Iterator[bytes]:
    """Yield a zip archive of a folder's files, without hidden ones, piece by piece."""
    pieces = _Pieces()
    with ZipFile(pieces, "w", ZIP_STORED) as archive:  # most files are compressed as they are
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_symlink() or not path.is_file() or any(p[0] == "." for p in name.parts):
                continue
            info = ZipInfo.from_file(path, f"scene/{name.as_posix()}")
            with path.open("rb") as source, archive.open(info, "w") as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)
                    yield pieces.take()
    yield pieces.take()


class _Pieces:
    """A file to write to, whose content is taken away as it grows."""

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, content: bytes) -> int:
        self._held += content
        return len(content)

    def flush(self) -> None:
        """Do nothing; so does `close`."""

    def close(self) -> None:
        """Do nothing: what was written can still be taken."""

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken, self._held = bytes(self._held), bytearray()
        return taken
