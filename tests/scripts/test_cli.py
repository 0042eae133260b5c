"""The `sluicegate` command itself: its table of commands, its help, its exit codes."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import subprocess
import sys

import pytest

from scripts import cli


@pytest.mark.parametrize("name", cli.MODULES)
def test_the_table_names_what_the_module_registers(name):
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    importlib.import_module(name).register(subparsers)
    assert tuple(sorted(subparsers.choices)) == tuple(sorted(cli.MODULES[name]))
    for command in subparsers.choices.values():
        assert command.format_help()


def test_no_command_is_registered_twice():
    names = [name for commands in cli.MODULES.values() for name in commands]
    assert len(names) == len(set(names))


def test_which_release_this_is(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"sluicegate {importlib.metadata.version('sluicegate')}\n"


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for commands in cli.MODULES.values():
        for name in commands:
            assert f"    {name} " in shown


@pytest.mark.parametrize(
    "arguments", [[], ["nope"], ["contain"], ["contain", "x"], ["approvals"], ["replay", "s", "--speed", "0"]]
)
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == cli.EXIT_USAGE
    assert "usage: sluicegate" in capsys.readouterr().err


def test_listing_approvals_loads_neither_policies_nor_a_database():
    heavy = ("guard.enforce", "guard.state", "guard.record", "mitmproxy", "pgparse", "sqlalchemy", "sqlparse", "ruamel")
    code = (
        "import sys; from scripts import cli\n"
        "cli.build_parser(cli._modules_for(['approvals', 'list']))\n"
        f"bad = [name for name in sys.modules if name.startswith({heavy})]\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.path.dirname(os.path.dirname(cli.__file__)))


def test_a_reader_that_leaves_is_no_error():
    code = "from scripts import cli\ncli.build_parser = lambda modules: P()\n"
    code += (
        "class P:\n  def parse_known_args(self, a):\n    import argparse\n    return argparse.Namespace(run=work), []\n"
    )
    code += "def work(args):\n  for _ in range(100000): print('x' * 100)\n  return 0\n"
    code += "raise SystemExit(cli.main(['x']))"
    root = os.path.dirname(os.path.dirname(cli.__file__))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (0, b"")


def test_interrupt(monkeypatch):
    def work(args):
        raise KeyboardInterrupt

    class Parser:
        def parse_known_args(self, arguments):
            return argparse.Namespace(run=work), []

    monkeypatch.setattr(cli, "build_parser", lambda modules: Parser())
    assert cli.main(["x"]) == 130
