"""RealEstate10K and ACID: text files of cameras, with folders of frames or with videos.

    ROOT/.../train/<clip>.txt                           cameras, see `zeronvs.formats.re10k`
    ROOT/.../<clip>/<time stamp>.png|jpg                frames; or
    ROOT/.../<clip>.mp4, or <video of the address>.mp4  videos

The data set has neither image sizes nor depth.
"""

import re
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import av.error
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from zeronvs._core.errors import InputError
from zeronvs.datasets.sources.scene_source import (
    IMAGE_ENDINGS,
    FramePixels,
    SceneFrame,
    SceneViews,
    add_scene,
    check_split,
    choose,
    clean_name,
    read_image,
)
from zeronvs.formats.re10k import WORDS, read_re10k, unit_cameras

VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
SPLITS = ("train", "test", "val", "validation")
MAX_FRAMES = 100_000


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
        self._images = _find_images(frames.resolve() if frames else root)

    def scene_ids(self, split: str | None = None) -> list[str]:
        """Return the names of all clips, or of those in the folder of a split."""
        known = tuple(sorted({name for name in self._split_of.values() if name}))
        check_split(split, known)
        return [name for name in self._scenes if split in (None, self._split_of[name])]

    def load(self, scene_id: str, split: str | None = None) -> SceneViews:
        """Return one clip; frames without an image are left out."""
        check_split(split, tuple(name for name in self._split_of.values() if name))
        path = choose(self._scenes, scene_id)
        clip = read_re10k(path)
        stamps, cameras = list(clip.timestamps_us), unit_cameras(clip.table)
        video_id = clip.address.split("v=")[-1].split("&")[0].rsplit("/", 1)[-1]
        images = next((self._images[n] for n in (path.stem, video_id) if n in self._images), None)
        if images is None:
            raise InputError(f"no folder {path.stem} of frames, and no video of it")
        notes: list[str] = []
        readers = _readers(images, stamps, notes)
        frames = [
            SceneFrame(str(stamp), cameras[index], readers[stamp], size_is_nominal=True)
            for index, stamp in enumerate(stamps)
            if stamp in readers
        ]
        return SceneViews(scene_id, tuple(frames), tuple(notes), len(stamps) - len(frames))


def is_re10k(folder: Path) -> bool:
    """Return whether a folder contains clips of this format."""
    some = list(folder.glob("*.txt"))[:5] + list(folder.glob("*/*.txt"))[:5]
    return any(_looks_like_cameras(path) for path in some)


class Video:
    """The frames of a video by time; cheap when read in order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._container = None
        self._decoded = iter(())
        self._at: tuple[Fraction, av.VideoFrame] | None = None

    def read(self, stamp_us: int) -> FramePixels:
        """Return the frame nearest to a time.

        Raises:
            InputError: The video cannot be decoded, or ends before.
        """
        time = Fraction(stamp_us, 1_000_000)
        try:
            if self._container is None or (self._at is not None and self._at[0] > time):
                self._open()
            best = self._at
            while best is None or best[0] < time:
                following = next(self._decoded, None)
                if following is None:
                    break
                self._at = (self._time(following), following)
                if best is None or abs(self._at[0] - time) <= abs(best[0] - time):
                    best = self._at
            if best is None or abs(best[0] - time) > self._tolerance:
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
        """Close the file."""
        if self._container is not None:
            self._container.close()
            self._container = None


def _pixels(frame: av.VideoFrame) -> UInt8[ndarray, "h w 3"]:
    return np.ascontiguousarray(frame.to_ndarray(format="rgb24"))


def _looks_like_cameras(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as handle:
            head = handle.read(4096).decode("utf-8", errors="replace").splitlines()
    except OSError:
        return False
    words = next((line.split() for line in head if len(line.split()) > 1), [])
    return len(words) == WORDS and bool(re.fullmatch(r"\d+", words[0]))


def _find_images(root: Path) -> dict[str, Path]:
    """Return folders of images and videos by name."""
    by_name: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in VIDEO_ENDINGS and path.is_file():
            by_name.setdefault(path.stem, path)
        elif path.is_file() and path.suffix in IMAGE_ENDINGS:
            by_name[path.parent.name] = path.parent
    return by_name


def _readers(images: Path, stamps: list[int], notes: list[str]) -> dict[int, partial]:
    """Return a function that reads the image, for each time stamp that has one."""
    if len(stamps) > MAX_FRAMES:
        raise InputError(f"a clip of {len(stamps)} frames; at most {MAX_FRAMES}")
    if images.is_file():
        video = Video(images)
        return {stamp: partial(video.read, stamp) for stamp in stamps}
    files = sorted(path for path in images.iterdir() if path.suffix in IMAGE_ENDINGS)
    by_stamp = {int(path.stem): path for path in files if re.fullmatch(r"\d+", path.stem)}
    if not any(stamp in by_stamp for stamp in stamps):
        in_ms = {stamp: by_stamp[stamp // 1000] for stamp in stamps if stamp // 1000 in by_stamp}
        by_stamp = in_ms
        if not in_ms and len(files) == len(stamps):
            by_stamp = dict(zip(stamps, files, strict=True))
            notes.append("no image is named by a time stamp; they are taken in order, one a line")
    missing = [stamp for stamp in stamps if stamp not in by_stamp]
    if missing:
        notes.append(f"{len(missing)} frames left out: no image, e.g. for time {missing[0]}")
    return {
        stamp: partial(_read, by_stamp[stamp], str(stamp)) for stamp in stamps if stamp in by_stamp
    }


def _read(path: Path, name: str) -> FramePixels:
    return FramePixels(read_image(path, name, least_px=512))
