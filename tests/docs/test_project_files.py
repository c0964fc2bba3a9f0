"""Workflows, templates and the site's navigation, which nothing else here would run."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import twospeed

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def check(schema: str, *files: Path) -> None:
    """Check files by a schema that comes with check-jsonschema: no network."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_fit_their_schema():
    assert {path.stem for path in WORKFLOWS} >= {"ci", "weekly", "release", "docs"}
    check("github-workflows", *WORKFLOWS)
    check("dependabot", ROOT / ".github" / "dependabot.yml")
    check("github-issue-forms", *sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")))
    check("citation-file-format", ROOT / "CITATION.cff")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_are_bounded_and_call_chores_that_exist(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("timeout-minutes:") == text.count("runs-on:")
    assert "permissions:" in text
    chores = (ROOT / "do.py").read_text(encoding="utf-8")
    for chore in re.findall(r"do\.py (\w+)", text):
        assert f'"{chore}"' in chores


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert project["version"] == twospeed.__version__ == citation[1]


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert f" {page.relative_to(ROOT / 'docs').as_posix()}\n" in navigation + "\n", page
