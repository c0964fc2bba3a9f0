"""CamVid in its four layouts: which frames, which splits, what follows what, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import require_data
from twospeed.data.benchmarks.camvid import CLASSES, VOID, CamVid
from twospeed.errors import DatasetError, InputError

VAL = [f"0016E5_{number:05d}" for number in range(7959, 7969, 2)]
OTHERS = ["0001TP_006690", "0001TP_008550", "0006R0_f00930", "0016E5_00390", "0016E5_08190", "Seq05VD_f00000"]


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def labels_of(name: str) -> np.ndarray:
    return np.random.default_rng(int(name[-5:])).integers(0, VOID + 1, (6, 8)).astype(np.uint8)


def coloured(labels: np.ndarray) -> np.ndarray:
    colours = [*(CLASSES.colours or ()), (0, 0, 0)]
    colours[4] = (0, 0, 192)  # the release's own sidewalk
    return np.array(colours, np.uint8)[labels]


def make(root: Path, layout: str, names: list[str]) -> Path:
    image = np.full((6, 8, 3), 99, np.uint8)
    for name in names:
        labels, sequence = labels_of(name), name.split("_")[0]
        if layout == "here":
            write(root / "val" / "images" / f"{name}.jpg", image)
            write(root / "val" / "labels" / f"{name}.png", labels)
        elif layout == "tutorial":
            write(root / "val" / f"{name}.png", image)
            write(root / "valannot" / f"{name}.png", labels)
        elif layout == "release":
            write(root / "701_StillsRaw_full" / f"{name}.png", image)
            write(root / "LabeledApproved_full" / f"{name}_L.png", coloured(labels))
        else:
            write(root / "frames" / sequence / f"{name}.png", image)
            write(root / "label_id" / f"{name}_L.png", labels)
    return root


@pytest.mark.parametrize("layout", ["here", "tutorial", "release", "video frames"])
def test_every_layout_gives_the_same_frames_and_classes(tmp_path: Path, layout: str) -> None:
    whole = layout in ("release", "video frames")
    data = CamVid(make(tmp_path, layout, VAL + (OTHERS if whole else [])), "val")
    assert [frame.name for frame in data] == VAL
    for frame in data:
        assert frame.image().shape == (6, 8, 3)
        np.testing.assert_array_equal(frame.labels(), labels_of(frame.name))
    if whole:
        assert [f.name for f in CamVid(tmp_path, "test")] == ["0001TP_008550", "Seq05VD_f00000"]
        assert len(CamVid(tmp_path, "train")) == 4


def test_before_takes_unlabelled_frames_of_the_video(tmp_path: Path) -> None:
    make(tmp_path, "video frames", ["0016E5_07959"])
    for number in (7957, 7958):
        write(tmp_path / "frames" / "0016E5" / f"0016E5_{number:05d}.png", np.zeros((6, 8, 3), np.uint8))
    data = CamVid(tmp_path, "val")
    before = data.before(data[0], 2)
    assert before is not None
    assert [frame.number for frame in before] == [7957, 7958, 7959]
    assert data.before(data[0], 3) is None
    with pytest.raises(DatasetError, match="not labelled"):
        before[0].labels()


def test_bad_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'vall'"):
        CamVid(tmp_path, "vall")  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="expected val/images"):
        CamVid(tmp_path, "val")
    root = make(tmp_path / "a", "here", VAL)
    (root / "val" / "labels" / f"{VAL[2]}.png").unlink()
    with pytest.raises(DatasetError, match=VAL[2]):
        CamVid(root, "val")
    (root / "val" / "images" / f"{VAL[2]}.jpg").unlink()
    (root / "val" / "images" / f"{VAL[1]}.jpg").unlink()
    with pytest.raises(DatasetError, match=f"no images for the labels {VAL[1]}"):
        CamVid(root, "val")
    root = make(tmp_path / "b", "here", VAL)
    write(root / "val" / "labels" / f"{VAL[0]}.png", np.full((6, 8), 255, np.uint8))
    with pytest.raises(DatasetError, match="holds the value 255"):
        CamVid(root, "val")[0].labels()
    write(root / "val" / "images" / "holiday.jpg", np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(DatasetError, match="not a name of CamVid"):
        CamVid(root, "val")
    root = make(tmp_path / "c", "release", VAL)
    write(root / "LabeledApproved_full" / f"{VAL[0]}_L.png", np.full((6, 8, 3), 7, np.uint8))
    with pytest.raises(DatasetError, match=r"\(7, 7, 7\) at row 0"):
        CamVid(root, "val")[0].labels()


def test_the_real_set_has_its_described_splits() -> None:
    root = require_data("camvid")
    train, val = CamVid(root, "train"), CamVid(root, "val")
    assert (len(train), len(val)) == (367, 60)
    assert val[0].image().shape[:2] == val[0].labels().shape == (360, 480)
