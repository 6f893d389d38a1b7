"""To a topic of Kafka, or of any broker that speaks its protocol. `kafka://one:9092,two:9092/topic`
The path is the topic (`simonides` where there is none), which the broker's operator makes. An event's key is its scope,
so that it stays in order in its partition. It is acknowledged once all replicas in sync have it (`acks=all`). By
default its attributes are headers (`ce_id`, `ce_type` …) and the value is its data; `mode=structured` makes the value
one JSON object instead. Also `user:password@` before the hosts, `sasl` (`PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`),
`tls=1`, `ca`, `cert`, `cert_key`, `idempotent=1` (the broker drops what the connection sends twice) and `compression`
(`gzip`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from ..address import Address
from ..errors import Invalid, Unavailable
from ..sink import STRUCTURED, Event

PORT, TOPIC = 9092, "simonides"
REQUEST_S = 10.0  # what the broker has to answer
OPTIONS = ("mode", "sasl", "idempotent", "compression")
MODES = ("binary", "structured")
SASL = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class KafkaSink:
    def __init__(self, url: str) -> None:
        try:
            import aiokafka  # noqa: F401
        except ImportError:
            raise Unavailable("a sink in Kafka needs: pip install 'simonides[kafka]'") from None
        self._address = Address.of(url, PORT, OPTIONS)
        self._topic = self._address.path or TOPIC
        self.name = f"{self._address.name}/{self._topic}"
        self._structured = one_of(self._address, "mode", MODES) == "structured"
        self._given = given(self._address) | {
            "acks": "all",
            "enable_idempotence": self._address.flag("idempotent"),
            "compression_type": self._address.options.get("compression"),
        }
        self._producer: Any = None

    async def send(self, events: Sequence[Event]) -> None:
        from aiokafka.errors import KafkaError

        try:
            if self._producer is None:
                self._producer = await started(self._given)
            sent = [await self._producer.send(self._topic, **self._message(event)) for event in events]
            await self._producer.flush()
            for each in sent:
                each.result()
        except (TimeoutError, KafkaError, OSError) as error:
            await self.close()  # what it had not sent goes with it: all of them are sent again
            raise Unavailable(f"{self.name} does not take events: {type(error).__name__}: {error}") from None

    def _message(self, event: Event) -> dict[str, Any]:
        if self._structured:
            headers, value = {"content-type": STRUCTURED}, event.structured()
        else:
            names = event.attributes
            headers = {"content-type": names.pop("datacontenttype")}
            headers |= {f"ce_{name}": value for name, value in names.items()}
            value = event.content()
        return {
            "key": event.key.encode(),
            "value": value,
            "headers": [(name, text.encode()) for name, text in headers.items()],
            "timestamp_ms": int(event.time.timestamp() * 1000),
        }

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        await stop(producer)


async def started(told: Mapping[str, Any]) -> Any:
    """Return a producer of aiokafka that is connected."""
    from aiokafka import AIOKafkaProducer

    producer = AIOKafkaProducer(**told)
    try:
        await producer.start()
    except BaseException:
        await producer.stop()
        raise
    return producer


async def stop(producer: Any) -> None:
    """End a producer, if there is one. What it had not sent is lost: whoever gave it that sends it again."""
    if producer is not None:
        with contextlib.suppress(Exception):  # it has nothing left that anybody waits for
            await asyncio.wait_for(producer.stop(), REQUEST_S)


def given(address: Address) -> dict[str, Any]:
    """Return what a client of aiokafka is told of the broker."""
    tls, who = address.tls(), bool(address.user)
    return {
        "bootstrap_servers": [f"{host}:{port}" for host, port in address.hosts],
        "client_id": "simonides",
        "request_timeout_ms": int(REQUEST_S * 1000),
        "security_protocol": f"{'SASL_' if who else ''}{'SSL' if tls else 'PLAINTEXT'}",
        "ssl_context": tls,
        **({"sasl_mechanism": one_of(address, "sasl", SASL)} if who else {}),
        **({"sasl_plain_username": address.user, "sasl_plain_password": address.password} if who else {}),
    }


def one_of(address: Address, option: str, choices: Sequence[str]) -> str:
    """Return the value of an option, by default the first of the choices."""
    value = address.options.get(option, choices[0])
    if value not in choices:
        raise Invalid(f"{option} must be one of {', '.join(choices)}, not {value!r}")
    return value


open = KafkaSink
