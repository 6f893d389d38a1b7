"""The elements of a JSON file, one by one, as they come from the disk: a file of any size takes the memory of one.

Files are broken in many ways. What precedes a break is always yielded, and the break is a Problem with its line. A list
is read on behind it, at the next object that has the keys which all objects before it have. Bytes that are no UTF-8
become lone surrogates, which whoever keeps the text refuses: a bad byte costs its own element only.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import Damaged
from ..importer import Problem

ELEMENT_MAX = 256 * 1024**2  # characters of one element
NEAR = 12  # an error this close to the end of what was read may only mean that more is needed
KEYS_MIN = 2  # so many keys tell an element of a list from what lies deeper
OBJECT = re.compile(r"[,}\]\s]\s*(?=\{)")  # where an object may begin
SOUGHT_MAX = 50_000_000  # characters that are read in vain in one file, to find where its list goes on: a second or two
TRIED_MIN = 2500  # and so many are counted for every place that is tried, however short: it takes as long
GAP = 200  # characters of white space before an object, at most
SPACE = re.compile(r"[ \t\n\r]*")
TOKEN = re.compile(r'("(?:[^"\\]|\\.)*+"?)\s*+(:?)|[\[\]{}]', re.DOTALL)
BOMS = (
    (codecs.BOM_UTF8, "utf-8", "surrogateescape"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "surrogatepass"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "surrogatepass"),
)


@dataclass(frozen=True, slots=True)
class Element:
    """One value, and the line it begins on."""

    line: int
    value: Any


def elements(name: str, blocks: Iterable[bytes]) -> Iterator[Element | Problem]:
    """Yield the elements of the JSON list that the blocks hold, or the values one after the other if it is no list."""
    text = _Text(blocks)
    try:
        if text.peek() == "[":
            yield from _listed(name, text)
        while text.peek():
            yield Element(text.line, text.value())
    except (_Broken, Damaged) as error:
        line = error.line if isinstance(error, _Broken) else text.line
        yield Problem(name, line, str(error))


def lines(name: str, blocks: Iterable[bytes]) -> Iterator[Element | Problem]:
    """Yield the value of each line; one that is no JSON is a Problem, and the next is read."""
    number = 0
    try:
        for number, line in enumerate(_lines(texts(blocks)), 1):
            if line.strip():
                yield _parsed(name, number, line)
    except Damaged as error:
        yield Problem(name, number + 1, str(error))


def keys(head: bytes) -> frozenset[str]:
    """Return the keys of the objects that the file lists, as far as its beginning shows them."""
    return frozenset(key for text in re.split(r"\n(?=\{)", opening(head)) for key in _keys(text))


def _keys(text: str, *, whole: bool = True) -> Iterator[str]:
    """Yield the keys of what the text lists, or of the object that it begins with; not `whole`: only of the first."""
    depth, objects = 0, 1  # how deep we are, and how deep the keys of what is listed lie
    for token in TOKEN.finditer(text):
        mark = token[0]
        if mark == "[" and not depth:
            objects = 2
        if mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
            if not (whole or depth):
                return
        elif depth == objects and token[2]:
            yield token[1][1:-1]


def texts(blocks: Iterable[bytes]) -> Iterator[str]:
    """Decode UTF-8, or UTF-16 that says so; a byte that is neither comes out as a lone surrogate."""
    decoder: codecs.IncrementalDecoder | None = None
    try:
        for block in blocks:
            if decoder is None:
                decoder, block = _decoder(block)
            yield decoder.decode(block)
        if decoder:
            yield decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise Damaged(f"is not the {error.encoding} that it says it is") from error


def opening(head: bytes) -> str:
    """Return the text that a file begins with, as good as can be told."""
    decoder, rest = _decoder(head)
    decoder.errors = "replace"
    return str(decoder.decode(rest))


def _decoder(block: bytes) -> tuple[codecs.IncrementalDecoder, bytes]:
    for bom, encoding, errors in BOMS:
        if block.startswith(bom):
            return codecs.getincrementaldecoder(encoding)(errors), block[len(bom) :]
    return codecs.getincrementaldecoder("utf-8")("surrogateescape"), block


# -- lists --------------------------------------------------------------------------------------------------------


class _Broken(Exception):
    def __init__(self, line: int, message: str, cost: int | None = None) -> None:
        self.line, self.cost = line, cost  # how many characters were read in vain; None: nobody knows
        super().__init__(message)


def _listed(name: str, text: _Text) -> Iterator[Element | Problem]:
    text.skip("[")
    keys: frozenset[str] | None = None  # those that every object of the list has
    while True:
        try:
            element = _element(text, first=keys is None)
        except _Broken as error:
            element = yield from _read_on(name, error, text, keys)
        if element is None:
            return
        yield element
        if isinstance(element.value, dict):
            keys = keys & element.value.keys() if keys else frozenset(element.value)
        else:
            keys = keys or frozenset()


def _element(text: _Text, *, first: bool) -> Element | None:
    """Return the next element of the list; None where it ends. Raise _Broken where there is neither."""
    if not first and (mark := text.peek()) != "]":
        if mark != ",":
            raise _Broken(text.line, "no comma after an element of the list" if mark else "the list ends too soon")
        text.skip(",")
    if text.peek() == "]":
        text.skip("]")
        return None
    return Element(text.line, text.value())


def _read_on(
    name: str, error: _Broken, text: _Text, keys: frozenset[str] | None
) -> Generator[Problem, None, Element | None]:
    """Tell what is broken, and return the element at which the list goes on; None where nothing is like one."""
    damage: Damaged | None = None
    try:
        found = text.following(keys or text.keys())
    except Damaged as broken_off:
        found, damage = None, broken_off
    told = f"{error}; read on from line {found.line}" if found else str(error)
    yield Problem(name, error.line, told)
    if damage:
        raise damage
    return found


class _Text:
    """A window on the text that grows until it holds a whole value, and forgets what was read."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._source = texts(blocks)
        self._text, self._at, self.line = "", 0, 1
        self._sought_max = SOUGHT_MAX
        self._damage: Damaged | None = None  # where the source broke off, told once all before it was read

    def peek(self) -> str:
        """Return the next character that is no white space; "" at the end."""
        while True:
            self._pass(SPACE.match(self._text, self._at).end())  # type: ignore[union-attr]  # it matches anywhere
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self, mark: str) -> None:
        self._pass(self._at + len(mark))

    def value(self) -> Any:
        """Return the value that begins here. Raise _Broken where there is none."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
                whole = self._text[end - 1] in '"]}' or end < len(self._text) - NEAR  # a number may go on
                if whole or not self._more():
                    self._pass(end)
                    return value
            except json.JSONDecodeError as error:
                if not (self._may_go_on(error) and self._more()):
                    line = self.line + self._text.count("\n", self._at, error.pos)
                    raise _Broken(line, f"is not JSON: {_said(error)}", error.pos - self._at) from None
            except RecursionError:
                raise _Broken(self.line, "is nested too deep") from None
            except ValueError as error:
                raise _Broken(self.line, f"cannot be read: {error}") from None

    def keys(self) -> frozenset[str]:
        """Return the keys of the object that begins here, as far as it is to be read."""
        self.peek()
        return frozenset(_keys(self._text[self._at :], whole=False))

    def following(self, keys: frozenset[str]) -> Element | None:
        """Return the next object that has all these keys, two at least; None, at the end, where there is none."""
        while len(keys) >= KEYS_MIN and self._sought_max > 0:
            found = OBJECT.search(self._text, max(self._at - 1, 0))
            if found is None:
                self._pass(max(self._at, len(self._text) - GAP))
                if self._more():
                    continue
                break
            self._pass(found.end())
            line = self.line
            try:
                value = self.value()
            except _Broken as error:
                self._sought_max -= self._sought_max if error.cost is None else max(error.cost, TRIED_MIN)
                self._pass(self._at + 1)
                continue
            if isinstance(value, dict) and keys <= value.keys():
                return Element(line, value)
        self._end()
        return None

    def _end(self) -> None:
        """Go to the end of the text, whatever comes there."""
        self._pass(len(self._text))
        while self._more():
            self._pass(len(self._text))

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - NEAR

    def _pass(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end

    def _more(self) -> bool:
        """Read as much again as is held already (so that trying again costs little); return whether there was any."""
        held = [self._text[self._at :]]
        size = wanted = len(held[0])
        if size > ELEMENT_MAX:
            raise _Broken(self.line, f"an element is longer than {ELEMENT_MAX // 1024**2} million characters")
        try:
            for text in self._source:
                held.append(text)
                size += len(text)
                if size > 2 * wanted:
                    break
        except Damaged as error:
            self._damage = error
        if size == wanted:
            if self._damage:
                raise self._damage
            return False  # and what is held stays where it is
        self._text, self._at = "".join(held), 0
        return True


def _said(error: json.JSONDecodeError) -> str:
    return "a string does not end" if error.msg.startswith("Unterminated string") else error.msg


def _real(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


# What JSON has no word for (NaN, Infinity, 1e999) is read as null, which says as much.
DECODER = json.JSONDecoder(parse_float=_real, parse_constant=lambda _: None)


# -- lines --------------------------------------------------------------------------------------------------------


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Yield the lines without their ends, the last one too when the text breaks off."""
    pending: list[str] = []
    try:
        for text in texts:
            *whole, rest = text.split("\n")
            for line in whole:
                yield "".join([*pending, line])
                pending = []
            pending.append(rest)
            if sum(map(len, pending)) > ELEMENT_MAX:
                raise Damaged(f"a line is longer than {ELEMENT_MAX // 1024**2} million characters")
    except Damaged:
        yield "".join(pending)
        raise
    if any(pending):
        yield "".join(pending)


def _parsed(name: str, number: int, line: str) -> Element | Problem:
    try:
        value, end = DECODER.raw_decode(line, SPACE.match(line).end())  # type: ignore[union-attr]
    except json.JSONDecodeError as error:
        return Problem(name, number, f"is not JSON: {_said(error)} at character {error.pos + 1}")
    except RecursionError:
        return Problem(name, number, "is nested too deep")
    except ValueError as error:
        return Problem(name, number, f"cannot be read: {error}")
    if line[end:].strip():
        return Problem(name, number, "holds more than one value")
    return Element(number, value)
