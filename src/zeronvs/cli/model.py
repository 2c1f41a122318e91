"""`zeronvs model`: weights by name, conversion of weights and back, description of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from zeronvs._core.errors import InputError
from zeronvs.cli.arguments import parse

if TYPE_CHECKING:
    from zeronvs.checkpoints.cache import CachedWeights

Config = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True, kw_only=True)
class ListArguments:
    """List published weights and those in the cache, with what brings them there."""


@dataclass(frozen=True, kw_only=True)
class FetchArguments:
    """Download published weights and keep them in the cache, converted, for --model NAME.

    A download that breaks off is resumed when the command is run again.
    """

    name: tyro.conf.Positional[str]
    """A name that `zeronvs model list` shows, or the hub id of a Zero-1-to-3 folder in the layout
    of diffusers (bennyguo/zero123-xl-diffusers, kxic/zero123-xl)."""


@dataclass(frozen=True, kw_only=True)
class ImportArguments:
    """Convert weights that you have into the cache, for --model NAME; nothing in them is run."""

    source: tyro.conf.Positional[Path]
    """A checkpoint or safetensors file, a folder that accelerate saved, or a Zero-1-to-3 folder in
    the layout of diffusers."""
    name: str | None = None
    """The name to give them; that of the published weights, or of the file, if not given."""
    config: Config = None
    """Their YAML file; the one beside them, or that of the released models, if not given."""


@dataclass(frozen=True, kw_only=True)
class ConvertArguments:
    """Convert weights to a folder that diffusers reads, or such a folder back to a checkpoint."""

    source: tyro.conf.Positional[Path]
    """Weights as for `zeronvs model import`; or a model folder, or a name in the cache, for the way
    back."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The folder to make, or the .ckpt file."""
    config: Config = None
    """Their YAML file; the one beside them, or that of the released models, if not given."""
    half: bool = False
    """Store float16: half the size, and slow on processors."""


@dataclass(frozen=True, kw_only=True)
class InfoArguments:
    """Describe a model: its components, their sizes, and its camera representation."""

    model: tyro.conf.Positional[str] = "builtin"
    """builtin, a name (`zeronvs model list`), a folder, or a hub id."""


KINDS = {
    "list": ListArguments,
    "fetch": FetchArguments,
    "import": ImportArguments,
    "convert": ConvertArguments,
    "info": InfoArguments,
}


def run(words: Sequence[str]) -> None:
    """Parse the second word and its arguments, and do it."""
    if not words or words[0] in ("-h", "--help"):
        print(
            "usage: zeronvs model list\n"
            "       zeronvs model fetch NAME\n"
            "       zeronvs model import FILE [--name NAME]\n"
            "       zeronvs model convert SOURCE -o OUT\n"
            "       zeronvs model info [MODEL]"
        )
        return
    if words[0] not in KINDS:
        known = ", ".join(f"model {kind}" for kind in KINDS)
        raise InputError(f"there is no 'model {words[0]}'; there is: {known}")
    arguments = parse(KINDS[words[0]], words[1:], f"model {words[0]}")
    if isinstance(arguments, ListArguments):
        _list()
    elif isinstance(arguments, FetchArguments):
        _fetch(arguments)
    elif isinstance(arguments, ImportArguments):
        _import(arguments)
    elif isinstance(arguments, ConvertArguments):
        _convert(arguments)
    else:
        _info(arguments)


def _list() -> None:
    """Print a table of names, and how to get what is not here."""
    from zeronvs.checkpoints.known import KNOWN
    from zeronvs.cli.report import print_table
    from zeronvs.cli.resolve import weights_cache

    cache = weights_cache()
    here = {cached.name: cached for cached in cache.entries()}
    rows = [("name", "here", "licence", "what"), ("builtin", "yes", "see its model card", "small")]
    for known in KNOWN:
        state = "yes" if known.name in here else "no"
        rows.append((known.name, state, known.licence.partition(" (")[0], known.what))
    names = {known.name for known in KNOWN}
    for name, cached in here.items():
        if name not in names:
            licence = cached.source.licence.partition(":")[0].partition(" (")[0]
            rows.append((name, "yes", licence, f"from {cached.source.file}"))
    print_table(rows)
    print(f"\nThe cache is {cache.root}")
    for known in KNOWN:
        if known.name not in here:
            print(f"{known.name}: {known.remedy}")


