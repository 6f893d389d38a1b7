"""The messages of gRPC: made of the descriptors in proto/, which are made of the .proto files there.

A request becomes the arguments of an operation, and an answer becomes a message, by the names of their fields alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from ..errors import Invalid

JSON = "_json"  # ends the name of a field that holds JSON as a text


def pool_of(*others: bytes) -> DescriptorPool:
    """Return a pool with our files, and with these others, that meets no other pool's."""
    made = DescriptorPool()
    own = FileDescriptorSet.FromString(resources.files(__package__).joinpath("proto", "simonides.binpb").read_bytes())
    for file in own.file:
        made.Add(file)
    for other in others:
        made.AddSerializedFile(other)
    return made


def methods(service: ServiceDescriptor) -> Mapping[str, MethodDescriptor]:
    found: Mapping[str, MethodDescriptor] = service.methods_by_name
    return found


def parsed(method: MethodDescriptor, data: bytes) -> Message:
    """Return the request that these bytes are; raise Invalid where they are none."""
    made: Message = GetMessageClass(method.input_type)()
    try:
        made.ParseFromString(data)
    except DecodeError:
        raise Invalid(f"this is no {method.input_type.full_name}") from None
    return made


def answered(method: MethodDescriptor, answer: Mapping[str, Any]) -> bytes:
    """Return the answer as the bytes of that method's message."""
    made: Message = GetMessageClass(method.output_type)()
    fill(made, answer)
    data: bytes = made.SerializeToString()
    return data


def arguments(message: Message) -> dict[str, Any]:
    """Return what was said in a message, by the names of its fields; one of several goes by the name of their choice.

    What was left out is not there. Raise Invalid where a field that holds JSON holds something else.
    """
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        name, said = field.name, _plain(value)
        choice = field.containing_oneof
        if name.endswith(JSON):
            name, said = name.removesuffix(JSON), read(name, said)
        if choice is not None and len(choice.fields) > 1:
            name = choice.name
        found[name] = said
    return found


def read(name: str, text: str) -> Any:
    """Return the JSON in that field."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Invalid(f"{name} must be JSON") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return arguments(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(each) for each in value]
    return value


def fill(message: Message, answer: Mapping[str, Any]) -> None:
    """Say in a message what an answer says; what is null stays unset."""
    fields = message.DESCRIPTOR.fields_by_name
    for name, value in answer.items():
        if value is None:
            continue
        if name not in fields:
            setattr(message, name + JSON, json.dumps(value, ensure_ascii=False))
        elif isinstance(value, Mapping) and fields[name].message_type.GetOptions().map_entry:
            getattr(message, name).update({key: each for key, each in value.items() if each is not None})
        elif isinstance(value, Mapping):
            getattr(message, name).SetInParent()
            fill(getattr(message, name), value)
        elif isinstance(value, list):
            _extend(getattr(message, name), value)
        else:
            setattr(message, name, value)


def _extend(repeated: Any, values: list[Any]) -> None:
    for value in values:
        if isinstance(value, Mapping):
            fill(repeated.add(), value)
        else:
            repeated.append(value)
