"""`twospeed papers`: the papers' numbers, ours from evaluations or by hand, and what would fill empty cells."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.cli.test_track import fails
from tests.data.vos_trees import moving_squares, write_davis
from twospeed.cli.main import exit_code
from twospeed.errors import InputError
from twospeed.models.stcn.builders import stcn
from twospeed.models.stm.builders import stm
from twospeed.papers.facts import PAPERS, read_paper
from twospeed.papers.tables import fill
from twospeed.weights.catalog import find
from twospeed.weights.load import save_model

ALL = [(paper, table) for paper in map(read_paper, PAPERS) for table in paper.tables]


@pytest.fixture(scope="module")
def davis(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("davis")
    return write_davis(root, {"a": moving_squares(5, 2), "b": moving_squares(4, 1, seed=1)})


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    networks = {"stm-dot": ("stm", stm(width=8)), "stcn-l2": ("stcn", stcn(width=8))}
    for name, (entry, network) in networks.items():
        save_model(network, folder / f"{name}.safetensors", model_name=entry)
    return {name: folder / f"{name}.safetensors" for name in networks}


@pytest.mark.parametrize(("paper", "table"), ALL, ids=[f"{paper.name} {table.name}" for paper, table in ALL])
def test_every_table_is_whole(paper, table):
    assert len({row.name for row in table.rows}) == len(table.rows)
    for row in table.rows:
        assert len(row.paper) == len(table.columns)
        assert len(row.ours) in (0, len(table.columns))
    for name in table.runs():
        run = paper.runs[name]
        for model, key in run.models:
            find(model)
            assert key in paper.weights
        assert run.command().startswith(f"twospeed evaluate {run.benchmark} --data DATA --model ")
    filled = fill(paper, table)
    assert not filled.ours
    for row in table.rows:
        for (column, _), cell in zip(table.columns, row.ours, strict=False):
            assert not cell or f"{row.name}/{column}" in filled.text()  # named with what would fill it
    heads, *rows = csv.reader(io.StringIO(filled.csv()))
    assert [row[0] for row in rows] == [row.name for row in table.rows]
    assert all(len(row) == len(heads) for row in rows)


@pytest.mark.parametrize("run", {run.command(): run for paper, _ in ALL for run in paper.runs.values()}.values())
def test_commands_are_those_that_evaluate_takes(run, tmp_path, capsys):
    """Every command is typed with a data set that is not there: only that is refused."""
    missing = tmp_path / "missing"
    words = run.arguments(str(missing), {key: "random" for _, key in run.models}, "scores.json", str(tmp_path / "o"))
    assert str(missing) in fails(capsys, *words)


@pytest.mark.parametrize("paper", PAPERS)
def test_commands_that_train_are_those_that_train_takes(paper, capsys):
    for command in dict.fromkeys(
        step.command for weights in read_paper(paper).weights.values() for step in weights.train
    ):
        program, *words = shlex.split(command)
        assert program == "twospeed"
        assert exit_code([*words, "--fields"]) == 0, f"{command}: {capsys.readouterr().err}"


def test_the_papers_numbers():
    def numbers(paper: str, table: str, row: str) -> tuple[str, ...]:
        rows = {one.name: one.paper for one in read_paper(paper).table(table).rows}
        return rows[row]

    assert numbers("stcn", "table2", "STCN + BL30K, M3") == ("79.9", "76.3", "83.5", "14.6")
    assert numbers("slowfast_ava", "table2", "SlowFast++ ensemble") == ("-", "34.3")
    assert numbers("slowfast_ava", "table3", "SlowFast ensemble")[3] == "18.95"
    assert numbers("slowfast_vos", "table1", "3-7") == ("0.676", "46,570,779", "584")
    assert numbers("gsvnet", "table4", "without") == ("74.4", "72.1", "69.1", "67.4", "65.1")


def test_runs_are_made_where_data_and_weights_are_there(davis, files, tmp_path, capsys):
    runs = tmp_path / "runs"
    weights = ["--weights", str(files["stcn-l2"].parent / "{name}.safetensors")]
    command = ["papers", "stcn", "table1", "--run", str(runs), f"--data=davis17={davis}", *weights]
    command += ["--options", "--sequences a,b --device cpu"]
    assert exit_code(command) == 0
    printed = capsys.readouterr()
    assert sorted(path.name for path in runs.glob("*.json")) == [
        "stcn-l2-last.json", "stcn-l2.json", "stm-dot-last.json", "stm-dot.json",
    ]  # fmt: skip
    typed = [line for line in printed.err.splitlines() if line.startswith("twospeed evaluate")]
    assert len(typed) == 4
    assert "--similarity dot --top-k 0" in typed[0]
    document = json.loads((runs / "stm-dot.json").read_text())
    assert document["settings"]["top_k"] is None
    score = document["global"]["J&F-Mean"]
    assert f"{100 * score:.1f}" in printed.out
    assert "to fill STM + L2 similarity/every 5th only:" in printed.out
    assert "STM + dot product/every" not in printed.out
    assert exit_code(command) == 0  # nothing is run again
    assert "twospeed evaluate" not in capsys.readouterr().err
    assert exit_code([*command[:5], "--format", "json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    cell = table["rows"]["STM + dot product"]["every 5th only"]
    assert cell == {"paper": "81.3", "ours": pytest.approx(100 * score)}
    assert exit_code(["papers", "stcn", "retiming", "--run", str(runs), "--format", "json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    speed = json.loads((runs / "stcn-l2.json").read_text())["speed"]["frames_per_second"]
    assert table["rows"]["STCN, several objects"]["FPS"] == {"paper": "20.2", "ours": pytest.approx(speed)}


def test_where_our_numbers_come_from_is_said(davis, files, tmp_path, capsys):
    """On another benchmark or of another network than the paper's, and how much of it."""
    runs = tmp_path / "runs"
    command = ["papers", "stcn", "table1", "--run", str(runs), "--benchmark", "davis16", "--model", "stm"]
    command += [f"--data=davis16={davis}", "--weights", f"stm-dot={files['stm-dot']}"]
    assert exit_code([*command, "--options", "--sequences a --device cpu --memory-every 2"]) == 0
    (line, *_) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ours of stm-dot:")]
    assert "davis16, not the paper's davis17; 1 sequences, not an official split; stm; weights " in line
    assert "memory_every 2" in line
    assert "in place of" not in line
    content = json.loads((runs / "stm-dot.json").read_text())
    (runs / "stm-dot.json").write_text(json.dumps({**content, "model": "stcn"}))
    assert exit_code(["papers", "stcn", "table1", "--run", str(runs), "--format", "json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert any("stcn, in place of stm; weights " in line for line in table["measured"])


def test_a_servers_score_is_entered_by_hand(tmp_path, capsys):
    command = ["papers", "slowfast_ava", "table2", "--score", "SlowFast++ ensemble/test mAP=33.9"]
    assert exit_code([*command, "--format", "csv"]) == 0
    rows = {row[0]: row for row in csv.reader(io.StringIO(capsys.readouterr().out))}
    assert rows["name"] == ["name", "val mAP", "ours, val mAP", "test mAP", "ours, test mAP"]
    assert rows["SlowFast++ ensemble"] == ["SlowFast++ ensemble", "", "", "34.3", "33.9"]
    (tmp_path / "k700-8x8.json").write_text(json.dumps({"benchmark": "kinetics", "top1": 0.701, "average_error": 0.2}))
    filled = fill(read_paper("slowfast_ava"), read_paper("slowfast_ava").table("table3"), tmp_path)
    assert filled.ours == {("SlowFast 8x8", "top-1"): pytest.approx(70.1), ("SlowFast 8x8", "avg val error"): 20.0}


def test_dots_in_names_of_a_report_are_found(tmp_path):
    scales = {"0.75": {"mIoU": 0.5, "frames_per_second": 9.0}}
    document = {"benchmark": "cityscapes", "image_scales": scales, "intervals": {"2": {"average_mIoU": 0.7}}}
    (tmp_path / "bn.json").write_text(json.dumps(document))
    paper = read_paper("gsvnet")
    ours = fill(paper, paper.table("table1"), tmp_path).ours
    assert ours["BiSeNet-R18 (0.75)", "Avg. mIoU"] == pytest.approx(50)
    assert ours["BiSeNet-R18 (0.75)", "FPS"] == 9.0
    assert ours["Ours-BN-R18 (l=2)", "Avg. mIoU"] == pytest.approx(70)


def test_curves_are_drawn_of_the_papers_points_and_ours(tmp_path, capsys):
    intervals = {str(n): {"average_mIoU": 0.7 - n / 50, "frames_per_second": 10.0 * n} for n in range(1, 6)}
    seconds = {"flow": 0.004, "warp": 0.001, "features": 0.002, "fusion": 0.01}
    document = {"benchmark": "cityscapes", "intervals": intervals, "step_seconds": seconds}
    (tmp_path / "sn.json").write_text(json.dumps({**document, "speed": {"keyframe_seconds": 0.1}}))
    paper = read_paper("gsvnet")
    table1 = dict(fill(paper, paper.table("table1"), tmp_path).curves())
    assert table1["Ours-SN-R18, paper"] == [("l=2", 100.0, 0.736), ("l=3", 125.0, 0.726), ("l=4", 142.0, 0.718)]
    assert table1["Ours-SN-R18, ours"][0] == ("l=2", 20.0, pytest.approx(0.66))
    assert "Ours-BN-R18, ours" not in table1
    assert [name for name, _ in fill(paper, paper.table("fig3"), tmp_path).curves()] == ["Ours, ours"]
    command = ["papers", "gsvnet", "figA5", "--run", str(tmp_path), "--plot", str(tmp_path / "a5.png")]
    assert exit_code(command) == 0
    with Image.open(tmp_path / "a5.png") as drawn:
        assert drawn.format == "PNG"
    ours = fill(paper, paper.table("figA9"), tmp_path).text()
    assert ours.split("Ours-SN-R18")[1].split()[1:10:2] == ["4.00", "1.00", "2.00", "10.00", "100.00"]


def test_the_list_names_all(capsys):
    assert exit_code(["papers", "--list"]) == 0
    printed = capsys.readouterr().out
    for paper, table in ALL:
        assert paper.name in printed
        assert f"  {table.name} " in printed
    assert exit_code(["papers"]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stmm"], "no paper 'stmm'; there are slowfast_vos"),
        (["stcn", "table9"], "stcn has no 'table9'; there are table1"),
        (["stcn", "table1", "--score", "STM/J=1"], "stcn table1 has no cell 'STM/J' of ours"),
        (["stcn", "table1", "--score", "STM + L2 similarity/every 5th only=high"], "'high' is not a number"),
        (["stcn", "table1", "--score", "STM + L2 similarity/every 5th only=nan"], "'nan' is not a number"),
        (["stcn", "table1", "--options", "--end 3"], "--model are those of evaluations that are run"),
        (
            ["stcn", "table1", "--run", "r", "--data", "davis17=x", "--options", "'"],
            "--options ': No closing quotation",
        ),
        (["stcn", "table1", "--benchmark", "davis16"], "--options, --benchmark and --model are those of evaluations"),
        (
            ["stcn", "table1", "--run", "r", "--data", "davis17=x", "--benchmark", "davis18"],
            "--benchmark davis18: there are davis16, davis17",
        ),
        (["stcn", "table1", "--run", "r", "--data", "davis17=x", "--model", "stcm"], "stcm"),
        (["stcn", "--score", "a/b=1"], "--score belongs to one table"),
        (["stcn", "table1", "--plot", "x.png"], "stcn table1 has no columns Avg. mIoU and FPS to draw"),
        (["gsvnet", "fig3", "--plot", "x.png"], "the paper prints none, no run gave ours"),
        (["gsvnet", "--plot", "x.png"], "--plot draws one table; name it"),
        (["stcn", "table1", "--data", "davis17=x"], "give --run DIR"),
        (["stcn", "table1", "--run", "r", "--data", "davis17"], "write NAME=VALUE"),
        (["stcn", "table1", "--run", "r", "--data", "ava=x"], "--data ava: stcn uses davis17, youtube-vos"),
        (["stcn", "table1", "--run", "r", "--weights", "x=y"], "--weights x: stcn names stcn-l2"),
        (["stcn", "table1", "--run", "r", "--weights", "no/{name}.pth"], "no such file for any of stcn-l2"),
    ],
)
def test_what_is_refused(capsys, arguments, message):
    assert message in fails(capsys, "papers", *arguments)


def test_a_file_that_is_no_evaluation_is_named(tmp_path):
    paper = read_paper("stcn")
    for content in ("[1]", "{", '{"a": 1}'):
        (tmp_path / "stm-dot.json").write_text(content)
        with pytest.raises(InputError, match=r"stm-dot\.json(: is not the JSON of an evaluation|:1: not JSON)"):
            fill(paper, paper.table("table1"), tmp_path)
