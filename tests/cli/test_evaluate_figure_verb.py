"""`zeronvs evaluate fig7` and `fig9` from end to end."""

from pathlib import Path

import pytest
from ball_runs import BLUE, RED, write_run
from posed_folder import write_pairs


def test_figure_7_is_printed_with_the_order_of_its_methods_and_written(
    zeronvs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_pairs(tmp_path / "scenes")
    out = tmp_path / "out"
    assert zeronvs("evaluate", "fig7", tmp_path / "scenes", "-o", out, "--size-px", 48) == 0
    printed = capsys.readouterr().out
    assert "note: PSNR prefers the blurred truth to the shifted one in" in printed
    for name in ("report.html", "metrics.json", "table.md", "sheet_small.png", "sheet_large.png"):
        assert (out / name).is_file()
    assert "from best to worst" in (out / "report.html").read_text(encoding="utf-8")


def test_figure_9_is_printed_and_written(
    zeronvs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    runs = [
        write_run(tmp_path / f"{anchors}{seed}", "tea", colour, seed=seed, anchors=anchors)
        for anchors in (0, 2)
        for seed, colour in enumerate((RED, BLUE if anchors else RED))
    ]
    out = tmp_path / "out"
    assert zeronvs("evaluate", "fig9", *runs, "-o", out, "--size", 48) == 0
    printed = capsys.readouterr().out.splitlines()
    (plain,) = [line for line in printed if line.startswith("tea") and "without anchors" in line]
    (anchored,) = [line for line in printed if line.startswith("tea") and "2 anchors" in line]
    assert plain.split()[-1] == "0.000"
    assert float(anchored.split()[-1]) > 0.001
    for name in ("report.html", "metrics.json", "table.md", "figure9_0.png"):
        assert (out / name).is_file()
    assert zeronvs("evaluate", "fig9", runs[0], "-o", out) == 2
    assert "the only seed" in capsys.readouterr().err
