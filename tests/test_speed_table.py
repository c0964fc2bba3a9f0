"""`twospeed bench --all`: the table is made of the history's last run, and the page shows that one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from twospeed.cli.main import exit_code

ROOT = Path(__file__).parents[1]

HISTORY = """\
run,date,machine,load,threads,commit,job,ours_s,plain,plain_s,limit_s,peak_mb
1,2026-01-01,"A, 2 cores",0.1,2,0123456789,old,9,,,,
2,2026-01-02,"A, 2 cores",0.2,2,0123456789,one,0.5,formulas,1.25,0.4,
2,2026-01-02,"A, 2 cores",0.2,2,0123456789,two,0.25,,,,812
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("speed_table", ROOT / "benchmarks" / "all.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def test_the_page_gets_the_last_run_and_keeps_all_else(script: ModuleType, tmp_path: Path):
    (tmp_path / "all.csv").write_text(HISTORY)
    page = tmp_path / "page.md"
    page.write_text(f"above\n\n{script.BEGIN}\nold table\n{script.END}\n\nbelow\n")
    for _ in range(2):  # a second time changes nothing
        script.write_page(page, script.last_run(tmp_path / "all.csv"))
        text = page.read_text()
        assert "| one | 0.5 | 1.25 (formulas) | 2.50 | 0.4 | 80 % |  |\n| two | 0.25 |  |  |  |  | 812 |\n" in text
        assert "old" not in text
        assert "2026-01-02, commit 0123456" in text
        assert text.startswith(f"above\n\n{script.BEGIN}\n")
        assert text.endswith(f"\n{script.END}\n\nbelow\n")


def test_parts_join_the_last_run_of_the_same_machine_and_code(script: ModuleType, tmp_path: Path):
    (tmp_path / "all.csv").write_text(HISTORY)
    last = script.last_run(tmp_path / "all.csv")[0]
    facts = {"run": "3", "machine": "A, 2 cores", "threads": 2, "commit": "0123456789"}
    assert script.as_part_of(last, facts)["run"] == "2"
    for name, other in (("machine", "B, 2 cores"), ("threads", 4), ("commit", "9876543210")):
        with pytest.raises(SystemExit, match=f"the last run has {name} .*; they make no table"):
            script.as_part_of(last, facts | {name: other})


def test_a_page_without_marks_is_refused(script: ModuleType, tmp_path: Path):
    (tmp_path / "page.md").write_text("no marks")
    with pytest.raises(ValueError, match="has no place for the table"):
        script.write_page(tmp_path / "page.md", [])
    assert (tmp_path / "page.md").read_text() == "no marks"


def test_the_committed_page_shows_the_committed_history(script: ModuleType, tmp_path: Path):
    page = tmp_path / "results.md"
    page.write_text(script.PAGE.read_text())
    history = ROOT / "benchmarks" / "history" / "all.csv"
    if history.exists():
        script.write_page(page, script.last_run(history))
    else:
        assert f"{script.BEGIN}\n{script.END}" in page.read_text()  # no table without a history
    assert page.read_text() == script.PAGE.read_text()


def test_masks_are_scored_alike_both_ways(script: ModuleType, tmp_path: Path):
    samples = list(script.generated_masks(tmp_path, sequences=1, frames=4))
    expected = script.jf.plain_scores(samples, tmp_path / "results")
    found = script.evaluate_davis(samples, 2016, predictions=tmp_path / "results").scores["global"]["J&F-Mean"]
    assert found == pytest.approx(expected, abs=1e-9)
    assert 0.5 < found < 1


def test_an_installed_package_has_no_benchmarks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("twospeed.cli.bench.checkout_of_this_code", lambda: None)
    assert exit_code(["bench", "--all"]) == 2
    assert "run this in a checkout" in capsys.readouterr().err
