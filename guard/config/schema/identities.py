"""`issuers`, `roles`, `control`: whose tokens are accepted, and who may do what with the gateway itself."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from guard.config.schema.types import FilePath, Glob, IssuerUrl, Model, Name, Number, Text, Url
from guard.documents.values import not_empty

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class IssuerConfig(Model):
    """One OpenID Connect issuer whose signed tokens open sessions."""

    issuer: IssuerUrl = Field(description="exactly the `iss` of its tokens; https, or http on loopback")
    audience: Text = Field(description="what `aud` of a token must be or contain")
    preset: Literal["github-actions", "gitlab-ci", "kubernetes", "keycloak", "okta"] | None = Field(
        default=None, description="claim names of a well-known issuer; the fields below override it"
    )
    jwks_uri: Url | None = Field(default=None, description="where its keys are; null: what its discovery says")
    ca: FilePath | None = Field(default=None, description="CA bundle (PEM) for fetching them; null: the system's")
    algorithms: Annotated[tuple[Algorithm, ...], AfterValidator(not_empty)] = Field(
        default=("RS256", "ES256"), description="signatures accepted; only asymmetric ones exist here"
    )
    subject_claim: Text = Field(default="sub", description="claim that names who it is")
    groups_claim: Text = Field(default="groups", description="claim with the list of groups")
    attributes: dict[Name, Text] = Field(
        default_factory=dict, description="attribute name -> claim; policies match attributes with `claims`"
    )
    require: dict[Text, Annotated[tuple[Glob, ...], AfterValidator(not_empty)]] = Field(
        default_factory=dict,
        description="claim -> patterns: of every claim named, the value (or one item of it) must fit one pattern, or "
        "the token is refused; a claim inside another is written with dots. Issuers that anybody can get a token of "
        "need it",
    )
    group_prefix: Text | None = Field(
        default=None,
        description="stands before each of its groups, in policies and roles too: `gitlab:` makes `gitlab:oncall` of "
        "`oncall`, so that no other issuer's groups are meant",
    )
    azp: Text | None = Field(default=None, description="what `azp` (authorised party) must be; null: not checked")
    leeway: Annotated[Number, Field(ge=0, le=30)] = Field(default=30, description="clock skew accepted")
    session_end: Literal["token", "duration"] = Field(
        default="token",
        description="`token`: a session ends when its token does; `duration`: after `session_max` from its start, for "
        "issuers whose tokens live minutes (CI)",
    )
    session_max: Annotated[Number, Field(gt=0, le=604800)] = Field(
        default=28800, description="longest session with `session_end: duration`"
    )
    client_id: Text | None = Field(default=None, description="client id that OAUTHBEARER discovery tells clients")
    scope: Text = Field(default="openid", description="scope that OAUTHBEARER discovery tells clients")


class RoleMembers(Model):
    """Who has a role. Nobody has it when both lists are empty."""

    groups: tuple[Text, ...] = Field(default=(), description="members of any of these groups")
    subjects: tuple[Text, ...] = Field(default=(), description="exactly these subjects")
    issuers: tuple[Text, ...] = Field(
        default=(),
        description="of exactly these issuers only; left out: of any. Required where more than one issuer could name "
        "such a group or subject",
    )

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if self.issuers and not (self.groups or self.subjects):
            raise ValueError("`issuers` narrows `groups` and `subjects`; there are none")
        return self


class RolesConfig(Model):
    """Who may do what through the control socket."""

    approver: RoleMembers = Field(default=RoleMembers(), description="approve and refuse held commands")
    responder: RoleMembers = Field(
        default=RoleMembers(), description="contain, revoke, terminate, hold records; read sessions, replay, search"
    )
    auditor: RoleMembers = Field(default=RoleMembers(), description="read sessions, replay, search, export")
    operator: RoleMembers = Field(
        default=RoleMembers(), description="reload policies, run retention, read the gateway's status"
    )


class ControlConfig(Model):
    """The control socket. Without this section it is in `state_dir`, for the gateway's own user only."""

    path: FilePath | None = Field(
        default=None,
        description="where the socket is; null: `control.sock` in `state_dir`. With `group` in a folder of its own "
        "outside `state_dir`, which the gateway makes",
    )
    group: Text | None = Field(
        default=None,
        description="a group of the machine whose members may connect (the folder gets 0750, the socket 0660); the "
        "gateway's user must be a member. Who acts is still said by each caller's own token",
    )

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.group is not None and self.path is None:
            raise ValueError("`group` needs a `path` outside `state_dir`, such as /run/sluicegate/control/control.sock")
        return self
