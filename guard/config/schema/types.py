"""What the fields of a configuration may hold, and the model that all sections of it are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Strict

from guard.config.values import (
    absolute,
    check_address,
    check_host,
    check_issuer,
    check_name,
    check_network,
    check_scope_part,
    check_text,
    check_url,
    check_variable,
)
from guard.enforce.patterns import check_glob

# pydantic would turn "5432" and true into numbers; a document means what it says
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, AfterValidator(check_text)]
Name = Annotated[str, AfterValidator(check_name)]
Url = Annotated[str, AfterValidator(check_url)]
Host = Annotated[str, AfterValidator(check_text), AfterValidator(check_host)]
Variable = Annotated[str, AfterValidator(check_variable)]
IssuerUrl = Annotated[str, AfterValidator(check_issuer)]
Address = Annotated[str, AfterValidator(check_address)]
FilePath = Annotated[Path, AfterValidator(absolute)]
Network = Annotated[str, AfterValidator(check_network)]
Glob = Annotated[str, AfterValidator(check_glob)]
ScopePart = Annotated[str, AfterValidator(check_scope_part)]


class Model(BaseModel):
    """Immutable, and closed: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
