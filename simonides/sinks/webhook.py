"""To a URL, each event as a POST that is signed. `webhook:https://example.com/hook?secret_file=/run/secrets/hook`
The body is the event as one JSON object (`mode=binary`: its data alone, its attributes in headers `ce-…`), signed as
Standard Webhooks has it: `webhook-id`, which is the event's id, `webhook-timestamp`, and `webhook-signature`, made with
each secret of the file. A secret is `whsec_` and base64 of 24 to 64 bytes; while one takes another's place, the file
holds both. `secret` in the URL itself does too, where the URL is kept in a file. Any answer of 2xx acknowledges; 410
says that nothing more is wanted; 400, 413, 415 and 422 that this one is not, and it is put aside. Redirects are not
followed, as they would go to where nobody meant to send.
Events of one scope are sent one after the other, of `parallel` scopes (default 8) at once. An answer is waited for
`seconds` (default 15). Addresses that are not public are refused, whatever name leads to them, and so is http:
`private=1` allows both. Whatever else is in the query belongs to the URL.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import email.utils
import hashlib
import hmac
import ipaddress
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from ..address import secret_of, whole, yes
from ..errors import Invalid, Unavailable
from ..sink import STRUCTURED, Event, Later, SwitchedOff

SCHEMES = {"https": 443, "http": 80}
OPTIONS = ("secret", "secret_file", "mode", "parallel", "private", "seconds")
PARALLEL, SECONDS = 8, 15
ANSWER_MAX = 64 * 1024  # bytes of an answer that are read, so that its connection serves the next
WAIT_MAX_S = 3600.0  # what an answer can ask us to wait
REFUSED = (400, 413, 415, 422)  # of this event
PREFIX = "whsec_"
NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class WebhookSink:
    def __init__(self, url: str) -> None:
        try:
            import httpx  # noqa: F401
        except ImportError:
            raise Unavailable("webhooks need: pip install 'simonides[client]'") from None
        self._url, options = target(url.partition(":")[2])
        self._private = yes(options, "private")
        if self._url.scheme == "http" and not self._private:
            raise Invalid(f"a webhook goes to https://{self._url.hostname}, not http; private=1 allows it")
        self._secrets = secrets_of(options)
        self._binary = options.get("mode", "structured") == "binary"
        self._seconds = whole(options, "seconds", SECONDS)
        self._lanes = asyncio.Semaphore(whole(options, "parallel", PARALLEL))
        digest = hashlib.blake2b(self._url.geturl().encode(), digest_size=6).hexdigest()
        self.name = f"webhook:{self._url.scheme}://{self._url.hostname}/{digest}"  # a path may hold a secret
        self._taken = set[str]()  # ids that were acknowledged in a sending that failed as a whole
        self._client: Any = None

    async def send(self, events: Sequence[Event]) -> None:
        lanes = dict[str, list[Event]]()
        for event in events:
            if event.id not in self._taken:
                lanes.setdefault(event.key, []).append(event)
        ends = await asyncio.gather(*(self._lane(lane) for lane in lanes.values()), return_exceptions=True)
        failed = [end for end in ends if isinstance(end, BaseException)]
        failed.sort(key=lambda error: -error.after_s if isinstance(error, Later) else 0.0)  # the longest wait first
        for kind in (SwitchedOff, Later, Unavailable, BaseException):
            for error in failed:
                if isinstance(error, kind):
                    raise error
        self._taken.clear()

    async def _lane(self, events: Sequence[Event]) -> None:
        for event in events:
            async with self._lanes:
                await self._post(event)
            self._taken.add(event.id)

    async def _post(self, event: Event) -> None:
        import httpx

        headers, body = self._message(event)
        try:
            async with asyncio.timeout(self._seconds):
                status, after = await self._answer(headers, body)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as error:
            raise Unavailable(f"{self.name} cannot be reached: {type(error).__name__}") from None
        if status == 410:
            raise SwitchedOff(f"{self.name} answered 410: it wants no more")
        if status in REFUSED:
            raise Invalid(f"{self.name} answered {status}")
        if not 200 <= status < 300:
            said = f"{self.name} answered {status}"
            raise Unavailable(said) if after is None else Later(said, after)

    def _message(self, event: Event) -> tuple[dict[str, str], bytes]:
        if self._binary:
            names = event.attributes
            headers = {"content-type": names.pop("datacontenttype")}
            headers |= {f"ce-{name}": quote(value, safe=" !#$&'()*+,/:;=?@[]{}|~^`<>") for name, value in names.items()}
            body = event.content()
        else:
            headers, body = {"content-type": STRUCTURED}, event.structured()
        at = int(time.time())
        signatures = " ".join(signature(secret, event.id, at, body) for secret in self._secrets)
        signed = {"webhook-id": event.id, "webhook-timestamp": str(at), "webhook-signature": signatures}
        return {**headers, **signed, "user-agent": "simonides"}, body

    async def _answer(self, headers: Mapping[str, str], body: bytes) -> tuple[int, float | None]:
        """Return the status, and the seconds that it asks us to wait."""
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=self._seconds)
        host = self._url.hostname or ""
        address = await self._resolved(host)  # what was looked at is what is connected to
        place = f"[{address}]" if address.version == 6 else str(address)
        port = self._url.port or SCHEMES[self._url.scheme]
        url = urlunsplit(self._url._replace(netloc=f"{place}:{port}"))
        named = {**headers, "host": self._url.netloc.rpartition("@")[2]}
        more = {"sni_hostname": host}  # its certificate is for its name
        async with self._client.stream("POST", url, headers=named, content=body, extensions=more) as answer:
            read = 0
            async for chunk in answer.aiter_raw():
                if (read := read + len(chunk)) > ANSWER_MAX:
                    break
            return answer.status_code, wait_of(answer.headers.get("retry-after"))

    async def _resolved(self, host: str) -> Address:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(each[4][0]) for each in found]
        if not self._private and not all(public(address) for address in addresses):
            raise Unavailable(f"{self.name} leads to an address that is not public; private=1 allows it")
        return addresses[0]

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def target(url: str) -> tuple[Any, dict[str, str]]:
    """Return the URL without our options, parsed, and the options."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.scheme not in SCHEMES or not parts.hostname or parts.fragment or "@" in parts.netloc:
        raise Invalid("a webhook is webhook:https://host/path, without a user and without a #")
    given = parse_qsl(parts.query, keep_blank_values=True)
    options = {name: value for name, value in given if name in OPTIONS}
    if options:
        parts = parts._replace(query=urlencode([(name, value) for name, value in given if name not in OPTIONS]))
    if options.get("mode", "structured") not in ("structured", "binary"):
        raise Invalid(f"mode must be structured or binary, not {options['mode']!r}")
    return parts, options


