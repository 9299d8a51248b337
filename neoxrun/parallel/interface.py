"""Which network interface the ranks of several hosts reach each other by. No torch."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct

from neoxrun.errors import UsageError

_SIOCGIFADDR = 0x8915  # Linux: an interface's IPv4 address
_OUTSIDE = "192.0.2.1"  # an address that belongs to no host (RFC 5737)


def choose_interface() -> None:
    """Tell gloo which network interface to use, unless the user has.

    By default gloo uses the one that this host's name resolves to, which on many systems is the loopback interface even
    with several hosts.

    Raises:
        UsageError: GLOO_SOCKET_IFNAME names an interface that this host does not have.
    """
    if chosen := os.environ.get("GLOO_SOCKET_IFNAME"):
        present = [interface for _, interface in socket.if_nameindex()]
        if missing := set(chosen.split(",")) - set(present):
            raise UsageError(
                f"GLOO_SOCKET_IFNAME names {min(missing)}, but the network interfaces of {socket.gethostname()} are "
                f"{', '.join(present)}",
                code="bad_environment",
                hint="Name the one that reaches the other hosts, or unset it.",
            )
        return
    one_host = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    name = _interface_towards("localhost" if one_host else os.environ["MASTER_ADDR"])
    if name is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = name


def _interface_towards(host: str) -> str | None:
    """The interface that reaches ``host``; None if it is not known."""
    if host == "localhost" or host.startswith("127."):
        return _interface_of("127.0.0.1")
    # A host's own name often resolves to its loopback interface: then the one that leads outside is used.
    for target in (host, _OUTSIDE):
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))  # looks up the route, sends nothing
            address = str(probe.getsockname()[0])
            if not address.startswith("127."):
                return _interface_of(address)
    return None


def _interface_of(address: str) -> str | None:
    """The interface with this IPv4 address; None if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            with contextlib.suppress(OSError):  # it has none
                if fcntl.ioctl(any_socket, _SIOCGIFADDR, request)[20:24] == socket.inet_aton(address):
                    return name
    return None
