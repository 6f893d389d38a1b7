"""What operations take and give, as pydantic models: the shapes of JSON at every door. Inside, nobody sees them.

A field's description is what OpenAPI, the MCP tools and the reference say of it. Values are checked here as far as a
schema can say it; the rest is checked where the library checks it, with the same errors.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

NAME = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x20\x7f\x85*%?][^\x00-\x1f\x7f]*$"  # not spaces and wildcards alone

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=NAME)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=16 * 1024 * 1024, pattern=r"\S")]
Moment = Annotated[
    str,
    Field(
        description="A date, or a time with its offset (ISO 8601).",
        examples=["2026-05-02", "2026-05-02T09:00:00+01:00"],
        min_length=8,
        max_length=64,
        json_schema_extra={"anyOf": [{"format": "date"}, {"format": "date-time"}]},
    ),
]


ADDRESSES = ("count", "versions")  # what stands at the place of an id in addresses of ours


def _free(id: str) -> str:
    if id in ADDRESSES:
        raise ValueError(f"{id!r} is an address of this API, where no record could be asked for: choose another id")
    return id


OwnId = Annotated[Name, AfterValidator(_free), Field(json_schema_extra={"not": {"enum": list(ADDRESSES)}})]
Importance = Annotated[int, Field(ge=1, le=10)]
Names = Annotated[list[Name], Field(min_length=1, max_length=100)]
Scalar = str | int | float | bool | None
Wait = Annotated[
    Literal["stored", "indexed"],
    Field(description="When to answer: once it is safely stored, or (default) once it can be found by meaning too."),
]
Limit = Annotated[int, Field(ge=1, le=1000)]


class Strict(BaseModel):
    """What is asked is taken literally: "1" is no number, 1 is no truth. But 5.0 is 5: JSON has one kind of number."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _with_whole_numbers(cls, said: Any) -> Any:
        if not isinstance(said, dict):
            return said
        return {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in said.items()
        }


class Asked(Strict):
    """Whose memory a call is about. A level that is left out is open."""

    user: Name | None = Field(None, description="Whose memory; a key that is bound to a user needs none.")
    agent: Name | None = Field(None, description="Which agent's memory.")
    session: Name | None = Field(None, description="Which session of it.")
    space: Name | None = Field(None, description="Which space; default: the server's, or the key's only one.")
    tenant: Name | None = Field(None, description="Which tenant; default: the key's.")


class Which(Asked):
    """Which of it. Every filter holds for every way of finding."""

    kinds: Names | None = Field(None, description="Only these kinds.", examples=[["message", "note"]])
    labels: Names | None = Field(None, description="Bears every one of these labels.")
    folder: Name | None = Field(None, description="In this folder or below it.")
    outside: Names | None = Field(None, description="In none of these folders, nor below one of them.")
    since: Moment | None = Field(None, description="Said at or after.")
    until: Moment | None = Field(None, description="Said before.")
    as_of: Moment | None = Field(None, description="What was true then.")
    known_at: Moment | None = Field(None, description="What was believed then.")
    archived: bool = Field(False, description="What is archived too.")
    ended: bool = Field(False, description="What has ended, was superseded or retracted too.")
    pinned: bool | None = Field(None, description="Only what is pinned, or is not.")
    importance_min: Importance | None = Field(None, description="At least this important.")
    metadata: dict[str, Scalar] | None = Field(None, description="Metadata has these values at its top level.")
    sources: Names | None = Field(None, description="Only from these sources.")
    conversation: Name | None = Field(None, description="The id of the conversation or document it is part of.")
    shared: bool = Field(True, description="With a user named: also what names no user.")


class Part(BaseModel):
    """A part of a message, as chat APIs have them: one that holds text."""

    model_config = ConfigDict(extra="allow", strict=True)

    text: str


class Said(Strict):
    """One message."""

    content: Text | Annotated[list[Part], Field(min_length=1, max_length=1000)] = Field(
        description="The text, or parts that hold text."
    )
    role: Literal["user", "assistant", "system", "tool", "developer"] | None = None
    name: Name | None = Field(None, description="The speaker's name.")
    at: Moment | None = Field(None, description="When it was said.")
    id: OwnId | None = Field(None, description="The caller's own id: the same write twice is one.")
    labels: list[Name] | None = None
    importance: Importance | None = None
    pinned: bool | None = None
    metadata: dict[str, JsonValue] | None = None


class Bodied(Strict):
    """Something of another kind than a message or a note: what that kind says."""

    kind: Literal["conversation", "message", "note", "fact", "entity", "document", "chunk"]
    body: dict[str, str | None] = Field(examples=[{"text": "Ana owns a boat", "predicate": "owns"}])


