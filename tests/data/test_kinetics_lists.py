"""Lists of labelled videos in every form in which they are published."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twospeed.data.benchmarks.video_lists import (
    LabelledVideo,
    find_videos,
    read_class_folders,
    read_class_names,
    read_video_list,
)
from twospeed.errors import DatasetError, InputError


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("separator", [" ", ",", ", ", "\t", ";", " | "])
def test_every_separator_of_the_authors(tmp_path, separator):
    path = write(tmp_path / "val.csv", f"a/b.mp4{separator}3", "", f"my videos/take 2 (1).mp4{separator}12")
    expected = [LabelledVideo(tmp_path / "a/b.mp4", 3), LabelledVideo(tmp_path / "my videos/take 2 (1).mp4", 12)]
    assert read_video_list(path) == expected
    assert read_video_list(path, separator=separator) == expected


names = st.text(st.sampled_from("ab1 ,;_-()."), min_size=1, max_size=12).map(lambda s: f"v{s}.mp4")


@given(st.lists(st.tuples(names, st.integers(0, 699)), min_size=1, max_size=8), st.sampled_from([" ", ",", "\t"]))
def test_any_path_comes_back(tmp_path_factory, rows, separator):
    path = write(tmp_path_factory.mktemp("list") / "l.txt", *(f"{name}{separator}{label}" for name, label in rows))
    read = read_video_list(path, root="/videos")
    assert [(str(v.path), v.label) for v in read] == [(f"/videos/{name}", label) for name, label in rows]


def test_a_number_in_the_middle_is_passed_over_unless_it_belongs_to_the_path(tmp_path):
    path = write(tmp_path / "frames.txt", "clips/one 300 4", "clips/take 2 5", "far,12.5,6")
    (tmp_path / "clips" / "take 2").mkdir(parents=True)
    assert [v.path.relative_to(tmp_path).as_posix() for v in read_video_list(path)] == [
        "clips/one",
        "clips/take 2",
        "far",
    ]


def test_paths_alone_and_class_names(tmp_path):
    alone = write(tmp_path / "test.txt", "x y.mp4", "z.mp4")
    assert [v.labelled for v in read_video_list(alone, unlabelled=True)] == [False, False]
    with pytest.raises(DatasetError, match=r"test\.txt: its lines hold no labels"):
        read_video_list(alone)
    named = write(tmp_path / "named.csv", "a.mp4,tai chi", '"b, c.mp4","yoga"')
    assert read_video_list(named, labels=["yoga", "tai chi"]) == [
        LabelledVideo(tmp_path / "a.mp4", 1),
        LabelledVideo(tmp_path / "b, c.mp4", 0),
    ]


def test_what_is_wrong_is_named_with_its_line(tmp_path):
    path = write(tmp_path / "l.txt", "a.mp4 3", "b.mp4")
    with pytest.raises(DatasetError, match=r"l\.txt:2: no label at the end of 'b\.mp4'"):
        read_video_list(path)
    path = write(tmp_path / "l.txt", "a.mp4 3", "", "b.mp4 400")
    with pytest.raises(DatasetError, match=r"l\.txt:3: label 400 is outside 0\.\.399"):
        read_video_list(path, num_classes=400)
    with pytest.raises(DatasetError, match=r"l\.txt:1: label -1"):
        read_video_list(write(path, "a.mp4 -1"))
    with pytest.raises(DatasetError, match="holds no lines"):
        read_video_list(write(path, ""))
    with pytest.raises(DatasetError, match="no such file"):
        read_video_list(tmp_path / "none.txt")


def test_the_official_csv(tmp_path):
    path = write(
        tmp_path / "kinetics_val.csv",
        "label,youtube_id,time_start,time_end,split",
        "tai chi,-abc,5,15,val",
        '"baking, cookies",xyz,10,20,val',
        "tai chi,gone,0,10,val",
    )
    (tmp_path / "val" / "tai_chi").mkdir(parents=True)
    (tmp_path / "val" / "tai_chi" / "-abc_000005_000015.mkv").touch()
    (tmp_path / "xyz_000010_000020.mp4").touch()
    videos = read_video_list(path)
    assert [v.path.relative_to(tmp_path).as_posix() for v in videos] == [
        "val/tai_chi/-abc_000005_000015.mkv",
        "xyz_000010_000020.mp4",
        "tai chi/gone_000000_000010.mp4",  # not there: found out when it is read, and counted
    ]
    assert [v.label for v in videos] == [1, 0, 1]  # sorted names
    assert [v.label for v in read_video_list(path, labels=["x", "tai chi", "baking, cookies"])] == [1, 2, 1]
    with pytest.raises(DatasetError, match=r":2: label 'tai chi' is not one of the 1 class names"):
        read_video_list(path, labels=["yoga"])
    with pytest.raises(DatasetError, match=r":1: the official csv's header lacks label"):
        read_video_list(write(path, "youtube_id,time_start,time_end,split", "a,0,1,test"))
    with pytest.raises(DatasetError, match=r":2: times \('soon', '1'\)"):
        read_video_list(write(path, "label,youtube_id,time_start,time_end", "x,a,soon,1"))


def test_class_folders_hold_files_and_frame_folders(tmp_path):
    for name in ("walk/b.avi", "run/a.mp4", "run/frames/00001.jpg", "run/notes.txt", "run/.hidden.mp4", ".cache/x.mp4"):
        write(tmp_path / name)
    videos, classes = read_class_folders(tmp_path)
    assert classes == ["run", "walk"]
    assert [(v.path.name, v.label) for v in videos] == [("a.mp4", 0), ("frames", 0), ("b.avi", 1)]
    again, _ = read_class_folders(tmp_path, labels=["walk", "sit", "run"])
    assert [v.label for v in again] == [2, 2, 0]
    with pytest.raises(DatasetError, match="not one of the 1 given classes"):
        read_class_folders(tmp_path, labels=["run"])
    with pytest.raises(DatasetError, match="no such folder"):
        read_class_folders(tmp_path / "none")
    with pytest.raises(DatasetError, match="hold no video"):
        read_class_folders(write(tmp_path / "empty" / "sit" / "readme.txt").parents[1])


def test_class_names_of_a_numbered_list(tmp_path):
    names = write(tmp_path / "classInd.txt", "1 Archery", "2 Yo Yo", "10 Zumba")
    assert read_class_names(names) == ["Archery", "Yo Yo", "Zumba"]


def test_a_data_set_is_found_however_it_is_kept(tmp_path):
    write(tmp_path / "list/val.csv", "a.mp4 1")
    write(tmp_path / "parts/val/run/a.mp4")
    write(tmp_path / "plain/run/a.mp4")
    assert find_videos(tmp_path / "list") == ([LabelledVideo(tmp_path / "list/a.mp4", 1)], None)
    assert find_videos(tmp_path / "list/val.csv")[0] == find_videos(tmp_path / "list")[0]
    assert find_videos(tmp_path / "parts")[0][0].path == tmp_path / "parts/val/run/a.mp4"
    assert find_videos(tmp_path / "plain", num_classes=1)[1] == ["run"]
    with pytest.raises(DatasetError, match="has 1 class folders, num_classes is 0"):
        find_videos(tmp_path / "plain", num_classes=0)
    with pytest.raises(DatasetError, match="no such list"):
        find_videos(tmp_path / "none")


def test_a_name_that_no_file_can_have_is_an_error_of_ours(tmp_path):
    (tmp_path / "list.txt").write_text(f"{'v' * 300}.mp4 4 0\n")
    with pytest.raises(InputError, match="no file can have this name"):
        read_video_list(tmp_path / "list.txt")
