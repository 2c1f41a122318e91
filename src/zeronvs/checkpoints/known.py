"""Weights that others publish, by name: where they lie, what they are, under which licence."""

from dataclasses import dataclass

UNKNOWN_LICENCE = (
    "not known: the file does not state one. The authors of ZeroNVS state none for their weights"
)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file to download."""

    name: str
    """Name of the file on this machine."""
    address: str
    """Plain address that answers with the file; for files of the hub, their path there."""
    hub_id: str | None = None
    """Repository of the hub that holds the file."""
    hub_type: str = "model"
    """Kind of that repository: "model" or "dataset"."""
    revision: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class KnownWeights:
    """Published weights."""

    name: str
    what: str
    files: tuple[RemoteFile, ...] = ()
    """What is downloaded, the weights first; empty where only people can download them."""
    page: str
    """Where people find them."""
    how: str
    """How people get them, in words that follow "download"; where `files` cannot be had, too."""
    licence: str
    camera_numbers: int | None = None
    """Numbers of the camera that the projection takes, where that is known."""
    in_channels: int | None = None
    """Input channels of the denoiser, where that is known."""

    @property
    def remedy(self) -> str:
        """The commands that bring the weights into the cache."""
        by_hand = f"download {self.how}, then run: zeronvs model import FILE --name {self.name}"
        if not self.files:
            return by_hand
        return f"run: zeronvs model fetch {self.name}"


_ZERO123_XL_SHA256 = "bc4ea2f8696ed96495a756e178cab659de807bbae2d2df18987cf61c44070696"
_MEGASCENES = "s3://megascenes/nvs_checkpoints"
_VISTA = "s-tian/VISTA_Data"

KNOWN = (
    KnownWeights(
        name="zeronvs",
        what="ZeroNVS as released: CO3D, RealEstate10K, ACID",
        page="https://drive.google.com/file/d/17WEMfs2HABJcdf4JmuIM3ti0uz37lSZg/view",
        how="zeronvs.ckpt in a browser from "
        "https://drive.google.com/file/d/17WEMfs2HABJcdf4JmuIM3ti0uz37lSZg/view",
        licence="none stated",
        camera_numbers=19,
        in_channels=8,
    ),
    KnownWeights(
        name="zero123-xl",
        what="Zero-1-to-3, trained on Objaverse-XL: single objects",
        files=(
            RemoteFile(
                name="zero123-xl.ckpt",
                address="https://zero123.cs.columbia.edu/assets/zero123-xl.ckpt",
                size_bytes=15_465_973_531,
                sha256=_ZERO123_XL_SHA256,
            ),
        ),
        page="https://huggingface.co/cvlab/zero123-weights",
        how="https://zero123.cs.columbia.edu/assets/zero123-xl.ckpt",
        licence="MIT (Zero123-XL, as its authors publish it at "
        "huggingface.co/cvlab/zero123-weights)",
        camera_numbers=4,
        in_channels=8,
    ),
    KnownWeights(
        name="megascenes",
        what="ZeroNVS fine-tuned on MegaScenes (Internet photographs of places)",
        page="https://github.com/MegaScenes/nvs",
        how=f"the folder: s5cmd --no-sign-request cp '{_MEGASCENES}/zeronvs_finetune/iter_90000/*' "
        "FILE/",
        licence="none stated",
        camera_numbers=19,
        in_channels=8,
    ),
    KnownWeights(
        name="megascenes-warp",
        what="the same, conditioned on the warped input too",
        page="https://github.com/MegaScenes/nvs",
        how=f"the folder: s5cmd --no-sign-request cp '{_MEGASCENES}/warp_plus_pose/iter_112000/*' "
        "FILE/",
        licence="none stated",
        camera_numbers=19,
        in_channels=11,
    ),
    KnownWeights(
        name="vista",
        what="ZeroNVS fine-tuned on views of a robot (MimicGen), by VISTA",
        files=(
            RemoteFile(
                name="zeronvs_ft_mimicgen.ckpt",
                address="models/zeronvs_ft_mimicgen.ckpt",
                hub_id=_VISTA,
                hub_type="dataset",
            ),
            RemoteFile(
                name="zeronvs_ft_mimicgen.yaml",
                address="models/zeronvs_config.yaml",
                hub_id=_VISTA,
                hub_type="dataset",
            ),
        ),
        page="https://huggingface.co/datasets/s-tian/VISTA_Data/tree/main/models",
        how="a checkpoint from https://huggingface.co/datasets/s-tian/VISTA_Data/tree/main/models",
        licence="MIT (tag of the repository)",
        in_channels=8,
    ),
)


def known_weights(name: str) -> KnownWeights | None:
    """Return the weights of a name; None where there are none."""
    return next((known for known in KNOWN if known.name == name), None)


def known_by_sha256(sha256: str) -> KnownWeights | None:
    """Return the weights whose file has this hash; None where none is known to."""
    for known in KNOWN:
        if any(file.sha256 == sha256 for file in known.files):
            return known
    return None


def licence_of(sha256: str) -> str:
    """Return the licence of the file with this hash."""
    known = known_by_sha256(sha256)
    return UNKNOWN_LICENCE if known is None else known.licence
