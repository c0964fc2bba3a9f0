"""Sections, tables, figures and titles that code and data files cite, looked up in the papers' own text."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import DATA
from twospeed.papers.facts import PAPERS, read_paper

ROOT = Path(__file__).parents[2]
TEXTS = DATA.with_name("papers")
FILES = dict(zip(("slowfast_vos", "slowfast_ava", "slowfast", "gsvnet", "stcn"), range(5), strict=True))

NAMES = {
    r"GSVNet": "gsvnet",
    r"supplement|STCN|Cheng": "stcn",  # of STCN's paper only the supplement is there to look things up in
    r"ActivityNet": "slowfast_ava",
    r"Mask R-CNN|Applying SlowFast": "slowfast_vos",
    r"SlowFast|STM|SwiftNet|BiSeNet|Perazzi": None,  # their papers' text is not at hand
}
NUMBER = r"(?:[A-F]?\d+(?:\.\d+)*|[A-F](?:\.\d+)*(?![A-Za-z]))"
NUMBERS = rf"{NUMBER}(?:(?:, and|,| and| to) {NUMBER})*"
REFERENCE = re.compile(rf"([Ss]ection|[Aa]ppendix|Table|Fig)(?:s|ure|ures)?\.? ({NUMBERS})")


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def plain(text: str) -> str:
    return " ".join(text.split())


@cache
def written() -> dict[str, list[tuple[int, str]]]:
    """Return the package's docstrings and comments with their lines, by file, the module's docstring first."""
    found = {}
    for path in sorted((ROOT / "src" / "twospeed").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)]
        texts = [(node.body[0].lineno, plain(said)) for node in nodes if (said := ast.get_docstring(node))]
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        texts += [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
        found[path.relative_to(ROOT).as_posix()] = texts
    return found


def named(text: str) -> list[str | None]:
    """Return the papers that a text names, in order."""
    either = "|".join(f"({pattern})" for pattern in NAMES)
    return [list(NAMES.values())[(found.lastindex or 0) - 1] for found in re.finditer(either, text)]


def references(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield (section, table or figure; number; place)."""
    for found in REFERENCE.finditer(text):
        kind = "section" if found[1].lower() in ("section", "appendix") else found[1].lower()
        for number in re.findall(NUMBER, found[2]):
            yield kind, number, found.start()


def citations() -> list[tuple[str, str | None, str, str]]:
    """Return all of the package: (where, paper or None for those not at hand, kind, number)."""
    found = []
    for path, texts in written().items():
        of_module = named(texts[0][1]) if texts else []
        for line, text in texts:
            for kind, number, place in references(text):
                where = f"{path}:{line}: {kind} {number}"
                before = named(text[:place]) or of_module[:1]
                assert before, f"{where} of which paper? name it before the reference, or in the module's docstring"
                found.append((where, before[-1], kind, number))
    return found


@cache
def paper_text(name: str) -> str:
    files = sorted(TEXTS.glob(f"{FILES[name]:03d}_*.txt"))
    if not files:
        pytest.skip(f"the papers' text is not on this machine: {TEXTS}")
    return files[0].read_text(encoding="utf-8")


HEADING = re.compile(r"^(#*)[#* ]*((?:\d|[A-F])(?:\.\d+)*)\.?\**\.? +\**[A-Z]")


@cache
def sections(name: str) -> dict[str, str]:
    """Return a paper's sections by number, each with its text, its subsections' included."""
    lines = paper_text(name).splitlines()
    heads = []
    for index, line in enumerate(lines):
        found = HEADING.match(line)  # a numbered item of a list is longer; "A" may begin any sentence
        if found and (found[1] or (len(line) < 80 and found[2][0].isdigit())):
            heads.append((index, found[2]))
    ends = [
        next((end for end, other in heads[i + 1 :] if not other.startswith(number + ".")), len(lines))
        for i, (_, number) in enumerate(heads)
    ]
    return {number: "\n".join(lines[at:end]) for (at, number), end in zip(heads, ends, strict=True)}


def exists(name: str, kind: str, number: str) -> bool:
    if kind == "section":
        return number in sections(name)
    caption = r"Table" if kind == "table" else r"Fig(?:ure|\.)"
    return re.search(rf"{caption} {re.escape(number)}\**[:.]", paper_text(name)) is not None


@pytest.mark.parametrize(
    ("name", "there", "missing"),
    [
        ("slowfast_vos", ["3.3", "4.3", "6"], ["1.1", "5.1", "7"]),
        ("slowfast_ava", ["1.1", "2", "3.1"], ["2.2", "5"]),
        ("gsvnet", ["3.4.3", "4.1", "B.3", "D"], ["3.5", "4.5", "E"]),
        ("stcn", ["A", "B", "F.3.1", "F.5"], ["1", "2", "3", "F.6"]),
    ],
)
def test_sections_are_found_in_the_text(name, there, missing):
    assert all(exists(name, "section", number) for number in there)
    assert not any(exists(name, "section", number) for number in missing)


def test_what_docstrings_cite_is_in_the_papers():
    found = citations()
    assert {paper for _, paper, _, _ in found} >= {"gsvnet", "stcn", "slowfast_vos"}
    assert [where for where, paper, kind, number in found if paper and not exists(paper, kind, number)] == []


@pytest.mark.parametrize("name", PAPERS)
def test_tables_stand_in_the_sections_that_their_source_names(name):
    for table in read_paper(name).tables:
        cited = [(kind, number) for kind, number, _ in references(table.source)]
        assert all(exists(name, kind, number) for kind, number in cited), table.source
        for section in (sections(name)[number] for kind, number in cited if kind == "section"):
            inside = {(kind, number) for kind, number, _ in references(plain(section.replace("*", "")))}
            assert {(kind, number) for kind, number in cited if kind != "section"} <= inside, table.source


@pytest.mark.parametrize("name", PAPERS)
def test_what_weights_and_pages_cite_is_in_the_paper(name):
    said = [f"{weights.about} {weights.hours}" for weights in read_paper(name).weights.values()]
    said += [table.title for table in read_paper(name).tables]
    said.append(plain((ROOT / "docs" / "papers" / f"{name}.md").read_text(encoding="utf-8")))
    cited = {(kind, number) for text in said for kind, number, _ in references(text)}
    assert {(kind, number) for kind, number in cited if not exists(name, kind, number)} == set()


@pytest.mark.parametrize("name", ["slowfast_vos", "slowfast_ava", "slowfast", "gsvnet"])
def test_titles_are_the_papers(name):
    """STCN's supplement does not print the paper's."""

    def words(text: str) -> str:
        return " ".join(re.findall(r"[a-z0-9]+", text.lower()))

    assert words(read_paper(name).title.partition(" (")[0]) in words(paper_text(name))
    quoted = re.compile(r'"((?:GSVNet|Applying SlowFast|SlowFast Networks)[^"]*)"')
    for path, texts in written().items():
        for line, text in texts:
            for title in quoted.findall(text):
                assert any(words(title) in words(paper_text(paper)) for paper in FILES), f"{path}:{line}: {title}"
