"""`zeronvs data`: convert data sets to shards, check them, and write procedural scenes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from zeronvs._core.errors import HealthError, InputError
from zeronvs.cli.arguments import Count, Number, check_counts, parse

if TYPE_CHECKING:
    from zeronvs.datasets.sources.scene_source import SceneSource

FORMATS = ("auto", "co3d", "re10k", "acid", "pixelsplat", "colmap", "nerfstudio", "posed", "shards")
Format = Literal["auto", "co3d", "re10k", "acid", "pixelsplat", "colmap", "nerfstudio", "posed",
                 "shards"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ConvertArguments:
    """Write a data set as shards for training; the same command again resumes."""

    format: tyro.conf.Positional[Format]
    """auto, co3d (version 2 or 1), re10k or acid (txt with frames or videos), pixelsplat (.torch
    chunks), colmap (text or binary; DL3DV too), nerfstudio (transforms.json), posed (scene.json),
    shards (to write them anew)."""
    source: tyro.conf.Positional[Path]
    """One scene, or the folder of all."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The folder of the shards and their manifest.json."""
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Only this split of the data set; all of it, called train, if not given."""
    workers: Count = None
    """Processes; one a processor if not given."""
    image_format: Literal["jpg", "png", "webp"] = "jpg"
    """jpg is small and fast to decode; png is exact, and the one that the authors' reader reads."""
    quality: int = 95
    """JPEG and WebP quality, 1 to 100."""
    full_frame: bool = False
    """Keep the whole image, short side 256; training reads its centre square only."""
    depth: Literal["builtin", "none"] = "builtin"
    """Network that fills sparse depth for the viewer scale, as the paper does; none takes it from
    the known pixels alone."""
    no_triangulate: bool = False
    """Do not triangulate points for scenes that come without any depth (RealEstate10K, ACID): the
    viewer scale is then unknown for them."""
    max_frames: Count = None
    """Maximum number of frames per scene, sampled evenly."""
    limit: Count = None
    """Only the first so many scenes."""
    max_shard_mb: int = 512
    """A shard is full at this size, in MiB."""
    licence: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """Kept in the manifest."""
    images: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """colmap: folder of the images, absolute or within a scene. re10k, acid: folder of frames or
    videos."""
    depth_unit: Number = None
    """nerfstudio: scene units per unit of a depth file; by default the file's, else 0.001."""
    set_list: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """co3d: the file in set_lists that splits come from, e.g. set_lists_fewview_dev."""
    white_background: bool = False
    """co3d: put the masked object on white, and drop the depth around it."""


@dataclass(frozen=True, kw_only=True)
class CheckArguments:
    """Check shards or a data set; list the problems and draw a sheet of each scene."""

    path: tyro.conf.Positional[Path]
    """Shards, or a data set in a format of `data convert`."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The folder of the sheets and of report.json."""
    format: Format = "auto"
    """Format of the data set; detected from the files by default."""
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Only this split."""
    pairs: int = 3
    """Pairs of frames a scene."""
    limit: Count = None
    """Only so many scenes, evenly spread."""
    workers: Count = None
    """Processes; one a processor if not given."""
    depth: Literal["builtin", "none"] = "builtin"
    """Network that fills sparse depth in the sheets; the verdict does not use it."""
    images: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """As in data convert."""
    depth_unit: Number = None
    """As in data convert."""


@dataclass(frozen=True, kw_only=True)
class SynthArguments:
    """Write procedural scenes with exact depth as shards."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The folder of the shards."""
    scenes: int = 100
    """Number of scenes."""
    frames: int = 20
    """Frames a scene."""
    photos: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Photographs that give the textures; drawn patterns if not given."""
    split: str = "train"
    """Name of the split; each has scenes of its own."""
    seed: int = 0
    """The same seed gives the same scenes."""
    workers: Count = None
    """Processes; one a processor if not given."""
    image_format: Literal["jpg", "png", "webp"] = "jpg"
    """As in data convert."""


KINDS = {"convert": ConvertArguments, "check": CheckArguments, "synth": SynthArguments}
USAGE = (
    "usage: zeronvs data convert FORMAT SOURCE -o OUT\n"
    "       zeronvs data check PATH -o OUT\n"
    "       zeronvs data synth -o OUT --scenes N --frames M"
)


def run(words: Sequence[str]) -> None:
    """Parse the second word and its arguments, and do it."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return
    if words[0] not in KINDS:
        raise InputError(
            f"there is no 'data {words[0]}'; there is: data convert, data check, data synth"
        )
    arguments = parse(KINDS[words[0]], words[1:], f"data {words[0]}")
    if isinstance(arguments, ConvertArguments):
        _convert(arguments)
    elif isinstance(arguments, CheckArguments):
        _check(arguments)
    else:
        _synth(arguments)


