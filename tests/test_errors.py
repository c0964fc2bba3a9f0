"""Messages of errors."""

from __future__ import annotations

import pytest

from twospeed.errors import InputError, OutputError


@pytest.mark.parametrize("kind", [InputError, OutputError])
def test_of_a_long_message_the_middle_is_left_out(kind):
    assert str(kind("a.csv:3: frame is 'x'", option="frame")) == "a.csv:3: frame is 'x'"
    text = str(kind(f"list.txt names {'9' * 5000} in line 1; choose from dog, cat"))
    assert len(text) < 2000
    assert text.startswith("list.txt names 999")
    assert text.endswith("999 in line 1; choose from dog, cat")