class LinkAsked(Strict):
    role: Name
    target: Name = Field(description="The id of a record.")


class Given(Asked):
    """What may be said of something when it is remembered."""

    labels: list[Name] | None = Field(None, max_length=100)
    folder: Name | None = Field(None, description="Names joined by slashes.", examples=["work/bridge"])
    importance: Importance | None = Field(None, description="1 to 10; 5 where nobody says.")
    pinned: bool | None = None
    metadata: dict[str, JsonValue] | None = Field(None, description="The caller's own JSON.")
    source: Name | None = None
    ends: Moment | None = Field(None, description="When it stops being true.")
    wait: Wait = "indexed"


# -- what is given back -------------------------------------------------------------------------------------------


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SpanShape(Shape):
    since: str | None
    until: str | None


class ScopeShape(Shape):
    tenant: str
    space: str
    user: str | None
    agent: str | None
    session: str | None


class LinkShape(Shape):
    role: str
    target: str


class RecordShape(Shape):
    """One version of one thing remembered."""

    id: str
    version: int
    kind: str
    text: str
    who: str | None = Field(description="Who says it, as a reader would name them.")
    at: str | None = Field(description="When it was said or began to be true.")
    body: dict[str, str | None] = Field(description="What its kind says: text, role, name, …")
    scope: ScopeShape
    part_of: str | None
    links: list[LinkShape]
    valid: SpanShape = Field(description="When it is true.")
    known: SpanShape = Field(description="When this version was believed.")
    begun: str | None = Field(description="When its first version became known; null in the first.")
    retracted: bool
    source: str
    labels: list[str]
    folder: str | None
    importance: int
    pinned: bool
    status: str
    metadata: dict[str, JsonValue]


class Records(Shape):
    """A page. `next` goes into `after` for the page behind it; null: there is none."""

    results: list[RecordShape]
    next: str | None


class Versions(Shape):
    results: list[RecordShape]


class Kept(Shape):
    """What was stored, and whether it can be found by meaning yet; where not, `task` can be asked."""

    results: list[RecordShape]
    indexed: bool
    task: str | None


class Changed(Shape):
    record: RecordShape
    indexed: bool
    task: str | None


class One(Shape):
    record: RecordShape


class Count(Shape):
    count: int


class FactorShape(Shape):
    name: str
    value: float
    share: float


class HitShape(Shape):
    score: float = Field(ge=0, le=1, description="How likely it is what was asked for.")
    by: list[str] = Field(description="The ways that found it.")
    why: list[FactorShape] = Field(description="With explain: each signal's value and share.")
    title: str | None = Field(description="Of the conversation it is part of.")
    also: list[str] = Field(description="Ids of near-duplicates that it stands for.")
    record: RecordShape


class Found(Shape):
    hits: list[HitShape]
    notes: list[str] = Field(description="What fell back, and why.")


class CitationShape(HitShape):
    number: int
    cut: bool


class ContextShape(Shape):
    text: str = Field(description="Ready for a prompt.")
    tokens: int
    citations: list[CitationShape]
    notes: list[str]


class MissingShape(Shape):
    says: str
    id: str
    reason: str
    place: int | None
    score: float | None
    why: list[FactorShape]
    by: str | None
    filters: list[str]
    words: float | None
    cosine: float | None
    since: str | None
    until: str | None
    limit: int
    least: float
    notes: list[str]


class CertificateShape(Shape):
    """What an erase took away, and from where; nothing of what was erased but ids."""

    id: str
    at: str
    scope: ScopeShape
    count: int
    ids: list[str]
    derived: list[str]
    places: dict[str, int]
    method: str


class PreviewShape(Shape):
    count: int
    versions: int
    derived: list[str]
    records: list[RecordShape]


class Erased(Shape):
    """The certificate; of a dry run, what would go."""

    certificate: CertificateShape | None
    preview: PreviewShape | None


class Certificates(Shape):
    """A page. `next` goes into `after` for the page behind it; null: there is none."""

    results: list[CertificateShape]
    next: str | None


class TaskShape(Shape):
    id: str
    does: str
    status: Literal["running", "done", "failed"]
    began: str | None
    ended: str | None
    done: int
    result: JsonValue
    error: str | None


class ChangeShape(Shape):
    """A line of the log."""

    seq: int
    at: str
    did: Literal["written", "erased", "certified"]
    id: str
    version: int
    kind: str
    scope: ScopeShape


class Changes(Shape):
    results: list[ChangeShape]
    next: int = Field(description="Goes into `after` to go on from here.")


Anything = dict[str, Any]
