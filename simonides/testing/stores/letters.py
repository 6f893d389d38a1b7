"""letters and cursors: what followers could not follow, and how far they are."""

from __future__ import annotations

import dataclasses

import pytest

from ...errors import Conflict
from ...record import Scope
from ...store import Batch, Change, Cursor, Letter, Store
from ..records import ANA, said
from .steps import MAY, SUMMER, put

READER, OTHER = "vectors/small/1", "vectors/small/10"


def letter(change: Change, follower: str = READER, tries: int = 5, error: str = "ValueError") -> Letter:
    return Letter(follower, change, tries, MAY, error)


class Letters:
    async def test_a_letter_is_kept_with_the_place_of_its_follower(self, store: Store) -> None:
        [line] = await put(store, said("one"))
        await store.commit(Batch(letters=(letter(line),)), cursor=Cursor(READER, 0, line.seq))
        assert await store.letters() == [letter(line)]
        assert await store.cursor(READER) == line.seq

    async def test_letters_are_in_the_order_of_the_log_and_come_in_pages(self, store: Store) -> None:
        lines = [line for n in range(3) for line in await put(store, said(str(n)))]
        await store.commit(Batch(letters=tuple(letter(line, name) for name in (OTHER, READER) for line in lines[::-1])))
        whole = [letter(line, name) for line in lines for name in (READER, OTHER)]
        assert await store.letters() == whole
        assert await store.letters(OTHER) == [letter(line, OTHER) for line in lines]
        assert await store.letters("vectors") == []
        assert await store.letters(after=lines[0].seq) == whole[2:]
        assert await store.letters(READER, after=lines[0].seq, limit=1) == [letter(lines[1])]
        assert await store.letters(limit=3) == whole[:3]

    async def test_a_letter_of_the_same_follower_and_line_takes_the_place_of_the_one_there(self, store: Store) -> None:
        [line] = await put(store, said("one"))
        await store.commit(Batch(letters=(letter(line), letter(line, OTHER))))
        later = Letter(READER, line, 0, SUMMER, "tried again")
        await store.commit(Batch(letters=(later,)))
        assert await store.letters() == [later, letter(line, OTHER)]

    async def test_what_is_answered_goes_and_nothing_else(self, store: Store) -> None:
        lines = [line for n in range(2) for line in await put(store, said(str(n)))]
        await store.commit(Batch(letters=tuple(letter(line, name) for line in lines for name in (READER, OTHER))))
        answered = ((READER, lines[0].seq), (READER, 99), ("nobody", lines[1].seq))
        await store.commit(Batch(answered=answered))
        rest = [letter(lines[0], OTHER), letter(lines[1]), letter(lines[1], OTHER)]
        assert await store.letters() == rest
        await store.commit(Batch(answered=((READER, lines[1].seq),), letters=(letter(lines[1], tries=9),)))
        assert await store.letters(READER) == [letter(lines[1], tries=9)]

    async def test_letters_are_all_or_nothing_with_their_batch(self, store: Store) -> None:
        [line] = await put(store, said("one"))
        await store.commit(Batch(letters=(letter(line),)))
        with pytest.raises(Conflict):
            batch = Batch(letters=(letter(line, OTHER),), answered=((READER, line.seq),))
            await store.commit(batch, cursor=Cursor(READER, 7, 8))
        assert await store.letters() == [letter(line)]

    async def test_an_erase_takes_the_letters_of_the_record_and_of_no_other(self, store: Store) -> None:
        secret, kept = said("secret"), said("kept")
        elsewhere = dataclasses.replace(kept, id=secret.id, scope=Scope(tenant="other", space=ANA.space))
        lines = await put(store, secret, kept, elsewhere)
        [again] = await put(store, secret.revise())
        await store.commit(Batch(letters=tuple(letter(line) for line in (*lines, again))))
        await store.commit(Batch(erase=(secret.ref,)))
        assert await store.letters() == [letter(line) for line in lines[1:]]

    async def test_a_letter_about_what_was_erased_meanwhile_is_left_out(self, store: Store) -> None:
        record, kept = said("secret"), said("kept")
        line, other = await put(store, record, kept)
        await store.commit(Batch(erase=(record.ref,)))
        await store.commit(Batch(letters=(letter(line), letter(other))))
        assert await store.letters() == [letter(other)]

    async def test_a_letter_is_no_line_of_the_log(self, store: Store) -> None:
        [line] = await put(store, said("one"))
        await store.commit(Batch(letters=(letter(line),)))
        assert await store.changes() == [line]

    async def test_the_places_of_followers_are_found_by_how_their_names_begin(self, store: Store) -> None:
        places = {f"{READER}#1": 4, f"{READER}#10": 7, READER: 3, OTHER: 2, "other%": 9, "été#1": 1}
        for name, place in places.items():
            await store.commit(Batch(), cursor=Cursor(name, 0, place))
        assert await store.cursors(f"{READER}#") == {f"{READER}#1": 4, f"{READER}#10": 7}
        assert await store.cursors(READER) == {n: p for n, p in places.items() if n.startswith(READER)}
        assert await store.cursors("other_") == {}
        assert await store.cursors("été") == {"été#1": 1}
        assert await store.cursors("") == places

    async def test_a_follower_sent_back_to_the_beginning_is_as_one_that_never_was(self, store: Store) -> None:
        await store.commit(Batch(), cursor=Cursor(READER, 0, 4))
        await store.commit(Batch(), cursor=Cursor(READER, 4, 0))
        assert (await store.cursor(READER), await store.cursors("")) == (0, {})
        await store.commit(Batch(), cursor=Cursor(READER, 0, 2))
        assert await store.cursor(READER) == 2
