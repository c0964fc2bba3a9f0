"""Start the server: bind, print the address, serve until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import html
import os
import socket
import webbrowser
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse

from twospeed.app.database import Conflict
from twospeed.app.desk import Desk
from twospeed.app.library import Library
from twospeed.app.routes import make_routes
from twospeed.app.security import Guard, Keys
from twospeed.app.uploads import Offset
from twospeed.environment import use_one_heap
from twospeed.errors import InputError, OutputError, TwospeedError
from twospeed.files import lock_file, make_folder, read_text

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def make_app(desk: Desk, port: int) -> Any:
    """Return the ASGI application, guarded."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await desk.jobs.start()
        await asyncio.to_thread(desk.prompter.start)
        yield
        await desk.jobs.close()
        await asyncio.to_thread(desk.prompter.close)
        for task in list(desk.tasks):
            task.cancel()
        await asyncio.to_thread(desk.library.close)

    app = FastAPI(
        title="twospeed app", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json", lifespan=lifespan
    )
    app.include_router(make_routes(desk))
    files = {path.name: path for path in STATIC.iterdir() if path.suffix in TYPES}

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _static(files["index.html"])

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        return _static(files[name]) if name in files else JSONResponse({"error": "there is no such file"}, 404)

    @app.exception_handler(TwospeedError)
    async def refuse(_: Request, error: TwospeedError) -> Response:
        if isinstance(error, Offset):
            return JSONResponse({"error": str(error), "offset": error.offset}, 409)
        if isinstance(error, Conflict):
            return JSONResponse({"error": str(error), "conflict": True}, 409)
        missing = isinstance(error, InputError) and str(error).startswith("there is no")
        status = 507 if isinstance(error, OutputError) else 404 if missing else 400
        return JSONResponse({"error": str(error), "option": error.option}, status)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)

    return Guard(app, desk.keys, port)


def _static(path: Path) -> Response:
    return FileResponse(path, media_type=TYPES[path.suffix], headers={"cache-control": "no-cache"})


def serve(
    folder: Path,
    *,
    video: Path | None,
    run: Path | None,
    port: int,
    browser: bool,
    settings: dict[str, Any],
    announce: Callable[[str], None],
) -> None:
    """Serve a folder on the loopback until the process is interrupted.

    video: one of the folder's, or run: the folder of a finished run in it, to open at once. port: 0 takes a free one.
    settings: as `Desk` has them. announce: called with the address.
    Raises InputError where the folder is missing or open already, or the port is taken.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    use_one_heap()
    state = make_folder(folder / ".twospeed")
    state.chmod(0o700)
    address = state / "address"
    running = read_text(address).strip() if address.exists() else ""
    with lock_file(state / "lock", f"{folder} is open already, at {running or 'another port'}"):
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if os.name == "posix":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.1", port))
            listening.listen(128)  # who comes before the server has started waits
        except OSError as error:
            listening.close()
            raise InputError(f"port {port} cannot be used ({error.strerror}); choose another", option="port") from None
        port = listening.getsockname()[1]
        keys = Keys(port)
        library = Library(folder, run)
        desk = Desk(library, keys, settings)
        if video is not None:
            desk.settings["open"] = next((v.id for v in library.videos() if v.path == video.resolve()), None)
        if run is not None:
            shown = (identity for identity, one in library.runs() if one.folder == run.resolve())
            desk.settings["open_run"] = next(shown, None)
        address.write_text(f"http://127.0.0.1:{port}/\n")
        announce(f"http://127.0.0.1:{port}/#token={keys.token}")
        config = uvicorn.Config(
            make_app(desk, port), log_level="warning", access_log=False, server_header=False,
            timeout_graceful_shutdown=2, ws_max_size=1 << 20, lifespan="on",
        )  # fmt: skip
        opened = _open_browser(state, port, keys) if browser else None
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            listening.close()
            address.unlink(missing_ok=True)
            if opened is not None:
                opened.unlink(missing_ok=True)


def _open_browser(state: Path, port: int, keys: Keys) -> Path:
    """Open the page by a file that only this user can read: a token in an address would show in the process list."""
    path = state / "open.html"
    url = html.escape(f"http://127.0.0.1:{port}/#token={keys.one_time()}")
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f'<!doctype html><meta http-equiv="refresh" content="0;url={url}"><a href="{url}">twospeed</a>\n')
    with contextlib.suppress(webbrowser.Error):
        webbrowser.open(path.resolve().as_uri())
    return path
