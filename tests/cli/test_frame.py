"""The frame of the command line: one clear line and the right exit code, whatever happens."""

import errno
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError

from zeronvs import __version__
from zeronvs._core.errors import HealthError, InputError
from zeronvs.cli import FEW_SPINS, MANY_SPINS, VERBS, main, thread_spins
from zeronvs.cli.frame import guarded


def exit_code(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(words)
    return caught.value.code


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]):
    assert exit_code("--help") == 0
    printed = capsys.readouterr().out
    for verb in VERBS:
        assert f"\n  {verb}" in printed


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]):
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"zeronvs {__version__}\n"


@pytest.mark.parametrize(
    ("words", "spins"), [(["scene", "--help"], FEW_SPINS), (["train", "--help"], MANY_SPINS)]
)
def test_the_number_of_spins_is_set_before_anything_else(monkeypatch, words, spins):
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # put back after the test
    monkeypatch.delenv("GOMP_SPINCOUNT")
    exit_code(*words)
    assert os.environ["GOMP_SPINCOUNT"] == spins


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "model"])
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]):
    assert exit_code(verb, "--help") == 0
    assert f"zeronvs {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [("model",), ("model", "convert", "--help"), ("model", "info", "-h")]
)
def test_the_two_model_verbs_explain_themselves(words, capsys: pytest.CaptureFixture[str]):
    assert exit_code(*words) == 0
    assert "zeronvs model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "hint"),
    [("secne", "scene"), ("photo.jpg", "zeronvs scene photo.jpg"), ("xyzzy", "the verbs are")],
)
def test_a_wrong_verb_gives_one_line_with_a_hint(word, hint, capsys: pytest.CaptureFixture[str]):
    assert exit_code(word) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert hint in printed.err
    assert printed.err.count("\n") == 1


def raising(error: BaseException):
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError("the photo is\nodd"), 2, "the photo is odd"),
        (HealthError("all black"), 1, "all black"),
        (KeyboardInterrupt(), 130, "--resume"),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), 2, "out/x: no space left"),
        (OSError(errno.EROFS, "Read-only file system", "out"), 2, "out: read-only file system"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 2, "permission denied"),
        (ImportError("viser is not installed. Run: pip install 'zeronvs[web]'"), 2, "pip install"),
        (MemoryError(), 1, "memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), 1, "GPU"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), 2, "disk"),
        (RuntimeError("[enforce fail at inline_container.cc:672]"), 2, "disk"),
    ],
)
def test_what_can_be_mended_becomes_one_line(error, code, says, capsys: pytest.CaptureFixture[str]):
    assert guarded(raising(error), ["scene", "a.jpg", "-o", "out"]) == code
    printed = capsys.readouterr().err
    assert says in printed
    assert printed.startswith("zeronvs: ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("scene a.jpg -o out --preset paper", ["--preset preview", "--device cpu"]),
        ("scene a.jpg -o out --preset=fast", ["--preset preview", "--device cpu"]),
        ("scene a.jpg -o out --model zeronvs", ["--preset preview", "--device cpu"]),
        ("scene a.jpg -o out", ["--resolution", "--device cpu"]),
        ("views a.jpg -o out", ["--batch-size", "--device cpu"]),
        ("evaluate views data", ["--batch-size", "--device cpu"]),
        ("evaluate scenes data", ["--size-px", "--device cpu"]),
        ("evaluate table1 --dtu d -o t --preset paper", ["--preset preview", "--device cpu"]),
        ("evaluate table2 --dtu d -o t", ["--device cpu"]),
        ("train shards -o run", ["--batch"]),
        ("render out", ["--size", "--device cpu"]),
        ("export out", ["--device cpu"]),
    ],
)
def test_out_of_memory_is_one_line_with_the_flags_of_the_command_that_help(
    words: str, flags: list[str], capsys: pytest.CaptureFixture[str]
):
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError()):
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        expected = [flag for flag in flags if on_gpu or flag != "--device cpu"]
        assert guarded(raising(error), words.split()) == 1
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert re.findall(r"--[a-z-]+(?: preview| cpu)?", printed) == expected
    verb = words.split()[: 2 if words.startswith("evaluate") else 1]
    with pytest.raises(SystemExit):
        main([*verb, "--help"])
    known = capsys.readouterr().out
    assert all(flag.split()[0] in known for flag in flags)


@pytest.mark.parametrize("error", [ValueError("bug"), RuntimeError("bug"), ImportError("bug")])
def test_a_bug_keeps_its_traceback(error: Exception):
    with pytest.raises(type(error), match="bug"):
        guarded(raising(error), [])


def test_the_hint_how_to_resume_can_be_pasted(capsys: pytest.CaptureFixture[str]):
    guarded(raising(KeyboardInterrupt()), ["scene", "my photo.jpg", "-o", "out", "--resume"])
    assert "zeronvs scene 'my photo.jpg' -o out --resume\n" in capsys.readouterr().err
    guarded(raising(KeyboardInterrupt()), ["model", "fetch", "vista"])
    assert "resume with: zeronvs model fetch vista\n" in capsys.readouterr().err
    guarded(raising(KeyboardInterrupt()), ["model", "info", "vista"])
    assert "nothing half-written is left" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--help", "--version", "estimate --help", "doctor", "nosuch"])
def test_a_full_disk_behind_the_output_gives_one_line(words: str):
    command = [sys.executable, "-m", "zeronvs.cli", *words.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("zeronvs: error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", ["--help", "estimate --help"])
def test_a_reader_that_leaves_early_is_no_error(words: str):
    command = f"{sys.executable} -m zeronvs.cli {words} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("verb", ["views", "render"])
def test_a_wrong_path_is_found_before_anything_else(verb: str, tmp_path, capsys):
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    words = {
        "views": ["photo.jpg", "-o", str(tmp_path), "--path", "spirale"],
        "render": [str(tmp_path), "--path", "spirale"],
    }[verb]
    assert exit_code(verb, *words) == 2
    assert "--path: 'spirale' is neither a named path nor a file" in capsys.readouterr().err
    broken = tmp_path / "path.json"
    broken.write_text("{", encoding="utf-8")
    assert exit_code(verb, *words[:-1], str(broken)) == 2
    assert "path.json is not valid JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "spins"),
    [
        (["scene", "photo.jpg", "-o", "out"], False),
        (["scene", "photo.jpg", "-o", "out", "--preset", "preview"], False),
        (["scene", "photo.jpg", "-o", "out", "--preset", "field"], True),
        (["scene", "photo.jpg", "-o", "out", "--preset=paper"], True),
        (["scene", "photo.jpg", "-o", "out", "--model", "zeronvs"], True),
        (["train", "shards", "-o", "run"], True),
        (["export", "out"], False),
    ],
)
def test_threads_spin_only_where_fields_are_fitted_or_models_trained(words, spins):
    assert thread_spins(words) == (MANY_SPINS if spins else FEW_SPINS)
