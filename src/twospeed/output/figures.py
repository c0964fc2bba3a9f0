"""Figures as PNG files, whole or not at all."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from twospeed.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path, *, dpi: int = 120) -> None:
    """Write a matplotlib figure as PNG. Raises OutputError when that fails.

    Names of files and classes are drawn as they are: "$" begins no formula, and signs that the font lacks are boxes.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with atomic_file(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(temporary, format="png", dpi=dpi)
