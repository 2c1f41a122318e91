"""Resolve the folder of a pipeline from a name, path or hub id, and validate it."""

import re
from importlib import resources
from pathlib import Path
from typing import Any

from zeronvs._core.errors import InputError, ReadingErrors
from zeronvs._core.files import read_json

BUILTIN = "builtin"
COMPONENTS = ("vae", "image_encoder", "unet", "scheduler", "cc_projection")
_FORMER_COMPONENTS = ("depth_estimator",)
_OWN_MODULES = ("zeronvs.diffusion.autoencoder", "zeronvs.diffusion.projection")
INDEX_NAME = "model_index.json"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.md"]
_CONVERTED = (
    "A Zero-1-to-3 pipeline of the community is converted first, with zeronvs.checkpoints.convert."
)
_HUB_SETTINGS = ("cache_dir", "revision", "token", "local_files_only", "force_download")


def pipeline_folder(name_or_path: str | Path, settings: dict[str, Any]) -> Path:
    """Return the local folder of a pipeline.

    Args:
        name_or_path: "builtin", a folder, or a hub id "owner/name", which is fetched.
        settings: Keyword arguments of `from_pretrained`; those of the hub are taken out.

    Raises:
        InputError: It is a file, not a pipeline's folder, or cannot be fetched.
    """
    hub_settings = {key: settings.pop(key) for key in _HUB_SETTINGS if key in settings}
    if str(name_or_path) == BUILTIN:
        folder = Path(str(resources.files("zeronvs"))) / "models" / BUILTIN
        if not (folder / INDEX_NAME).is_file():
            raise InputError(
                "the built-in model is missing from this installation. Reinstall the package, or "
                "name a pipeline folder or a hub id."
            )
        return folder
    path = Path(name_or_path).expanduser()
    if path.is_file():
        raise InputError(
            f"{path} is a file; a pipeline is a folder. If it is a checkpoint of the original "
            "code, convert it first with zeronvs.checkpoints.convert"
        )
    if path.is_dir():
        return path
    if _is_hub_id(name_or_path):
        return _fetch(str(name_or_path), hub_settings)
    raise InputError(
        f"{name_or_path}: no such folder. Give 'builtin', a pipeline folder or a hub id "
        "(owner/name)."
    )


def check_pipeline(name_or_path: str | Path) -> None:
    """Refuse what is no pipeline before torch and diffusers are imported, which takes seconds.

    A hub id that is no folder here is left to `pipeline_folder`, which fetches it.

    Raises:
        InputError: It is a file, is not there, or is no usable pipeline.
    """
    if Path(name_or_path).expanduser().exists() or not _is_hub_id(name_or_path):
        check_pipeline_folder(pipeline_folder(name_or_path, {}), set())


def check_pipeline_folder(folder: Path, passed: set[str]) -> None:
    """Refuse a folder that is not a pipeline of ours; nothing is imported.

    diffusers takes custom components only from modules that are already imported: of ours, the two
    that the denoiser imports.

    Args:
        passed: Components that the caller passes, which the folder may lack.

    Raises:
        InputError: The index is missing or broken, or a component is missing.
    """
    index_path = folder / INDEX_NAME
    if not index_path.exists():
        raise InputError(
            f"{folder} is not a pipeline: it has no {INDEX_NAME}. Give a folder written by "
            "`save_pretrained` or by zeronvs.checkpoints.convert."
        )
    index = _read_object(index_path)
    declared = {name: entry[0] for name, entry in index.items() if entry and type(entry) is list}
    missing = [name for name in COMPONENTS if not declared.get(name) and name not in passed]
    if missing:
        raise InputError(
            f"{folder} is not a ZeroNVS pipeline: its {INDEX_NAME} has no {', '.join(missing)}. "
            f"{_CONVERTED}"
        )
    for name in COMPONENTS:
        library = declared.get(name)
        if isinstance(library, str) and library.split(".")[0] == "zeronvs":
            _check_own(library, index_path)
    others = [
        str(library)
        for name, library in declared.items()
        if name not in (*COMPONENTS, *_FORMER_COMPONENTS) and library is not None
    ]
    if others:
        raise InputError(
            f"{index_path} names {others[0]}, which is no part of this pipeline. {_CONVERTED}"
        )
    for name in COMPONENTS:
        _check_component(folder / name)


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} is no configuration: it is a {type(content).__name__}.")
    return content


def _check_component(folder: Path) -> None:
    """Refuse files on which the libraries hang (pipes) or crash (JSON that is no object)."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not (path.is_file() or path.is_dir()):
            raise InputError(f"{path} is not a file.")
        if path.name.endswith(".index.json"):
            shard_names(path)
        elif path.suffix == ".json":
            _check_attention(path, _read_object(path))


def shard_names(path: Path) -> list[str]:
    """Return the names of the weight files that an index (`*.safetensors.index.json`) lists.

    Raises:
        InputError: It is no such index, or names files of another folder.
    """
    names = _read_object(path).get("weight_map")
    listed = list(names.values()) if isinstance(names, dict) else []
    if not listed or any(not isinstance(n, str) or not n or Path(n).name != n for n in listed):
        raise InputError(f"{path} has no weight_map that names files in its folder.")
    return sorted(set(listed))


def _check_attention(path: Path, config: dict[str, Any]) -> None:
    """Refuse an attention that transformers would fetch as a kernel ("repo:function")."""
    for key in ("attn_implementation", "_attn_implementation"):
        if config.get(key) not in (None, "eager", "sdpa"):
            raise InputError(
                f'{path} requests {key} "{config[key]}"; only eager and sdpa are used.'
            )


def _check_own(module: str, index_path: Path) -> None:
    """Refuse a module of this package that has no components."""
    if module not in _OWN_MODULES:
        raise InputError(
            f"{index_path} names {module}, which is no component of this version. Save the "
            "pipeline again with this version, or install the one that wrote it."
        )


def _is_hub_id(name_or_path: str | Path) -> bool:
    name = str(name_or_path)
    return bool(_HUB_ID.fullmatch(name)) and Path(name).suffix not in {".ckpt", ".pt", ".pth"}


def _fetch(hub_id: str, hub_settings: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download

    # Of any kind: the hub's client does not check what a server answers.
    with ReadingErrors(f"{hub_id} is no folder here and could not be fetched from the hub"):
        return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES, **hub_settings))
