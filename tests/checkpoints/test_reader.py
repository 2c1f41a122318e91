"""A checkpoint is data: whatever it names, nothing of it runs."""

import collections
import functools
import io
import logging
import logging.config
import os
import pickle
import signal
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from zeronvs._core.errors import InputError
from zeronvs.checkpoints.reader import CheckpointReader

RAN: list[str] = []
"""What strangers' code leaves behind when it runs."""


def leave_a_mark(*arguments) -> str:
    RAN.append("called")
    return "mark"


class Mark:
    """A class of the training code: harmless, but its methods must not run either."""

    def __init__(self) -> None:
        self.value = 3

    def __setstate__(self, state) -> None:
        RAN.append("state set")

    def __reduce__(self):
        return (Mark, (), {"value": 3})


class Calling:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self):
        return (self.function, self.arguments)


def tensors() -> dict[str, torch.Tensor]:
    return {
        "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "half": torch.arange(4).to(torch.float16),
        "brain": torch.arange(4).to(torch.bfloat16),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "slice": torch.arange(10.0)[3:7],
        "scalar": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "wide": torch.zeros(1).expand(4),
    }


def read(path: Path) -> dict[str, torch.Tensor]:
    with CheckpointReader(path) as reader:
        return {name: reader.load(name) for name in reader.tensors}


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_raw(path: Path, index: bytes) -> Path:
    """Write an archive with a pickle of our own making."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", index)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.fixture(autouse=True)
def _nothing_ran():
    RAN.clear()
    yield
    assert not RAN


def test_tensors_of_every_kind_come_back_bit_for_bit(tmp_path):
    torch.save({"state_dict": tensors(), "epoch": 3}, tmp_path / "a.ckpt")
    answer = read(tmp_path / "a.ckpt")
    for name, tensor in tensors().items():
        assert answer[name].dtype == tensor.dtype
        assert torch.equal(answer[name], tensor)
        assert answer[name].is_contiguous()


def test_a_bare_state_dict_and_parameters_are_read_too(tmp_path):
    layer = torch.nn.Linear(3, 2)
    torch.save(dict(layer.named_parameters()), tmp_path / "a.pt")
    assert torch.equal(read(tmp_path / "a.pt")["weight"], layer.weight)


def test_an_archive_that_was_compressed_again_is_read(tmp_path):
    torch.save(tensors(), tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as old,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    assert torch.equal(read(tmp_path / "b.pt")["slice"], tensors()["slice"])


def test_objects_of_lightning_and_others_are_skipped(tmp_path):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "state_dict": tensors(),
        "callbacks": {Mark: {"best": Mark(), "path": Path("somewhere")}},
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": collections.defaultdict(list, {"learning_rate": [1e-4]}),
        "numpy": [np.float32(3.0), np.arange(4), np.dtype("float32"), np.random.RandomState(0)],
        "torch": [torch.float16, torch.device("cpu"), torch.Size([1, 2]), torch.strided],
        "functions": [torch.nn.functional.relu, leave_a_mark, functools.partial(leave_a_mark, 1)],
        "plain": [{1, 2}, frozenset({3}), 1 + 2j, b"bytes", bytearray(b"more"), slice(1, 2), None],
        "logger": logging.getLogger("training"),
        "queue": collections.deque([1, 2]),
        "bytes": io.BytesIO(b"log"),
        "signal": signal.SIGTERM,
    }
    for protocol in (2, 3, 4, 5):
        torch.save(content, tmp_path / "a.ckpt", pickle_protocol=protocol)
        assert torch.equal(read(tmp_path / "a.ckpt")["a"], tensors()["a"])


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {mark}",)),
        (os.remove, ("{mark}",)),
        (subprocess.Popen, (["touch", "{mark}"],)),
        (subprocess.check_output, (["touch", "{mark}"],)),
        (eval, ("__import__('pathlib').Path('{mark}').touch()",)),
        (exec, ("open('{mark}', 'w')",)),
        (open, ("{mark}", "w")),
        (io.FileIO, ("{mark}", "w")),
        (signal.raise_signal, (9,)),
        (__import__, ("antigravity",)),
        (getattr, ("text", "upper")),
        (print, ("hello",)),
        (pickle.loads, (b"\x80\x02N.",)),
        (torch.load, ("{mark}",)),
        (torch.hub.load, ("owner/name", "model")),
        (Path.touch, (Path("{mark}"),)),
        (leave_a_mark, ()),
        (logging.config.dictConfig, ({},)),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_strangers_code_does_not_run_while_tensors_are_read(
    tmp_path, function, arguments, protocol
):
    mark = tmp_path / "mark"
    arguments = tuple(
        type(part)(str(part).format(mark=mark)) if isinstance(part, str | Path) else part
        for part in arguments
    )
    content = {"state_dict": tensors(), "callbacks": Calling(function, *arguments)}
    torch.save(content, tmp_path / "evil.ckpt", pickle_protocol=protocol)
    assert torch.equal(read(tmp_path / "evil.ckpt")["a"], tensors()["a"])
    assert not mark.exists()
    assert mark.name not in os.listdir()


@pytest.mark.parametrize(
    "index",
    [
        b"cos\nsystem\n(S'touch mark'\ntR.",  # GLOBAL, REDUCE
        b"(S'touch mark'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch mark'\no.",  # OBJ
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",  # STACK_GLOBAL
        b"c__builtin__\neval\n(S'1'\ntR.",  # the name of Python 2
        b"\x80\x04\x8c\x0dtorch.storage\x8c\x09os.system\x93\x8c\x04true\x85R.",  # dotted
        b"\x80\x04\x8c\x11collections.deque\x8c\x0b__globals__\x93.",
        b"cnumpy.testing._private.utils\nrunstring\n(S'1'\nS'2'\ntR.",
    ],
)
def test_code_named_in_any_way_is_not_run(tmp_path, index, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refusal(write_raw(tmp_path / "evil.ckpt", index))  # it has no tensors
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"N.",
        b"\x80\x02]q\x00.",
        b"\x80\x02}q\x00(X\x01\x00\x00\x00a",
        b"garbage" * 10,
        b"\x80\x02X\x01\x00\x00\x00aN\x86R.",  # calls a string
        b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",  # changes a class
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x05\x00\x00\x00_callNs\x86b.",
        b"\x80\x02}q\x00(X\x01\x00\x00\x00ah\x00u.",  # a dict that holds itself
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))tR.",
    ],
)
def test_a_nonsense_index_is_refused(tmp_path, index):
    refusal(write_raw(tmp_path / "odd.ckpt", index))


def test_a_tensor_may_not_reach_beyond_its_storage(tmp_path):
    def store(size: int, offset: int, shape: tuple, stride: tuple) -> Path:
        class Tensor:
            def __reduce__(self):
                storage = Storage()
                hooks = collections.OrderedDict()
                rebuild = torch._utils._rebuild_tensor_v2
                return rebuild, (storage, offset, shape, stride, False, hooks)

        class Storage:
            pass

        class Pickler(pickle.Pickler):
            def persistent_id(self, obj):
                if isinstance(obj, Storage):
                    return ("storage", torch.FloatStorage, "0", "cpu", size)
                return None

        path = tmp_path / "odd.pt"
        with zipfile.ZipFile(path, "w") as archive:
            with archive.open("archive/data.pkl", "w") as index:
                Pickler(index, protocol=2).dump({"a": Tensor()})
            archive.writestr("archive/data/0", bytes(16))
            archive.writestr("archive/version", "3\n")
        return path

    assert read(store(4, 1, (3,), (1,)))["a"].shape == (3,)
    for wrong in [
        (4, 2, (3,), (1,)),
        (4, 0, (3,), (2,)),
        (4, -1, (3,), (1,)),
        (4, 3, (3,), (-1,)),
        (4, 0, (3, 1), (1,)),
        (400, 0, (300,), (1,)),
        (4, 0, (2**40, 2**40), (0, 2**40)),
    ]:
        refusal(store(*wrong))


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert "empty" in refusal(tmp_path / "empty")
    (tmp_path / "text").write_text("hello")
    assert "is text, not a checkpoint" in refusal(tmp_path / "text")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "not a torch checkpoint" in refusal(tmp_path / "zip")
    torch.save(tensors(), tmp_path / "old", _use_new_zipfile_serialization=False)
    assert "torch before 1.6" in refusal(tmp_path / "old")
    refusal(tmp_path / "no such file")
    refusal(tmp_path)
    torch.save({"epoch": 3}, tmp_path / "nothing")
    assert "state_dict" in refusal(tmp_path / "nothing")


def test_a_truncated_or_damaged_file_is_refused(tmp_path):
    torch.save({f"{i}": torch.rand(100) for i in range(20)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for length in (3, 100, len(whole) // 2, len(whole) - 10):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        refusal(tmp_path / "cut.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for info in old.infolist():
            if not info.filename.endswith("data/7"):
                new.writestr(info.filename, old.read(info))
    assert "missing" in refusal(tmp_path / "b.pt")


def dag(levels: int) -> bytes:
    """Pickle a dict whose key is a tuple that holds itself twice at every level."""
    doubled = b"".join(
        b"h" + bytes([k]) + b"h" + bytes([k]) + b"\x86q" + bytes([k + 1]) for k in range(levels)
    )
    return b"\x80\x02})q\x00" + doubled + b"h" + bytes([levels]) + b"Ns."


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (b"\x80\x02Nr\x00\x00\x00\x20.", "memo"),  # LONG_BINPUT 2**29
        (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x7fN.", ""),  # FRAME beyond the end
        (dag(60), "nests or repeats"),
        (b"\x80\x02" + b"(" * 300 + b"t" * 300 + b".", "nests or repeats"),
        (b"\x80\x02" + b"]" * 300 + b"a" * 299 + b".", "nests or repeats"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", ""),  # LONG4 of 2**31 bytes
        (b"\x80\x02h\x05.", ""),  # a memo entry that does not exist
        (b"\x80\x02t.", ""),  # no mark
    ],
)
def test_a_pickle_made_to_exhaust_the_reader_is_refused_at_once(tmp_path, index, reason):
    assert reason in refusal(write_raw(tmp_path / "odd.ckpt", index))


def test_members_that_no_reader_should_inflate_are_refused(tmp_path):
    torch.save({"a": torch.zeros(2**22)}, tmp_path / "a.pt")

    def pack(method: int) -> Path:
        with (
            zipfile.ZipFile(tmp_path / "a.pt") as old,
            zipfile.ZipFile(tmp_path / "b.pt", "w", method) as new,
        ):
            for info in old.infolist():
                new.writestr(info.filename, old.read(info))
        return tmp_path / "b.pt"

    assert "more than the file can hold" in refusal(pack(zipfile.ZIP_DEFLATED))
    assert "compressed" in refusal(pack(zipfile.ZIP_LZMA))
    stored = pack(zipfile.ZIP_STORED)
    assert read(stored)["a"].shape == (2**22,)
    encrypted = bytearray(stored.read_bytes())
    place = encrypted.index(b"PK\x01\x02")
    encrypted[place + 8] |= 1
    stored.write_bytes(bytes(encrypted))
    assert "encrypted" in refusal(stored)


def test_a_tensor_that_repeats_one_number_for_gigabytes_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(2**30)}, tmp_path / "a.pt")
    assert "repeats" in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 10\n", "git-lfs"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "web page"),
        (b"\n <html>", "web page"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00" + b'{"a": {}}       ', "safetensors"),
    ],
)
def test_a_file_that_is_something_else_is_named_as_what_it_is(tmp_path, content, kind):
    (tmp_path / "zeronvs.ckpt").write_bytes(content)
    assert kind in refusal(tmp_path / "zeronvs.ckpt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_named_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "zeronvs.ckpt")
    assert "not a file" in refusal(tmp_path / "zeronvs.ckpt")
