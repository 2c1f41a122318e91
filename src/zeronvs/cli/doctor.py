"""`zeronvs doctor`: capabilities of this machine, and the cost of each missing part."""

import importlib.metadata
import importlib.util
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zeronvs._core.version import __version__
from zeronvs.cli.arguments import Device, parse

REQUIRED = ("torch", "diffusers", "transformers", "safetensors", "pillow", "av")
OPTIONAL = {
    "peft": "train cannot add low-rank weights",
    "simplejpeg": "train decodes JPEG more slowly",
    "moge": "--depth-model does not read MoGe-2",
    "geocalib": "no --camera-model",
    "warp-lang": "steps of field, fast and paper take 2 to 5 times as long: "
    "pip install 'zeronvs[warp]'",
}


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """Report the capabilities of this machine, and the cost of each missing part."""

    benchmark: bool = False
    """Also measure what the commands take here, in a minute or two: time, memory, flags."""
    json: bool = False
    """Print one JSON object, part to state and the measurements, for programs."""
    device: Device = None
    """Where to measure: cpu, cuda, cuda:1, mps; the best one here if not given."""


def run(words: Sequence[str]) -> None:
    """Print the findings."""
    arguments = parse(DoctorArguments, words, "doctor")
    from zeronvs.cli.report import print_table

    rows = dict(findings())
    if not arguments.json:
        print_table(list(rows.items()))
    measurements = list(_measured(arguments)) if arguments.benchmark else []
    if arguments.json:
        print(json.dumps(rows | ({"measurements": measurements} if measurements else {}), indent=2))


def _measured(arguments: DoctorArguments) -> Iterator[dict[str, Any]]:
    """Measure; print each line as it is known, as a table of Markdown."""
    from zeronvs.cli import benchmark
    from zeronvs.cli.resolve import best_device

    if not arguments.json:
        for cells in ((), benchmark.HEADER, ("---",) * len(benchmark.HEADER)):
            print(f"| {' | '.join(cells)} |" if cells else "")
    for measurement in benchmark.measure(best_device(arguments.device)):
        if not arguments.json:
            print(f"| {' | '.join(measurement.row())} |", flush=True)
        yield asdict(measurement)


def findings() -> Iterator[tuple[str, str]]:
    """Yield (part, state) pairs."""
    yield "zeronvs", f"{__version__}, Python {platform.python_version()}"
    for package in REQUIRED:
        yield package, _version(package) or "missing: install the package zeronvs again"
    yield "processor", f"{os.cpu_count()} cores"
    memory_gib = _memory_gib()
    if memory_gib is not None:
        low = "" if memory_gib >= 4 else "  (the preview preset wants 4)"
        yield "memory", f"{memory_gib:.1f} GiB{low}"
    if _version("torch") is not None:
        yield from _accelerators()
    yield "model 'builtin'", _builtin_model()
    for package, cost in OPTIONAL.items():
        yield package, _version(package) or f"not installed: {cost}"
    if _version("torch") is not None:
        yield "hash grid", _hash_grid()
    if importlib.util.find_spec("torchvision") is not None:
        yield "torchvision", "installed, not needed; one that does not fit torch breaks diffusers"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _accelerators() -> Iterator[tuple[str, str]]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    elif torch.backends.mps.is_available():
        yield "mps", "Apple GPU"
    else:
        yield "GPU", "none: scenes take minutes and are small (--preset preview)"


def _hash_grid() -> str:
    """Return which kernels compute the radiance field, on the device that scenes run on."""
    import torch

    from zeronvs.scene.grid_kernels import PlainKernels
    from zeronvs.scene.hash_grid import kernels_for

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(kernels_for(device), PlainKernels):
        return f"fused kernels of Warp on {device.type}"
    if _version("warp-lang") is None:
        return f"plain torch on {device.type}"
    return f"plain torch on {device.type}: Warp does not support this device or its driver"


def _builtin_model() -> str:
    import zeronvs

    folder = Path(zeronvs.__file__).parent / "models" / "builtin"
    weights = list(folder.rglob("*.safetensors"))
    if not weights:
        return "missing: the installation is not whole; install the package again"
    return f"{sum(file.stat().st_size for file in weights) / 2**20:.0f} MiB"


def _memory_gib() -> float | None:
    """Return the machine's memory; None where it is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return None
