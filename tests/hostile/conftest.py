"""The long part of this suite runs only when it is asked for by `-m hostile`; forks need Linux."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
collect_ignore = [] if sys.platform == "linux" else ["test_cases.py", "test_interruptions.py"]


@pytest.fixture(scope="session")
def hostile_place(tmp_path_factory) -> Path:
    """Where cases and interruptions run; the inputs are built once, into $HOSTILE_DIR if that is given."""
    return Path(os.environ.get("HOSTILE_DIR") or tmp_path_factory.mktemp("hostile"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "hostile" in (config.getoption("-m") or ""):
        return
    long = [item for item in items if item.get_closest_marker("hostile") and HERE in item.path.parents]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
