"""What each signal weighs: numbers found by `bench/fit_weights.py` on conversations of several kinds, kept as data.

A weight has one value for each kind of company: people who talk, a person with an assistant, notes that stand alone,
and such notes when a whole dialogue is what is asked. What a question is weighed by lies between them, by how much of
each the candidates are. Where the file is not usable, all signals weigh the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from ..errors import Damaged
from .signals import SIGNALS

COMPANY = ("talk", "chat", "notes", "dialogue")
FILE = "weights.json"
LEVEL = ("constant", "late", "near", "lead")


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The weights where certain signals are there, and what makes a relevance of their sum.

    The best candidate's relevance is the logistic function of `level` · (1, its late and near in themselves, and
    what it lacks of a lead; see `rank.lead`); another's is lower by `scale` times the difference of the sums.
    """

    weights: Mapping[str, tuple[float, float, float, float]]
    level: tuple[float, float, float, float]
    scale: float


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`late` where the candidates' tokens are known, `plain` where they are not; `made` says how."""

    made: Mapping[str, Any]
    late: Model
    plain: Model


def read(data: bytes) -> Weights:
    """Return the weights of a file's bytes; raise Damaged, with what is wrong, where they cannot be used."""
    try:
        found = msgspec.json.decode(data, type=Weights)
    except msgspec.DecodeError as error:
        raise Damaged(f"the weights of recall: {error}") from None
    for model in (found.late, found.plain):
        if unknown := set(model.weights) - set(SIGNALS):
            raise Damaged(f"the weights of recall name signals that there are not: {', '.join(sorted(unknown))}")
        numbers = [number for weights in model.weights.values() for number in weights]
        if not all(math.isfinite(number) and number >= 0 for number in numbers) or not any(numbers):
            raise Damaged("the weights of recall must be finite, at least 0, and not all 0")
        if not all(map(math.isfinite, model.level)) or not (math.isfinite(model.scale) and model.scale > 0):
            raise Damaged("the weights of recall: level must be finite, and scale above 0")
    return found


@cache
def fitted() -> tuple[Weights, str | None]:
    """Return the weights that come with the package; equal ones, and a note that says so, where they are unusable."""
    try:
        return read(resources.files(__package__).joinpath(FILE).read_bytes()), None
    except (Damaged, OSError) as error:
        return equal(), f"ranked with equal weights, a fallback: {error}"


def equal() -> Weights:
    """Return weights that are all the same, but for what would cancel itself out."""
    same = {name: (1.0,) * 4 for name in SIGNALS if name not in ("long", "short")}
    model = Model(weights=same, level=(-2.0, 2.0, 2.0, 0.0), scale=0.5)
    return Weights(made={"how": "equal"}, late=model, plain=model)
