"""The limits of a web role: minimal Litestar handlers, and uvicorn alone.

`python -m bench.bare BODY`: POST /vote reads form and cookie as the vote role does, and queues
nothing; GET /tally returns the content of the file BODY. POST /least reaches no framework.
"""

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.types import ASGIApp, Receive, Scope, Send

from voting.roles.run import tune_gc
from voting.web.cookies import VoterCookies
from voting.web.forms import read_form
from voting.web.headers import request_headers

POLL = "00000000-0000-0000-0000-000000000000"
"""The identity of the poll, for which voters' cookies are signed."""


def create_app(key: str, body: str) -> Litestar:
    voters = VoterCookies([key])

    @post("/vote")
    async def vote(request: Request[Any, Any, Any]) -> Response[str]:
        form = read_form(request_headers(request.scope), await request.body())
        voter = voters.read(request.cookies["voter"], POLL)
        status = 303 if form and voter else 400
        return Response("", status_code=status, headers={"Location": "/"})

    @get("/tally", media_type=MediaType.HTML)
    async def tally() -> str:
        return body

    @get("/readyz")
    async def ready() -> str:
        return ""

    return Litestar([vote, tally, ready], openapi_config=None, logging_config=None)


def in_front_of(app: ASGIApp) -> ASGIApp:
    """Answer POST /least in front of `app`."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/least":
            await app(scope, receive, send)
            return
        await receive()
        headers = [(b"location", b"/"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return handle


def main() -> None:
    app = in_front_of(create_app(os.environ["SECRET_KEYS"], Path(sys.argv[1]).read_text()))
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", server_header=False
    )
    listeners = [
        socket.create_server(("127.0.0.1", int(os.environ[name])), reuse_port=True)
        for name in ("PORT", "OPS_PORT")
    ]
    tune_gc()  # as roles do
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=listeners))


if __name__ == "__main__":
    main()
