"""Who yields the hook of which interface to whom."""

from __future__ import annotations

from dataplane.engines.hook_claims import HookClaims


class Yielding:
    """An engine that uses some hooks, and would rather keep them."""

    def __init__(self, claims: HookClaims, *used: str) -> None:
        self.used = frozenset(used)
        claims.attend(self, self.let_go)

    def let_go(self, claimed: frozenset[str]) -> frozenset[str]:
        gone = self.used & claimed
        self.used -= claimed
        return gone


def test_what_is_claimed_is_let_go() -> None:
    claims = HookClaims()
    first, second = Yielding(claims, "a", "b"), Yielding(claims, "b", "c")
    assert claims.claim("engine", ["b", "d"]) == {"b"}
    assert (first.used, second.used) == ({"a"}, {"c"})
    assert claims.claimed() == {"b", "d"}


def test_a_claim_replaces_the_one_before() -> None:
    claims = HookClaims()
    claims.claim("engine", ["a"])
    claims.claim("other", ["b"])
    claims.claim("engine", ["c"])
    assert claims.claimed() == {"b", "c"}
    claims.claim("engine", [])
    assert claims.claimed() == {"b"}


def test_who_has_left_neither_claims_nor_yields() -> None:
    claims = HookClaims()
    yielding = Yielding(claims, "a")
    claims.leave(yielding)
    claims.claim("engine", ["a"])
    assert yielding.used == {"a"}
    claims.leave("engine")
    assert claims.claimed() == frozenset()
