"""The supplement's tables from one command, on a tiny set and narrow networks."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.data.vos_trees import moving_squares, write_davis
from twospeed.errors import InputError
from twospeed.evaluation import stcn_tables
from twospeed.evaluation.stcn_tables import NETWORKS, TABLE_3, TableData, main, strips, table_1
from twospeed.models.stcn.builders import stcn
from twospeed.models.stm.builders import stm
from twospeed.weights.load import save_model


@pytest.fixture(scope="module")
def davis(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("davis")
    return write_davis(root, {"a": moving_squares(7, 2), "b": moving_squares(6, 1, seed=1)})


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    networks = {
        "stm-dot": stm(width=8),
        "stcn-l2": stcn(width=8),
        "wide": stcn(width=8, backbone="wide_resnet50"),
        "aspp": stcn(width=8, backbone="wide_resnet50", aspp=True),
    }
    for name, network in networks.items():
        save_model(network, folder / f"{name}.safetensors", model_name=NETWORKS[name].model)
    return {name: folder / f"{name}.safetensors" for name in networks}


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_table_1_runs_what_has_weights_beside_what_was_published(davis, files, tmp_path, capsys):
    arguments = ["table1", "--data", str(davis), "--sequences", "a,b", "--device", "cpu", "-o", str(tmp_path / "out")]
    for name in ("stm-dot", "stcn-l2"):
        arguments += ["--weights", f"{name}={files[name]}"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "no weights for stm-l2: give --weights stm-l2=FILE" in printed
    assert "not an official split" in printed or "2 sequences" in printed
    head, *table = rows(tmp_path / "out/table1.csv")
    assert head == ["name", "5th + last", "5th only", "suppl. 5th + last", "suppl. 5th only"]
    values = {row[0]: row[1:] for row in table}
    assert values["STCN, L2"][2:] == ["0.831", "0.854"]
    assert values["STM, L2"] == ["", "", "0.827", "0.81"]
    for name in ("STM, dot", "STCN, L2"):
        assert all(0 <= float(value) <= 1 for value in values[name][:2])
    assert (tmp_path / "out/table1.txt").read_text() == printed
    made = sorted(p.name for p in (tmp_path / "out/masks").iterdir())
    assert len(made) == 4
    assert any(name.startswith("stm-dot-") and name.endswith("include_last-True") for name in made)
    assert len(list((tmp_path / "out/masks").glob("*/a/*.png"))) == 4 * 7
    # Once more: nothing is computed again, the scores are the same
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/masks").rglob("*.png")}
    assert main(arguments) == 0
    assert rows(tmp_path / "out/table1.csv")[1:] == table
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out/masks").rglob("*.png")} == stamps


def test_table_3_runs_variants_and_averages_networks(davis, files, tmp_path, monkeypatch, capsys):
    def shrunk(changes):  # the tiny set's frames have a shorter side of 48 pixels
        return {**changes, "scales": (48, 64)[-len(changes["scales"]) :]} if "scales" in changes else changes

    small = tuple(replace(variant, changes=shrunk(variant.changes)) for variant in TABLE_3)
    monkeypatch.setattr(stcn_tables, "TABLE_3", small)
    weights = [f"--weights={name}={files[name]}" for name in ("stcn-l2", "wide", "aspp")]
    data = ["--data", str(davis), "--benchmark", "davis16", "--sequences", "b", "--device", "cpu"]
    assert main(["table3", *data, "-o", str(tmp_path / "out"), *weights]) == 0
    head, *table = rows(tmp_path / "out/table3.csv")
    assert head[:3] == ["name", "J&F", "frames/s"]
    assert len(table) == 7
    assert all(0 <= float(row[1]) <= 1 and float(row[2]) > 0 for row in table)
    published = {row[0]: row[3:] for row in table}
    assert published["ensemble of the three, scales, mirrored"] == ["", "0.867"]
    assert published["memory every third frame"] == ["0.799", ""]
    assert "DAVIS-2016" in capsys.readouterr().out


def test_the_published_settings_are_those_of_table_3():
    changes = {v.title: dict(v.changes) for v in TABLE_3}
    assert changes["600 pixels, kernelized reading"] == {"scales": (600,)}  # 600 reads with a kernel of 7 cells
    assert stcn_tables.TABLE_1["stcn-l2"] == (0.831, 0.854)
    assert NETWORKS["stm-dot"].top_k is None
    assert NETWORKS["stcn-l2"].top_k == 20


def test_speed_says_what_the_clock_counts(davis, files, capsys):
    arguments = ["speed", "--data", str(davis), "--sequences", "a", "--device", "cpu", "--frames", "3"]
    arguments += ["--objects", "1,3", "--networks", "stm-dot,stcn-l2"]
    arguments += [f"--weights={name}={files[name]}" for name in ("stm-dot", "stcn-l2")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "the clock counts Tracker.step" in printed
    assert "STCN, L2, 3 obj." in printed
    assert "1 sequences, at most 3 frames" in printed


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_strips_cover_the_foreground_evenly(count, seed):
    labels = (np.random.default_rng(seed).random((20, 64)) < 0.6).astype(np.uint8) * 3
    labels[0] = 255  # void
    cut = strips(labels, count)
    np.testing.assert_array_equal(cut > 0, labels == 3)
    areas = np.bincount(cut.ravel(), minlength=count + 1)[1:]
    assert len(areas) == count
    assert areas.max() - areas.min() <= 2 * 20


def test_bad_requests_are_one_line(davis, files, tmp_path, capsys):
    for arguments, message in (
        (["table1", "--data", str(davis), "--weights", "stcn-l2"], "give NAME=FILE"),
        (["table1", "--data", str(davis), "--weights", "stcn=x.pth"], "no network 'stcn' in the tables"),
        (["table1", "--data", str(tmp_path / "no")], ""),
        (["speed", "--data", str(davis), "--networks", "resnet"], "--networks resnet: there are"),
        (["speed", "--data", str(davis), "--objects", "few"], "give numbers separated by commas"),
        (["speed", "--data", str(davis), "--objects", "0"], "at least 1 object"),
        (["speed", "--data", str(davis), "--benchmark", "youtube-vos"], "speed is measured on DAVIS"),
    ):
        code = main(arguments)
        printed = capsys.readouterr()
        if not message:  # without weights nothing is run, and the table is what was published
            assert code == 0
            assert "suppl." in printed.out
            continue
        assert code == 2
        assert message in printed.err
        assert printed.err.count("\n") == 1
    with pytest.raises(InputError, match="no network 'x'"):
        table_1(TableData(root=davis), {"x": files["wide"]}, tmp_path)
