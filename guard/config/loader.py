"""A configuration file -> `Config`, or every problem with it and with the policies that it names."""

from __future__ import annotations

from pathlib import Path

from guard.config.checks import check_rules, cross_check, missing_secrets
from guard.config.schema import Config
from guard.documents import ConfigError, Document, Problem, read, validate
from guard.enforce import PolicySet


def load(path: Path) -> Config:
    """Read and check a configuration. Raises ConfigError with all problems; a warning alone raises nothing."""
    config, problems = _examine(path)
    errors = [problem for problem in problems if not problem.warning]
    if errors or config is None:
        raise ConfigError(errors)
    return config


def check(path: Path, *, secrets: bool = False) -> list[Problem]:
    """Everything to say about a configuration, warnings included; empty means that it can be started.

    `secrets`: look, too, whether those of the environment and of files are to be had by this process.
    """
    return sorted(_examine(path, secrets=secrets)[1])


def _examine(path: Path, *, secrets: bool = False) -> tuple[Config | None, list[Problem]]:
    path = path.absolute()
    try:
        document = read(path)
    except ConfigError as error:
        return None, error.problems
    try:
        config = validate(document, Config, {"path": path, "base": path.parent})
    except ConfigError as error:
        # the policies can be looked at even so: one run should show everything
        paths = _policy_paths(document)
        return None, [*error.problems, *(_policies(paths)[1] if paths else [])]
    policies, problems = _policies(list(config.policies))
    problems = [*cross_check(config, document), *problems]
    if policies is not None:
        problems += check_rules(config, document, policies)
    if secrets:
        problems += missing_secrets(config, document)
    return config, problems


def _policies(paths: list[Path]) -> tuple[PolicySet | None, list[Problem]]:
    try:
        return PolicySet.load(list(dict.fromkeys(paths))), []
    except ConfigError as error:
        return None, error.problems


def _policy_paths(document: Document) -> list[Path]:
    listed = document.data.get("policies") if isinstance(document.data, dict) else None
    if not isinstance(listed, list):
        return []
    return [document.path.parent / name for name in listed if isinstance(name, str) and name and "\0" not in name]
