"""Figures as PNG files, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twospeed.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path, *, dpi: int = 120) -> None:
    """Write a matplotlib figure as PNG. Raises OutputError when that fails."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)
