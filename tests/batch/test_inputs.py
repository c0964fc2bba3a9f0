"""Which videos a batch has, and what is wrong with a list, with its line."""

from __future__ import annotations

import pytest

from twospeed.batch.inputs import Video, find_videos, with_masks
from twospeed.batch.storage import open_storage
from twospeed.errors import InputError


def plain(cells: dict[str, str]) -> list[str]:
    if "wrong" in cells:
        raise InputError("there is no option 'wrong'")
    return [part for name, value in cells.items() for part in (f"--{name}", value)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a.mp4", "b.mkv", "deep/a.mp4", "notes.txt"):
        (tmp_path / name).write_text("x")
    return tmp_path


def names(videos: list[Video], folder) -> list[str]:
    return [video.source.removeprefix(f"{folder}/") for video in videos]


def test_files_folders_patterns(folder):
    assert names(find_videos([str(folder / "b.mkv"), str(folder)], plain), folder) == ["b.mkv", "a.mp4", "deep/a.mp4"]
    assert names(find_videos([str(folder / "**" / "*.mp4")], plain), folder) == ["a.mp4", "deep/a.mp4"]
    for missing in ("c.mp4", "*.avi"):
        with pytest.raises(InputError, match="no such file"):
            find_videos([str(folder / missing)], plain)


def test_results_and_hidden_files_of_a_bucket_are_no_videos():
    storage = open_storage("memory://mixed")
    for name in ("a.mp4", "._a.mp4", "out/videos/a/overlay.mp4", "out/videos/a/run.json"):
        storage.write(name, b"x")
    assert [v.source for v in find_videos(["memory://mixed/"], plain)] == ["memory:///mixed/a.mp4"]


def test_keys_are_unique_and_safe():
    taken: set[str] = set()
    for source, key in (("/x/Clip 1.mp4", "Clip_1"), ("s3://b/clip_2.mp4", "clip_2"), ("/x/.mp4", "mp4")):
        assert Video(source).key(taken) == key
    first, second = (Video(f"/{place}/a.mp4").key({"a"}) for place in "xy")
    assert first != second
    assert first.startswith("a-")


def test_lists(folder):
    (folder / "list.csv").write_text("video,start,mask\na.mp4,3,\ndeep/a.mp4,,m.png\ns3://b/c.mp4,,\n")
    videos = find_videos([str(folder / "list.csv")], plain)
    assert names(videos, folder) == ["a.mp4", "deep/a.mp4", "s3://b/c.mp4"]
    assert [video.arguments for video in videos] == [["--start", "3"], ["--mask", "m.png"], []]
    with pytest.raises(InputError, match=r"names .*a\.mp4 again, with other options"):
        find_videos([str(folder / "list.csv"), str(folder / "a.mp4")], plain)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,start\na.mp4,1\n", r"list\.csv:1: columns are path, start; expected `video`"),
        ("video,video\na.mp4,b.mkv\n", r"list\.csv:1: columns"),
        ("", r"list\.csv:1: columns are none"),
        ("video,start\na.mp4\n", r"list\.csv:2: expected 2 values"),
        ("video\na.mp4\nc.mp4\n", r"list\.csv:3: .*c\.mp4: no such file"),
        ("video\na.mp4\na.mp4\n", r"list\.csv:3: .*a\.mp4 is in line 2 already"),
        ("video,start\na.mp4,1\n,2\n", r"list\.csv:3: no video"),
        ("video,wrong\na.mp4,1\n", r"list\.csv:2: there is no option 'wrong'"),
        ("video\n", "no videos are named"),
    ],
)
def test_bad_lists_name_their_line(folder, text, message):
    (folder / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        find_videos([str(folder / "list.csv")], plain)


def test_parquet_list(folder):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"video": ["a.mp4", "b.mkv"], "start": [None, 4]}), folder / "list.parquet")
    videos = find_videos([str(folder / "list.parquet")], plain)
    assert [video.arguments for video in videos] == [[], ["--start", "4"]]
    (folder / "bad.parquet").write_text("x")
    with pytest.raises(InputError, match="no Parquet file"):
        find_videos([str(folder / "bad.parquet")], plain)


def test_addresses(folder):
    storage = open_storage("memory://inputs")
    for name in ("v/a.mp4", "v/deep/b.mp4", "v/notes.txt"):
        storage.write(name, b"x")
    storage.write("list.csv", b"video\nv/a.mp4\n")
    assert [v.source for v in find_videos(["memory://inputs/v/"], plain)] == [
        "memory:///inputs/v/a.mp4",
        "memory:///inputs/v/deep/b.mp4",
    ]
    assert [v.source for v in find_videos(["memory://inputs/list.csv"], plain)] == ["memory://inputs/v/a.mp4"]
    with pytest.raises(InputError, match="no videos are there"):
        find_videos(["memory://inputs/empty/"], plain)


def test_masks_by_name(folder):
    (folder / "masks" / "b").mkdir(parents=True)
    (folder / "masks" / "a.png").write_text("x")
    given = [Video(f"/v/{name}.mp4") for name in "abc"]
    paired = with_masks(given, folder / "masks")
    assert [list(video.arguments[1:]) for video in paired] == [
        [str(folder / "masks" / "a.png")],
        [str(folder / "masks" / "b")],
        [],
    ]
    assert "no mask c.png and no folder c" in paired[2].error


@pytest.mark.parametrize("given", ["{list}", "v" * 5000 + ".mp4"])
def test_names_that_no_file_can_have(tmp_path, given):
    (tmp_path / "videos.csv").write_text("video\n" + "v" * 5000 + ".mp4\n")
    with pytest.raises(InputError, match="no file can have this name") as caught:
        find_videos([given.format(list=tmp_path / "videos.csv")], lambda cells: [])
    assert len(str(caught.value)) < 500
