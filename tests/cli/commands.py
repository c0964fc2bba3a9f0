"""Run the command line in this process."""

from __future__ import annotations

from twospeed.cli.main import exit_code
from twospeed.video import containers, seeking

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


def decoded_images(monkeypatch) -> list[int]:
    """Return a list that grows by an entry for each image that this process decodes from now on."""
    decoded: list[int] = []
    images = containers.images

    def counted(*arguments, **options):
        for image in images(*arguments, **options):
            decoded.append(1)
            yield image

    for module in (containers, seeking):
        monkeypatch.setattr(module, "images", counted)
    return decoded
