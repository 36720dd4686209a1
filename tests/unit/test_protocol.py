"""Clients of all kinds on real sockets, and the HTTP server of the roles."""

import asyncio
import errno
import gc
import logging
import resource
import socket
import struct
import time
import weakref
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from support.wait import until

from voting.settings import RoleSettings
from voting.web import protocol
from voting.web.arrival import ARRIVAL, Heartbeat
from voting.web.protocol import (
    MAX_HEAD,
    MAX_IDLE_CONNECTIONS,
    MAX_PIPELINE,
    LimitedHttpProtocol,
)
from voting.web.server import HTTPServer

HOST = b"Host: here\r\n"
PLAIN = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"

SIZES = {"/large": 30_000_000, "/medium": 30_000}


@pytest.fixture(autouse=True)
def restore_uvicorn_log_level():
    logger = logging.getLogger("uvicorn.error")
    level = logger.level
    yield
    logger.setLevel(level)


class Server:
    """A server on a port of its own, and the requests that it received: path and body of each."""

    def __init__(self, host="127.0.0.1"):
        self.received = []
        self.may_respond = asyncio.Event()
        self.may_respond.set()
        self.http = HTTPServer(self.respond, host, 0)
        self.port = self.http._socket.getsockname()[1]

    async def respond(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        self.received.append((scope["path"], body))
        self.scope = scope
        await self.may_respond.wait()
        body = b"x" * SIZES[scope["path"]] if scope["path"] in SIZES else scope["path"].encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def connect(self):
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def exchange(self, sent):
        """Send bytes, and return all received bytes when the server has closed the connection."""
        reader, writer = await self.connect()
        writer.write(sent)
        try:
            async with asyncio.timeout(30):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    @property
    def connections(self):
        return self.http._server.server_state.connections


@pytest.fixture
async def server(request):
    server = Server(getattr(request, "param", "127.0.0.1"))
    running = asyncio.create_task(server.http.run())
    await until(lambda: server.http._server.started)
    yield server
    server.may_respond.set()
    server.http._server.should_exit = server.http._server.force_exit = True
    await running


def status(answer):
    return int(answer.split(b" ", 2)[1]) if answer else None


def post(*headers, body=b"", path=b"/"):
    return b"\r\n".join([b"POST " + path + b" HTTP/1.1", b"Host: here", *headers, b"", body])


IPV6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize("server", [RoleSettings().host], indirect=True)
@pytest.mark.parametrize("address", ["127.0.0.1", pytest.param("::1", marks=IPV6)])
async def test_by_default_a_server_listens_on_both_families(server, address):
    client = httpx.AsyncHTTPTransport()
    url = httpx.URL(scheme="http", host=address, port=server.port, path="/here")
    assert (await client.handle_async_request(httpx.Request("GET", url))).status_code == 200
    await client.aclose()


# The kernel has no IPv6, or no address of it may be used.
@pytest.mark.parametrize("reason", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_ipv6_a_server_listens_on_ipv4(monkeypatch, reason):
    bind = socket.socket.bind

    def bind_ipv4(listener, address):
        if listener.family == socket.AF_INET6:
            raise OSError(reason, "no IPv6")
        bind(listener, address)

    monkeypatch.setattr(socket.socket, "bind", bind_ipv4)
    listener = Server(RoleSettings().host).http._socket
    assert listener.getsockname()[0] == "0.0.0.0"
    listener.close()


def close(writer):
    writer.close()


def reset(writer):
    """Reset a connection, as if the client had crashed."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


@pytest.fixture
def no_collections():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("ends", [close, reset])
@pytest.mark.parametrize("sent", [b"", b"GET /one HTTP/1.1\r\n", PLAIN, PLAIN + PLAIN])
async def test_a_closed_connection_leaves_no_garbage_to_collect(server, sent, ends):
    reader, writer = await server.connect()
    writer.write(sent)
    await until(lambda: server.connections)
    [connection] = map(weakref.ref, server.connections)
    if PLAIN in sent:
        await reader.readuntil(b"\r\n\r\n")
    ends(writer)
    await until(lambda: not server.connections)
    await until(lambda: connection() is None)


async def test_forwarding_headers_are_ignored(server):
    headers = (
        *(b"X-Forwarded-For: 192.0.2.1", b"X-Real-IP: 192.0.2.1", b"X-Forwarded-Proto: https"),
        *(b"X-Forwarded-Host: evil", b"Forwarded: for=192.0.2.1;proto=https;host=evil"),
    )
    assert status(await server.exchange(post(*headers, b"Connection: close"))) == 200
    assert server.scope["client"][0] == "127.0.0.1"
    assert server.scope["scheme"] == "http"


async def test_a_response_does_not_name_the_server_software(server):
    for sent in (post(b"Connection: close"), b"no HTTP\r\n\r\n"):
        answer = (await server.exchange(sent)).lower()
        assert not [word for word in (b"server:", b"uvicorn", b"python") if word in answer]


# Time


async def trickle(server, first, more):
    """Send a little again and again until the server closes the connection."""
    reader, writer = await server.connect()
    writer.write(first)
    try:
        while not reader.at_eof() and not writer.is_closing():
            writer.write(more)
            await writer.drain()
            await asyncio.sleep(0.02)
            if reader._buffer:
                reader._buffer.clear()
    except ConnectionError:
        pass
    writer.close()


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"", b""),
        (b"", b"\r\n"),
        (b"G", b""),
        (b"GET / HTTP/1.1\r\nX-Slow: ", b"a"),
        (PLAIN[:-2], b"X-Slow: a\r\n"),
        (post(b"Content-Length: 4000"), b"a"),
        (post(b"Transfer-Encoding: chunked"), b"1\r\na\r\n"),
        (post(b"Transfer-Encoding: chunked") + b"0\r\n", b"X-Slow: a\r\n"),
        (PLAIN, b"\r\n"),
        (PLAIN + b"GET / HTTP/1.1\r\nX-Slow: ", b"a"),
    ],
    ids=[
        *("sends nothing", "empty lines", "one byte", "a header", "headers"),
        *(
            "a body",
            "chunks",
            "trailers",
            "empty lines after a request",
            "a header after a request",
        ),
    ],
)
async def test_a_client_that_sends_slowly_is_disconnected(server, monkeypatch, first, more):
    monkeypatch.setattr(protocol, "RECEIVE_TIMEOUT", 0.3)
    await trickle(server, first, more)


async def test_a_request_in_single_bytes_within_the_timeout_is_answered(server):
    reader, writer = await server.connect()
    for byte in post(b"Content-Length: 3", b"Connection: close", body=b"abc"):
        writer.write(bytes([byte]))
        await writer.drain()
    assert status(await reader.read()) == 200
    assert server.received == [("/", b"abc")]
    writer.close()


async def test_the_receive_timeout_is_for_each_request(server, monkeypatch):
    monkeypatch.setattr(protocol, "RECEIVE_TIMEOUT", 0.5)
    reader, writer = await server.connect()
    loop = asyncio.get_running_loop()
    end = loop.time() + 1.2
    while loop.time() < end:
        writer.write(PLAIN)
        assert (await reader.readuntil(b"\r\n\r\n/")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.1)
    writer.close()


async def test_a_response_may_take_longer_than_the_receive_timeout(server, monkeypatch):
    monkeypatch.setattr(protocol, "RECEIVE_TIMEOUT", 0.2)
    server.may_respond.clear()
    asking = asyncio.create_task(server.exchange(post(b"Connection: close")))
    await until(lambda: server.received)
    await asyncio.sleep(0.5)
    server.may_respond.set()
    assert status(await asking) == 200


@asynccontextmanager
async def not_reading(server):
    """Connect a client that reads nothing."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)  # noqa: FBT003 - the only form
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", server.port))
        yield client


async def test_a_client_that_does_not_read_is_disconnected(server, monkeypatch):
    monkeypatch.setattr(protocol, "SEND_TIMEOUT", 0.3)
    async with not_reading(server) as client:
        # The kernels of both sides take some megabytes before the server has to wait.
        client.send(b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n")
        await until(lambda: server.received and not server.connections)


async def test_a_client_that_does_not_read_the_last_bytes_is_disconnected(server, monkeypatch):
    monkeypatch.setattr(protocol, "SEND_TIMEOUT", 0.3)
    async with not_reading(server) as client:
        await until(lambda: server.connections)
        [connection] = server.connections
        # Until the server has unsent bytes, but too few for the application to wait for them.
        while not connection.transport.get_write_buffer_size():
            asked = len(server.received)
            client.send(b"GET /medium HTTP/1.1\r\n" + HOST + b"\r\n")
            await until(lambda asked=asked: len(server.received) > asked)
            await asyncio.sleep(0)
        client.send(b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        await until(lambda: not server.connections)


# Size


TOO_LARGE = {
    "a header": b"GET / HTTP/1.1\r\n" + HOST + b"X-Large: " + b"a" * MAX_HEAD + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * (MAX_HEAD // 5) + b"\r\n",
    "a path": b"GET /" + b"a" * MAX_HEAD + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "no end": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (MAX_HEAD // 5),
}


@pytest.mark.parametrize("sent", TOO_LARGE.values(), ids=TOO_LARGE.keys())
async def test_a_request_head_that_is_too_large_is_refused(server, sent):
    assert status(await server.exchange(sent)) == 431
    # In pieces, and after a body.
    reader, writer = await server.connect()
    writer.write(post(b"Content-Length: 100000") + b"a" * 100_000)
    await reader.readuntil(b"\r\n\r\n/")
    with suppress(ConnectionError):
        for start in range(0, len(sent), 1000):
            writer.write(sent[start : start + 1000])
            await asyncio.sleep(0)
            await writer.drain()
    with suppress(ConnectionError):
        assert status(await reader.read()) in {431, None}
    assert [path for path, _ in server.received] == ["/"]
    writer.close()


async def test_a_request_head_below_the_limit_is_read(server):
    head = b"Connection: close\r\nX-Large: " + b"a" * (MAX_HEAD - 200) + b"\r\n"
    sent = b"GET / HTTP/1.1\r\n" + HOST + head + b"\r\n"
    assert status(await server.exchange(sent)) == 200
    # After a large body too, and in two pieces.
    reader, writer = await server.connect()
    writer.write(post(b"Content-Length: 100000") + b"a" * 100_000)
    await until(lambda: len(server.received) > 1)
    [connection] = server.connections
    writer.write(sent[:500])
    await until(lambda: connection._in_head)
    writer.write(sent[500:])
    assert (await reader.read()).count(b"HTTP/1.1 200") == 2
    writer.close()


async def test_trailers_are_not_headers_and_are_not_stored(server):
    reader, writer = await server.connect()
    writer.write(post(b"Transfer-Encoding: chunked") + b"0\r\n")
    await until(lambda: server.connections)
    [connection] = server.connections
    await until(lambda: connection.headers is not None)
    writer.write(b"X-Trailer: a\r\n" * 10_000 + b"\r\n")
    await reader.readuntil(b"\r\n\r\n/")
    names = {name for name, _ in connection.cycle.scope["headers"]}
    assert names == {b"host", b"transfer-encoding"}
    assert connection.headers == []
    writer.close()


# Number


async def test_pipelined_requests_are_answered_in_order_up_to_the_limit(server):
    server.may_respond.clear()
    several = b"".join(PLAIN.replace(b"/", b"/%d" % n, 1) for n in range(1000))
    asking = asyncio.create_task(server.exchange(several))
    await until(lambda: server.received)
    server.may_respond.set()
    answers = await asking
    assert answers.count(b"HTTP/1.1 200") == MAX_PIPELINE + 1
    assert [path for path, _ in server.received] == [f"/{n}" for n in range(MAX_PIPELINE + 1)]


async def test_beyond_the_limit_the_longest_idle_connection_is_closed(server, monkeypatch):
    monkeypatch.setattr(LimitedHttpProtocol, "max_idle", 3)
    first, *others = [await server.connect() for _ in range(3)]
    await until(lambda: len(LimitedHttpProtocol._idle) == 3)
    # A request makes it the connection that was idle for the shortest time.
    first[1].write(PLAIN)
    await first[0].readuntil(b"\r\n\r\n/")
    _, last = await server.connect()
    assert await others[0][0].read() == b""
    assert len(server.connections) == 3
    first[1].write(PLAIN)
    assert await first[0].readuntil(b"\r\n\r\n/")
    for _, writer in (first, *others):
        writer.close()
    last.close()
    await until(lambda: not LimitedHttpProtocol._idle)


@pytest.mark.parametrize(
    ("limits", "raised", "max_idle"),
    [
        ((1_024, 524_288), 65_536, MAX_IDLE_CONNECTIONS),
        ((256, resource.RLIM_INFINITY), 65_536, MAX_IDLE_CONNECTIONS),
        ((1_024, 4_096), 4_096, 3_072),
    ],
)
def test_idle_connections_are_limited_by_the_file_limit(monkeypatch, limits, raised, max_idle):
    given = []
    monkeypatch.setattr(LimitedHttpProtocol, "max_idle", 0)
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    protocol.raise_file_limit()
    assert given == [(raised, limits[1])]
    assert LimitedHttpProtocol.max_idle == max_idle


# Malformed and ambiguous requests


def chunked(*headers):
    return post(*headers, body=b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: here\r\n\r\n")


AMBIGUOUS = {
    "two lengths": post(b"Content-Length: 0", b"Content-Length: 5", body=b"hello"),
    "two lengths in one": post(b"Content-Length: 5, 5", body=b"hello"),
    "a length with a sign": post(b"Content-Length: +5", body=b"hello"),
    "a negative length": post(b"Content-Length: -1", body=b"hello"),
    "a length that is no number": post(b"Content-Length: 0x5", body=b"hello"),
    "a length beyond 64 bits": post(b"Content-Length: 18446744073709551617", body=b"hello"),
    "a length and chunks": chunked(b"Content-Length: 4", b"Transfer-Encoding: chunked"),
    "chunks and a length": chunked(b"Transfer-Encoding: chunked", b"Content-Length: 4"),
    "chunked twice": chunked(b"Transfer-Encoding: chunked, chunked"),
    "chunked is not last": chunked(b"Transfer-Encoding: chunked, identity"),
    "an unknown encoding": chunked(b"Transfer-Encoding: xchunked"),
    "an encoding behind a tab": chunked(b"Transfer-Encoding:\tchunked", b"Content-Length: 4"),
    "a space before the colon": chunked(b"Transfer-Encoding : chunked", b"Content-Length: 4"),
    "a folded header": chunked(b"Transfer-Encoding:\r\n chunked", b"Content-Length: 4"),
    "a control character": post(b"X: a\x00b"),
    "a bare carriage return": post(b"X: a\rY: b"),
    "a bare line feed": b"POST / HTTP/1.1\nHost: here\n\n",
    "a header without a name": post(b": empty"),
    "a size that is no number": post(b"Transfer-Encoding: chunked", body=b"zz\r\n"),
    "a size beyond 64 bits": post(b"Transfer-Encoding: chunked", body=b"f" * 17 + b"\r\n"),
    "a chunk longer than its size": post(b"Transfer-Encoding: chunked", body=b"1\r\nabc\r\n"),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\n" + HOST + b"Host: there\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "version 0.9": b"GET / HTTP/0.9\r\n" + HOST + b"\r\n",
    "version 2 in plain": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": b"VOTE / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space in the path": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "a tunnel": b"CONNECT here:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("sent", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_an_ambiguous_request_is_refused_and_the_connection_closed(server, sent):
    answer = await server.exchange(sent + PLAIN.replace(b"/", b"/second", 1))
    assert status(answer) == 400
    assert answer.count(b"HTTP/1.1") == 1
    assert b"nosniff" in answer
    assert server.received == []


@pytest.mark.parametrize("apart", [False, True], ids=["at once", "apart"])
@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"anything"])
async def test_nothing_is_read_after_an_upgrade_request(server, upgrade, apart):
    """A proxy may read what follows as the body of that request."""
    smuggled = PLAIN.replace(b"/", b"/smuggled", 1)
    length = b"Content-Length: %d" % len(smuggled)
    first = post(b"Connection: Upgrade", b"Upgrade: " + upgrade, length)
    server.may_respond.clear()
    reader, writer = await server.connect()
    writer.write(first)
    if apart:
        await until(lambda: server.received)
    writer.write(smuggled)
    await writer.drain()
    await until(lambda: server.received)
    server.may_respond.set()
    answer = await reader.read()
    assert answer.count(b"HTTP/1.1") == 1
    assert b"connection: close" in answer
    assert [path for path, _ in server.received] == ["/"]
    writer.close()


async def test_a_request_is_answered_before_a_malformed_one_behind_it_closes_the_connection(server):
    """Otherwise a vote would be recorded and its voter get a 400."""
    server.may_respond.clear()
    request = post(b"Content-Length: 5", body=b"hello", path=b"/first")
    asking = asyncio.create_task(server.exchange(request + b"no HTTP\r\n\r\n" * 10))
    await until(lambda: server.received)
    server.may_respond.set()
    answer = await asking
    assert status(answer) == 200
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.endswith(b"/first")


CHUNKED = post(b"Transfer-Encoding: chunked", path=b"/second")
MALFORMED = {
    "head": b"no HTTP\r\n\r\n" * 10,
    "chunk": CHUNKED + b"no chunk\r\n" * 10,
    "later chunk": CHUNKED + b"2\r\nab\r\nno chunk\r\n",
    "host": b"GET /second HTTP/1.1\r\n\r\n",
    "third": PLAIN.replace(b"/", b"/second", 1) + b"no HTTP\r\n\r\n",
}


@pytest.mark.parametrize("apart", [False, True], ids=["one segment", "two segments"])
@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_request_takes_no_earlier_response_away(server, caplog, malformed, apart):
    server.may_respond.clear()
    first = post(b"Content-Length: 5", body=b"hello", path=b"/first")
    reader, writer = await server.connect()
    writer.write(first if apart else first + malformed)
    await until(lambda: server.received)
    if apart:
        writer.write(malformed)
        await asyncio.sleep(0.05)
    server.may_respond.set()
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    assert status(answer) == 200
    assert b"/first" in answer
    assert caplog.records == []


async def test_a_request_is_current_until_its_client_disconnects(server):
    server.may_respond.clear()
    _, writer = await server.connect()
    writer.write(PLAIN)
    await until(lambda: server.received)
    arrival = server.scope["extensions"][ARRIVAL]
    assert arrival.is_current()
    writer.close()
    await until(lambda: not arrival.is_current())


async def test_a_request_that_is_read_after_a_suspension_is_not_current(server, monkeypatch):
    heartbeat = Heartbeat()
    heartbeat._beat = time.monotonic() - 10
    monkeypatch.setattr(LimitedHttpProtocol, "heartbeat", heartbeat)
    server.may_respond.clear()
    _, writer = await server.connect()
    writer.write(PLAIN)
    await until(lambda: server.received)
    assert not server.scope["extensions"][ARRIVAL].is_current()
    writer.close()


async def test_mistakes_of_clients_are_not_logged(server, caplog):
    for sent in (b"no HTTP\r\n\r\n", post(b"Connection: Upgrade, close", b"Upgrade: h2c")):
        await server.exchange(sent)
    assert caplog.records == []
