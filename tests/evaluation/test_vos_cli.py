"""`twospeed evaluate` as people type it: what it writes, prints and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tests.data.vos_trees import moving_squares, write_davis, write_results
from twospeed.cli.evaluate import app
from twospeed.cli.main import exit_code
from twospeed.errors import DatasetError, InputError


@pytest.fixture
def command() -> typer.Typer:
    return app


@pytest.fixture
def tree(tmp_path: Path) -> tuple[str, str]:
    labels = {"dog": moving_squares(6, 2), "cows": moving_squares(5, 1, seed=1)}
    root = write_davis(tmp_path / "davis", labels, images=False)
    return str(root), str(write_results(tmp_path / "results", labels))


def test_scores_files_and_writes_json_that_others_read(command: typer.Typer, tree: tuple[str, str], tmp_path: Path):
    root, results = tree
    file = tmp_path / "new" / "scores.json"
    arguments = ["davis17", "--data", root, "--predictions", results, "--json", str(file)]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "dog_2" in done.stdout
    assert "2 of 2" not in done.stdout  # two of the thirty validation sequences
    assert "2 of 30 sequences" in done.stdout
    document = json.loads(file.read_text())
    seven = {"J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"}
    assert set(document["global"]) == seven
    assert set(document["sequences"]) == {"dog_1", "dog_2", "cows_1"}
    assert document["global"]["J&F-Mean"] == 1.0  # a fraction
    assert document["coverage"] == "2 of 30 sequences (DAVIS-2017 val)"
    assert document["versions"]["numpy"] == np.__version__
    assert document["machine"]


def test_json_may_go_to_stdout_alone(command: typer.Typer, tree: tuple[str, str]):
    root, results = tree
    arguments = ["davis16", "--data", root, "--predictions", results, "--sequences", "dog", "--json", "-"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert set(json.loads(done.stdout)["sequences"]) == {"dog"}


def test_quiet_prints_nothing(command: typer.Typer, tree: tuple[str, str]):
    root, results = tree
    arguments = ["davis17", "--data", root, "--predictions", results, "-q"]
    assert CliRunner().invoke(command, arguments, catch_exceptions=False).output == ""


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["davis17", "--predictions", "x"], InputError, "where is the data set"),
        (["davis17", "--data", "."], InputError, "not neither"),
        (["davis17", "--data", "nowhere", "--predictions", "x"], DatasetError, "nowhere: no such folder"),
        (["davis17", "--data", ".", "--scales", "a"], InputError, "expected whole numbers"),
        (["davis17", "--data", ".", "--scales", "480", "--size", "3"], InputError, "exclude each other"),
        (["davis17", "--data", ".", "--predictions", "x", "--resume"], InputError, "belong to a run of a model"),
        (["davis17", "--data", ".", *("--predictions", "x") * 2], InputError, "takes one --predictions, 2 are given"),
        (["davis17", "--data", ".", "--model", "stcn", "--resume"], InputError, "give the folder of the interrupted"),
        (["davis17", "--data", ".", "--sequences", ","], InputError, "is empty"),
        (["youtube-vos", "--data", ".", "--model", "slowfast_maskrcnn_3_7"], InputError, "takes no masks"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    command: typer.Typer, arguments: list[str], error: type[Exception], message: str
):
    with pytest.raises(error) as caught:
        CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["davis18"], "No such command 'davis18'"),
        (["davis17", "--data", ".", "--task", "guess"], "'guess' is not one of 'semi-supervised', 'unsupervised'"),
        (["youtube-vos", "--data", ".", "--task", "unsupervised"], "No such option: --task"),
        (["kinetics", "--flip"], "(`twospeed evaluate kinetics --help` lists the options)"),
        (["davis17", "--data", ".", "--memory-every", "0"], "Invalid value for '--memory-every'"),
    ],
)
def test_what_a_benchmark_does_not_have_is_one_line(capsys, arguments: list[str], message: str):
    assert exit_code(["evaluate", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("name", [command.name for command in app.registered_commands if command.name] + ["ava"])
def test_every_benchmark_has_help_with_examples(name: str):
    shown = CliRunner().invoke(app, [name, "--help"], catch_exceptions=False, env={"COLUMNS": "120"}).output
    assert f"twospeed evaluate {name} --" in shown
    assert "--json" in shown
    assert name in CliRunner().invoke(app, ["--help"], catch_exceptions=False).output


def test_scoring_files_loads_no_network(tree: tuple[str, str]):
    root, results = tree
    program = (
        "import sys, typer\n"
        "from twospeed.cli.evaluate import app\n"
        "assert not {'torch', 'cv2'} & set(sys.modules)\n"
        f"app(['davis17', '--data', {root!r}, '--predictions', {results!r}], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
