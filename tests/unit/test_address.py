import socket

import pytest

from voting.local import address
from voting.local.address import resolve
from voting.local.supervisor import StartError

IPV4, IPV6 = socket.AF_INET, socket.AF_INET6


@pytest.mark.parametrize(
    ("host", "ip", "in_links"),
    [
        ("127.0.0.1", "127.0.0.1", "localhost"),
        ("127.0.0.2", "127.0.0.2", "127.0.0.2"),
        ("localhost", "127.0.0.1", "localhost"),
        ("192.0.2.9", "192.0.2.9", "192.0.2.9"),
        ("::1", "::1", "[::1]"),
        ("2001:db8::9", "2001:db8::9", "[2001:db8::9]"),
    ],
)
def test_links_say_the_host_that_is_listened_on(host, ip, in_links):
    found = resolve(host)
    assert (found.ip, found.own, found.in_links) == (ip, ip, in_links)


@pytest.mark.parametrize(
    ("host", "own", "routes", "in_links"),
    [
        ("0.0.0.0", "127.0.0.1", {IPV4: "192.0.2.9", IPV6: "2001:db8::9"}, "192.0.2.9"),
        ("0.0.0.0", "127.0.0.1", {IPV6: "2001:db8::9"}, "localhost"),
        ("::", "::1", {IPV4: "192.0.2.9", IPV6: "2001:db8::9"}, "[2001:db8::9]"),
        ("::", "::1", {IPV4: "192.0.2.9"}, "192.0.2.9"),
        ("::", "::1", {}, "localhost"),
    ],
)
def test_for_all_addresses_links_say_that_of_the_default_route(
    monkeypatch, host, own, routes, in_links
):
    monkeypatch.setattr(address, "_own_address", routes.get)
    found = resolve(host)
    assert (found.own, found.in_links) == (own, in_links)


def test_of_a_name_with_addresses_of_both_kinds_that_of_ipv4_is_listened_on(monkeypatch):
    both = [
        (IPV6, socket.SOCK_STREAM, 6, "", ("2001:db8::9", 0, 0, 0)),
        (IPV4, socket.SOCK_STREAM, 6, "", ("192.0.2.9", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert resolve("vote.example").ip == "192.0.2.9"


def test_a_host_that_cannot_be_resolved_is_named():
    with pytest.raises(StartError, match=f"HOST is '{'x' * 70}', where this machine can't listen"):
        resolve("x" * 70)