def _convert(arguments: ConvertArguments) -> None:
    """Convert, and print what was written and what was left out."""
    check_counts(
        workers=arguments.workers,
        max_frames=arguments.max_frames,
        limit=arguments.limit,
        max_shard_mb=arguments.max_shard_mb,
    )
    if not 1 <= arguments.quality <= 100:
        raise InputError(f"--quality is {arguments.quality}; it must lie between 1 and 100")
    from zeronvs.cli.report import progress_bar
    from zeronvs.shards.convert import ConvertConfig, convert

    kind, opener = _opener(arguments, index_dir=arguments.out / ".index")
    config = ConvertConfig(
        image_format=arguments.image_format,
        quality=arguments.quality,
        square=not arguments.full_frame,
        max_frames=arguments.max_frames,
        background="white" if arguments.white_background else "keep",
        triangulate=not arguments.no_triangulate,
        split=arguments.split,
        limit=arguments.limit,
    )
    with progress_bar() as progress:
        report = convert(
            opener,
            arguments.out,
            config,
            description=f"{kind}: {arguments.source.name}",
            licence=arguments.licence,
            load_depth=None if arguments.depth == "none" else load_depth_estimator,
            depth_name=arguments.depth,
            workers=arguments.workers or _processors(),
            max_shard_bytes=arguments.max_shard_mb * 2**20,
            progress=progress,
        )
    _print_shards(arguments.out, report)


def _check(arguments: CheckArguments) -> None:
    """Check, and print one line per scene with its problems."""
    check_counts(pairs=arguments.pairs, limit=arguments.limit, workers=arguments.workers)
    from zeronvs.cli.report import print_table, progress_bar
    from zeronvs.datasets.check import check_source

    _, opener = _opener(arguments)
    with progress_bar() as progress:
        checks = check_source(
            opener,
            arguments.out,
            split=arguments.split,
            pairs=arguments.pairs,
            limit=arguments.limit,
            load_depth=None if arguments.depth == "none" else load_depth_estimator,
            workers=arguments.workers or _processors(),
            progress=progress,
        )
    rows = [("scene", "frames", "fov", "depth", "poses agree", "verdict")]
    for check in checks:
        rows.append(
            (
                check.scene_id,
                str(check.frames),
                "" if check.fov_deg is None else f"{check.fov_deg:.0f} deg",
                f"{check.known_share:.1%} known",
                "" if check.agreement is None else f"{check.agreement:.0%}",
                check.verdict,
            )
        )
    print_table(rows)
    print(f"\n{arguments.out / 'report.json'}")
    bad = [check for check in checks if check.problems]
    if bad:
        raise HealthError(f"{len(bad)} of {len(checks)} scenes have something wrong; see the list")


def _synth(arguments: SynthArguments) -> None:
    """Render procedural scenes to shards."""
    check_counts(scenes=arguments.scenes, frames=arguments.frames, workers=arguments.workers)
    if arguments.photos is not None and not arguments.photos.is_dir():
        raise InputError(f"{arguments.photos}: there is no such folder of photographs")
    from zeronvs.cli.report import progress_bar
    from zeronvs.datasets.procedural import SyntheticSource
    from zeronvs.shards.convert import ConvertConfig, convert

    opener = partial(
        SyntheticSource,
        arguments.scenes,
        arguments.frames,
        seed=arguments.seed,
        split=arguments.split,
        photos=arguments.photos,
    )
    textures = "drawn" if arguments.photos is None else arguments.photos.name
    with progress_bar() as progress:
        report = convert(
            opener,
            arguments.out,
            ConvertConfig(image_format=arguments.image_format, split=arguments.split),
            description=f"procedural scenes, seed {arguments.seed}, textures {textures}, "
            f"{arguments.frames} frames",
            workers=arguments.workers or _processors(),
            progress=progress,
        )
    _print_shards(arguments.out, report)


def load_depth_estimator() -> Callable[..., Any]:
    """Return the relative depth that the built-in network predicts for square images."""
    from zeronvs.depth.builtin import load_builtin_depth

    net = load_builtin_depth()
    return lambda image: net.estimate(image).depth_z


