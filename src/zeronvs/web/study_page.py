"""The page of a preference study: blind pairs of videos, three questions each.

A participant is known by a random cookie, of which only a hash is kept. Nothing that is sent to
the browser tells the methods apart: videos have random names, and sides and order are random.
"""

import asyncio
import hashlib
import re
import secrets
import time
from typing import Annotated, Any

from fastapi import APIRouter, Cookie, Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, Response

from zeronvs._core.errors import InputError
from zeronvs.evaluation.study import QUESTIONS, Study, Trial, trials
from zeronvs.evaluation.study_answers import Answer, Answers
from zeronvs.web.guard import read_json_body
from zeronvs.web.server import file_inside, make_app, page_source

COOKIE = "zeronvs_participant"
YEAR_S = 365 * 24 * 3600
PAGE_FILES = {
    "study.css": "text/css; charset=utf-8",
    "study.js": "text/javascript; charset=utf-8",
}
_TOKEN = re.compile(r"[\w-]{43}", re.ASCII)

Token = Annotated[str | None, Cookie(alias=COOKIE)]


def make_study_app(study: Study, answers: Answers, *, host: str) -> FastAPI:
    """Return the application of a study.

    Args:
        study: Its videos are all there.
        answers: Of this study.
        host: The address or name that is served.
    """

    def participant(token: Token = None) -> str:
        """Return a hash of the participant's secret, another one in each study."""
        if token is None or not _TOKEN.fullmatch(token):
            raise HTTPException(401, "this browser sent no cookie; allow cookies here, then reload")
        return hashlib.sha256(f"{study.id} {token}".encode()).hexdigest()

    routers = [_page_routes(), _video_routes(study), _answer_routes(study, answers, participant)]
    return make_app(routers, host=host)


def _page_routes() -> APIRouter:
    """Return the page itself; it gives a new participant the secret by which they are known."""
    router = APIRouter()

    @router.get("/", response_model=None)
    def page(token: Token = None) -> Response:
        response = Response(page_source("study.html"), media_type="text/html; charset=utf-8")
        if token is None or not _TOKEN.fullmatch(token):
            _become_new(response)
        return response

    @router.get("/page/{name}", response_model=None)
    def part(name: str) -> Response:
        if name not in PAGE_FILES:
            raise HTTPException(404, "there is no such file")
        return Response(page_source(name), media_type=PAGE_FILES[name])

    @router.post("/participants", response_model=None)
    def another() -> Response:
        response = Response("{}", media_type="application/json")
        _become_new(response)
        return response

    return router


def _video_routes(study: Study) -> APIRouter:
    router = APIRouter()
    known = {name for pair in study.pairs for name in pair.videos}

    @router.get("/videos/{name}", response_model=None)
    def video(name: str) -> FileResponse:
        if name not in known:
            raise HTTPException(404, "there is no such video")
        headers = {"cache-control": "private, max-age=86400", "etag": f'"{name}"'}
        # The file's own time would tell which method was rendered first.
        headers["last-modified"] = "Thu, 01 Jan 1970 00:00:00 GMT"
        path = file_inside(study.folder, "videos", name)
        return FileResponse(path, media_type="video/mp4", headers=headers)

    return router


def _answer_routes(study: Study, answers: Answers, participant: Any) -> APIRouter:
    router = APIRouter()

    @router.get("/trials", response_model=None)
    def listing(person: Annotated[str, Depends(participant)]) -> dict[str, Any]:
        given = {(answer.scene, answer.question): answer.chosen for answer in answers.of(person)}
        return {
            "questions": [{"key": key, "text": text} for key, text in QUESTIONS.items()],
            "trials": [
                {
                    "videos": [f"videos/{name}" for name in trial.videos],
                    "answers": {
                        key: _video_number(trial, given[trial.pair.scene, key])
                        for key in QUESTIONS
                        if (trial.pair.scene, key) in given
                    },
                }
                for trial in trials(study, person)
            ],
        }

    @router.post("/answers", response_model=None)
    async def answer(
        person: Annotated[str, Depends(participant)], request: Request
    ) -> dict[str, Any]:
        content = await read_json_body(request)
        found = _answer(content, trials(study, person), person)
        await asyncio.to_thread(answers.put, found)
        return {}

    return router


def _become_new(response: Response) -> None:
    """Give the browser a new secret."""
    token = secrets.token_urlsafe(32)
    response.set_cookie(COOKIE, token, max_age=YEAR_S, httponly=True, samesite="lax")


def _video_number(trial: Trial, method: int) -> int:
    """Return which video, 1 or 2, shows a method."""
    return 1 if method == trial.first else 2


def _answer(content: Any, of_person: list[Trial], person: str) -> Answer:
    """Return the answer that the page has sent.

    Raises:
        InputError: It is none.
    """
    if not isinstance(content, dict) or set(content) != {"trial", "question", "video"}:
        raise InputError("an answer has trial, question and video")
    number, question, video = (content[name] for name in ("trial", "question", "video"))
    if type(number) is not int or not 0 <= number < len(of_person):
        raise InputError(f"trial must be a whole number from 0 to {len(of_person) - 1}")
    if not isinstance(question, str) or question not in QUESTIONS:
        raise InputError(f"question must be one of {', '.join(QUESTIONS)}")
    if type(video) is not int or video not in (1, 2):
        raise InputError("video must be 1 or 2")
    trial = of_person[number]
    return Answer(
        participant=person,
        scene=trial.pair.scene,
        question=question,
        chosen=trial.first if video == 1 else 1 - trial.first,
        first=trial.first,
        answered_at=time.time(),
    )
