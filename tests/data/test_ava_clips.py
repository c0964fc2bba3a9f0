"""AVA's keyframes and the clips around them, from frame lists, folders of frames and videos."""

import cv2
import numpy as np
import pytest

from experiments.motion_set import write_clip
from twospeed.data.benchmarks.ava import read_ground_truth, read_predicted_boxes
from twospeed.data.benchmarks.ava_frames import AvaFrames
from twospeed.data.benchmarks.ava_keyframes import keyframes_of
from twospeed.errors import DatasetError, VideoError


def numbered(count, side=16):
    """Frames that tell their own number: grey of value 2 x number."""
    return np.broadcast_to(
        (2 * np.arange(count) % 256).astype(np.uint8)[:, None, None, None], (count, side, side, 3)
    ).copy()


def numbers(clip):
    return np.rint(clip.mean(axis=(1, 2, 3)) / 2).astype(int).tolist()


def write_images(folder, video, count):
    (folder / "frames" / video).mkdir(parents=True)
    for number, image in enumerate(numbered(count), 1):
        cv2.imwrite(str(folder / "frames" / video / f"{video}_{number:06d}.jpg"), image)


def write_list(folder, split, counts):
    (folder / "frame_lists").mkdir(exist_ok=True)
    rows = [
        f'{video} {n} {i} {video}/{video}_{i + 1:06d}.jpg ""\n'
        for n, (video, count) in enumerate(counts.items())
        for i in range(count)
    ]
    (folder / "frame_lists" / f"{split}.csv").write_text(
        "original_vido_id video_id frame_id path labels\n" + "".join(rows)
    )


def test_rows_become_keyframes_person_by_person(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(
        "b,0903,0.1,0.2,0.5,0.6,12,0\n"
        "a,0902,0.1,0.2,0.5,0.6,17,1\n"
        "a,0902,0.5,0.2,0.9,1.004,80,2\n"
        "a,0902,0.1,0.2,0.5,0.6,3,1\n"
        "a,0902,0.7,0.2,0.7,0.6,4,3\n"
    )
    b, a = keyframes_of(read_ground_truth(path))
    assert (b.video, b.second, b.actions) == ("b", 903, ((12,),))
    assert (a.video, a.second, a.actions) == ("a", 902, ((3, 17), (80,)))
    assert a.boxes_xyxy.tolist() == [[0.1, 0.2, 0.5, 0.6], [0.5, 0.2, 0.9, 1.0]]
    assert a.scores.tolist() == [1, 1]


def test_unsure_people_and_excluded_keyframes_are_left_out(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(
        "a,0902,0.1,0.2,0.5,0.6,,0.95\na,0902,0.3,0.2,0.5,0.6,,0.7\na,0903,0.1,0.2,0.5,0.6,,0.7\na,904,0.1,0.2,0.5,0.6,4,1\n"
    )
    rows = read_predicted_boxes(path)
    (only,) = keyframes_of(rows, threshold=0.8, excluded=[("a", 904.0)])
    assert (only.second, only.scores.tolist(), only.actions) == (902, [0.95], ((),))
    with pytest.raises(DatasetError, match=r"rows.csv: none of its 4 rows has a score of at least 1.5"):
        keyframes_of(rows, threshold=1.5)


@pytest.mark.parametrize("listed", [True, False])
def test_a_clip_is_centred_on_its_keyframe_in_images(tmp_path, listed):
    write_images(tmp_path, "a", 95)
    if listed:
        write_list(tmp_path, "val", {"a": 95})
    frames = AvaFrames(tmp_path)
    assert numbers(frames.clip("a", 902, 8, 4)) == list(range(44, 76, 4))
    assert numbers(frames.clip("a", 900, 4, 10)) == [0, 0, 0, 10]  # the first repeats
    assert numbers(frames.clip("a", 903, 4, 3)) == [84, 87, 90, 93]
    assert numbers(frames.clip("a", 903, 4, 10)) == [70, 80, 90, 94]  # the last repeats
    assert numbers(AvaFrames(tmp_path, first_second=0).clip("a", 2, 2, 1)) == [59, 60]
    with pytest.raises(DatasetError, match=r"a: the keyframe at second 904 is out of range: .* seconds 900 to 903\.17"):
        frames.clip("a", 904, 4, 4)


@pytest.mark.parametrize("rate", [30, 15, 60])
def test_videos_give_the_same_moments_as_images(tmp_path, rate):
    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "videos" / "a.mp4", numbered(4 * rate)[: 120 if rate > 30 else None], rate)
    clip = AvaFrames(tmp_path).clip("a", 901, 8, 4)  # from 16 / 30 s before it on, 4 / 30 s apart
    expected = [int((30 - 16 + 4 * i) / 30 * rate + 1e-6) for i in range(8)]
    assert numbers(clip) == expected
    assert clip.dtype == np.uint8
    with pytest.raises(DatasetError, match=r"a.mp4: the keyframe at second 899 is out of range"):
        AvaFrames(tmp_path).clip("a", 899, 8, 4)


def test_a_film_that_reaches_the_annotated_seconds_is_not_a_cut(tmp_path):
    (tmp_path / "trainval").mkdir()
    shown = np.zeros((905, 16, 16, 3), np.uint8)
    shown[902] = 100
    write_clip(tmp_path / "trainval" / "film.mkv", shown, 1)
    assert AvaFrames(tmp_path).clip("film", 902, 2, 30).mean(axis=(1, 2, 3)).tolist() == [0, 100]


def test_missing_videos_and_images_are_named(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        AvaFrames(tmp_path / "nowhere")
    write_images(tmp_path, "a", 40)
    write_list(tmp_path, "train", {"a": 40})
    path = tmp_path / "rows.csv"
    path.write_text("a,0901,0.1,0.2,0.5,0.6,17,1\nb,0901,0.1,0.2,0.5,0.6,17,1\nc,0901,0.1,0.2,0.5,0.6,17,1\n")
    frames = AvaFrames(tmp_path)
    with pytest.raises(DatasetError, match="2 of 3 videos are missing, the first is b; looked for frames/b/"):
        frames.check(keyframes_of(read_ground_truth(path)))
    path.write_text("a,0902,0.1,0.2,0.5,0.6,17,1\n")
    with pytest.raises(DatasetError, match="second 902 is out of range"):
        frames.check(keyframes_of(read_ground_truth(path)))
    with pytest.raises(DatasetError, match="has no frames and no video of b"):
        frames.clip("b", 901, 4, 2)
    (tmp_path / "frames" / "a" / "a_000031.jpg").unlink()
    with pytest.raises(VideoError, match=r"a_000031.jpg: cannot be read"):
        frames.clip("a", 901, 4, 1)
