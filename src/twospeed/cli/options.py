"""Reading what people type after an option."""

from __future__ import annotations

from twospeed.errors import InputError


def parse_ints(option: str, text: str | None) -> tuple[int, ...]:
    """Read numbers between commas; none for None. Raises InputError for what is no whole number."""
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise InputError(f"{option} {text}: expected whole numbers separated by commas") from error
