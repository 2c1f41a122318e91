"""Looking around in a radiance field: the page shows its fitted splats, videos show the field."""

import json
from pathlib import Path

import av
import pytest
import torch
from ball_runs import BLUE, write_run
from loopback import Client, serving, wait_for

from zeronvs._core.errors import InputError
from zeronvs.exports.export import FITTED_FILE
from zeronvs.recipes.run_folder import SCENE_FILE, export_run, open_run
from zeronvs.scene.field import FieldConfig
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.proposal import ProposalConfig
from zeronvs.scene.renderer import RenderConfig
from zeronvs.web import look
from zeronvs.web.look_routes import Place, look_router
from zeronvs.web.server import make_app
from zeronvs.web.task_queue import TaskQueue
from zeronvs.web.work import Worker


@pytest.fixture(scope="module")
def field_run(tmp_path_factory) -> Path:
    """Return a run whose scene is a tiny fog, and whose fitted splats are one blue ball."""
    folder = write_run(tmp_path_factory.mktemp("field") / "run", "A fog", BLUE)
    (folder / SCENE_FILE).rename(folder / FITTED_FILE)
    grid = HashGridConfig(levels=2, log2_table_size=6, base_resolution=4)
    torch.manual_seed(0)
    scene = FieldScene(
        FieldConfig(grid=grid, hidden_width=4, hidden_layers=1),
        RenderConfig(near=0.3, far=3.0, proposal_samples=0, final_samples=6),
        ProposalConfig(grid=grid, hidden_width=4),
    )
    scene.save(folder / SCENE_FILE)
    return folder


def page_data(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    return json.loads(text.split('id="config">')[1].split("</script>")[0])


def test_the_page_shows_the_splats_that_the_run_kept_without_fitting_them_again(
    field_run: Path, tmp_path: Path
):
    stages = []
    page = tmp_path / "look.html"
    look.write_look_page(open_run(field_run), page, progress=lambda e: stages.append(e.stage))
    assert stages == []
    assert page_data(page)["count"] == 1


def test_an_export_writes_the_splats_that_the_run_kept(field_run: Path, tmp_path: Path):
    stages = []
    file = export_run(
        open_run(field_run), ["ply"], out=tmp_path, progress=lambda e: stages.append(e.stage)
    )[0]
    assert b"element vertex 1\n" in file.read_bytes()
    assert set(stages) == {"export ply"}


def test_a_run_that_kept_no_splats_has_them_fitted_while_one_waits(
    field_run: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(look, "SPLAT_STEPS", 1)
    (field_run / FITTED_FILE).rename(tmp_path / "kept")
    stages = []
    try:
        run, page = open_run(field_run), tmp_path / "look.html"
        look.write_look_page(run, page, progress=lambda e: stages.append(e.stage))
    finally:
        (tmp_path / "kept").rename(field_run / FITTED_FILE)
    assert set(stages) == {"look at the field", "refine splats"}
    assert page_data(page)["count"] > 100


def test_damaged_splats_are_refused_in_one_line(field_run: Path, tmp_path: Path):
    kept = (field_run / FITTED_FILE).read_bytes()
    (field_run / FITTED_FILE).write_bytes(kept[:40])
    try:
        with pytest.raises(InputError, match=r"splats\.safetensors"):
            look.write_look_page(open_run(field_run), tmp_path / "look.html")
    finally:
        (field_run / FITTED_FILE).write_bytes(kept)


def test_a_field_is_served_and_its_videos_show_the_field(field_run: Path, tmp_path: Path):
    run = open_run(field_run)
    place = Place(field_run, tmp_path / "look.html")
    look.write_look_page(run, place.page)
    with TaskQueue(Worker, limit_s=120.0) as queue:
        app = make_app([look_router("", lambda: place, queue)], host="127.0.0.1")
        with serving(app) as address:
            client = Client(address)
            assert client("GET", "/").content == place.page.read_bytes()
            assert client("POST", "/renders/spiral").status == 202
            wait_for(
                lambda: client("GET", "/renders/spiral").json["state"] not in ("waiting", "running")
            )
            assert client("GET", "/renders/spiral").json["state"] == "done"
            (tmp_path / "v.mp4").write_bytes(client("GET", "/renders/spiral.mp4").content)
    with av.open(str(tmp_path / "v.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    camera = run.input_camera.with_longer_side(run.size_px)
    with torch.no_grad():
        truth = run.scene.render(camera.batched(), background=torch.full((3,), 0.5)).rgb[0]
    found = torch.tensor(frames[0]).permute(2, 0, 1) / 255
    assert len(frames) == look.FRAMES
    assert float((found - truth).abs().mean()) < 0.03
