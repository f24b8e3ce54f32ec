"""The command, run in this process."""

import sys

import pytest

from ghostify.cli import app as cli


def run(monkeypatch, capsys, *arguments):
    """Exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["ghostify", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err
