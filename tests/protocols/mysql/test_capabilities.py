"""Which variant of the protocol a connection may speak."""

from __future__ import annotations

import pytest

from protocols.mysql.capabilities import OWN, REQUIRED, SHAPING, SHARED, Capability, agreed, names, offered, unoffered

C = Capability
EVERYTHING = C((1 << 38) - 1)

NEVER = (
    C.COMPRESS
    | C.ZSTD
    | C.LOCAL_FILES
    | C.QUERY_ATTRIBUTES
    | C.MULTI_FACTOR
    | C.OPTIONAL_RESULTSET_METADATA
    | C.EXTENSION
    | C.MARIADB_PROGRESS
    | C.MARIADB_COM_MULTI
    | C.MARIADB_BULK
    | C.MARIADB_EXTENDED_METADATA
    | C.MARIADB_CACHE_METADATA
    | C.MARIADB_BULK_UNIT_RESULTS
)


@pytest.mark.parametrize("flag", list(NEVER), ids=lambda f: f.name)
def test_row_06_what_makes_bytes_opaque_is_not_offered(flag: Capability) -> None:
    assert flag not in offered(EVERYTHING, tls=True)


def test_what_is_offered_is_what_the_upstream_has_and_the_gateway_reads() -> None:
    assert offered(EVERYTHING, tls=True) == SHARED | OWN | C.SSL
    assert offered(EVERYTHING, tls=False) == SHARED | OWN
    assert offered(C.PROTOCOL_41 | C.SSL, tls=False) == OWN
    assert C.LOCAL_FILES in offered(EVERYTHING, tls=True, local_files=True)
    assert C.LOCAL_FILES not in offered(C.PROTOCOL_41, tls=True, local_files=True)


def test_what_holds_was_offered_and_claimed() -> None:
    offer = offered(EVERYTHING, tls=True)
    assert agreed(offer, EVERYTHING) == offer
    assert agreed(offer, REQUIRED) == REQUIRED


def test_claims_without_an_offer() -> None:
    offer = offered(REQUIRED, tls=True)
    assert unoffered(offer, offer) == C(0)
    assert unoffered(offer, EVERYTHING) == SHAPING & ~offer
    # MySQL's own library claims these of any server, and uses none without an offer
    assert unoffered(offer, C.QUERY_ATTRIBUTES | C.MULTI_FACTOR | C.LOCAL_FILES | C.ODBC) == C(0)


def test_flags_have_names_for_people() -> None:
    assert names(C.COMPRESS | C.MARIADB_PROGRESS) == "compress, mariadb_progress"
    assert names(C(0)) == ""
