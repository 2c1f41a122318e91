"""The jobs of the photo page: what each visitor has sent, where it stands, and its files.

    FOLDER/settings.json, .lock            one server at a time works here
    FOLDER/jobs/ID/job.json                the record; ID is random
                   photo                   what the visitor sent, as it came
                   estimate.json, photo.jpg, depth.png, first_look.png
                   scene/                  the run folder
                   look.html               the page to look around in

Everything that a restarted server needs is in these files.
"""

import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json, write_json
from zeronvs._core.progress import Progress
from zeronvs._core.resumable import ResumableRun
from zeronvs.web.task_queue import TaskQueue, TaskStatus
from zeronvs.web.tasks import AnyTask, CameraSettings, EstimateTask, SceneTask

JobState = Literal[
    "sent", "estimating", "ready", "queued", "running", "done", "failed", "cancelled"
]
SCENE_STATES = ("queued", "running", "done")
"""States in which the scene was asked for and not given up."""
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What visitors may ask for."""

    upload_bytes: int = 40 * 10**6
    photo_px: int = 100_000_000
    job_s: float = 1800.0
    """Time for one scene."""
    estimate_s: float = 120.0
    upload_s: float = 300.0
    """Time for sending one photograph."""
    waiting: int = 20
    """Scenes and videos in the queue."""
    jobs_per_visitor: int = 30
    jobs: int = 1000
    free_bytes: int = 10**9
    """What is kept free on the disk."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A photograph of a visitor, and what becomes of it."""

    id: str
    owner: str
    """Hash of the visitor's secret."""
    title: str
    made_at: float
    """Seconds since 1970, as all times."""
    state: JobState = "sent"
    message: str | None = None
    """Why it failed."""
    settings: CameraSettings = field(default_factory=CameraSettings)
    queued_at: float | None = None
    began_at: float | None = None


