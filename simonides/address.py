"""The URL of a server that somebody else runs, read once for all backends: where it is, who comes, and the options.

`kafka://ana:secret@one:9092,two:9092/topic?tls=1`. Beyond this machine a password goes over TLS, unless `tls=0` says
that the way there is safe as it is.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from .errors import Invalid, Unavailable

SAFE = ("tls", "ca", "cert", "cert_key")  # options of every server

_URL = re.compile(r"(?P<scheme>\w+)://((?P<who>[^/?#]*)@)?(?P<hosts>[^/?#@]*)(/(?P<path>[^?#]*))?(\?(?P<query>[^#]*))?")
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]]+)(:(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """`hosts` are (name, port); `path` is without its first slash; `options` are those of the URL."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str
    path: str
    options: Mapping[str, str]

    @classmethod
    def of(cls, url: str, port: int, options: Collection[str]) -> Address:
        """Read a URL; raise Invalid where it is none, or has an option that is neither here nor in SAFE."""
        found = _URL.fullmatch(url)
        hosts = [_HOST.fullmatch(each) for each in found["hosts"].split(",")] if found else []
        if not found or not all(hosts):
            raise Invalid(f"{without_secrets(url)!r} must name a server, as in {url.partition(':')[0]}://host:{port}")
        user, _, password = (found["who"] or "").partition(":")
        given = dict(parse_qsl(found["query"] or "", keep_blank_values=True))
        known(given, {*options, *SAFE})
        made = cls(
            scheme=found["scheme"],
            hosts=tuple((each["host"].strip("[]"), int(each["port"] or port)) for each in hosts if each),
            user=unquote(user),
            password=unquote(password),
            path=unquote(found["path"] or ""),
            options=given,
        )
        if password and "tls" not in given and not made.here:
            raise Invalid(
                f"{made.name} would be sent its password in the clear: add tls=1, or tls=0 where the way is safe"
            )
        return made

    @property
    def here(self) -> bool:
        """Whether it is on this machine."""
        return all(loopback(host) for host, _ in self.hosts)

    @property
    def name(self) -> str:
        """Where it is, without who comes and how."""
        return f"{self.scheme}://{','.join(f'{host}:{port}' for host, port in self.hosts)}"

    def flag(self, option: str, default: bool = False) -> bool:
        return yes(self.options, option, default)

    def number(self, option: str, default: int) -> int:
        return whole(self.options, option, default)

    def tls(self) -> ssl.SSLContext | None:
        """Return what a connection is secured with; None: it is not. The server shows a certificate for its name."""
        if not self.flag("tls"):
            return None
        try:
            made = ssl.create_default_context(cafile=self.options.get("ca"))
            if cert := self.options.get("cert"):
                made.load_cert_chain(cert, self.options.get("cert_key"))
        except (OSError, ssl.SSLError) as error:
            raise Unavailable(f"the certificates for {self.name} cannot be read: {error}") from None
        return made


def known(given: Mapping[str, str], options: Collection[str]) -> None:
    """Raise Invalid where there is an option that nobody knows."""
    for name in given:
        if name not in options:
            close = get_close_matches(name, list(options), n=1)
            meant = f" (did you mean {close[0]!r}?)" if close else f"; there are: {', '.join(sorted(options))}"
            raise Invalid(f"there is no option {name!r}{meant}")


def yes(options: Mapping[str, str], option: str, default: bool = False) -> bool:
    value = options.get(option, "1" if default else "0")
    if value not in ("0", "1"):
        raise Invalid(f"{option} must be 0 or 1, not {value!r}")
    return value == "1"


def whole(options: Mapping[str, str], option: str, default: int) -> int:
    """Return a whole number above 0."""
    value = options.get(option, str(default))
    if not re.fullmatch("[0-9]{1,15}", value) or not int(value):
        raise Invalid(f"{option} must be a whole number above 0, not {value!r}")
    return int(value)


def loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def without_secrets(url: str) -> str:
    """Return the URL without who comes and without options."""
    return re.sub(r"(?<=://)[^/?#]*@", "", url).partition("?")[0]


def secret_of(path: str) -> str:
    """Return what the file holds, without the newline at its end."""
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"{path} cannot be read: {error}") from None
