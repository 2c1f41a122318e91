"""RealEstate10K and ACID: text files of cameras, with folders of frames or with videos.

    ROOT/.../train/<clip>.txt      address of the video, then a line a frame:
                                   time stamp (microseconds), fx fy cx cy (of width and height),
                                   two zeros, and the 3x4 world-to-camera pose, row by row
    ROOT/.../<clip>/<time stamp>.png|jpg                frames; or
    ROOT/.../<clip>.mp4, or <video of the address>.mp4  videos

The data set tells neither image sizes nor depth.
"""

import re
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import av.error
import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.conventions import camera_from_re10k
from zeronvs.datasets.sources.folders import add_scene, check_split, choose, clean_name
from zeronvs.datasets.sources.scene_source import (
    IMAGE_ENDINGS,
    FramePixels,
    SceneFrame,
    SceneViews,
    read_image,
)

VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
SPLITS = ("train", "test", "val", "validation")
MOST_TEXT_BYTES = 32 * 2**20
MOST_FRAMES = 100_000
WORDS = 19


class Re10kSource:
    """Clips of RealEstate10K or ACID."""

    def __init__(self, root: Path, *, frames: Path | None = None) -> None:
        """Find the clips.

        Args:
            root: Folder of the text files, in folders named by split or not.
            frames: Folder of the frames or videos, if they lie elsewhere.

        Raises:
            InputError: There is no text file of cameras.
        """
        if not root.is_dir():
            raise InputError(f"{root}: there is no such folder")
        root = root.resolve()
        self._scenes: dict[str, Path] = {}
        self._split_of: dict[str, str | None] = {}
        for path in sorted(root.rglob("*.txt")):
            if not _looks_like_cameras(path):
                continue
            folders = [part for part in path.relative_to(root).parts[:-1] if part in SPLITS]
            add_scene(self._scenes, f"{clean_name(root.name)}/{clean_name(path.stem)}", path)
            self._split_of[next(reversed(self._scenes))] = folders[-1] if folders else None
        if not self._scenes:
            raise InputError(f"{root}: there is no text file of RealEstate10K cameras in it")
        self._pictures = _find_pictures(frames.resolve() if frames else root)

    def scene_ids(self, split: str | None = None) -> list[str]:
        """Return the names of all clips, or of those in the folder of a split."""
        known = tuple(sorted({name for name in self._split_of.values() if name}))
        check_split(split, known)
        return [name for name in self._scenes if split in (None, self._split_of[name])]

    def load(self, scene_id: str, split: str | None = None) -> SceneViews:
        """Return one clip; frames without a picture are left out."""
        check_split(split, tuple(name for name in self._split_of.values() if name))
        path = choose(self._scenes, scene_id)
        address, stamps, cameras = read_re10k_text(path)
        video_id = address.split("v=")[-1].split("&")[0].rsplit("/", 1)[-1]
        found = next(
            (self._pictures[n] for n in (path.stem, video_id) if n in self._pictures), None
        )
        if found is None:
            raise InputError(f"no folder {path.stem} of frames, and no video of it, was found")
        notes: list[str] = []
        readers = _readers(found, stamps, notes)
        frames = [
            SceneFrame(str(stamp), cameras[index], readers[stamp], size_is_nominal=True)
            for index, stamp in enumerate(stamps)
            if stamp in readers
        ]
        extra = {"address": address} if address else {}
        return SceneViews(scene_id, tuple(frames), tuple(notes), extra)


def read_re10k_text(
    path: Path,
) -> tuple[
    str,  # address of the video, or ""
    list[int],  # time stamps, microseconds
    Camera,  # cameras of the unit square, a batch
]:
    """Read the cameras of one clip.

    Raises:
        InputError: A line is not a camera.
    """
    if path.stat().st_size > MOST_TEXT_BYTES:
        raise InputError(f"{path} is larger than {MOST_TEXT_BYTES >> 20} MiB")
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text") from error
    lines = [words for words in lines if words]
    address = lines.pop(0)[0] if lines and len(lines[0]) == 1 else ""
    try:
        if not lines or len({len(words) for words in lines} | {WORDS}) > 1:
            raise ValueError(f"a frame should be {WORDS} numbers")
        stamps = [int(words[0]) for words in lines]
        table = torch.tensor([[float(word) for word in words[1:]] for words in lines]).double()
    except ValueError as error:
        raise InputError(f"{path} does not hold RealEstate10K cameras: {error}") from error
    return address, stamps, cameras_of_table(table)


