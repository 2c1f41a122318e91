"""The wheel and the source archive: they build, install apart from the checkout, and run."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from zeronvs import __version__


def run(*words: object, **settings) -> str:
    """Run a program outside of the checkout and return what it prints."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True, text=True, timeout=600, check=False, env=own, **settings,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both as an index gets them: the archive, and the wheel from the unpacked archive."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=repository)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    return folder


def test_the_archive_has_what_the_tests_need_and_no_output(built: Path):
    (source,) = (built / "unpacked").iterdir()
    assert source.name == f"zeronvs-{__version__}"
    for name in ("README.md", "LICENSE", "Makefile", "tests/conftest.py", "examples/coffee.png"):
        assert (source / name).is_file(), name
    assert not [path for path in source.rglob("*") if path.name in ("__pycache__", ".venv", "out")]


def test_the_wheel_has_the_package_its_weights_and_its_pages_only(built: Path):
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"zeronvs-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        described = packed.read(metadata).decode()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"zeronvs"}
    for part in ("models/builtin/model_index.json", "models/depth/config.json"):
        assert f"zeronvs/{part}" in names
    assert "zeronvs/exports/page/page.js" in names
    assert "License-Expression: Apache-2.0" in described
    assert "torchvision" not in described


def test_a_clean_environment_runs_what_the_wheel_installs(built: Path, tmp_path: Path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    place = {"base": str(environment), "platbase": str(environment)}
    packages = Path(sysconfig.get_path("purelib", vars=place))
    scripts = Path(sysconfig.get_path("scripts", vars=place))
    python = scripts / Path(sys.executable).name
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(packages)
    # Dependencies are heavy: those of this environment are seen, behind what the wheel installed.
    # Path files in that folder, such as that of an editable installation, are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    entry = "from importlib.metadata import entry_points as e; "
    entry += (
        "next(iter(e(group='console_scripts', name='zeronvs'))).load()(__import__('sys').argv[1:])"
    )
    zeronvs = (python, "-c", entry)
    where = run(python, "-c", "import zeronvs; print(zeronvs.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(packages)
    assert run(*zeronvs, "--version", cwd=tmp_path) == f"zeronvs {__version__}\n"
    photo = next((built / "unpacked").glob("*/examples/coffee.png"))
    printed = run(*zeronvs, "estimate", photo, "-o", tmp_path / "out", cwd=tmp_path)
    assert "ground plane in the depth" in printed  # by the network in the wheel
    assert (tmp_path / "out" / "overlay.png").is_file()
