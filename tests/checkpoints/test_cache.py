"""Weights are converted into the cache once, and found there again without a network."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from flaky_server import STALL_S, flaky_server
from local_hub import COMMIT, local_hub, use_hub
from safetensors.torch import load_file
from tiny_checkpoint import official_state, save
from tiny_layouts import ZERO123, clip_camera_folder

from zeronvs._core.errors import InputError
from zeronvs.checkpoints import known
from zeronvs.checkpoints.cache import WeightsCache
from zeronvs.checkpoints.download import Patience
from zeronvs.checkpoints.import_weights import fetch_weights, import_weights
from zeronvs.diffusion.pipeline import ZeroNVSPipeline

ZERO123_XL = known.KNOWN[1]
HASTY = Patience(timeout_s=STALL_S / 4, attempts=2, wait_s=0.0)


@pytest.fixture(scope="module")
def zeronvs_file(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("files") / "zeronvs.ckpt", official_state())


@pytest.fixture(scope="module")
def cache(tmp_path_factory, zeronvs_file) -> WeightsCache:
    """Return a cache that holds zeronvs; tests leave it as it is."""
    cache = WeightsCache(tmp_path_factory.mktemp("cache"))
    import_weights(cache, zeronvs_file)
    return cache


def refusal(work, *arguments, **settings) -> str:
    with pytest.raises(InputError) as caught:
        work(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def published(server, content: bytes, **changes) -> known.KnownWeights:
    """Return an entry of the table that lies on a server on loopback."""
    file = known.RemoteFile(
        name="zero123-xl.ckpt",
        address=f"{server.address}/zero123-xl.ckpt",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    return replace(ZERO123_XL, files=(replace(file, **changes),))


def test_what_was_imported_is_found_by_name_with_what_it_is(cache, zeronvs_file):
    found = WeightsCache(cache.root).find("zeronvs")
    assert found is not None
    assert found.source.sha256 == hashlib.sha256(zeronvs_file.read_bytes()).hexdigest()
    assert found.source.size_bytes == zeronvs_file.stat().st_size
    assert found.source.representation == "6DoF+1, viewer"
    assert (found.source.in_channels, found.source.uses_ema) == (8, True)
    assert found.source.licence == "none stated"
    assert "| licence | none stated |" in (found.pipeline / "README.md").read_text()
    ZeroNVSPipeline.from_pretrained(found.pipeline)
    assert [entry.name for entry in cache.entries()] == ["zeronvs"]
    assert cache.find("megascenes") is None
    assert cache.find("../zeronvs") is None


def test_importing_again_converts_nothing(cache, zeronvs_file):
    record = cache.root / "models" / "zeronvs" / "source.json"
    before = record.stat().st_mtime_ns
    stages = []
    again = import_weights(cache, zeronvs_file, progress=lambda event: stages.append(event.stage))
    assert again.folder == record.parent
    assert set(stages) == {"hash (MiB)"}
    assert record.stat().st_mtime_ns == before


def test_a_name_that_is_taken_or_stands_for_other_weights_is_refused(cache, tmp_path):
    other = official_state() | {"logvar": torch.zeros(1)}
    path = save(tmp_path / "other.ckpt", other)
    assert "already" in refusal(import_weights, cache, path, name="zeronvs")
    assert "19" in refusal(import_weights, cache, path, name="zero123-xl")
    assert "11" in refusal(import_weights, cache, path, name="megascenes-warp")
    for name in ("builtin", "none", "../up", "a b", ""):
        assert "no name" in refusal(import_weights, cache, path, name=name)
    zero123 = save(tmp_path / "zeronvs.ckpt", official_state(ZERO123))
    assert "is not zeronvs" in refusal(import_weights, cache, zero123)
    assert [entry.name for entry in cache.entries()] == ["zeronvs"]


def test_a_failed_import_leaves_nothing_and_a_killed_one_is_swept(tmp_path):
    cache = WeightsCache(tmp_path / "cache")
    content = bytearray(save(tmp_path / "tiny.ckpt", official_state()).read_bytes())
    left = cache.root / "models" / ".tiny.0123abcd.part"
    left.mkdir(parents=True)
    weight = official_state()["first_stage_model.quant_conv.weight"].numpy().tobytes()
    content[content.index(weight) + 5] ^= 64
    (tmp_path / "tiny.ckpt").write_bytes(content)
    assert "checksum" in refusal(import_weights, cache, tmp_path / "tiny.ckpt")
    assert list((cache.root / "models").iterdir()) == []
    assert "no such file" in refusal(import_weights, cache, tmp_path / "missing.ckpt")


@pytest.mark.parametrize("record", ["[]", "{", '{"file": 3}'])
def test_a_damaged_record_is_one_line_with_the_remedy(tmp_path, record):
    path = tmp_path / "models" / "mine" / "source.json"
    path.parent.mkdir(parents=True)
    path.write_text(record)
    assert str(path) in refusal(WeightsCache(tmp_path).find, "mine")


def test_a_second_process_waits_for_its_turn(cache, zeronvs_file):
    with FileLock(cache.root / "locks" / "zeronvs"):
        assert "another process" in refusal(import_weights, cache, zeronvs_file)


def test_fetching_survives_broken_connections_and_asks_only_once(tmp_path, monkeypatch):
    content = save(tmp_path / "a.ckpt", official_state(ZERO123)).read_bytes()
    cache = WeightsCache(tmp_path / "cache")
    with flaky_server({"/zero123-xl.ckpt": content}, "cut", "503", "stall") as server:
        monkeypatch.setattr(known, "KNOWN", (known.KNOWN[0], published(server, content)))
        fetched = fetch_weights(cache, "zero123-xl", patience=HASTY)
        assert fetched.source.representation == "3DoF"
        assert fetched.source.licence.startswith("MIT")
        count = len(server.ranges)
        assert count == 4
        assert fetch_weights(cache, "zero123-xl").folder == fetched.folder
        assert len(server.ranges) == count
    assert not (cache.root / "downloads" / "zero123-xl").exists()
    again = import_weights(cache, tmp_path / "a.ckpt")  # known by its hash, whatever its name
    assert again.name == "zero123-xl"


def test_what_was_downloaded_is_kept_when_it_cannot_be_used(tmp_path, monkeypatch):
    cache = WeightsCache(tmp_path)
    with flaky_server({"/zero123-xl.ckpt": b"<!doctype html>"}) as server:
        entry = published(server, b"<!doctype html>")
        monkeypatch.setattr(known, "KNOWN", (entry,))
        kept = tmp_path / "downloads" / "zero123-xl" / "zero123-xl.ckpt"
        says = refusal(fetch_weights, cache, "zero123-xl", patience=HASTY)
        assert "web page" in says
        assert f"remove {kept.parent}" in says
        entry = published(server, b"<!doctype html>", sha256="0" * 64)
        monkeypatch.setattr(known, "KNOWN", (replace(entry, name="other"),))
        says = refusal(fetch_weights, cache, "other", patience=HASTY)
    assert "sha256" in says
    assert entry.page in says
    assert kept.is_file()
    assert cache.entries() == []


def test_what_only_people_can_download_says_how(cache, tmp_path):
    empty = WeightsCache(tmp_path)
    says = refusal(fetch_weights, empty, "zeronvs")
    assert "drive.google.com" in says
    assert "zeronvs model import FILE --name zeronvs" in says
    assert fetch_weights(cache, "zeronvs").name == "zeronvs"  # it is there already
    assert "model list" in refusal(fetch_weights, empty, "nobody")


def test_a_folder_of_the_community_is_fetched_by_its_hub_id(tmp_path, monkeypatch):
    theirs = clip_camera_folder(tmp_path / "theirs")
    (theirs / "zero123.py").write_text("raise SystemExit")
    cache = WeightsCache(tmp_path / "cache")
    names = []
    with local_hub(theirs, "somebody/zero123-xl") as address:
        use_hub(monkeypatch, address)
        fetched = fetch_weights(
            cache,
            "somebody/zero123-xl",
            patience=HASTY,
            progress=lambda event: names.append(event.stage),
        )
    assert fetched.name == "somebody--zero123-xl"
    assert fetched.source.licence == "mit (tag of the repository)"
    assert fetched.source.uses_ema
    unet = load_file(fetched.pipeline / "unet" / "diffusion_pytorch_model.safetensors")
    average = load_file(theirs / "unet" / "diffusion_pytorch_model.fp16_ema.safetensors")
    assert torch.equal(unet["conv_in.weight"], average["conv_in.weight"].float())
    assert "download diffusion_pytorch_model.fp16_ema.safetensors" in names
    assert not any(name.endswith("zero123.py") for name in names)
    assert cache.find("somebody/zero123-xl") == fetched  # offline, by either spelling


def hub_answer(**changes) -> bytes:
    files = [{"rfilename": name} for name in ("model_index.json", "unet/config.json")]
    return json.dumps({"id": "a/b", "sha": COMMIT, "siblings": files} | changes).encode()


@pytest.mark.parametrize(
    "answer",
    [
        *(b"<html>", b"[]", b"null", b"7"),
        hub_answer(),
        hub_answer(sha="../.."),
        hub_answer(siblings=7),
        hub_answer(siblings=[{"rfilename": "unet/../../diffusion_pytorch_model.safetensors"}]),
        hub_answer(siblings=[{"rfilename": "unet/diffusion_pytorch_model.safetensors", "lfs": 3}]),
    ],
)
def test_an_odd_answer_of_the_hub_is_one_line_and_writes_nothing(tmp_path, monkeypatch, answer):
    cache = WeightsCache(tmp_path / "cache")
    (tmp_path / "hub").mkdir()
    with local_hub(tmp_path / "hub", "a/b", answer=answer) as address:
        use_hub(monkeypatch, address)
        assert "a/b" in refusal(fetch_weights, cache, "a/b", patience=HASTY)
    assert not [path for path in cache.root.rglob("*") if path.suffix == ".safetensors"]


def test_the_table_of_published_weights_is_sound():
    names = [entry.name for entry in known.KNOWN]
    assert {"zeronvs", "zero123-xl", "megascenes", "vista"} <= set(names)
    assert len(set(names)) == len(names)
    for entry in known.KNOWN:
        assert entry.page.startswith("https://")
        assert f"zeronvs model import FILE --name {entry.name}" in entry.remedy or entry.files
        for file in entry.files:
            assert file.hub_id or file.address.startswith("https://")
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert Path(file.name).name == file.name
    file = known.KNOWN[1].files[0]
    assert known.known_by_sha256(file.sha256 or "") is known.KNOWN[1]
    assert known.licence_of("0" * 64) == known.UNKNOWN_LICENCE
