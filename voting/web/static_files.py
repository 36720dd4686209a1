"""Static files: read once, compressed once, served under a digest of their content.

Litestar's static files router has no compressed copies and answers 404 to the address of another
version, which a page asks for during a rollout.
"""

import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from litestar import Request, Response, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath


@dataclass(frozen=True, slots=True)
class _StaticFile:
    content: bytes
    gzipped: bytes
    media_type: str


def _load_static_files() -> Mapping[str, _StaticFile]:
    folder = resources.files("voting.web").joinpath("static")
    return {
        file.name: _StaticFile(
            content := file.read_bytes(),
            gzip.compress(content, mtime=0),
            mimetypes.guess_type(file.name)[0] or "text/plain",
        )
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.is_file()
    }


_FILES = _load_static_files()
_DIGEST = hashlib.sha256(b"".join(file.content for file in _FILES.values())).hexdigest()[:12]


def static_url(name: str) -> str:
    """Return the path of a static file, which changes with the files. Raises KeyError."""
    _FILES[name]
    return f"/static/{_DIGEST}/{name}"


@get("/static/{digest:str}/{name:str}", sync_to_thread=False)
def static_file(
    digest: FromPath[str], name: FromPath[str], request: Request[Any, Any, Any]
) -> Response[bytes]:
    """Serve a file, cacheable for a year if the digest is the current one.

    During a rollout, a page of another version may request its files here. It gets the file of this
    version, which the client must not store under the other version's address.
    """
    file = _FILES.get(name)
    if file is None:
        raise NotFoundException
    is_current = digest == _DIGEST
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable" if is_current else "no-store",
        "Vary": "Accept-Encoding",
    }
    body = file.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        body = file.gzipped
        headers["Content-Encoding"] = "gzip"
    return Response(body, media_type=file.media_type, headers=headers)
