"""What was said is kept as it was said."""

from __future__ import annotations

import pytest

from ...query import Query
from ...record import Scope
from ...store import Batch, Store
from ..records import ACME, ANA, said
from .steps import complaints, found_texts, only, put


class Texts:
    async def test_every_plane_of_unicode_is_kept_byte_for_byte(self, store: Store) -> None:
        text = "".join(chr(n) for n in range(0, 0x110000, 89) if not 0xD800 <= n <= 0xDFFF)
        await put(store, said(text, metadata={text[:50]: text}, folder=text[60:90], labels=(text[30:60],)))
        found = await only(store, Query(scope=ANA))
        assert found.text == text and found.metadata == {text[:50]: text}
        assert (found.folder, found.labels) == (text[60:90], (text[30:60],))

    @pytest.mark.parametrize(
        "text", ["", "\x00", "a\x00b", "\r\n\t", " a ", "e\u0301é", "\ufeffa", "\\u0000", "👩‍👩‍👧", "\x85"]
    )
    async def test_odd_texts_are_kept_byte_for_byte(self, store: Store, text: str) -> None:
        record = said(text)
        await put(store, record)
        found = await only(store, Query(scope=ANA, ids=frozenset({record.id})))
        assert found.text.encode() == text.encode()
        assert await put(store, record) == []
        await store.commit(Batch(erase=(record.ref,)))
        assert await complaints(store) == ()

    async def test_a_megabyte_is_kept_and_found(self, store: Store) -> None:
        text = "".join(f"word{n} ä\n" for n in range(95_000))
        record = said(text, metadata={"deep": [text[:100_000]]})
        assert len(text.encode()) > 1_000_000
        await put(store, record)
        assert (await only(store, Query(scope=ANA))).text == text
        assert [found.id for found, _ in await store.words(Query(scope=ANA), "word94999")] == [record.id]

    async def test_metadata_of_any_shape_comes_back(self, store: Store) -> None:
        metadata = {
            "nested": {"list": [1, 2.5, None, True, {"deep": {"deeper": [[], {}]}}], "": ""},
            "numbers": [0, -1, 2**53, -(2**63), 2**63, 1e300, 0.1, -0.0],
            "text": 'quote " back \\ slash / nul \x00 sep \u2028 👩‍👩‍👧 \ufffe',
            "empty": [{}, [], ""],
        }
        await put(store, said("a", metadata=metadata))
        found = await only(store, Query(scope=ANA))
        assert found.metadata == metadata
        assert [type(number) for number in found.metadata["numbers"]] == [type(n) for n in metadata["numbers"]]

    async def test_names_are_just_text(self, store: Store) -> None:
        names = ["ana ", "ana'; --", "ana\x00", *'* % _ " $ne ../../etc ＡＮＡ ANA an anna 😀 null None'.split()]
        await put(store, said("ana's"))
        for name in names:
            scope = Scope(tenant="acme", user=name)
            assert await store.find(Query(scope=scope)) == []
            await put(store, said(name, scope))
            assert await found_texts(store, Query(scope=scope)) == [name]
            assert (await only(store, Query(scope=scope))).scope == scope
        assert await found_texts(store, Query(scope=ANA)) == ["ana's"]
        assert await store.count(Query(scope=ACME)) == len(names) + 1
