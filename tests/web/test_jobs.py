"""Jobs on disk: what a server that starts again finds, and what it refuses."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from loopback import wait_for
from task_work import make_idle_worker

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json, write_json
from zeronvs.web.jobs import Job, Jobs, Limits
from zeronvs.web.tasks import CameraSettings


def make_jobs(folder: Path, **limits) -> Jobs:
    return Jobs(folder, make_idle_worker, limits=Limits(**limits))


def sent(jobs: Jobs, owner: str = "a") -> Job:
    job = jobs.reserve(owner, "A title")
    (jobs.path(job) / "photo").write_bytes(b"photo")
    write_json(jobs.path(job) / "estimate.json", {})
    jobs.submit(job)
    wait_for(lambda: jobs.find(job.id, owner).state == "ready")
    return job


def test_a_job_goes_through_its_states_and_each_is_on_the_disk(tmp_path: Path):
    with make_jobs(tmp_path / "out") as jobs:
        job = sent(jobs)
        record = jobs.path(job) / "job.json"
        assert read_json(record)["state"] == "ready"
        started = jobs.start(jobs.find(job.id, "a"), CameraSettings(fov_deg=40.0))
        assert started.state == "queued"
        wait_for(lambda: jobs.find(job.id, "a").state == "done")
        assert read_json(record)["state"] == "done"
        assert read_json(record)["settings"]["fov_deg"] == 40.0
        jobs.delete(job)
        assert jobs.of("a") == []
        assert list((tmp_path / "out" / "jobs").iterdir()) == []


def test_a_server_that_starts_again_goes_on_where_the_last_one_stopped(tmp_path: Path):
    states = ("estimating", "ready", "queued", "running", "done", "failed", "cancelled")
    expected = ("ready", "ready", "done", "done", "done", "failed", "cancelled")
    with make_jobs(tmp_path / "out") as jobs:
        ids = [sent(jobs).id for _ in states]
    for job_id, state in zip(ids, states, strict=True):
        record = tmp_path / "out" / "jobs" / job_id / "job.json"
        write_json(record, read_json(record) | {"state": state})
    with make_jobs(tmp_path / "out") as jobs:
        wait_for(lambda: tuple(jobs.find(job_id, "a").state for job_id in ids) == expected)


def test_what_was_not_sent_to_its_end_is_gone_after_a_restart(tmp_path: Path):
    with make_jobs(tmp_path / "out") as jobs:
        whole, torn = sent(jobs), jobs.reserve("a", "Torn")
        (jobs.path(torn) / "photo").write_bytes(b"pho")
        assert [job.id for job in jobs.of("a")] == [whole.id]
    (tmp_path / "out" / "jobs" / "notes").mkdir()  # not ours
    for damage in (b"{", b"[]", b'{"id": "x"}', b'{"settings": 1}'):
        with make_jobs(tmp_path / "out") as jobs:
            assert [job.id for job in jobs.of("a")] == [whole.id]
            bad = jobs.reserve("a", "Bad")
            (jobs.path(bad) / "job.json").write_bytes(damage)
    with make_jobs(tmp_path / "out") as jobs:
        assert [job.id for job in jobs.of("a")] == [whole.id]
    names = {path.name for path in (tmp_path / "out" / "jobs").iterdir()}
    assert names == {whole.id, "notes"}


def test_one_folder_has_one_server_and_a_folder_of_a_run_is_refused(tmp_path: Path):
    with make_jobs(tmp_path / "out"), pytest.raises(InputError, match="another process"):
        make_jobs(tmp_path / "out").__enter__()
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "settings.json", {"kind": "scene", "seed": 3})
    with pytest.raises(InputError, match="kind: scene, now photo page"):
        make_jobs(tmp_path / "run").__enter__()
    with make_jobs(tmp_path / "out"):
        pass


def test_a_job_of_another_is_not_found(tmp_path: Path):
    with make_jobs(tmp_path / "out") as jobs:
        job = sent(jobs, "a")
        assert jobs.find(job.id, "b") is None
        assert jobs.of("b") == []
        assert len(job.id) == 32
        assert job.id != sent(jobs, "a").id


def test_visitors_and_the_folder_have_limits(tmp_path: Path, monkeypatch):
    with make_jobs(tmp_path / "out", jobs_per_visitor=2, jobs=3) as jobs:
        jobs.reserve("a", "1")
        jobs.reserve("a", "2")
        with pytest.raises(InputError, match="you have 2 scenes here; delete one"):
            jobs.reserve("a", "3")
        jobs.reserve("b", "1")
        with pytest.raises(InputError, match="no room"):
            jobs.reserve("c", "1")
    with make_jobs(tmp_path / "other") as jobs:
        job = sent(jobs)
        usage = namedtuple("usage", "total used free")(10**12, 10**12, 10**6)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(InputError, match="no room"):
            jobs.reserve("a", "1")
        with pytest.raises(InputError, match="try again later"):
            jobs.start(jobs.find(job.id, "a"), CameraSettings())


def test_the_queue_has_a_limit(tmp_path: Path):
    with make_jobs(tmp_path / "out", waiting=0) as jobs:
        job = sent(jobs)
        with pytest.raises(InputError, match="0 scenes are waiting already"):
            jobs.start(jobs.find(job.id, "a"), CameraSettings())


def test_other_settings_start_a_new_run_and_the_same_resume_a_cancelled_one(tmp_path: Path):
    with make_jobs(tmp_path / "out") as jobs:
        job = sent(jobs)
        kept = jobs.path(job) / "scene" / "kept"

        def start_after(state: str, settings: CameraSettings) -> bool:
            kept.parent.mkdir(exist_ok=True)
            kept.touch()
            jobs._update(job.id, state=state)
            jobs.start(jobs.find(job.id, "a"), settings)
            wait_for(lambda: jobs.find(job.id, "a").state == "done")
            return kept.exists()

        wide = CameraSettings(fov_deg=70.0)
        assert start_after("cancelled", CameraSettings())
        assert not start_after("cancelled", wide)
        assert start_after("cancelled", wide)
        assert not start_after("done", wide)
        assert not start_after("failed", wide)


def test_a_scene_cannot_be_started_twice_or_before_the_estimates(tmp_path: Path):
    with make_jobs(tmp_path / "out") as jobs:
        job = sent(jobs)
        for state in ("sent", "estimating", "queued", "running"):
            with pytest.raises(InputError, match="not ready"):
                jobs.start(jobs._update(job.id, state=state), CameraSettings())
        (jobs.path(job) / "estimate.json").unlink()
        with pytest.raises(InputError, match="not ready"):
            jobs.start(jobs._update(job.id, state="failed"), CameraSettings())
