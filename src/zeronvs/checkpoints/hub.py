"""Files on a model hub: their addresses, and those of a community's diffusers folder."""

import re

from huggingface_hub import HfApi, hf_hub_url

from zeronvs._core.errors import InputError, ReadingErrors
from zeronvs.checkpoints.folder_reader import COMPONENTS, weight_names
from zeronvs.checkpoints.known import KnownWeights, RemoteFile

_MAX_FILES = 10_000
_SHA256 = re.compile(r"[0-9a-f]{64}")


def address_on_hub(file: RemoteFile) -> str:
    """Return the plain address of a file on the hub, of the endpoint that is configured."""
    return hf_hub_url(
        file.hub_id or "", file.address, repo_type=file.hub_type, revision=file.revision
    )


def community_weights(hub_id: str) -> KnownWeights:
    """Return what to download of a diffusers folder on the hub: one file of weights a component.

    Raises:
        InputError: The hub cannot be reached, answers oddly, or has no such folder there.
    """
    with ReadingErrors(f"{hub_id} could not be listed on the hub"):
        info = HfApi().model_info(hub_id, files_metadata=True)
        revision = str(info.sha)
        files = {str(file.rfilename): file.lfs or {} for file in info.siblings or ()}
        tags = [str(tag) for tag in info.tags or ()]
    if not re.fullmatch(r"[0-9a-f]{40}", revision) or len(files) > _MAX_FILES:
        raise InputError(f"{hub_id} could not be listed on the hub: the answer makes no sense")
    licences = [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
    page = f"https://huggingface.co/{hub_id}"
    chosen = [name for name in _chosen(list(files)) if name in files]
    if not any(name.startswith("unet/") for name in chosen):
        raise InputError(f"{hub_id} on the hub is no diffusers folder: it has no weights of a unet")
    return KnownWeights(
        name=hub_id.replace("/", "--"),
        what="from the hub",
        files=tuple(
            RemoteFile(
                name=name,
                address=name,
                hub_id=hub_id,
                revision=revision,
                sha256=_sha256(files[name].get("sha256")),
            )
            for name in chosen
        ),
        page=page,
        how=page,
        licence=f"{licences[0]} (tag of the repository)" if licences else "none stated",
    )


def _chosen(names: list[str]) -> list[str]:
    """Return the files that make a pipeline, among the names of a repository."""
    chosen = ["model_index.json", "scheduler/scheduler_config.json"]
    for component, places in COMPONENTS.items():
        for place in places:
            start = f"{place}/"
            inside = [name.removeprefix(start) for name in names if name.startswith(start)]
            weights = weight_names(component, inside)
            if weights:
                chosen += [f"{place}/{name}" for name in ("config.json", *weights)]
                break
    return chosen


def _sha256(value: object) -> str | None:
    return value if isinstance(value, str) and _SHA256.fullmatch(value) else None