def secrets_of(options: Mapping[str, str]) -> list[bytes]:
    texts = [options["secret"]] if "secret" in options else []
    texts += secret_of(options["secret_file"]).split() if "secret_file" in options else []
    try:
        made = [base64.b64decode(text.removeprefix(PREFIX), validate=True) for text in texts]
    except binascii.Error:
        made = [b""]
    if not made or any(not 24 <= len(each) <= 64 for each in made) or not all(t.startswith(PREFIX) for t in texts):
        raise Invalid(f"a webhook needs secret_file=PATH, of a file with {PREFIX} and base64 of 24 to 64 random bytes")
    return made


def signature(secret: bytes, id: str, at: int, body: bytes) -> str:
    signed = hmac.digest(secret, f"{id}.{at}.".encode() + body, "sha256")
    return f"v1,{base64.b64encode(signed).decode()}"


def public(address: Address) -> bool:
    """Whether an address is on the Internet, and none that stands for one which is not."""
    inner: Address | None = None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return public(inner)
    return address.is_global and not address.is_multicast


def wait_of(header: str | None) -> float | None:
    """Return the seconds that `Retry-After` asks for, be it a number or a date."""
    if not header:
        return None
    try:
        seconds = float(header) if header.strip().isdecimal() else _until(header)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), WAIT_MAX_S)


def _until(date: str) -> float:
    until = email.utils.parsedate_to_datetime(date)
    return (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp() - time.time()


open = WebhookSink
