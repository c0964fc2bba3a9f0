"""Run the command line in this process."""

from __future__ import annotations

from twospeed.cli.main import exit_code

SIZE = (96, 128)
"""Height and width of the clip of the fixture `scene`."""


def twospeed(*arguments: object) -> int:
    return exit_code([str(a) for a in arguments])


def fails(capsys, *arguments: object) -> str:
    """Run a command that must fail with exit code 2 and one line on stderr; return the line."""
    capsys.readouterr()
    assert twospeed(*arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("twospeed: ")
    assert captured.out == ""
    return lines[0]
