"""Every table and figure of the papers, from the command line to its numbers: small data, random weights."""

from __future__ import annotations

import json
import math
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.data.ava_trees import make_ava
from tests.data.driving_trees import make_camvid, make_cityscapes
from tests.data.vos_trees import moving_squares, write_davis, write_youtube_vos
from tests.video.footage import LOSSLESS, numbered
from twospeed import create_model
from twospeed.cli.main import exit_code
from twospeed.papers.facts import PAPERS, read_paper
from twospeed.weights.load import save_model

TABLES = [(paper, table.name) for paper in PAPERS for table in read_paper(paper).tables]


@dataclass(frozen=True)
class Reduced:
    """Small data and weights for a paper. data: folder by name. options: more of them, by table; "" for the others."""

    data: Mapping[str, Path]
    weights: str
    options: Mapping[str, str]

    def arguments(self, table: str) -> list[str]:
        """Return what makes `twospeed papers` run its evaluations."""
        given = [word for name, folder in self.data.items() for word in ("--data", f"{name}={folder}")]
        options = self.options.get(table, self.options.get("", ""))
        return [*given, "--weights", self.weights, "--options", f"--device cpu {options}"]


def save(folder: Path, networks: Mapping[str, tuple[str, Mapping[str, object]]]) -> str:
    """Save networks with random weights: key -> (catalogue name, options). Returns what --weights is given."""
    torch.manual_seed(0)
    for key, (name, options) in networks.items():
        save_model(create_model(name, None, **options), folder / f"{key}.safetensors", model_name=name)
    return str(folder / "{name}.safetensors")


def slowfast_vos(folder: Path) -> Reduced:
    write_davis(folder / "davis", {"a": moving_squares(4, 1), "b": moving_squares(3, 1, seed=1)}, year=2016)
    small = {
        "backbone": "nano", "pyramid_channels": 8, "min_size": 48, "max_size": 64, "proposals": 20,
        "sampled_regions": 16,
    }  # fmt: skip
    names = [f"slowfast_maskrcnn_{name}" for name in ("1_1", "3_3", "7_7", "1_7", "3_7")]
    weights = save(folder, {name: (name, small) for name in names})
    return Reduced({"davis16": folder / "davis"}, weights, {"table2": "--finetune 2"})


def gsvnet(folder: Path) -> Reduced:
    make_cityscapes(folder / "cityscapes", before=4)
    make_camvid(folder / "camvid", "test", frames=5)
    sn, bn = "gsvnet_swiftnet_r18", "gsvnet_bisenet_r18"
    weights = save(
        folder,
        {
            "ours-sn": (sn, {}),
            "ours-bn": (bn, {}),
            "ours-bn-camvid": (bn, {"num_classes": 11}),
            "no-intra": (sn, {"intra": False}),
            "learned": (sn, {"learned_delay": True}),
            "kernel-5": (sn, {"learned_delay": True, "delay_kernel": 5}),
            "flownet2s": (sn, {"flow": "flownet2s"}),
            "a-lite": (bn, {"fusion": "accel"}),
        },
    )
    return Reduced({"cityscapes": folder / "cityscapes", "camvid": folder / "camvid"}, weights, {})


SMALL = {"width": 8, "num_classes": 6, "crop_size": 32}
ONE_VIEW = "--clips 1 --crops 1"


def kinetics(root: Path) -> Path:
    root.mkdir()
    for name in ("a", "b"):
        numbered(root / f"{name}.mp4", 20, size=(32, 40), **LOSSLESS)
    (root / "val.csv").write_text("a.mp4 0\nb.mp4 1\n")
    (root / "test.csv").write_text("a.mp4\nb.mp4\n")  # a server scores these
    return root


def slowfast(folder: Path) -> Reduced:
    fusions = {"conv": "time_strided_conv", "channel": "time_to_channel", "sample": "time_strided_sample"}
    networks = {key: ("slowfast_r50_4x16", {**SMALL, "fusion": fusion}) for key, fusion in fusions.items()}
    weights = save(folder, {**networks, "slow": ("slow_r50_4x16", SMALL)})
    return Reduced({"kinetics": kinetics(folder / "kinetics")}, weights, {"": ONE_VIEW})


def slowfast_ava(folder: Path) -> Reduced:
    notes = make_ava(folder / "ava") / "annotations"
    shutil.copyfile(notes / "ava_val_predicted_boxes.csv", notes / "ava_test_predicted_boxes.csv")  # a server's split
    make_ava(folder / "ava21", version="2.1")
    names = {"8x8": "slowfast_r101_8x8_nl", "fast": "fast_r101_32x2_nl", "16x8": "slowfast_r101_16x8_nl"}
    classify = {f"{kind}-{key}": (name, SMALL) for key, name in names.items() for kind in ("k400", "k600", "k700")}
    detect = {key: (f"{name}_ava", {"width": 8, "num_classes": 4}) for key, name in names.items()}
    copies = {"8x8-v21": detect["8x8"]} | {f"16x8-{letter}": detect["16x8"] for letter in "abcde"}
    clips = kinetics(folder / "kinetics")
    data = {"ava": folder / "ava", "ava-v2.1": folder / "ava21"} | {f"kinetics-{n}": clips for n in (400, 600, 700)}
    return Reduced(data, save(folder, {**classify, **detect, **copies}), {"": ONE_VIEW, "table2": "--scales 32"})


