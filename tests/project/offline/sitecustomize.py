"""A process that starts with this on its path opens no socket but to itself: what it tries is refused and noted.

Tests put the folder on PYTHONPATH of every command of a workspace, jobs included, as on a node without internet.
"""

import importlib
import ipaddress
import os
import socket
import sys

_NOTES = os.environ.get("OFFLINE_NOTES")
_OWN = {"", "localhost", socket.gethostname()}


def _is_own(host: object) -> bool:
    name = host.decode("utf-8", "replace") if isinstance(host, bytes) else host
    if name is None or name in _OWN:
        return True
    try:
        return ipaddress.ip_address(str(name)).is_loopback
    except ValueError:
        return False


def _refuse(host: object) -> None:
    if _NOTES:
        with open(_NOTES, "a", encoding="utf-8") as notes:
            notes.write(f"{' '.join(sys.argv)[:200]}: {host}\n")
    raise OSError(f"no network here: {host}")


def _guarded(name, place):
    original = getattr(socket.socket, name)

    def method(self, *given):
        address = given[place] if len(given) > place else given[-1]
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_own(address[0]):
            _refuse(address[0])
        return original(self, *given)

    return method


for _name in ("connect", "connect_ex"):
    setattr(socket.socket, _name, _guarded(_name, 0))
socket.socket.sendto = _guarded("sendto", -1)

_getaddrinfo = socket.getaddrinfo


def _resolve(host, *rest, **more):
    if not _is_own(host):
        _refuse(host)
    return _getaddrinfo(host, *rest, **more)


socket.getaddrinfo = _resolve

for _name in os.environ.get("ALSO_IMPORTED", "").split():  # what a test changes in every process
    importlib.import_module(_name)
