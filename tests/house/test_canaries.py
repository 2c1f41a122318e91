"""Canaries: each proves that a check which the other tests lean on is really switched on."""

import warnings
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from zeronvs.cameras.camera import Camera

CONFTEST = Path(__file__).parent.parent / "conftest.py"


def test_shape_checking_is_switched_on():
    with pytest.raises(TypeCheckError):
        Camera.from_fov(torch.zeros(4, 3), 1.0, (8, 8))


def test_a_warning_is_an_error():
    with pytest.raises(UserWarning, match="careful"):
        warnings.warn("careful", stacklevel=1)


def test_a_test_that_needs_a_gpu_is_skipped_where_there_is_none(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pytester.makeini("[pytest]\nmarkers =\n    gpu: x\n    golden: x\n")
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.gpu
        def test_on_the_gpu():
            raise AssertionError("this must not run")

        def test_on_the_cpu():
            pass
        """
    )
    result = pytester.runpytest_inprocess("-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*SKIPPED*needs a CUDA device*"])


def test_a_missing_golden_folder_skips_with_a_message(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("ZERONVS_GOLDEN", raising=False)
    pytester.makeini("[pytest]\nmarkers =\n    gpu: x\n    golden: x\n")
    pytester.mkdir("tests")
    (pytester.path / "tests" / "conftest.py").write_text(CONFTEST.read_text())
    (pytester.path / "tests" / "test_it.py").write_text("def test_it(golden_dir):\n    pass\n")
    result = pytester.runpytest_inprocess("-rs", "tests")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*SKIPPED*no golden folder*"])
