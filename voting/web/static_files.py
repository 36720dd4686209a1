"""Static files: read once, compressed once, served under a digest of their content.

Litestar's static files router has no compressed copies and answers 404 to the address of another
version, which a page asks for during a rollout.
"""

import gzip
import hashlib
import mimetypes
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


_FILES = {
    file.name: _StaticFile(
        content := file.read_bytes(),
        gzip.compress(content, mtime=0),
        mimetypes.guess_type(file.name)[0] or "text/plain",
    )
    for file in sorted(
        resources.files("voting.web").joinpath("static").iterdir(), key=lambda file: file.name
    )
}
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
    if (file := _FILES.get(name)) is None:
        raise NotFoundException
    caching = "public, max-age=31536000, immutable" if digest == _DIGEST else "no-store"
    headers = {"Cache-Control": caching, "Vary": "Accept-Encoding"}
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(file.content, media_type=file.media_type, headers=headers)
    headers["Content-Encoding"] = "gzip"
    return Response(file.gzipped, media_type=file.media_type, headers=headers)
