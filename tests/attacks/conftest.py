"""One lab for all who attack it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.support import sample
from scripts.support.lab import Lab
from tests.support import adversary
from tests.support.bytewise import eventually


def _shape(lab: Lab) -> None:
    with lab.server.connect() as direct:
        for statement in adversary.SETUP.split(";\n"):
            if statement.strip():
                direct.execute(statement.encode())


@pytest.fixture(scope="session")
def attacked() -> Iterator[Lab]:
    """The sample shop and more behind the demo policy: `analyst` reads masked, `agent` writes, its deletes are held."""
    with Lab(tls="off") as lab:
        _shape(lab)
        with adversary.session(lab, "admin") as admin:
            # the gateway has seen the new names
            eventually(lambda: not adversary.errors(admin.ask("SELECT count(*) FROM long_secrets")))
        assert len(list(sample.customers())) == sample.CUSTOMERS
        yield lab
