"""`zeronvs evaluate table1` and `table2` from end to end, on trees laid out as released."""

import dataclasses
import json
from pathlib import Path

import pytest
from benchmark_trees import write_capture, write_dtu_scan

from zeronvs.evaluation import benchmark
from zeronvs.evaluation.protocols.protocol import load_protocol


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tiny_presets) -> None:
    """Measure small images, at three scales."""

    def load(key: str):
        size = (48, 64) if key == "dtu" else (256, 256)
        grid = (0.9, 1.2) if key == "dtu" else (1.0,)
        return dataclasses.replace(load_protocol(key), image_size_px=size, scale_grid=grid)

    monkeypatch.setattr(benchmark, "load_protocol", load)


def test_table_one_is_printed_written_and_resumed(
    zeronvs, small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_dtu_scan(tmp_path / "DTU" / "scan8", 1, size_px=(48, 64))
    out = tmp_path / "out"
    words = ["evaluate", "table1", "--dtu", tmp_path / "DTU", "-o", out, "--limit", 2]
    assert zeronvs(*words, "--seeds", 0, 1) == 0
    printed = capsys.readouterr().out
    assert "ZeroNVS, published " in printed
    assert "ours minus published" in printed
    assert "1 of 15 scenes, 64x48 pixels, 2 views each, seeds 0, 1" in printed
    content = json.loads((out / "metrics.json").read_text())
    assert (content["schema"], content["kind"]) == (1, "table1")
    (table,) = content["tables"]
    summary = table["summary"]["PSNR"]
    assert summary["published_these_scenes"] == 13.2329  # that of scan8
    assert summary["difference"] == pytest.approx(summary["ours"] - 13.2329)
    assert summary["spread"] is not None
    ours = [r for r in table["results"] if r["method"] == "ours" and r["metric"] == "PSNR"]
    assert {record["scale"] for record in ours} >= {"oracle", "published", "estimated"}
    assert {(r["resolution"], r["views"]) for r in ours} == {("64x48", 2)}
    assert {r["seed"] for r in ours} == {0, 1}
    oracle = [r["value"] for r in ours if r["scale"] == "oracle"]
    assert summary["ours"] == pytest.approx(sum(oracle) / 2)
    report = (out / "report.html").read_text()
    assert "http" not in report
    assert "data:image/jpeg;base64," in report
    assert "| DS-NeRF, published | 0.649 | 12.17 | 0.410 |" in (out / "table.md").read_text()
    scores = out / "dtu/scan8/seed0/scores.json"
    made = scores.stat().st_mtime_ns
    table_text = (out / "table.md").read_text()
    assert zeronvs(*words, "--seeds", 0, 1) == 0
    assert scores.stat().st_mtime_ns == made
    assert (out / "table.md").read_text() == table_text
    capsys.readouterr()
    assert zeronvs(*words[:-1], 3) == 2
    assert "limit: 2, now 3" in capsys.readouterr().err


def test_table_two_has_mipnerf360_first(
    zeronvs, small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_capture(tmp_path / "360" / "garden", 2, count=4)
    words = ["evaluate", "table2", "--mipnerf360", tmp_path / "360", "-o", tmp_path / "out"]
    assert zeronvs(*words, "--limit", 1) == 0
    printed = capsys.readouterr().out
    assert "Mip-NeRF 360" in printed
    assert "Zero-1-to-3, published" in printed
    assert "as the published code chooses it" in printed


def test_what_cannot_be_measured_is_refused_in_one_line(
    zeronvs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    for words, says in (
        (["table1"], "give --dtu"),
        (["table2"], "--dtu, --mipnerf360 or both"),
        (["table1", "--dtu", tmp_path], "there is no scene in it"),
        (["table1", "--dtu", tmp_path, "--scenes", "scan9"], "there is no scan9; there are: scan8"),
        (["table1", "--dtu", tmp_path, "--model", "zeronvs"], "preview uses none"),
    ):
        assert zeronvs("evaluate", *words, "-o", out) == 2
        error = capsys.readouterr().err
        assert says in error
        assert len(error.strip().splitlines()) == 1
