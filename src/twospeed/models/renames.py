"""Names of others in ours, by tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor


def renamed(state: Mapping[str, Tensor], table: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Rename the keys of a state dict by (pattern, replacement), all of them, in order, on each key."""
    ours = {}
    for name, value in state.items():
        for pattern, replacement in table:
            name = re.sub(pattern, replacement, name)
        ours[name] = value
    return ours
