"""SOG is written by a program of others: where it is missing or fails, nothing is left behind."""

import os
import stat
from pathlib import Path

import pytest
import torch

from zeronvs._core.errors import InputError
from zeronvs.formats.sog import write_sog
from zeronvs.splats import GaussianSplats

ONE = GaussianSplats(
    torch.zeros(1, 3),
    torch.full((1, 3), 0.1),
    torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
    torch.ones(1),
    torch.ones(1, 3),
)


def pretend(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program on the PATH, alone with those of the system's shell."""
    folder.mkdir()
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin")


def test_without_node_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"needs Node\.js"):
        write_sog(tmp_path / "scene.sog", ONE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["echo 'Error: no room' >&2; exit 3", "exit 0"])
def test_a_program_that_fails_leaves_no_file(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pretend(tmp_path / "bin", "splat-transform", script, monkeypatch)
    reason = "no room" if "room" in script else "nothing was written"
    with pytest.raises(InputError, match=f"scene.sog was not written: .*{reason}"):
        write_sog(tmp_path / "out" / "scene.sog", ONE)
    assert list((tmp_path / "out").iterdir()) == []


def test_npx_runs_the_package_where_the_program_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # The last word is the file; the words before it are kept in it.
    script = 'for last; do :; done; echo "$@" > "$last"'
    pretend(tmp_path / "bin", "npx", script, monkeypatch)
    assert write_sog(tmp_path / "scene.sog", ONE) == 1
    words = (tmp_path / "scene.sog").read_text(encoding="utf-8").split()
    assert words[:2] == ["--yes", "@playcanvas/splat-transform"]
    assert words[-2].endswith("scene.ply")
