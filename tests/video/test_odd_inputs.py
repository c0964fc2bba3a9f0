"""Every odd input: in order, by index, from the middle and backwards give the same pictures, those of its truth."""

import os

import av
import numpy as np
import pytest

from tests.video.footage import number_of
from tests.video.odd_inputs import CASES, ROUNDING_S
from twospeed.errors import VideoError
from twospeed.video.reader import frame_times, open_video, probe, read_frames, read_reverse
from twospeed.video.sources import find_source

REFUSED = [name for name, case in CASES.items() if case.error]
READ = [name for name, case in CASES.items() if not case.error]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Make each input once: name -> source."""
    sources = {}

    def make(name):
        if name not in sources:
            place = tmp_path_factory.mktemp("odd")
            sources[name] = CASES[name].make(place / name)
        return sources[name]

    return make


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="of Linux's scheduler")
def test_making_them_leaves_the_process_as_it_was(made):
    before = os.sched_getscheduler(0)
    made(next(name for name in READ if name.startswith("av1")))
    assert os.sched_getscheduler(0) == before


def test_there_are_many():
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", READ)
def test_odd_input_is_read_alike_in_every_way(made, name):
    case, source = CASES[name], made(name)
    with open_video(source) as reader:
        frames = list(reader)
    assert tuple(number_of(frame.image) for frame in frames) == case.numbers
    assert [frame.index for frame in frames] == list(range(len(case.numbers)))
    expected_s = [i / 25 for i in range(len(frames))] if case.times_s is None else case.times_s
    np.testing.assert_allclose([frame.time_s for frame in frames], expected_s, atol=ROUNDING_S)
    assert (reader.info.width, reader.info.height) == case.size
    assert {frame.image.shape for frame in frames} == {(*case.size[::-1], 3)}
    if case.names is not None:
        assert tuple(frame.name for frame in frames) == case.names
    if not find_source(source).stored:
        return

    np.testing.assert_array_equal(frame_times(source), [frame.time_s for frame in frames])
    order = np.random.default_rng(0).permutation(len(frames))
    for picture, index in zip(read_frames(source, order), order, strict=True):
        np.testing.assert_array_equal(picture, frames[index].image)
    for index in order[:8]:
        np.testing.assert_array_equal(read_frames(source, [index])[0], frames[index].image)
    middle = len(frames) // 2
    with open_video(source, middle, middle + 5) as reader:
        same(list(reader), frames[middle : middle + 5])
    same(list(read_reverse(source, chunk=5))[::-1], frames)


def same(delivered, expected):
    assert [(f.index, f.name, f.pts) for f in delivered] == [(f.index, f.name, f.pts) for f in expected]
    np.testing.assert_allclose([f.time_s for f in delivered], [f.time_s for f in expected], atol=1e-9)
    for one, other in zip(delivered, expected, strict=True):
        np.testing.assert_array_equal(one.image, other.image)


@pytest.mark.parametrize("name", [name for name in READ if CASES[name].plain])
def test_pictures_are_those_of_plain_decoding(made, name):
    with av.open(str(made(name))) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with open_video(made(name)) as reader:
        frames = list(reader)
    assert len(plain) == len(frames)
    for frame, picture in zip(frames, plain, strict=True):
        np.testing.assert_array_equal(frame.image, picture)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_by_every_way_of_reading(made, name):
    case, source = CASES[name], made(name)
    numbers = []

    def read():
        with open_video(source) as reader:
            numbers.extend(number_of(frame.image) for frame in reader)

    messages = []
    ways = [read, lambda: frame_times(source)]
    if not case.numbers or "cannot" in case.error or "names" in case.error:
        ways.append(lambda: probe(source))
    for use in ways:
        if name == "huge.png" and use is not read:
            continue  # images are not opened for their times
        with pytest.raises(VideoError, match=case.error) as caught:
            use()
        messages.append(str(caught.value))
    assert tuple(numbers) == case.numbers[: len(numbers)]
    assert all("\n" not in message for message in messages)
