"""`zeronvs model`: convert released weights and back, or describe a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zeronvs._core.errors import InputError
from zeronvs.cli.arguments import parse


@dataclass(frozen=True, kw_only=True)
class ConvertArguments:
    """Convert a released checkpoint to a folder that diffusers reads, or such a folder back."""

    source: tyro.conf.Positional[Path]
    """A .ckpt file in the layout of ZeroNVS or Zero-1-to-3, or a model folder."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The folder to make, or the .ckpt file."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Its YAML file; the one in its folder, or that of the released models, if not given."""
    half: bool = False
    """Store float16: half the size, and slow on processors."""


@dataclass(frozen=True, kw_only=True)
class InfoArguments:
    """Describe a model: its components, their sizes, and its camera representation."""

    model: tyro.conf.Positional[str] = "builtin"
    """builtin, a folder, or a hub id."""


KINDS = {"convert": ConvertArguments, "info": InfoArguments}


def run(words: Sequence[str]) -> None:
    """Parse the second word and its arguments, and do it."""
    if not words or words[0] in ("-h", "--help"):
        print("usage: zeronvs model convert SOURCE -o OUT\n       zeronvs model info [MODEL]")
        return
    if words[0] not in KINDS:
        raise InputError(f"there is no 'model {words[0]}'; there is: model convert, model info")
    arguments = parse(KINDS[words[0]], words[1:], f"model {words[0]}")
    if isinstance(arguments, ConvertArguments):
        _convert(arguments)
    else:
        _info(arguments)


def _convert(arguments: ConvertArguments) -> None:
    """Convert a checkpoint to a folder, or a folder to a checkpoint."""
    if not arguments.source.exists():
        raise InputError(f"{arguments.source}: there is no such file or folder")
    if arguments.out.exists() and (arguments.out.is_file() or any(arguments.out.iterdir())):
        raise InputError(f"{arguments.out} exists already; give another name with -o")
    from zeronvs.checkpoints import convert
    from zeronvs.cli.report import progress_bar

    with progress_bar() as progress:
        if arguments.source.is_dir():
            convert.export_checkpoint(
                arguments.source, arguments.out, half=arguments.half, progress=progress
            )
            print(arguments.out)
            return
        report = convert.convert_checkpoint(
            arguments.source,
            arguments.out,
            config_path=arguments.config,
            half=arguments.half,
            progress=progress,
        )
    print(arguments.out)
    weights = "moving average (EMA)" if report.uses_ema else "as trained (there is no EMA)"
    print(f"weights of the denoiser: {weights}")
    print(f"tensors: {len(report.converted)} converted, {len(report.derived)} derived, ", end="")
    print(
        f"{len(report.replaced)} replaced by the EMA, {len(report.unused)} not used by the method"
    )


def _info(arguments: InfoArguments) -> None:
    """Print a table of the parts."""
    from zeronvs.cli.report import print_table
    from zeronvs.diffusion.pipeline import ZeroNVSPipeline

    pipe = ZeroNVSPipeline.from_pretrained(arguments.model)
    rows = [("part", "class", "parameters")]
    for name, part in pipe.components.items():
        if part is not None:
            count = sum(p.numel() for p in part.parameters()) if hasattr(part, "parameters") else 0
            rows.append((name, type(part).__name__, f"{count:,}" if count else ""))
    print_table(rows)
    print(f"\nimage size: {pipe.image_size_px} px")
    print(f"camera representation: {pipe.cc_projection.config['representation']}")