def cameras_of_table(table: torch.Tensor) -> Camera:
    """Return cameras of the unit square from rows fx fy cx cy 0 0 and the 3x4 pose."""
    pose = table[:, 6:].double().view(-1, 3, 4)
    finite = torch.isfinite(table).all(1)
    solvable = finite & (torch.linalg.det(pose[:, :, :3].nan_to_num()).abs() > 1e-6)
    # A damaged pose is kept as it is, unusable but counted, so that the rest can be read.
    safe = torch.where(solvable[:, None, None], pose, torch.eye(3, 4, dtype=pose.dtype))
    camera = camera_from_re10k(table[:, :4].double(), safe, (1, 1))
    matrix = camera.camera_to_world.clone()
    matrix[~solvable] = torch.nan
    return Camera(matrix.float(), camera.intrinsics_px.float(), (1, 1))


def is_re10k(folder: Path) -> bool:
    """Tell whether a folder holds clips of this format."""
    some = list(folder.glob("*.txt"))[:5] + list(folder.glob("*/*.txt"))[:5]
    return any(_looks_like_cameras(path) for path in some)


class Video:
    """The frames of a video by time; cheap when asked for in order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._container = None
        self._decoded = iter(())
        self._at: tuple[Fraction, av.VideoFrame] | None = None

    def read(self, stamp_us: int) -> FramePixels:
        """Return the frame shown at a time (the nearest one).

        Raises:
            InputError: The video cannot be decoded, or ends before.
        """
        wanted = Fraction(stamp_us, 1_000_000)
        try:
            if self._container is None or (self._at is not None and self._at[0] > wanted):
                self._open()
            best = self._at
            while best is None or best[0] < wanted:
                following = next(self._decoded, None)
                if following is None:
                    break
                self._at = (self._time(following), following)
                if best is None or abs(self._at[0] - wanted) <= abs(best[0] - wanted):
                    best = self._at
            if best is None or abs(best[0] - wanted) > self._tolerance:
                raise InputError(f"{self._path.name} has no frame at {stamp_us} us")
            return FramePixels(_pixels(best[1]))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self._path.name} cannot be decoded: {error}") from error

    def _open(self) -> None:
        self.close()
        self._container = av.open(str(self._path))
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        self._base = stream.time_base or Fraction(1, 1000)
        self._start = (stream.start_time or 0) * self._base
        rate = stream.average_rate or Fraction(25)
        self._tolerance = Fraction(51, 100) / rate
        self._decoded = self._container.decode(stream)
        self._at = None

    def _time(self, frame: av.VideoFrame) -> Fraction:
        return (frame.pts or 0) * self._base - self._start

    def close(self) -> None:
        """Let go of the file."""
        if self._container is not None:
            self._container.close()
            self._container = None


def _pixels(frame: av.VideoFrame) -> UInt8[ndarray, "h w 3"]:
    return np.ascontiguousarray(frame.to_ndarray(format="rgb24"))


def _looks_like_cameras(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            head = handle.read(4096).decode("utf-8", errors="replace").splitlines()
    except OSError:
        return False
    words = next((line.split() for line in head if len(line.split()) > 1), [])
    return len(words) == WORDS and bool(re.fullmatch(r"\d+", words[0]))


def _find_pictures(root: Path) -> dict[str, Path]:
    """Return folders of pictures and videos by name."""
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in VIDEO_ENDINGS and path.is_file():
            found.setdefault(path.stem, path)
        elif path.is_file() and path.suffix in IMAGE_ENDINGS:
            found[path.parent.name] = path.parent
    return found


def _readers(found: Path, stamps: list[int], notes: list[str]) -> dict[int, partial]:
    """Return how to read the picture of each time stamp that has one."""
    if len(stamps) > MOST_FRAMES:
        raise InputError(f"a clip of {len(stamps)} frames; at most {MOST_FRAMES}")
    if found.is_file():
        video = Video(found)
        return {stamp: partial(video.read, stamp) for stamp in stamps}
    files = sorted(path for path in found.iterdir() if path.suffix in IMAGE_ENDINGS)
    by_stamp = {int(path.stem): path for path in files if re.fullmatch(r"\d+", path.stem)}
    if not any(stamp in by_stamp for stamp in stamps):
        in_ms = {stamp: by_stamp[stamp // 1000] for stamp in stamps if stamp // 1000 in by_stamp}
        by_stamp = in_ms
        if not in_ms and len(files) == len(stamps):
            by_stamp = dict(zip(stamps, files, strict=True))
            notes.append("no picture is named by a time stamp; taken in order, one a line")
    missing = [stamp for stamp in stamps if stamp not in by_stamp]
    if missing:
        notes.append(f"{len(missing)} frames left out: no picture, e.g. for time {missing[0]}")
    return {
        stamp: partial(_read, by_stamp[stamp], str(stamp)) for stamp in stamps if stamp in by_stamp
    }


def _read(path: Path, name: str) -> FramePixels:
    return FramePixels(read_image(path, name, least_px=512))
