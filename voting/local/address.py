"""Where `voting up` listens, and the host in the links to its pages."""

import socket
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from voting.local.supervisor import StartError
from voting.settings import bind_problem

# Machines that do not exist: RFC 5737 and RFC 3849 keep these addresses for documentation.
_ELSEWHERE = {socket.AF_INET: "203.0.113.1", socket.AF_INET6: "2001:db8::1"}


@dataclass(frozen=True)
class Address:
    """The setting HOST, and the IP address that it stands for."""

    host: str
    ip: str

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.ip else socket.AF_INET

    @property
    def is_any(self) -> bool:
        """Whether it stands for all addresses of this machine."""
        return ip_address(self.ip).is_unspecified

    @property
    def own(self) -> str:
        """The IP address at which this machine itself reaches it."""
        loopback = "::1" if self.family == socket.AF_INET6 else "127.0.0.1"
        return loopback if self.is_any else self.ip

    @property
    def in_links(self) -> str:
        """The host at which browsers reach it, as it stands in a URL."""
        if self.host == "127.0.0.1":
            return "localhost"
        host = self.host
        if self.is_any:
            # With IPv6, IPv4 is listened on as well.
            families = sorted({self.family, socket.AF_INET}, reverse=True)
            host = next(filter(None, map(_own_address, families)), "localhost")
        return f"[{host}]" if ":" in host else host


def _own_address(family: socket.AddressFamily) -> str | None:
    """Return this machine's address on its default route, if it has one."""
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((_ELSEWHERE[family], 9))  # sends nothing
        return str(probe.getsockname()[0])
    return None


def resolve(host: str) -> Address:
    """Find the IP address of HOST. Raises StartError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise StartError(bind_problem(host, 0, error)) from None
    # Of a name's addresses, that of IPv4 if there is one: AF_INET sorts before AF_INET6.
    return Address(host, str(min(found)[4][0]))
