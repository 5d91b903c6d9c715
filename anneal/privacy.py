"""Keeps data on this machine: refuses settings that would send it before a run, and connections while it runs.

An audit hook sees every connection that Python makes and cannot be removed once installed. It sees neither sockets that
native code opens nor those of child processes that are no forks; the switches below turn such code off. The count is
that of this process: every stage is a process and writes its own.
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

# HF_HUB_DISABLE_XET: Xet is the transfer of the hub in Rust, whose sockets no hook of Python sees.
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
_OFF = ("false", "no", "off", "0")  # values of a switch in the configuration of DVC
_LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_SENDS = ("socket.connect", "socket.sendto", "socket.sendmsg")
# Address families that only reach this machine: Unix sockets and the kernel.
_LOCAL = {getattr(socket, name) for name in ("AF_UNIX", "AF_NETLINK", "AF_ALG") if hasattr(socket, name)}
_INTERNET = {socket.AF_INET, socket.AF_INET6}


class Breach(Exception):
    """Data would have left the machine, now or by a setting. The message is one line for the user."""


class _State:
    """Settings and counts of the hook. They belong to the class, as there is one hook for the process."""

    installed = False
    local_only = False
    error: type[Exception] = Breach
    sent = 0  # connections and datagrams to other machines
    refused = 0


def loopback(address: object) -> bool:
    """Whether a host name, an address or a URL is this machine. Of names only localhost counts: others may change."""
    text = address.decode("ascii", "replace") if isinstance(address, bytes) else str(address or "localhost")
    try:
        host = (urlsplit(text).hostname or "?") if "://" in text else text
        host = host.strip("[]").rstrip(".").lower()
        if host == "localhost":
            return True
        ip = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    plain = getattr(ip, "ipv4_mapped", None) or ip
    return bool(plain.is_loopback or plain.is_unspecified)  # 0.0.0.0 connects to this machine


def _refuse(action: str) -> None:
    """Raise the error if `local_only`, do nothing otherwise."""
    if _State.local_only:
        _State.refused += 1
        raise _State.error(f"privacy.local_only: {action} was refused: nothing may leave this machine")


def _inspect(family: int, address: Any) -> None:
    """Refuse or count a connection to another machine. No address: the socket is connected and was inspected then."""
    if family not in _LOCAL and address is not None and not (family in _INTERNET and loopback(address[0])):
        _refuse(f"a connection to {address!r}")
        _State.sent += 1


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not event.startswith("socket."):
        return  # the interpreter raises thousands of other events, and this hook runs for each
    if event in _LOOKUPS:
        if not loopback(args[0]):  # a lookup sends the name to a server
            _refuse(f"looking up {args[0]!r}")
    elif event in _SENDS:
        _inspect(args[0].family, args[1])


def _inspect_before(name: str) -> None:
    """Wrap a method of socket: a host name as address is looked up in C before the audit event is raised."""
    method = getattr(socket.socket, name)

    @functools.wraps(method)
    def inspected(self: socket.socket, *args: Any) -> Any:
        if _State.local_only and isinstance(args[-1], tuple):
            _inspect(self.family, args[-1])
        return method(self, *args)

    setattr(socket.socket, name, inspected)


def guard(local_only: bool, error: type[Exception] = Breach) -> None:
    """Count what this process sends to other machines and, if `local_only`, refuse it by raising `error`."""
    _State.local_only, _State.error = local_only, error
    if local_only:
        os.environ.update(_OFFLINE)
    if not _State.installed:
        sys.addaudithook(_hook)
        for name in ("connect", "connect_ex", "sendto"):
            _inspect_before(name)
        _State.installed = True


def outbound() -> int:
    """Connections and datagrams of this process to other machines since `guard`."""
    return _State.sent


def refused() -> int:
    """Connections and lookups that were refused before a packet left."""
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


def _refuse_config(path: Path, parser: configparser.RawConfigParser, error: type[Exception]) -> None:
    """Refuse a configuration of DVC with a remote on another machine, or one that sends experiments away."""
    for section in parser.sections():
        name = section.strip("'").removeprefix("remote").strip(' "')
        url = parser.get(section, "url", fallback=None) or ""
        # A share such as //server/folder is a local path to Python, but another machine to the system.
        is_share = url.startswith(("//", "\\\\"))
        is_away = is_share or ("://" in url and not url.startswith(("file://", "remote://")))
        if section.strip("'").startswith("remote") and is_away:
            raise error(
                f"{path}: remote {name!r} is {_shown(url)}: privacy.local_only allows folders of this machine; "
                f"`dvc remote modify {name} url <folder>`, or remove it"
            )
    for section, key in (("studio", "token"), ("exp", "auto_push")):
        if (parser.get(section, key, fallback=None) or "").lower() not in ("", *_OFF):
            command = f"`dvc config --unset {section}.{key}`"
            raise error(f"{path}: {section}.{key} is set: privacy.local_only keeps experiments here; {command}")


def refuse_remote(root: Path, error: type[Exception] = Breach) -> None:
    """Refuse settings that would send data away: remotes and reports of DVC, and base URLs of other machines.

    DVC reads the configuration of the checkout, of the user and of the system; so does this function.
    """
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    user = Path(os.environ.get("DVC_GLOBAL_CONFIG_DIR") or f"{home}/dvc").expanduser() / "config"
    system = Path(os.environ.get("DVC_SYSTEM_CONFIG_DIR") or "/etc/xdg/dvc") / "config"
    switches = {"analytics": "", "check_update": ""}  # on unless a configuration says otherwise; the last one counts
    for path in (system, user, root / ".dvc/config", root / ".dvc/config.local"):
        parser = _config(path, error)
        _refuse_config(path, parser, error)
        switches |= {key: value for key in switches if (value := parser.get("core", key, fallback=None))}
    if (root / ".dvc/config").is_file():
        for key, value in switches.items():
            if value.lower() not in _OFF:
                command = f"`dvc config core.{key} false`"
                raise error(f"{root}/.dvc/config: core.{key} is on: privacy.local_only needs {command}")
    for name in sorted(os.environ):
        if name.endswith("_BASE_URL") and os.environ[name] and not loopback(os.environ[name]):
            place = f"{name}={_shown(os.environ[name])}: privacy.local_only allows an address of this machine only"
            raise error(f"{place}; unset it, or comment it out in .env")
    if os.environ.get("DVC_STUDIO_TOKEN"):
        raise error("DVC_STUDIO_TOKEN: DVC would send experiments to Studio, privacy.local_only forbids it; unset it")
