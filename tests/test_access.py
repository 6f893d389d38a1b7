"""What a principal may do: whatever is asked, its scope never leaves what it is bound to."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simonides import Forbidden, Invalid, Scope
from simonides.access import EVERYTHING, LOCAL, Permit, Principal

NAMES = ("ana", "rui", "Ana")  # few, so that what is asked and what it is bound to often meet
PERMITS = [Permit(bits) for bits in range(1, EVERYTHING.value + 1)]
READ = Permit.READ
DEFAULT = Scope(tenant="default", space="main")

names = st.sampled_from(NAMES)
open_or_named = st.none() | names
principals = st.builds(
    Principal,
    name=st.just("key"),
    tenant=open_or_named,
    spaces=st.none() | st.frozensets(names, min_size=1, max_size=3),
    user=open_or_named,
    permits=st.just(EVERYTHING) | st.sampled_from([Permit(0), *PERMITS]),
)
walls = st.just("") | names
asks = st.builds(Scope, tenant=walls, space=walls, user=open_or_named, agent=open_or_named, session=open_or_named)
defaults = st.builds(Scope, tenant=names, space=names)
often = settings(max_examples=1000, deadline=None)


@often
@given(principal=principals, asked=asks, needs=st.sampled_from(PERMITS), default=defaults)
def test_whatever_is_asked_a_principal_never_leaves_what_it_is_bound_to(
    principal: Principal, asked: Scope, needs: Permit, default: Scope
) -> None:
    try:
        scope = principal.narrow(asked, needs, default=default)
    except Forbidden:
        return
    assert needs in principal.permits
    assert principal.tenant in (None, scope.tenant)
    assert principal.spaces is None or scope.space in principal.spaces
    assert principal.user in (None, scope.user)
    assert scope.tenant and scope.space


@often
@given(principal=principals, asked=asks, needs=st.sampled_from(PERMITS), default=defaults)
def test_what_is_asked_is_what_is_given_or_it_is_forbidden(
    principal: Principal, asked: Scope, needs: Permit, default: Scope
) -> None:
    """A narrower answer than the question would hide that it was refused."""
    try:
        scope = principal.narrow(asked, needs, default=default)
    except Forbidden:
        return
    assert asked.tenant in ("", scope.tenant) and asked.space in ("", scope.space)
    assert asked.user in (None, scope.user)
    assert (asked.agent, asked.session) == (scope.agent, scope.session)


@often
@given(principal=principals, asked=asks, default=defaults, data=st.data())
def test_what_needs_a_permit_that_is_missing_is_forbidden(
    principal: Principal, asked: Scope, default: Scope, data: st.DataObject
) -> None:
    missing = [needs for needs in PERMITS if needs not in principal.permits]
    if missing:
        with pytest.raises(Forbidden):
            principal.narrow(asked, data.draw(st.sampled_from(missing)), default=default)


@given(asked=asks, needs=st.sampled_from(PERMITS), default=defaults)
@example(asked=Scope(tenant="", space=""), needs=READ, default=DEFAULT)
def test_who_sits_at_this_machine_may_ask_for_everything(asked: Scope, needs: Permit, default: Scope) -> None:
    scope = LOCAL.narrow(asked, needs, default=default)
    assert scope.realm == (asked.tenant or default.tenant, asked.space or default.space)
    assert scope.levels == asked.levels


@pytest.mark.parametrize(
    "asked",
    [{"tenant": "other"}, {"space": "plans"}, {"user": "rui"}, {"tenant": "other", "space": "team", "user": "ana"}],
)
def test_what_belongs_to_another_is_forbidden(asked: dict[str, str]) -> None:
    principal = Principal(tenant="acme", spaces=frozenset({"team"}), user="ana")
    with pytest.raises(Forbidden):
        principal.narrow(Scope(**{"tenant": "", "space": "", **asked}), READ, default=DEFAULT)


def test_the_one_space_of_a_key_is_where_it_asks_when_it_names_none() -> None:
    nowhere = Scope(tenant="", space="")
    one = Principal(tenant="acme", spaces=frozenset({"team"}), user="ana")
    assert one.narrow(nowhere, READ, default=DEFAULT) == Scope(tenant="acme", space="team", user="ana")
    with_main = Principal(spaces=frozenset({"team", "main"}))
    assert with_main.narrow(nowhere, READ, default=DEFAULT) == DEFAULT
    without = Principal(spaces=frozenset({"team", "plans"}))
    with pytest.raises(Forbidden):  # which of them it means has to be said
        without.narrow(nowhere, READ, default=DEFAULT)


def test_permits_are_read_by_their_names() -> None:
    assert Permit.of([" Read", "ERASE"]) == Permit.READ | Permit.ERASE
    assert Permit.of(EVERYTHING.names) == EVERYTHING
    assert (Permit.READ | Permit.ADMIN).names == ("read", "admin")
    with pytest.raises(Invalid, match="read, write, erase, admin"):
        Permit.of(["everything"])