class Jobs:
    """All jobs of a folder, and the queues that work on them."""

    def __init__(
        self,
        folder: Path,
        make_worker: Callable[[], Callable[[AnyTask, Progress], None]],
        *,
        limits: Limits,
    ) -> None:
        """Keep the settings; `with jobs:` locks the folder, and resumes what was stopped.

        Args:
            folder: Made if missing; must be new, empty or a folder of this kind.
            make_worker: Picklable; called in each process, returns what does the tasks
                (`work.Worker`).
            limits: What visitors may ask for.
        """
        self.folder, self.limits = folder, limits
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self.estimates = TaskQueue(
            make_worker, limit_s=limits.estimate_s, changed=self._estimate_changed
        )
        self.scenes = TaskQueue(make_worker, limit_s=limits.job_s, changed=self._scene_changed)
        self._run: ResumableRun | None = None

    def __enter__(self) -> "Jobs":
        """Lock the folder, read its jobs, and go on with those that were stopped.

        Raises:
            InputError: The folder is of another kind, or another server works in it.
        """
        self._run = ResumableRun(self.folder)
        try:
            self._run.claim({"kind": "photo page"})
        except InputError:
            self._run.close()
            raise
        self._read()
        self.estimates.__enter__()
        self.scenes.__enter__()
        for job in sorted(self._jobs.values(), key=lambda job: job.queued_at or job.made_at):
            if job.state == "estimating":
                self._put_estimate(job)
            elif job.state in ("queued", "running"):
                self._put_scene(self._update(job.id, state="queued", began_at=None))
        return self

    def __exit__(self, *error: object) -> None:
        """End all processes; what they did not finish is resumed by the next server."""
        self.scenes.__exit__()
        self.estimates.__exit__()
        if self._run is not None:
            self._run.close()

    def reserve(self, owner: str, title: str) -> Job:
        """Return a new job whose photograph is about to be sent.

        Raises:
            InputError: There are too many jobs, or the disk is full.
        """
        limits = self.limits
        with self._lock:
            own = sum(job.owner == owner for job in self._jobs.values())
            if own >= limits.jobs_per_visitor:
                raise InputError(f"you have {own} scenes here; delete one before the next")
            if len(self._jobs) >= limits.jobs or self._disk_is_full():
                raise InputError("there is no room for another photograph here; try again later")
            job = Job(id=secrets.token_hex(16), owner=owner, title=title, made_at=time.time())
            self._jobs[job.id] = job
        self.path(job).mkdir(parents=True)
        return job

    def submit(self, job: Job) -> None:
        """Estimate the camera of a photograph that has arrived whole."""
        self._put_estimate(self._update(job.id, state="estimating"))

    def start(self, job: Job, settings: CameraSettings) -> Job:
        """Queue the scene of a job, again where there is one already.

        Raises:
            InputError: It has no estimates yet, is queued, or the queue is full.
        """
        if job.state not in ("ready", "failed", "cancelled", "done") or not self.estimated(job):
            raise InputError("this photograph is not ready for that")
        if len(self.scenes) >= self.limits.waiting or self._disk_is_full():
            raise InputError(f"{len(self.scenes)} scenes are waiting already; try again later")
        self.scenes.forget(job.id)
        if job.settings != settings or job.state != "cancelled":
            shutil.rmtree(self.path(job) / "scene", ignore_errors=True)
            (self.path(job) / "look.html").unlink(missing_ok=True)
        job = self._update(
            job.id, state="queued", settings=settings, queued_at=time.time(), message=None
        )
        self._put_scene(job)
        return job

    def cancel(self, job: Job) -> None:
        """Stop working on the scene of a job; it may be started again."""
        self.scenes.cancel(job.id)

    def delete(self, job: Job) -> None:
        """Stop everything about a job and delete all of its files."""
        with self._lock:
            self._jobs.pop(job.id, None)
        self.estimates.forget(job.id)
        self.scenes.forget(job.id)
        shutil.rmtree(self.path(job), ignore_errors=True)

    def of(self, owner: str) -> list[Job]:
        """Return the jobs of a visitor, the newest first, without those still being sent."""
        with self._lock:
            own = [j for j in self._jobs.values() if j.owner == owner and j.state != "sent"]
        return sorted(own, key=lambda job: -job.made_at)

    def find(self, job_id: str, owner: str) -> Job | None:
        """Return a job of a visitor; None for an unknown one and for that of another."""
        with self._lock:
            job = self._jobs.get(job_id)
        return job if job is not None and secrets.compare_digest(job.owner, owner) else None

    def path(self, job: Job) -> Path:
        """Return the folder of a job."""
        return self.folder / "jobs" / job.id

    def estimated(self, job: Job) -> bool:
        """Return whether the estimates of a job are there."""
        return (self.path(job) / "estimate.json").is_file()

    def _disk_is_full(self) -> bool:
        return shutil.disk_usage(self.folder).free < self.limits.free_bytes

    def _put_estimate(self, job: Job) -> None:
        folder = self.path(job)
        task = EstimateTask(photo=folder / "photo", out=folder, max_px=self.limits.photo_px)
        self.estimates.put(job.id, task)

    def _put_scene(self, job: Job) -> None:
        folder = self.path(job)
        task = SceneTask(
            photo=folder / "photo",
            out=folder / "scene",
            page=folder / "look.html",
            title=job.title,
            settings=job.settings,
        )
        self.scenes.put(job.id, task)

    def _estimate_changed(self, key: str, status: TaskStatus) -> None:
        with suppress(KeyError):  # of a job that was deleted
            if status.state == "done":
                self._update(key, state="ready")
            elif status.state == "failed":
                self._update(key, state="failed", message=status.message)

    def _scene_changed(self, key: str, status: TaskStatus) -> None:
        with suppress(KeyError):  # of a job that was deleted, or of a video
            if status.state == "running":
                self._update(key, state="running", began_at=time.time())
            else:
                self._update(key, state=status.state, message=status.message)

    def _update(self, job_id: str, **changes: Any) -> Job:
        """Change the record of a job.

        Raises:
            KeyError: There is no such job.
        """
        with self._lock:
            self._jobs[job_id] = job = replace(self._jobs[job_id], **changes)
            write_json(self.path(job) / "job.json", asdict(job))
            return job

    def _read(self) -> None:
        """Read the records; a folder without one is a photograph that was not sent to its end."""
        self._jobs.clear()
        for folder in sorted((self.folder / "jobs").glob("*")):
            try:
                record = read_json(folder / "job.json")
                settings = CameraSettings(**record.pop("settings"))
                job = Job(**record, settings=settings)
                if job.id != folder.name or job.state not in get_args(JobState):
                    raise ValueError("not a record of this folder")
            except (OSError, ValueError, TypeError, AttributeError, KeyError):
                if _ID.fullmatch(folder.name):
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            self._jobs[job.id] = job
