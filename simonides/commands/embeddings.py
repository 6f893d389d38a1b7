"""The embedding models of a store: which there are, and the change from one to another while recall goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .. import shown, terminal
from ..asked import UPKEEP, Asked, Group
from ..config import OFF, open_backend, store_url
from ..errors import Invalid
from .remember import remark

if TYPE_CHECKING:
    from ..embedder import Embedder
    from ..models import Agreement, Model, Plan
    from ..store import Store

T = TypeVar("T")
REFUSED = 1  # the exit status where nobody said yes

EXAMPLE = """simonides embeddings
simonides embeddings migrate --to minilm: --dry-run
simonides embeddings migrate --to minilm:
simonides embeddings use local:
simonides embeddings drop all-MiniLM-L6-v2/int8"""


@click.group("embeddings", cls=Group, invoke_without_command=True, section=UPKEEP, example=EXAMPLE)
@click.pass_context
def embeddings(ctx: click.Context) -> Any:
    """Show the embedding models whose vectors are kept, and change from one to another.

    `migrate` makes the vectors of another model beside those that are there, while everything goes on, says how far the
    two agree, and lets the new one answer. Every server that was told of it (`embedder_next`) turns to it at once.
    `use` turns back again, or on. `drop` removes what a model made.
    """
    if ctx.invoked_subcommand is None:
        return _run(_list(ctx.obj))
    return None


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@contextlib.asynccontextmanager
async def _opened(asked: Asked) -> AsyncIterator[Store]:
    asked.is_there()
    store: Store = await asyncio.to_thread(open_backend, "stores", store_url(asked.settings.store_url))
    try:
        yield store
    finally:
        await store.close()


async def _list(asked: Asked) -> None:
    from ..models import kept

    async with _opened(asked) as store:
        found = await kept(store)
    if asked.json:
        terminal.say_json({"models": [asdict(each) for each in found]})
        return
    table = shown.table("Model", "Vectors", "Behind", "")
    for each in found:
        what = "answers" if each.answers else "being dropped" if each.dropped else ""
        table.add_row(shown.plain(each.name), f"{each.vectors:,}", f"{each.behind:,}", what)
    terminal.show(table)


@embeddings.command("migrate", example="simonides embeddings migrate --to minilm:")
@click.option("--to", "url", required=True, metavar="URL", help="The embedder to change over to.")
@click.option("--dry-run", is_flag=True, help="Only say what it would take.")
@click.option("--only-fill", is_flag=True, help="Make the vectors and compare, but let the old model answer on.")
@click.option(
    "--least", type=click.FloatRange(0, 1), default=0.0, help="Change over only where the two agree at least so far."
)
@click.option("--sample", type=click.IntRange(1, 100_000), default=200, help="Texts that they are compared by.")
@click.pass_obj
def migrate(asked: Asked, url: str, dry_run: bool, only_fill: bool, least: float, sample: int) -> int:
    """Make the vectors of another model, compare, and change over.

    Recall goes on meanwhile by the old one. What is cut off goes on where it was. Nothing of the old model is removed:
    `simonides embeddings use OLD` turns back, `simonides embeddings drop OLD` removes it.
    """
    return _run(_migrate(asked, url, dry_run, only_fill, least, sample))


async def _migrate(asked: Asked, url: str, dry_run: bool, only_fill: bool, least: float, sample: int) -> int:
    from .. import models

    old_url = asked.settings.embedder
    if OFF in (old_url, url):
        raise Invalid(f"{OFF!r} is no embedding model: name those to change from (--embedder) and to (--to)")
    async with _opened(asked) as store, _model(asked, store, old_url) as old, _model(asked, store, url) as new:
        if old.name == new.name:
            raise Invalid(f"both are {new.name}: name another model with --to")
        plan = await models.planned(store, new.embedder)
        if dry_run:
            _tell_plan(asked, old.name, new.name, plan)
            return 0
        with terminal.counting(f"Embedding with {new.name}", asked.quiet, total=plan.behind) as progress:
            await models.fill(store, new.embedder, progress)
        with terminal.busy("Comparing the two…", asked.quiet):
            found = await models.agreement(store, old, new, sample)
        done = not only_fill and found.shared >= least
        if done:
            await models.fill(store, new.embedder)  # what was written meanwhile
            await models.choose(store, new.name)
        _tell(asked, old_url, url, old.name, new.name, found, done)
        return 0 if done or only_fill else REFUSED


@contextlib.asynccontextmanager
async def _model(asked: Asked, store: Store, url: str) -> AsyncIterator[Model]:
    from ..derivers.vectors import Vectors
    from ..models import Model

    embedder: Embedder = open_backend("embedders", url)
    await asyncio.to_thread(embedder.tokens, "ready")
    index = open_backend("indexes", asked.settings.index_url, store, Vectors(embedder).model, embedder.dimension)
    try:
        yield Model(embedder, index)
    finally:
        await index.close()
        await embedder.close()


def _tell_plan(asked: Asked, old: str, new: str, plan: Plan) -> None:
    if asked.json:
        terminal.say_json({"from": old, "to": new, **asdict(plan)})
        return
    rows = {
        "from": old,
        "to": new,
        "versions to embed": f"{plan.versions:,}",
        "about": f"{plan.seconds:,.0f} s, {plan.bytes / 1e6:,.1f} MB",
    }
    terminal.show(shown.pairs(rows))
    remark(asked, "nothing was changed")


def _tell(asked: Asked, old_url: str, url: str, old: str, new: str, found: Agreement, done: bool) -> None:
    if asked.json:
        terminal.say_json({"from": old, "to": new, "answers": new if done else old, "agreement": asdict(found)})
        return
    terminal.show(
        shown.pairs(
            {
                "compared by": f"{found.asked:,} texts",
                "nearest ten in common": f"{found.shared:.0%}",
                "the same one first": f"{found.first:.0%}",
                "answers": new if done else old,
            }
        )
    )
    if done:
        remark(
            asked,
            f"set the embedder to {url} wherever this store is opened (SIMONIDES_EMBEDDER)",
            f"`simonides embeddings use {old_url}` turns back",
            f"`simonides embeddings drop {old}` removes the old vectors",
        )
    else:
        remark(asked, f"the old model goes on answering; `simonides embeddings use {url}` changes over")


@embeddings.command("use", example="simonides embeddings use local:")
@click.argument("url")
@click.pass_obj
def use(asked: Asked, url: str) -> None:
    """Let a model answer that has vectors here: turn back to the old one, or on to the new one.

    What was written since it last answered is embedded first.
    """
    _run(_use(asked, url))


async def _use(asked: Asked, url: str) -> None:
    from .. import models

    async with _opened(asked) as store, _model(asked, store, url) as model:
        plan = await models.planned(store, model.embedder)
        with terminal.counting(f"Embedding with {model.name}", asked.quiet, total=plan.behind) as progress:
            await models.fill(store, model.embedder, progress)
        await models.choose(store, model.name)
    if asked.json:
        terminal.say_json({"answers": model.name})
    else:
        terminal.say(f"{model.name} answers.")
        remark(asked, f"set the embedder to {url} wherever this store is opened (SIMONIDES_EMBEDDER)")


@embeddings.command("drop", example="simonides embeddings drop all-MiniLM-L6-v2/int8")
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drop(asked: Asked, name: str, yes: bool) -> int:
    """Remove every vector that a model made; NAME is as `simonides embeddings` shows it. The one that answers stays."""
    return _run(_drop(asked, name, yes))


async def _drop(asked: Asked, name: str, yes: bool) -> int:
    from .. import models

    async with _opened(asked) as store:
        found = {each.name: each for each in await models.kept(store)}
        vectors = found[name].vectors if name in found else 0
        if vectors and not found[name].answers and not yes:
            if not terminal.can_ask():
                raise Invalid("say --yes to remove vectors where nobody can be asked")
            if not terminal.confirmed(f"Remove {shown.count(vectors, 'vector')} of {name}?"):
                return REFUSED
        with terminal.counting(f"Removing {name}", asked.quiet, total=vectors) as progress:
            indexes = [
                open_backend("indexes", asked.settings.index_url, store, model, 1)
                for model in await store.models()
                if model.rpartition("/")[0] == name and not found[name].answers
            ]
            try:
                count = await models.drop(store, name, indexes, progress)
            finally:
                for index in indexes:
                    await index.close()
    if asked.json:
        terminal.say_json({"dropped": name, "vectors": count})
    else:
        terminal.say(f"{shown.count(count, 'vector')} of {name} removed.")
    return 0
