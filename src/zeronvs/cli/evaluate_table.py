"""`zeronvs evaluate table1|table2`: the tables of the paper on its data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zeronvs._core.errors import InputError
from zeronvs.cli.arguments import check_counts, check_device
from zeronvs.cli.evaluate import EvaluateTable1Arguments, EvaluateTable2Arguments

if TYPE_CHECKING:
    from zeronvs.diffusion.pipeline import ZeroNVSPipeline
    from zeronvs.evaluation.benchmark import SceneMaker
    from zeronvs.evaluation.image_metrics import ImageMetrics
    from zeronvs.evaluation.lpips import Backbone, Lpips
    from zeronvs.evaluation.protocols.protocol import ProtocolName
    from zeronvs.protocols import GeometryEstimator


def make_table(name: Literal["table1", "table2"], arguments: EvaluateTable1Arguments) -> None:
    """Measure, print and write the table."""
    roots = _roots(name, arguments)
    chosen = _scenes(roots, arguments.scenes)
    check_counts(limit=arguments.limit)
    check_device(arguments.device)
    from zeronvs._core.resumable import ResumableRun
    from zeronvs.cli.report import print_table, progress_bar
    from zeronvs.cli.resolve import best_device
    from zeronvs.depth.builtin import load_builtin_depth
    from zeronvs.evaluation.benchmark import BenchmarkConfig, evaluate_benchmark
    from zeronvs.evaluation.tables import notes, paper_rows, scale_rows, write_table

    device = best_device(arguments.device)
    settings: dict[str, Any] = {
        "preset": arguments.preset,
        "model": "none" if arguments.preset == "preview" else arguments.model,
        "limit": arguments.limit,
    }
    estimator = load_builtin_depth(device=device)
    pipe = _pipe(arguments, device)
    metrics = _metrics(arguments, pipe, device)
    settings["metrics"] = list(metrics.names)
    results = []
    with progress_bar() as progress, ResumableRun(arguments.out) as run:
        run.claim({"kind": "evaluate table"} | settings)
        for key, scenes in chosen.items():
            config = BenchmarkConfig(
                seeds=tuple(dict.fromkeys(arguments.seeds)),
                scenes=scenes,
                limit=arguments.limit,
            )
            results.append(
                evaluate_benchmark(
                    key,
                    roots[key],
                    _maker(arguments, pipe, estimator),
                    estimator,
                    metrics,
                    config,
                    out=arguments.out,
                    progress=progress,
                )
            )
        files = write_table(arguments.out, name, results, settings=settings)
    for result in results:
        print(f"\n{result.protocol.name}")
        print_table(paper_rows(result, name))
        print_table(scale_rows(result))
        print("\n".join(f"note: {line}" for line in notes(result)))
    print("\n" + "\n".join(str(path) for path in files))


def _roots(name: str, arguments: EvaluateTable1Arguments) -> "dict[ProtocolName, Path]":
    """Return the folders of the table's data sets that are given."""
    roots: dict[ProtocolName, Path] = {}
    if isinstance(arguments, EvaluateTable2Arguments) and arguments.mipnerf360 is not None:
        roots["mipnerf360"] = arguments.mipnerf360
    if arguments.dtu is not None:
        roots["dtu"] = arguments.dtu
    if not roots:
        flags = "--dtu" if name == "table1" else "--dtu, --mipnerf360 or both"
        raise InputError(f"{name} needs the folder of its data set: give {flags}")
    return roots


def _scenes(
    roots: "dict[ProtocolName, Path]", wanted: tuple[str, ...]
) -> "dict[ProtocolName, tuple[str, ...] | None]":
    """Return the wanted scenes of each data set; one that has none of them is left out."""
    from zeronvs.evaluation.protocols.protocol import load_protocol

    if not wanted:
        return dict.fromkeys(roots)
    known = {key: load_protocol(key).scenes for key in roots}
    strange = [name for name in wanted if not any(name in scenes for scenes in known.values())]
    if strange:
        there = ", ".join(name for scenes in known.values() for name in scenes)
        raise InputError(f"--scenes: there is no {', '.join(strange)}; there are: {there}")
    chosen: dict[ProtocolName, tuple[str, ...] | None] = {}
    for key in roots:
        if names := tuple(name for name in wanted if name in known[key]):
            chosen[key] = names
    return chosen


def _pipe(arguments: EvaluateTable1Arguments, device: str) -> "ZeroNVSPipeline | None":
    """Return the diffusion model, where the preset uses one."""
    if arguments.preset == "preview":
        if arguments.model != "builtin":
            raise InputError("--model is of the presets field, fast and paper; preview uses none")
        return None
    from zeronvs.cli.resolve import model_source
    from zeronvs.diffusion.pipeline import ZeroNVSPipeline

    pipe = ZeroNVSPipeline.from_pretrained(model_source(arguments.model))
    pipe.to(device)
    return pipe


def _maker(
    arguments: EvaluateTable1Arguments,
    pipe: "ZeroNVSPipeline | None",
    estimator: "GeometryEstimator",
) -> "SceneMaker":
    """Return the function that makes a scene with the preset."""
    from zeronvs.recipes.reconstruct import reconstruct

    def make(view: Any, *, scene_scale: float, seed: int, run_dir: Path) -> Any:
        return reconstruct(
            view,
            pipe,
            arguments.preset,
            scene_scale=scene_scale,
            geometry_estimator=estimator,
            run_dir=run_dir,
            seed=seed,
            resume=True,
        )

    return make


def _metrics(
    arguments: EvaluateTable1Arguments, pipe: "ZeroNVSPipeline | None", device: str
) -> "ImageMetrics":
    """Return the metrics that there are weights for, and say which are missing."""
    from zeronvs.evaluation.image_metrics import ImageMetrics
    from zeronvs.evaluation.metrics import ClipSimilarity

    files: dict[Backbone, Path | None] = {
        "VGG16": arguments.vgg_weights,
        "AlexNet": arguments.alex_weights,
    }
    lpips = tuple(net.to(device) for net in find_lpips(files))
    # The image tower of a released model is CLIP's; that of the built-in one is not.
    is_clip = pipe is not None and arguments.model != "builtin"
    clip = ClipSimilarity(pipe.image_encoder) if is_clip and pipe is not None else None
    return ImageMetrics(lpips=lpips, clip=clip, device=device)


def find_lpips(files: "dict[Backbone, Path | None]") -> "list[Lpips]":
    """Return LPIPS with each backbone that there are weights for; print what is missing.

    Raises:
        InputError: A file that the user gave cannot be used.
    """
    from zeronvs.evaluation.lpips import Lpips

    found = []
    for backbone, path in files.items():
        try:
            found.append(Lpips.load(backbone, path))
        except InputError as error:
            if path is not None:
                raise
            print(f"note: LPIPS ({backbone}) is not measured: {error}")
    return found
