"""A large file arrives whole, however the connection breaks; or not at all, with a reason."""

import hashlib

import pytest
from flaky_server import STALL_S, flaky_server

from zeronvs._core.errors import InputError
from zeronvs.checkpoints.download import MAX_UNANNOUNCED_BYTES, Patience, download

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HASTY = Patience(timeout_s=STALL_S / 4, attempts=3, wait_s=0.0)


def fetch(server, path, name="/w.ckpt", **settings) -> None:
    download(f"{server.address}{name}", path, patience=HASTY, **settings)


def refusal(server, path, name="/w.ckpt", **settings) -> str:
    with pytest.raises(InputError) as caught:
        fetch(server, path, name, **settings)
    assert "\n" not in str(caught.value)
    assert not path.exists()
    return str(caught.value)


def test_a_file_is_fetched_whole_with_progress_and_nothing_beside_it(tmp_path):
    events, size = [], len(CONTENT)
    with flaky_server({"/w.ckpt": CONTENT}) as server:
        fetch(server, tmp_path / "w", size_bytes=size, sha256=SHA256, progress=events.append)
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    steps = [(event.step, event.total) for event in events if event.stage == "download w"]
    assert steps
    assert all(total == 1 == step for step, total in steps)


@pytest.mark.parametrize("faults", [("cut",), ("cut", "cut", "cut", "cut"), ("stall",), ("503",)])
def test_a_broken_or_silent_connection_is_resumed_where_it_stopped(tmp_path, faults):
    with flaky_server({"/w.ckpt": CONTENT}, *faults) as server:
        fetch(server, tmp_path / "w", sha256=SHA256)
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert len(server.ranges) == len(faults) + 1
    if faults[0] != "503":
        assert server.ranges[1] == f"bytes={len(CONTENT) // 2}-"


def test_another_call_resumes_what_an_earlier_one_left(tmp_path):
    with flaky_server({"/w.ckpt": CONTENT}, "cut", "500", "500", "500") as server:
        assert f"{len(CONTENT) // 2:,} bytes" in refusal(server, tmp_path / "w")
        before = len(server.ranges)
        fetch(server, tmp_path / "w", sha256=SHA256)
        assert server.ranges[before:] == [f"bytes={len(CONTENT) // 2}-"]
        assert (tmp_path / "w").read_bytes() == CONTENT
        fetch(server, tmp_path / "w")
        assert len(server.ranges) == before + 1  # it is there: nobody is asked


@pytest.mark.parametrize("fault", ["whole", "shift"])
def test_a_server_that_resumes_wrongly_is_asked_for_the_whole(tmp_path, fault):
    with flaky_server({"/w.ckpt": CONTENT}, "cut", fault) as server:
        fetch(server, tmp_path / "w", sha256=SHA256)
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_a_file_that_changed_on_the_server_is_begun_anew(tmp_path):
    changed = CONTENT[::-1]
    with flaky_server({"/w.ckpt": CONTENT}, "cut", "500", "500", "500") as server:
        refusal(server, tmp_path / "w")
        server.files["/w.ckpt"] = changed
        fetch(server, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == changed


def test_the_part_of_another_address_is_not_continued(tmp_path):
    files = {"/w.ckpt": CONTENT, "/v": CONTENT[::-1]}
    with flaky_server(files, "cut", "500", "500", "500") as server:
        refusal(server, tmp_path / "w")
        fetch(server, tmp_path / "w", "/v")
        assert server.ranges[-1] is None
    assert (tmp_path / "w").read_bytes() == CONTENT[::-1]


def test_wrong_content_is_not_kept(tmp_path):
    with flaky_server({"/w.ckpt": CONTENT}) as server:
        assert SHA256 in refusal(server, tmp_path / "w", sha256="0" * 64)
        assert "answers with" in refusal(server, tmp_path / "w", size_bytes=7)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]


def test_a_web_page_or_a_refusal_is_final_and_named(tmp_path):
    with flaky_server({"/w.ckpt": CONTENT}, "page", "403") as server:
        assert "web page" in refusal(server, tmp_path / "w")
        assert "403" in refusal(server, tmp_path / "w")
        assert "404" in refusal(server, tmp_path / "w", "/other")
        assert len(server.ranges) == 3
        closed = server.address
    with pytest.raises(InputError, match="refused"):
        download(f"{closed}/w.ckpt", tmp_path / "w", patience=HASTY)
    with pytest.raises(InputError, match="http"):
        download((tmp_path / "x").as_uri(), tmp_path / "w")


def test_a_size_that_is_not_announced_is_limited(tmp_path):
    small, large = b"{}", b" " * (MAX_UNANNOUNCED_BYTES + 1)
    with flaky_server({"/s": small, "/l": large}, "unannounced", "unannounced") as server:
        fetch(server, tmp_path / "s", "/s")
        assert "more than" in refusal(server, tmp_path / "l", "/l")
    assert (tmp_path / "s").read_bytes() == small
