"""Writes `docs/reference/` from the code: `python docs/generate.py`. With --check, fails where a page is stale.

What a reference says is what the code says: signatures, docstrings, the comments behind fields, the options of
commands. A page that reads badly is mended there.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_overloads

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "reference"
WIDTH = 100  # columns of a signature; a longer one has a line for each parameter
FRESH = "Run `python docs/generate.py` to write it anew."

sys.path.insert(0, str(ROOT))  # this checkout, whatever is installed

import click  # noqa: E402

import simonides  # noqa: E402
from simonides import (  # noqa: E402
    arguments,
    asked,
    blob,
    cache,
    cli,
    config,
    directory,
    embedder,
    errors,
    feed,
    follow,
    forgetting,
    importer,
    importers,
    index,
    kinds,
    memory,
    pruning,
    query,
    recall,
    record,
    serving,
    sink,
    sources,
    store,
    sync,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is stale")
    check = parser.parse_args().check
    stale = [page for name, made in PAGE.items() if _written(page := PAGES / name, made(), check)]
    if check and stale:
        sys.exit(f"stale: {', '.join(page.name for page in stale)}. {FRESH}")


def _written(page: Path, text: str, check: bool) -> bool:
    """Return whether the page was not what it should be; write it, unless it is only to be checked."""
    if page.exists() and page.read_text("utf-8") == text:
        return False
    if not check:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, "utf-8")
    return True


def page(title: str, *parts: str) -> str:
    made = "<!-- Made by docs/generate.py from the code. -->"
    return "\n\n".join([f"# {title}", made, *(part.strip("\n") for part in parts if part)]) + "\n"


# -- Python ----------------------------------------------------------------------------------------------------------


def python() -> str:
    return page(
        "Python",
        "Everything here is imported from `simonides`, unless its heading names a module. "
        "`Memory` and `AsyncMemory` have the same methods; those of `AsyncMemory` are awaited.",
        klass(sync.Memory, "Memory", constructor=memory.AsyncMemory),
        "## AsyncMemory",
        says(memory.AsyncMemory),
        methods(),
        "## Arguments that many calls share",
        arguments_of("Whose", arguments.Whose),
        arguments_of("Which", arguments.Which, "`Whose`, and:"),
        arguments_of("Given", arguments.Given, "`Whose`, and:"),
        f"A `Moment` is `{source_of(arguments, 'Moment')}`. {says(arguments.moment)}",
        "## What comes back",
        *(shape(cls) for cls in ANSWERS),
        "## Kinds",
        says(kinds, first=True),
        *(shape(cls) for cls in (record.Body, *kinds.KINDS.values())),
        "## Reading what other programs kept",
        functions(importers, ("read", "detect")),
        shape(importer.Problem),
    )


def contracts() -> str:
    return page(
        "Contracts",
        "What a backend owes. [Write a backend](../guides/write-a-backend.md) shows how to add one.",
        *(shape(cls) for cls in CONTRACTS),
    )


ANSWERS = (
    *(record.Record, record.Span, record.Scope, record.Link, recall.Hits, query.Hit, query.Factor),
    *(recall.Missing, query.Place),
    *(recall.Context, recall.Citation, forgetting.Preview, store.Certificate, pruning.Proposal),
)
CONTRACTS = (
    *(store.Store, store.Batch, store.Change, store.Cursor, store.Embedding, store.Extent, store.Health, query.Query),
    *(index.Index, embedder.Embedder, embedder.TokenEmbedder, importer.Importer, follow.Follower),
    *(directory.Directory, directory.Grant, directory.Key, blob.BlobStore, blob.Blob),
    *(cache.Cache, cache.Room, cache.Lock),
    *(sink.Sink, sink.Event, feed.Carrier, feed.Parcel),
)


def klass(cls: type, name: str, constructor: type) -> str:
    return f"## {name}\n\n```pyi\n{signature(constructor.__init__, name, returns=False)}\n```\n\n{says(cls)}"


def methods() -> str:
    """Return the methods under the headings that they stand under in the source."""
    parts = []
    for section, names in _sections(memory.AsyncMemory):
        parts.append(f"## {section.capitalize()}")
        parts += [method(name) for name in names]
    return "\n\n".join(parts)


def _sections(cls: type) -> Iterator[tuple[str, list[str]]]:
    section, names = "", dict[str, None]()
    for line in inspect.getsource(cls).splitlines():
        if found := re.match(r"    # -- (\w+) -", line):
            if names:
                yield section, list(names)
            section, names = found[1], {}
        elif section and (found := re.match(r"    (?:async )?def ([a-z]\w*)\(", line)):
            names[found[1]] = None
    if names:
        yield section, list(names)


def method(name: str) -> str:
    function = getattr(memory.AsyncMemory, name)
    shapes = [signature(each, name) for each in get_overloads(function) or [function]]
    alone = "" if hasattr(sync.Memory, name) else " (`AsyncMemory` alone)"
    return f"### {name}{alone}\n\n```pyi\n{chr(10).join(shapes)}\n```\n\n{says(function)}"


def functions(module: Any, names: Sequence[str]) -> str:
    found = [(name, getattr(module, name)) for name in names]
    return "\n\n".join(
        f"### {name} (`{module.__name__}`)\n\n```pyi\n{signature(function, name)}\n```\n\n{says(function)}"
        for name, function in found
    )


def shape(cls: type) -> str:
    """Return what a class says of itself: its fields with the comments behind them, and its public methods."""
    where = "" if cls.__name__ in simonides.__all__ else f" (`{_home(cls)}`)"
    parts = [f"### {cls.__name__}{where}", says(cls), fields(cls)]
    members = [(name, value) for name, value in vars(cls).items() if not name.startswith("_") and _documented(value)]
    parts += [_member(cls, name, value) for name, value in members]
    return "\n\n".join(part for part in parts if part)


def _home(cls: type) -> str:
    """Return the module to import it from: the package of its module, where that offers it."""
    package = cls.__module__.rpartition(".")[0]
    return package if hasattr(sys.modules[package], cls.__name__) else cls.__module__


def _documented(value: Any) -> bool:
    shown = isinstance(value, property | classmethod) or inspect.isfunction(value)
    return bool(getattr(value, "__doc__", None)) and shown


def _member(cls: type, name: str, value: Any) -> str:
    if isinstance(value, property):
        return f"`.{name}`: {' '.join(says(value).split())}"
    if isinstance(value, classmethod):
        return f"```pyi\n{signature(getattr(cls, name), f'{cls.__name__}.{name}')}\n```\n\n{says(value)}"
    return f"```pyi\n{signature(value, name)}\n```\n\n{says(value)}"


def arguments_of(name: str, cls: type, above: str = "") -> str:
    return "\n\n".join(part for part in (f"### {name}", says(cls), above, fields(cls)) if part)


def fields(cls: type) -> str:
    source = textwrap.dedent(inspect.getsource(cls))
    lines, [node] = source.splitlines(), ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    found = []
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            _, _, comment = lines[(part.end_lineno or 1) - 1].partition("  # ")
            default = f" = {_default(cls, part.value)}" if part.value else ""
            meaning = f": {comment}" if comment and not comment.startswith(("type:", "noqa", "fmt:")) else ""
            found.append(f"- `{part.target.id}: {ast.unparse(part.annotation)}{default}`{meaning}")
    return "\n".join(found)


def _default(cls: type, value: ast.expr) -> str:
    """Return a default as a reader wants it: constants by their value, what is made anew each time as an ellipsis."""
    if isinstance(value, ast.Name):
        return repr(getattr(sys.modules[cls.__module__], value.id))
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in value.keywords}
        return {"dict": "{}"}.get(given.get("default_factory", ""), given.get("default", "…"))
    return ast.unparse(value)


def signature(function: Callable[..., Any], name: str, *, returns: bool = True) -> str:
    given = inspect.signature(function)
    parameters = [parameter for parameter in given.parameters.values() if parameter.name != "self"]
    gives = f" -> {given.return_annotation}" if returns and given.return_annotation is not given.empty else ""
    texts, keywords = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            keywords = True
            texts += [] if any(text.startswith("*") for text in texts) else ["*"]
        text, equals, default = str(parameter).partition(" = ")
        texts.append(re.sub(r"Unpack\[(\w+)\]", r"\1", text.replace("'", "")) + equals + default)
    line = f"{name}({', '.join(texts)}){gives}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {text},\n" for text in texts) + f"){gives}"


def says(thing: Any, *, first: bool = False) -> str:
    text = inspect.getdoc(thing) or ""
    text = "" if inspect.isclass(thing) and text.startswith(f"{thing.__name__}(") else text  # a dataclass's own
    text = text.split("\n\n")[0] if first else text
    return re.sub(
        r"`[^`]*`|\b\w*<[A-Z]+>", lambda found: found[0] if found[0][0] == "`" else f"`{found[0]}`", text
    )  # what Markdown would take for HTML


def source_of(module: Any, name: str) -> str:
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return ast.unparse(node.value)
    raise LookupError(f"{module.__name__} has no {name}")


# -- command line ----------------------------------------------------------------------------------------------------


def command_line() -> str:
    context = click.Context(cli.main, info_name="simonides")
    parts = [says_help(cli.main), "## Options of every command", options(context, asked.common())]
    for section in asked.SECTIONS:
        inside = [made for made in cli.main.commands.values() if getattr(made, "section", "") == section]
        parts += [f"## {section}", *(text for made in inside for text in _command(made, context))]
    statuses = [f"- `{status}`: {meaning}" for status, meaning in cli.STATUSES]
    return page("Command line", *parts, "## Exit status", "\n".join(statuses))


def _command(command: click.Command, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=command.name, parent=parent)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"### {context.command_path.partition(' ')[2]}\n\n```text\n{usage}\n```"
    yield says_help(command)
    yield options(context, [parameter for parameter in command.params if not getattr(parameter, "hidden", False)])
    if example := getattr(command, "example", ""):
        yield f"```text\n{example}\n```"
    if isinstance(command, click.Group):
        for inside in command.commands.values():
            yield from _command(inside, context)


def says_help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").replace("\b\n", "")


def options(context: click.Context, parameters: Sequence[click.Parameter]) -> str:
    records = [parameter.get_help_record(context) for parameter in parameters if isinstance(parameter, click.Option)]
    return "\n".join(f"- `{names}`: {meaning}" for names, meaning in filter(None, records))


# -- settings --------------------------------------------------------------------------------------------------------


def settings() -> str:
    return page(
        "Settings",
        says(config.Settings),
        "What is given in code counts before the environment, the environment before the configuration file, the file "
        "before the default. [Configuration](../operate/configuration.md) has those of a server too, and says how to "
        "keep secrets in files.",
        "\n".join(_setting(field) for field in dataclasses.fields(config.Settings)),
        "`simonides config` shows every setting, its value, and where it comes from; `simonides config set zone "
        "Europe/Lisbon` writes one to the configuration file, which is TOML; `simonides config check` says what is "
        "wrong with them. Two variables say where things lie: "
        "`SIMONIDES_CONFIG` the configuration file, `SIMONIDES_HOME` the folder of `memory.db`; by default, where the "
        "operating system keeps a user's configuration and data (`simonides config path` prints the file's path).",
        *(
            f"## {folder.capitalize()}\n\n{backends(folder)}"
            for folder in ("stores", "directories", "indexes", "embedders", "caches", "blobs", "sinks", "feeds")
        ),
        "An embedder of `none` means no vectors: recall goes by words, and says so.",
    )


def _setting(field: dataclasses.Field[Any]) -> str:
    names = ", ".join(f"`{variable}`" for variable in sources.variables(field.name))
    default = f", default `{field.default}`" if field.default else ""
    return f"- `{field.name}` ({names}{default}): {serving.about(field).meaning}"


def configuration() -> str:
    """Return the page for whoever runs a server: the tables, and how values are given."""
    taken = [field.name for field in dataclasses.fields(serving.Serving) if serving.about(field).reload]
    return page(
        "Configuration",
        "Every setting may be given in three ways, and the first of them that gives it counts:",
        "1. a flag: `simonides serve --port 8080`. For every setting of the server there is one, with `-` for `_`;\n"
        "2. the environment: `SIMONIDES_PORT=8080`;\n"
        "3. the configuration file, which is TOML (`simonides config path` says where it is, `SIMONIDES_CONFIG` puts "
        "it elsewhere). Settings of the server stand in its table `[server]`:",
        '```toml\nstore = "sqlite:////data/memory.db"\nrequire = "user"\n\n[server]\nport = 8080\nrequire_key = true\n'
        'cors_origins = ["https://app.example.com"]\nupstream_key_file = "/run/secrets/upstream"\n```',
        "In variables and flags, a list has commas between its parts, and what is on or off is `1`, `true`, `yes` or "
        "`on`, or else `0`, `false`, `no` or `off`. An empty variable gives nothing. A name that there is not is an "
        "error, in the file and among variables that begin with `SIMONIDES_`; those that Kubernetes and Docker set for "
        "a service called simonides are let be.",
        "## Secrets, and other values in files",
        "Each setting also comes as `<name>_file`, in all three ways: the path of a file that holds the value, as "
        "secrets are mounted into containers (`SIMONIDES_UPSTREAM_KEY_FILE=/run/secrets/upstream`, "
        "`SIMONIDES_URL_FILE` for the URL of a store with a password in it). One newline at its end is not part of the "
        "value; in the configuration file, a path is relative to the folder of that file. To give both forms in the "
        "same way is an error. A secret has no flag of its own, as others on the machine can read it there, and is "
        "shown nowhere: no answer, no error and no log holds it. A file with a secret that everybody may read is "
        "warned of.",
        "## What is wrong",
        "`simonides config` shows each setting, its value, and where it comes from. `simonides config check` looks at "
        "all of them, those of the server too: that each can be what it is, that the store, the index and the embedder "
        "are there and work, that files can be read. It says what is wrong line by line, and its exit status is 1 if "
        "anything is; `simonides config check ./next.toml` looks at a file before it is used.",
        "```console\n$ simonides config check\nThe settings are sound.\n```",
        "## The server",
        _table(config.SERVER),
        "## What a running server takes over",
        f"{', '.join(f'`{name}`' for name in taken)}. Everything else needs a restart.",
        "## The memory",
        f"{_table('')}\n\n[Settings](../reference/settings.md) lists the stores, indexes and embedders there are. "
        "[MCP clients](../guides/mcp.md) that start the memory themselves are told these by `simonides mcp install`.",
    )


def _table(table: str) -> str:
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(config.TABLES[table]):
        about = serving.about(field)
        may = f"; one of {', '.join(f'`{choice}`' for choice in about.choices)}" if about.choices else ""
        default = json.dumps(list(field.default) if isinstance(field.default, tuple) else field.default)
        rows.append(f"| `{field.name}` | `{default}` | {about.meaning}{may} |")
    return "\n".join(rows)


def backends(folder: str) -> str:
    """Return what each file of the folder that opens something says of itself, and of the options in its URL."""
    found = []
    for path in sorted((ROOT / "simonides" / folder).glob("*.py")):
        text = path.read_text("utf-8")
        if "\nopen = " in text:
            first, *rest = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")
            said = [first, *(part for part in rest if "`?" in part)]
            found.append(f"- `{path.stem}:` {' '.join(' '.join(said).split())}")
    return "\n".join(found) or "None yet."


# -- errors ----------------------------------------------------------------------------------------------------------


def failures() -> str:
    above, *tree = says(errors).split("\n\n")
    every = [errors.SimonidesError, *_below(errors.SimonidesError)]
    return page(
        "Errors",
        above,
        *(f"```text\n{part}\n```" for part in tree),
        "Each has a `code`, which stays; a `message`, which says what to do and may change; and `retryable`, which "
        "says whether the same call may succeed later. On the command line an error is one line on stderr (with "
        "`--json`, an object) and an exit status.",
        "\n".join(
            f"- `{error.__name__}`: code `{error.code}`, {'retryable' if error.retryable else 'not retryable'}, "
            f"exit status {cli.EXITS.get(error.code, 1)}. {says(error)}"
            for error in every
        ),
    )


def _below(cls: type[errors.SimonidesError]) -> Iterator[type[errors.SimonidesError]]:
    for each in cls.__subclasses__():
        if each.__module__ == errors.__name__:  # others never leave the module that they are of
            yield each
            yield from _below(each)


# -- the API ---------------------------------------------------------------------------------------------------------

RESOURCES = {
    "memories": "Memories",
    "recalling": "Recall",
    "conversations": "Conversations",
    "pruning": "Pruning",
    "upkeep": "Upkeep",
    "people": "Keys",
    "system": "System",
}


def api_table() -> str:
    """Return every operation, by resource: what it does, where it is at each door, what it takes and gives."""
    from simonides.api import OPERATIONS
    from simonides.api.shapes import Asked, Which

    parts = []
    for resource, title in RESOURCES.items():
        rows = [row for row in OPERATIONS.values() if row.resource == resource]
        parts += [f"## {title}", *(operation(row, Asked, Which) for row in rows)] if rows else []
    return page(
        "The API",
        "What can be asked of a memory from outside, each thing once. Every operation here is a route over HTTP (below "
        "the server's address; `/docs` there tries them out), a tool over MCP (`--tools all`), reachable over gRPC "
        "(`Call`), on the command line (`simonides call NAME`), and in Python (`RemoteMemory.call`).",
        "Every operation also takes whose memory it is about: "
        + ", ".join(f"`{name}`" for name in Asked.model_fields)
        + ". Those that take *filters* also take "
        + ", ".join(f"`{name}`" for name in Which.model_fields if name not in Asked.model_fields)
        + ", which mean what they mean in [Python](python.md#arguments-that-many-calls-share).",
        *parts,
    )


def operation(row: Any, asked: Any, which: Any) -> str:
    own = {name: field for name, field in row.takes.model_fields.items() if name not in asked.model_fields}
    filters = issubclass(row.takes, which)
    if filters:
        own = {name: field for name, field in own.items() if name not in which.model_fields}
    lines = [f"### {row.name}", "", f"`{row.method} {row.route}`, needs the permit to {' and '.join(row.needs.names)}."]
    lines += ["", " ".join(row.tells.split()), ""]
    for name, field in own.items():
        due = "" if field.is_required() else " (optional)"
        lines.append(f"- `{name}`{due}" + (f": {field.description}" if field.description else ""))
    if filters:
        lines.append("- and filters")
    lines += ["", f"Gives {', '.join(f'`{name}`' for name in row.gives.model_fields)}."]
    return "\n".join(lines)


# -- MCP -------------------------------------------------------------------------------------------------------------


def tools() -> str:
    from simonides.servers import mcp_server, prompts
    from simonides.servers import tools as sets

    resources = "\n".join(f"- `{uri}`: {text} (`{kind}`)." for _, uri, text, kind in mcp_server.TEMPLATES)
    several = (f"- `{name}`: {', '.join(f'`{each}`' for each in inside)}." for name, inside in sets.sets().items())
    return page(
        "MCP",
        "What `simonides mcp` and `/mcp` speak: [set it up](../guides/mcp.md).",
        "## Tools",
        "These are shown by default. An argument without a default may be left out unless it is said to be needed.",
        *(_tool(each) for each in sets.MEMORY),
        "## Sets",
        "`simonides mcp --tools` and `/mcp?tools=` take names of sets and of single tools, separated by commas. Every "
        "operation is a tool by its own name, with the arguments that it has everywhere.",
        "\n".join(several),
        "## Address",
        "`/mcp?user=…`, `agent`, `session` and `space` say whose memory it is about, within what the key opens.",
        "## Resources",
        "The latest conversations are listed, in pages.",
        resources,
        "## Prompts",
        *(_prompt(each) for each in prompts.PROMPTS.values()),
    )


def _tool(tool: Any) -> str:
    needed = tool.takes.get("required", [])
    lines = [_argument(name, kind, name in needed) for name, kind in tool.takes["properties"].items()]
    hints = [name for name, true in (("only reads", tool.reads), ("may be repeated", tool.repeats)) if true]
    hint = f" It {' and '.join(hints)}." if hints else ""
    return f"### {tool.name}\n\n{tool.does}{hint}\n\n" + "\n".join(lines)


def _argument(name: str, kind: Any, needed: bool) -> str:
    one_of = ", ".join(f"`{each}`" for each in kind.get("enum", ()))
    said = [one_of or kind.get("type", "any"), "needed" if needed else "", kind.get("description", "")]
    default = f"default `{str(kind['default']).lower()}`" if "default" in kind else ""
    return f"- `{name}`: {'; '.join(part for part in (*said, default) if part)}"


def _prompt(prompt: Any) -> str:
    lines = [f"- `{name}`: {text}{'' if needed else '; may be left out'}" for name, text, needed in prompt.arguments]
    return f"### {prompt.name}\n\n{prompt.does}\n\n" + "\n".join(lines)


PAGE: dict[str, Callable[[], str]] = {
    "python.md": python,
    "api.md": api_table,
    "contracts.md": contracts,
    "cli.md": command_line,
    "settings.md": settings,
    "../operate/configuration.md": configuration,
    "errors.md": failures,
    "mcp.md": tools,
}

if __name__ == "__main__":
    main()
