"""A client of an application in the same process."""

import httpx
from litestar.types import ASGIApp


def client_of(app: ASGIApp, base_url: str = "http://test") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url)
