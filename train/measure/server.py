"""The routes of the page. Everything below /api/ is JSON or a file; errors are a sentence with status 400.

    application(model, works, uploads, host="127.0.0.1")

A page names the opened pictures by the key of their `Work`, so that two pages may look at different ones.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from dali_pipes.errors import InputError

from ..deploy.height_model import HeightModel
from .decisions import LONGEST_ID, MOST_LINES, Change, Decisions, Line
from .guard import Guard, is_loopback
from .polylines import Given, read_given
from .take_away import heights_file, label_archive
from .uploads import Uploads
from .work import Work

PAGE = Path(__file__).parent / "page"
FACE = Path(__file__).parents[2] / "dali_pipes" / "pages" / "style.css"
MOST_WORKS = 16
MOST_JSON_BYTES = 1 << 20
FILES: dict[str, tuple[str, str]] = {
    "heights.csv": (".csv", "text/csv; charset=utf-8"),
    "heights.json": (".json", "application/json"),
    "heights.geojson": (".geojson", "application/geo+json"),
    "heights.gpkg": (".gpkg", "application/geopackage+sqlite3"),
}
"""The name of a file of heights → the suffix that selects its format, and its media type."""

Id = Annotated[str, Field(pattern=rf"^[A-Za-z0-9-]{{1,{LONGEST_ID}}}$")]
Vertices = Annotated[list[tuple[float, float]], Field(min_length=2, max_length=64)]


class Opening(BaseModel):
    """What a page asks to open: paths on this machine, or the numbers of dropped files."""

    images: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field(default=[], max_length=100)
    polylines: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field(default=[], max_length=100)
    dropped: list[int] = Field(default=[], max_length=20_000)


class LineChange(BaseModel):
    """A new value of a line, or its deletion if `points` is null."""

    id: Id
    since: int
    points: Vertices | None
    verdict: Literal["drawn", "accept", "correct", "drop"] = "drawn"
    height: float | None = None

    def change(self) -> Change:
        """The same for `Decisions`. Raises ValueError if the line is impossible."""
        line = None if self.points is None else Line(tuple(self.points), self.verdict, self.height)
        return Change(self.id, self.since, line)


class TileChanges(BaseModel):
    """Changes of the lines of one tile."""

    changes: list[LineChange] = Field(min_length=1, max_length=MOST_LINES)


class Question(BaseModel):
    """Lines whose heights a page asks for."""

    lines: dict[Id, Vertices] = Field(max_length=MOST_LINES)
    pool: bool = True


class NotOpen(Exception):
    """A page names pictures that are not open any more."""


class Works(dict[str, Work]):
    """What is open, by key; at most `MOST_WORKS`, of which the oldest is closed first."""

    def __missing__(self, key: str) -> Work:
        raise NotOpen(key)

    def keep(self, work: Work) -> None:
        """Add a work, or replace the one of its key."""
        self.pop(work.key, None)
        self[work.key] = work
        while len(self) > MOST_WORKS:
            del self[next(iter(self))]


def application(model: HeightModel, first: Work | None, uploads: Uploads, host: str) -> Guard:
    """The ASGI application. `first` is shown when a page does not name another work; `host`: the bound address."""

    @asynccontextmanager
    async def until_the_end(_: FastAPI) -> AsyncIterator[None]:
        yield
        uploads.close()

    api = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=until_the_end)
    works = Works({first.key: first} if first else {})
    _answer_with_sentences(api)
    _add_page(api, model, first)
    _add_opening(api, model, works, uploads, local=is_loopback(host))
    _add_pictures(api, works)
    _add_measuring(api, works)
    _add_files(api, works)
    return Guard(api, host)


def _answer_with_sentences(api: FastAPI) -> None:
    """Bad input is answered with status 400 and a sentence, a page that is out of date with 410."""

    @api.exception_handler(InputError)
    async def input_error(_: Request, error: InputError) -> Response:
        return JSONResponse({"error": str(error)}, 400)

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        return JSONResponse({"error": f"expected a request of this page, found other values in {where}"}, 400)

    @api.exception_handler(OSError)
    async def os_error(_: Request, error: OSError) -> Response:
        sentence = f"cannot read or write {error.filename or 'a file'}: {error.strerror or error}"
        return JSONResponse({"error": sentence}, 400)

    @api.exception_handler(NotOpen)
    async def not_open(_: Request, __: NotOpen) -> Response:
        return JSONResponse({"error": "these pictures are not open any more; reload the page"}, 410)

    @api.middleware("http")
    async def bounded(request: Request, proceed: Callable[[Request], Any]) -> Any:
        length = request.headers.get("content-length", "0")
        is_upload = request.url.path == "/api/dropped"
        if request.method not in ("GET", "HEAD") and not is_upload:
            if not length.isdigit() or "transfer-encoding" in request.headers or int(length) > MOST_JSON_BYTES:
                return JSONResponse({"error": "expected a short request with its length"}, 413)
            if request.headers.get("content-type", "").partition(";")[0] != "application/json":
                return JSONResponse({"error": "expected a request in JSON"}, 415)
        response = await proceed(request)
        response.headers.setdefault("cache-control", "no-store")
        return response


def _add_page(api: FastAPI, model: HeightModel, first: Work | None) -> None:
    trained = model.trained

    @api.get("/")
    def page() -> Response:
        return FileResponse(PAGE / "page.html", media_type="text/html; charset=utf-8")

    @api.get("/face.css")
    def face() -> Response:
        return FileResponse(FACE, media_type="text/css; charset=utf-8")

    @api.get("/api/model")
    def about() -> dict[str, Any]:
        statistics = trained.statistics
        return {
            "work": first.key if first else None,
            "backbone": trained.backbone,
            "mean": statistics.height_mean,
            "std": statistics.height_std,
            "calibrated": trained.calibration is not None,
        }

    api.mount("/page", StaticFiles(directory=PAGE))


def _add_opening(api: FastAPI, model: HeightModel, works: Works, uploads: Uploads, *, local: bool) -> None:
    @api.post("/api/open")
    def open_paths(opening: Opening) -> dict[str, Any]:
        if opening.dropped:
            members, others = uploads.open(opening.dropped)
            given = read_given(others, members) if others else Given()
            number = min(opening.dropped)
            work = Work(model, members, given, Decisions(uploads.folder / f"{number}.decisions"))
            works.keep(work)
            return {"work": work.key}
        if not local:
            raise InputError("paths can be opened only where the page is bound to this machine; drop the files instead")
        if not opening.images:
            raise InputError("expected the path of a folder, an archive or a picture, found none; enter one")
        images, polylines = (
            [Path(path).expanduser() for path in paths] for paths in (opening.images, opening.polylines)
        )
        work = Work.opened(model, images, polylines, None)
        works.keep(work)
        return {"work": work.key}

    @api.post("/api/dropped")
    async def receive(request: Request, name: Annotated[str, Query(max_length=1024)]) -> dict[str, Any]:
        return {"number": await uploads.receive(name, _chunks(request))}


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        yield chunk


def _add_pictures(api: FastAPI, works: Works) -> None:
    @api.get("/api/{key}/tiles")
    def tiles(key: str) -> Response:
        work = works[key]
        given = work.given
        content = {
            "tiles": work.listed(),
            "file": str(work.decisions.path),
            "where": work.images.where,
            "temporary": work.decisions.path.suffix == ".decisions",
            "labels": given.has_heights(),
            "located": work.offers_maps(),
            "unread": len(given.unread),
            "lost": len(given.lost),
        }
        return Response(json.dumps(content), media_type="application/json")

    @api.get("/api/{key}/tiles/{image}/thumbnail")
    def thumbnail(key: str, image: int) -> Response:
        work = works[key]
        work.name(image)
        return _image(work.thumbnails.jpeg(image), "image/jpeg")

    @api.get("/api/{key}/tiles/{image}/picture")
    def whole(key: str, image: int) -> Response:
        work = works[key]
        work.name(image)
        return _image(*work.picture(image))


def _image(data: bytes, media_type: str) -> Response:
    return Response(data, media_type=media_type, headers={"cache-control": "private, max-age=600"})


def _add_measuring(api: FastAPI, works: Works) -> None:
    @api.get("/api/{key}/tiles/{image}")
    def tile(key: str, image: int) -> dict[str, Any]:
        return works[key].tile(image)

    @api.post("/api/{key}/tiles/{image}/heights")
    def heights(key: str, image: int, question: Question) -> dict[str, Any]:
        lines = {id_: tuple(points) for id_, points in question.lines.items()}
        return works[key].answer(image, lines, pool=question.pool)

    @api.post("/api/{key}/tiles/{image}/lines")
    def change(key: str, image: int, asked: TileChanges) -> Response:
        work = works[key]
        try:
            changes = [
                Change(
                    each.id, each.since, (each.points and Line(tuple(each.points), each.verdict, each.height)) or None
                )
                for each in asked.changes
            ]
        except ValueError as error:
            raise InputError(f"{error}; draw the line again") from None
        conflicts = work.change(image, changes)
        return JSONResponse({"conflicts": conflicts, "tile": work.tile(image)}, 409 if conflicts else 200)

    @api.get("/api/{key}/review")
    def review(key: str) -> dict[str, Any]:
        work = works[key]
        work.review.begin(predict=False)
        return {**work.review.progress(), "queue": work.review.queue(), "decided": work.decided()}

    @api.post("/api/{key}/review")
    def predict_all(key: str) -> dict[str, Any]:
        works[key].review.begin(predict=True)
        return works[key].review.progress()


def _add_files(api: FastAPI, works: Works) -> None:
    @api.get("/api/{key}/files/{name}")
    async def file(key: str, name: str, pool: bool = True) -> Response:
        work = works[key]
        stem = work.decisions.path.name.partition(".")[0]
        if name == "labels.zip":
            data = await run_in_threadpool(label_archive, work)
            return _attachment(data, "application/zip", f"{stem}_corrected.zip")
        if name not in FILES:
            raise InputError(
                f"expected one of {', '.join((*FILES, 'labels.zip'))}, found another name; reload the page"
            )
        suffix, media_type = FILES[name]
        data, left_out = await run_in_threadpool(heights_file, work, suffix, pooled=pool)
        answer = _attachment(data, media_type, f"heights_{datetime.now():%Y%m%d_%H%M%S}{suffix}")
        answer.headers["x-left-out"] = str(left_out)
        return answer


def _attachment(data: bytes, media_type: str, name: str) -> Response:
    headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
    return Response(data, media_type=media_type, headers=headers)
