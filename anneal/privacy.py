"""Nothing leaves the machine: refused before a run where the settings say so, and at the socket where code tries to.

An audit hook sees every connection that Python makes, and once installed it cannot be taken out. It does not see what
native code opens by itself, nor a child process that is no fork; the switches below turn such code off. So the count
is that of this process: every stage is one, and writes its own.
"""

from __future__ import annotations

import configparser
import functools
import ipaddress
import os
import re
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Xet is the hub's transfer in Rust, whose sockets no hook of Python sees.
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
    "WANDB_DISABLED": "true",
    "WANDB_MODE": "disabled",
    "COMET_MODE": "disabled",
}
_LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_SENDS = ("socket.connect", "socket.sendto", "socket.sendmsg")
# Families whose other end is this machine: files and the kernel itself.
_LOCAL = {getattr(socket, name) for name in ("AF_UNIX", "AF_NETLINK", "AF_ALG") if hasattr(socket, name)}
_INTERNET = {socket.AF_INET, socket.AF_INET6}


class Breach(Exception):
    """Something would have left the machine, or a setting would send it. One line, for the user."""


class _State:
    """What the hook goes by, and what it counted. One for the process, as the hook is."""

    installed = False
    local_only = False
    error: type[Exception] = Breach
    made = 0
    refused = 0


def loopback(place: object) -> bool:
    """Whether a host name, an address or a URL is this machine. Of names only localhost is: others may change."""
    name = place.decode("ascii", "replace") if isinstance(place, bytes) else str(place or "localhost")
    try:
        host = (urlsplit(name).hostname or "?") if "://" in name else name
        if (host := host.strip("[]").rstrip(".").lower()) == "localhost":
            return True
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    plain = getattr(address, "ipv4_mapped", None) or address
    return bool(plain.is_loopback or plain.is_unspecified)  # 0.0.0.0 connects to this machine


def _refuse(what: str) -> None:
    if _State.local_only:
        _State.refused += 1
        raise _State.error(f"privacy.local_only: {what} was refused: nothing may leave this machine")


def _ask(family: int, address: Any) -> None:
    """Refuse, or count, what goes to another machine. No address: the socket is connected, and was asked about then."""
    if family not in _LOCAL and address is not None and not (family in _INTERNET and loopback(address[0])):
        _refuse(f"a connection to {address!r}")
        _State.made += 1


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not event.startswith("socket."):
        return  # the interpreter raises thousands of other events
    if event in _LOOKUPS:
        if not loopback(args[0]):  # to look up a name is to tell it to a server
            _refuse(f"looking up {args[0]!r}")
    elif event in _SENDS:
        _ask(args[0].family, args[1])


def _early(name: str) -> None:
    """Ask before the socket does: a host name as address is looked up in C before the audit event is raised."""
    method = getattr(socket.socket, name)

    @functools.wraps(method)
    def asked(self: socket.socket, *args: Any) -> Any:
        if _State.local_only and isinstance(args[-1], tuple):
            _ask(self.family, args[-1])
        return method(self, *args)

    setattr(socket.socket, name, asked)


def guard(local_only: bool, error: type[Exception] = Breach) -> None:
    """Count what this process sends to other machines and, if `local_only`, refuse it by raising `error`."""
    _State.local_only, _State.error = local_only, error
    if local_only:
        os.environ.update(_OFFLINE)
    if not _State.installed:
        sys.addaudithook(_hook)
        for name in ("connect", "connect_ex", "sendto"):
            _early(name)
        _State.installed = True


def outbound() -> int:
    """Connections and datagrams of this process to other machines. Measured; 0 before `guard`."""
    return _State.made


def refused() -> int:
    """Attempts, lookups included, that `guard` stopped before a packet left."""
    return _State.refused


def _config(path: Path, error: type[Exception]) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        parser.read(path, "utf-8")
    except (configparser.Error, UnicodeDecodeError) as err:
        raise error(f"{path}: cannot be read as DVC's configuration: {str(err).splitlines()[0]}") from None
    return parser


def _shown(url: str) -> str:
    """A URL without the password that it may hold."""
    return re.sub(r"//[^/@]*@", "//", url)


def refuse_remote(root: Path, error: type[Exception] = Breach) -> None:
    """Refuse what the surroundings would send away: a DVC remote or calls home of DVC, a base URL of another machine.

    Remotes may stand in the configuration of the checkout, of the user and of the system; all are read, as DVC does.
    """
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    user = Path(os.environ.get("DVC_GLOBAL_CONFIG_DIR") or f"{home}/dvc").expanduser() / "config"
    system = Path(os.environ.get("DVC_SYSTEM_CONFIG_DIR") or "/etc/xdg/dvc") / "config"
    calls = {"analytics": "", "check_update": ""}
    for path in (system, user, root / ".dvc/config", root / ".dvc/config.local"):
        parser = _config(path, error)
        for section in parser.sections():
            name = section.strip("'").removeprefix("remote").strip(' "')
            url = parser.get(section, "url", fallback=None) or ""
            # A share such as //server/folder is a path to Python and another machine to everyone else.
            away = ("://" in url and not url.startswith(("file://", "remote://"))) or url.startswith(("//", "\\\\"))
            if section.strip("'").startswith("remote") and away:
                raise error(
                    f"{path}: remote {name!r} is {_shown(url)}: privacy.local_only allows folders of this machine; "
                    f"`dvc remote modify {name} url <folder>`, or remove it"
                )
        for section, key in (("studio", "token"), ("exp", "auto_push")):
            if (parser.get(section, key, fallback=None) or "").lower() not in ("", "false", "no", "off", "0"):
                drop = f"`dvc config --unset {section}.{key}`"
                raise error(f"{path}: {section}.{key} is set: privacy.local_only keeps experiments here; {drop}")
        calls |= {key: value for key in calls if (value := parser.get("core", key, fallback=None))}
    for key, value in calls.items() if (root / ".dvc/config").is_file() else ():
        if value.lower() not in ("false", "no", "off", "0"):
            raise error(f"{root}/.dvc/config: core.{key} is on: privacy.local_only needs `dvc config core.{key} false`")
    for name in sorted(os.environ):
        if name.endswith("_BASE_URL") and os.environ[name] and not loopback(os.environ[name]):
            place = f"{name}={_shown(os.environ[name])}: privacy.local_only allows an address of this machine only"
            raise error(f"{place}; unset it, or comment it out in .env")
    if os.environ.get("DVC_STUDIO_TOKEN"):
        raise error("DVC_STUDIO_TOKEN: DVC would send experiments to Studio, privacy.local_only forbids it; unset it")