def _fetch(arguments: FetchArguments) -> None:
    from zeronvs.checkpoints.import_weights import fetch_weights
    from zeronvs.cli.report import progress_bar
    from zeronvs.cli.resolve import weights_cache

    with progress_bar() as progress:
        cached = fetch_weights(weights_cache(), arguments.name, progress=progress)
    _print_cached(cached)


def _import(arguments: ImportArguments) -> None:
    from zeronvs.checkpoints.import_weights import import_weights
    from zeronvs.cli.report import progress_bar
    from zeronvs.cli.resolve import weights_cache

    with progress_bar() as progress:
        cached = import_weights(
            weights_cache(),
            arguments.source,
            name=arguments.name,
            config_path=arguments.config,
            progress=progress,
        )
    _print_cached(cached)


def _print_cached(cached: "CachedWeights") -> None:
    """Print what weights are, as their content says."""
    from zeronvs.cli.report import print_table

    source = cached.source
    weights = "moving average (EMA)" if source.uses_ema else "as trained (no EMA)"
    print_table(
        [
            ("file", f"{source.file}, {source.size_bytes:,} bytes, {source.layout}"),
            ("sha256", source.sha256),
            ("cameras", source.representation),
            ("denoiser", f"{source.in_channels} input channels, {weights}"),
            ("licence", source.licence),
            ("folder", str(cached.pipeline)),
        ]
    )
    for note in cached.notes:
        print(f"note: {note}")
    print(f"\nuse it with --model {cached.name}")


def _convert(arguments: ConvertArguments) -> None:
    """Convert weights to a folder, or a folder to a checkpoint."""
    from zeronvs.cli.resolve import weights_cache

    source = arguments.source
    if not source.exists():
        cached = weights_cache().find(str(source))
        if cached is None:
            raise InputError(f"{source}: there is no such file or folder, or name in the cache")
        source = cached.pipeline
    if arguments.out.exists() and (arguments.out.is_file() or any(arguments.out.iterdir())):
        raise InputError(f"{arguments.out} exists already; give another name with -o")
    from zeronvs.checkpoints import convert
    from zeronvs.checkpoints.folder_architecture import is_own_folder
    from zeronvs.cli.report import progress_bar

    with progress_bar() as progress:
        if source.is_dir() and is_own_folder(source):
            convert.export_checkpoint(source, arguments.out, half=arguments.half, progress=progress)
            print(arguments.out)
            return
        report = convert.convert_checkpoint(
            source,
            arguments.out,
            config_path=arguments.config,
            half=arguments.half,
            progress=progress,
        )
    print(arguments.out)
    weights = "moving average (EMA)" if report.uses_ema else "as trained (there is no EMA)"
    print(f"weights of the denoiser: {weights}")
    print(f"camera representation: {report.architecture.representation}")
    print(f"tensors: {len(report.converted)} converted, {len(report.derived)} derived, ", end="")
    print(
        f"{len(report.replaced)} replaced by the EMA, {len(report.unused)} not used by the method"
    )
    for note in report.notes:
        print(f"note: {note}")


def _info(arguments: InfoArguments) -> None:
    """Print a table of the parts."""
    from zeronvs.cli.report import print_table
    from zeronvs.cli.resolve import model_source
    from zeronvs.diffusion.pipeline import ZeroNVSPipeline

    pipe = ZeroNVSPipeline.from_pretrained(model_source(arguments.model))
    rows = [("part", "class", "parameters")]
    for name, part in pipe.components.items():
        if part is not None:
            count = sum(p.numel() for p in part.parameters()) if hasattr(part, "parameters") else 0
            rows.append((name, type(part).__name__, f"{count:,}" if count else ""))
    print_table(rows)
    print(f"\nimage size: {pipe.image_size_px} px")
    print(f"camera representation: {pipe.cc_projection.config['representation']}")
    print(f"conditioning: {pipe.conditioning.name}")
