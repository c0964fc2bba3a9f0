"""Every table that evaluations fill, from the command line to its numbers: small data and networks, random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.data.ava_trees import make_ava
from tests.data.driving_trees import make_camvid, make_cityscapes
from tests.data.vos_trees import moving_squares, write_davis
from tests.video.footage import LOSSLESS, numbered
from twospeed import create_model
from twospeed.cli.main import exit_code
from twospeed.papers.facts import read_paper
from twospeed.weights.load import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("papers")


def save(folder: Path, networks: dict[str, tuple[str, dict[str, object]]]) -> str:
    """Save networks with random weights: key -> (catalogue name, options). Returns what --weights is given."""
    torch.manual_seed(0)
    for key, (name, options) in networks.items():
        save_model(create_model(name, None, **options), folder / f"{key}.safetensors", model_name=name)
    return str(folder / "{name}.safetensors")


@pytest.fixture(scope="module")
def reproduce(folder) -> Callable[..., None]:
    def run(paper: str, table: str, *arguments: str, options: str = "", empty: tuple[str, ...] = ()) -> None:
        runs = folder / paper
        command = ["papers", paper, table, "--run", str(runs), *arguments, "--options", f"--device cpu {options}"]
        assert exit_code([*command, "--format", "csv"]) == 0
        facts = read_paper(paper).table(table)
        assert exit_code(["papers", paper, table, "--run", str(runs), "--format", "json"]) == 0
        cells = [
            (cell.partition(":")[0], row.name, column)
            for row in facts.rows
            for (column, _), cell in zip(facts.columns, row.ours, strict=False)
            if cell and cell.partition(":")[0] not in empty
        ]
        assert cells
        for name, row, column in cells:
            assert (runs / f"{name}.json").is_file(), f"{row}/{column}"

    return run


def values(capsys: pytest.CaptureFixture[str], empty: tuple[str, ...] = ()) -> list[float | None]:
    """Return our cells of the table that was printed last."""
    printed = capsys.readouterr().out
    (table,) = json.loads(printed[printed.index("[\n") :])
    paper = read_paper(table["paper"]).table(table["table"])
    found = []
    for row in paper.rows:
        for (column, _), cell in zip(paper.columns, row.ours, strict=False):
            if cell and cell.partition(":")[0] not in empty:
                found.append(table["rows"][row.name][column]["ours"])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("table", "options"), [("table1", ""), ("table2", "--finetune 2")])
def test_slowfast_vos(folder, reproduce, capsys, table, options):
    if not (folder / "davis").exists():
        write_davis(folder / "davis", {"a": moving_squares(4, 1), "b": moving_squares(3, 1, seed=1)}, year=2016)
    small = {
        "backbone": "nano", "pyramid_channels": 8, "min_size": 48, "max_size": 64, "proposals": 20,
        "sampled_regions": 16,
    }  # fmt: skip
    names = [f"slowfast_maskrcnn_{name}" for name in ("1_1", "3_3", "7_7", "1_7", "3_7")]
    weights = save(folder, {name: (name, small) for name in names})
    data = f"--data=davis16={folder / 'davis'}"
    reproduce("slowfast_vos", table, data, "--weights", weights, options=options)
    assert None not in values(capsys)


@pytest.mark.slow
def test_gsvnet(folder, reproduce, capsys):
    """All tables and curves share their evaluations: each runs once."""
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
    given = [f"--data=cityscapes={folder / 'cityscapes'}", f"--data=camvid={folder / 'camvid'}", "--weights", weights]
    for table in read_paper("gsvnet").tables:
        if table.runs():
            reproduce("gsvnet", table.name, *given)
            assert None not in values(capsys), table.name


@pytest.fixture(scope="module")
def kinetics(folder) -> Path:
    root = folder / "kinetics"
    root.mkdir()
    for name in ("a", "b"):
        numbered(root / f"{name}.mp4", 20, size=(32, 40), **LOSSLESS)
    (root / "val.csv").write_text("a.mp4 0\nb.mp4 1\n")
    (root / "test.csv").write_text("a.mp4\nb.mp4\n")  # a server scores these
    return root


SMALL = {"width": 8, "num_classes": 6, "crop_size": 32}


@pytest.mark.slow
def test_slowfast(folder, kinetics, reproduce, capsys):
    fusions = {"conv": "time_strided_conv", "channel": "time_to_channel", "sample": "time_strided_sample"}
    networks = {key: ("slowfast_r50_4x16", {**SMALL, "fusion": fusion}) for key, fusion in fusions.items()}
    weights = save(folder, {**networks, "slow": ("slow_r50_4x16", SMALL)})
    for table in ("lateral", "fast-pathway"):
        given = [f"--data=kinetics={kinetics}", "--weights", weights]
        reproduce("slowfast", table, *given, options="--clips 1 --crops 1")
        assert None not in values(capsys)


@pytest.mark.slow
def test_slowfast_ava(folder, kinetics, reproduce, capsys):
    make_ava(folder / "ava")
    make_ava(folder / "ava21", version="2.1")
    names = {"8x8": "slowfast_r101_8x8_nl", "fast": "fast_r101_32x2_nl", "16x8": "slowfast_r101_16x8_nl"}
    classify = {f"{kind}-{key}": (name, SMALL) for key, name in names.items() for kind in ("k400", "k600", "k700")}
    detect = {key: (f"{name}_ava", {"width": 8, "num_classes": 4}) for key, name in names.items()}
    weights = save(folder, {**classify, **detect, "8x8-v21": detect["8x8"]})
    given = [f"--data=kinetics-{n}={kinetics}" for n in (400, 600, 700)] + ["--weights", weights]
    for table in ("table3", "kinetics"):
        reproduce("slowfast_ava", table, *given, options="--clips 1 --crops 1", empty=("k700-ensemble",))
        assert None not in values(capsys, ("k700-ensemble",))
    given = [f"--data=ava={folder / 'ava'}", f"--data=ava-v2.1={folder / 'ava21'}", "--weights", weights]
    reproduce("slowfast_ava", "table2", *given, options="--scales 32", empty=("ava-ensemble",))
    assert None not in values(capsys, ("ava-ensemble",))