def _opener(
    arguments: ConvertArguments | CheckArguments, index_dir: Path | None = None
) -> tuple[str, Callable[[], "SceneSource"]]:
    """Return the format, and a picklable function that opens the source."""
    path = arguments.source if isinstance(arguments, ConvertArguments) else arguments.path
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder")
    path = path.resolve()
    kind = _kind(path) if arguments.format == "auto" else arguments.format
    if kind == "co3d":
        from zeronvs.datasets.sources.co3d import Co3dSource

        set_list = getattr(arguments, "set_list", None)
        return kind, partial(Co3dSource, path, index_dir=index_dir, set_list=set_list)
    if kind in ("re10k", "acid"):
        from zeronvs.datasets.sources.re10k import Re10kSource

        frames = None if arguments.images is None else Path(arguments.images)
        return kind, partial(Re10kSource, path, frames=frames)
    if kind == "pixelsplat":
        from zeronvs.datasets.sources.pixelsplat import PixelSplatSource

        return kind, partial(PixelSplatSource, path)
    if kind == "colmap":
        from zeronvs.datasets.sources.colmap import ColmapSource

        return kind, partial(ColmapSource, path, images=arguments.images)
    if kind == "nerfstudio":
        from zeronvs.datasets.sources.nerfstudio import NerfstudioSource

        return kind, partial(NerfstudioSource, path, depth_unit=arguments.depth_unit)
    if kind == "posed":
        from zeronvs.datasets.sources.posed import PosedSource

        return kind, partial(PosedSource, path)
    from zeronvs.shards.scene import ShardSource

    return kind, partial(ShardSource, path)


def _kind(path: Path) -> str:
    """Detect the format from the files of the folder itself, else of the folders in it."""
    from zeronvs.datasets.sources.colmap import is_colmap
    from zeronvs.datasets.sources.nerfstudio import is_nerfstudio
    from zeronvs.datasets.sources.pixelsplat import is_pixelsplat
    from zeronvs.datasets.sources.posed import is_posed
    from zeronvs.datasets.sources.re10k import is_re10k
    from zeronvs.shards.scene import is_shards

    tests = {
        "shards": is_shards,
        "posed": is_posed,
        "nerfstudio": is_nerfstudio,
        "colmap": is_colmap,
        "pixelsplat": is_pixelsplat,
        "co3d": lambda folder: (folder / "frame_annotations.jgz").is_file(),
        "re10k": is_re10k,
    }
    if path.is_file():
        return "shards" if is_shards(path) else "nerfstudio"
    inner = [folder for folder in sorted(path.iterdir()) if folder.is_dir()][:50]
    for folder in (path, *inner):
        for name, test in tests.items():
            if test(folder):
                return name
    raise InputError(f"{path}: the format is not known; give one of: {', '.join(FORMATS[1:])}")


def _print_shards(out: Path, report: Any) -> None:
    """Print the content of the folder.

    Raises:
        HealthError: A scene was left out.
    """
    from zeronvs.cameras.embedding import Representation
    from zeronvs.cli.report import print_table

    mode = Representation.SIX_DOF_VIEWER.official_mode
    shards = report.manifest.shards
    scenes = [scene for shard in shards for scene in shard.scenes]
    viewer = sum(scene.scales.get(mode) is not None for scene in scenes)
    size = sum(shard.bytes for shard in shards)
    rows = [
        ("shards", "scenes", "frames", "MiB", "with a viewer scale"),
        (
            str(len(shards)),
            str(len(scenes)),
            str(sum(scene.frames for scene in scenes)),
            f"{size / 2**20:.1f}",
            f"{viewer} of {len(scenes)}",
        ),
    ]
    print_table(rows)
    noted = [scene for scene in report.scenes if scene.notes and scene.error is None]
    for scene in noted[:10]:
        print(f"note: {scene.scene_id}: {scene.notes[0]}")
    if sum(len(scene.notes) for scene in noted) > len(noted[:10]):
        print(f"note: all notes are in {out / 'report.json'}")
    for scene in report.failed[:10]:
        print(f"left out: {scene.scene_id}: {scene.error}")
    print(out / "manifest.json")
    if report.failed:
        raise HealthError(
            f"{len(report.failed)} scenes were left out; for the reasons see {out / 'report.json'}"
        )


def _processors() -> int:
    import os

    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