def stcn(folder: Path) -> Reduced:
    videos = {"a": moving_squares(6, 2), "b": moving_squares(4, 1, seed=1)}
    lists = {f"2017/{split}.txt": list(videos) for split in ("val", "test-dev")}
    write_davis(folder / "davis", videos, lists=lists)
    categories = {"a": {1: "person", 2: "chameleon"}, "b": {1: "dog"}}  # no chameleon in the training set
    write_youtube_vos(folder / "youtube", videos, categories, every=3)
    of_stcn: dict[str, dict[str, object]] = {
        "stcn-l2": {},
        "stcn-bl30k": {},
        "stcn-dot": {"similarity": "dot"},
        "wide": {"backbone": "wide_resnet50"},
        "aspp": {"backbone": "wide_resnet50", "aspp": True},
    }
    networks = {key: ("stcn", {"width": 8, **options}) for key, options in of_stcn.items()}
    of_stm = {f"stm-{similarity}": ("stm", {"width": 8, "similarity": similarity}) for similarity in ("dot", "l2")}
    data = {"davis17": folder / "davis", "youtube-vos": folder / "youtube"}
    return Reduced(data, save(folder, networks | of_stm), {"table3": "--scales 48,64"})


@pytest.fixture(scope="module")
def reduced(tmp_path_factory) -> Callable[[str], tuple[Reduced, Path]]:
    """Give a paper's small data and weights, made once, and the folder of its evaluations, which its tables share."""
    made: dict[str, tuple[Reduced, Path]] = {}
    makers = {maker.__name__: maker for maker in (slowfast_vos, slowfast_ava, slowfast, gsvnet, stcn)}

    def of(paper: str) -> tuple[Reduced, Path]:
        if paper not in made:
            folder = tmp_path_factory.mktemp(paper)
            made[paper] = makers[paper](folder), folder / "runs"
        return made[paper]

    return of


BY_SERVER = ("ava-ensemble", "k700-ensemble")  # their splits have no labels here either: scores are entered by hand


@pytest.mark.slow
@pytest.mark.parametrize(("paper", "table"), [(p, t) for p, t in TABLES if read_paper(p).table(t).columns])
def test_every_table_is_printed_with_our_numbers(paper, table, reduced, capsys):
    given, runs = reduced(paper)
    facts = read_paper(paper).table(table)
    cells = {
        f"{row.name}/{column}": cell.partition(":")[0]
        for row in facts.rows
        for (column, _), cell in zip(facts.columns, row.ours, strict=False)
        if cell
    }
    by_hand = [word for cell, run in cells.items() if run in BY_SERVER for word in ("--score", f"{cell}=12.5")]
    command = ["papers", paper, table, "--run", str(runs), *by_hand]
    assert exit_code([*command, *given.arguments(table)]) == 0
    printed = capsys.readouterr().out
    assert "to fill" not in printed  # no cell of ours is empty
    assert all(f"ours of {run}: " in printed for run in set(cells.values()) - set(BY_SERVER))
    assert all((runs / f"{run}.json").is_file() for run in cells.values())  # also of what a server scores
    assert exit_code([*command, "--format", "json"]) == 0
    (content,) = json.loads(capsys.readouterr().out)
    ours = {f"{row}/{column}": cell["ours"] for row, line in content["rows"].items() for column, cell in line.items()}
    assert {cell for cell, value in ours.items() if value is not None} == set(cells)
    assert all(math.isfinite(ours[cell]) for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize(("paper", "table"), [(p, t) for p, t in TABLES if not read_paper(p).table(t).columns])
def test_every_figure_without_numbers_is_drawn(paper, table, reduced, tmp_path, monkeypatch, capsys):
    """By the command that is printed in its place."""
    given, _ = reduced(paper)
    assert exit_code(["papers", paper, table]) == 0
    typed = re.search(r"python -m (experiments\.\w+) ([^();\n]+)", capsys.readouterr().out)
    assert typed
    places = {"DATA": given.data["cityscapes"], "OUT": tmp_path, "FILE": given.weights.format(name="ours-sn")}
    words = [str(places.get(word, word)) for word in shlex.split(typed[2])]
    monkeypatch.setattr(sys, "argv", [typed[1], *words])
    monkeypatch.delitem(sys.modules, typed[1], raising=False)  # of another test: run as a fresh process runs it
    runpy.run_module(typed[1], run_name="__main__")
    drawn = {path.name.rpartition("_")[2] for path in tmp_path.iterdir()}
    assert drawn == {"edges.png", "labels.png"}
    assert "% of the pixels are at an edge" in capsys.readouterr().out
