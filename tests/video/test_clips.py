"""The reader on real clips: decoded whole, sought exactly, masks understood."""

import numpy as np
import pytest

from twospeed.errors import MaskError
from twospeed.video.indexed_png import read_label_map, write_indexed_png
from twospeed.video.reader import frame_times, open_video, read_frames

CLIPS = {
    "cutie_example.mp4": (117, (480, 640)),
    "judo": (16, (480, 854)),
    "mmaction2_demo.mp4": (280, (256, 340)),
    "mmaction2_demo_spatiotemporal_det.mp4": (57, (256, 340)),
    "mmaction2_test_video_structuralize.mp4": (300, (240, 426)),
}


@pytest.mark.parametrize("name", CLIPS)
def test_every_clip_is_read_whole_and_sought_exactly(clips, name):
    count, size = CLIPS[name]
    path = clips / name
    chosen = sorted({0, 1, count // 3, count // 2, count - 2, count - 1})
    with open_video(path) as reader:
        images, times = {}, []
        for frame in reader:
            times.append(frame.time_s)
            if frame.index in chosen:
                images[frame.index] = frame.image
            assert frame.image.shape == (*size, 3)
    assert len(times) == count
    np.testing.assert_array_equal(frame_times(path), times)
    assert np.all(np.diff(times) > 0)
    np.testing.assert_array_equal(read_frames(path, chosen), np.stack([images[index] for index in chosen]))
    middle = chosen[3]
    with open_video(path, start=middle) as reader:
        frame = next(reader)
    assert (frame.index, frame.time_s) == (middle, times[middle])
    np.testing.assert_array_equal(frame.image, images[middle])


def test_masks_of_a_real_sequence(clips, tmp_path):
    objects = {0: 1, 5: 2, 8: 3, 13: 4}
    for number, object_id in objects.items():
        source = clips / "judo" / f"{number:05d}.png"
        labels = read_label_map(source)
        assert set(np.unique(labels)) == {0, object_id}
        write_indexed_png(tmp_path / "copy.png", labels)
        np.testing.assert_array_equal(read_label_map(tmp_path / "copy.png"), labels)
        assert read_label_map(source, expect_size=(480, 854)).shape == (480, 854)  # one was published a column short
        with pytest.raises(MaskError, match="its frame 640x480"):
            read_label_map(source, expect_size=(480, 640))


def test_annotations_of_davis_2016(davis16):
    for path in sorted(davis16.glob("Annotations/480p/*/00010.png")):
        assert set(np.unique(read_label_map(path, allow_empty=True))) <= {0, 1}
