"""HDR videos arrive as SDR: what is darker than half of reference white keeps its light, 1,000 cd/m2 is full white."""

import av
import numpy as np
import pytest

from twospeed.video.reader import open_video, read_frames


def pq(nits):
    """SMPTE ST 2084, equation 4."""
    y = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def film(path, signals, curve):
    """Grey patches of these signals (0 to 1), 10 bits in BT.2020, limited range."""
    codes = np.repeat([round(64 + 876 * signal) for signal in signals], 16).astype("<u2")
    luma = np.tile(codes, (32, 1))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = luma.shape[1], 32, "yuv444p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace, context.color_range = curve, 9, 9, 1
        frame = av.VideoFrame(luma.shape[1], 32, "yuv444p10le")
        for plane, values in zip(frame.planes, (luma, np.full_like(luma, 512), np.full_like(luma, 512)), strict=True):
            padded = np.zeros((32, plane.line_size // 2), "<u2")
            padded[:, : luma.shape[1]] = values
            plane.update(padded.tobytes())
        frame.pts = 0
        frame.color_trc, frame.color_primaries, frame.colorspace, frame.color_range = curve, 9, 9, 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def patches(path):
    with open_video(path) as reader:
        image = next(reader).image
    np.testing.assert_array_equal(read_frames(path, [0])[0], image)
    assert np.ptp(image.astype(int), axis=2).max() <= 2  # grey stays grey
    return image[16, 8::16, 1]


def test_pq(tmp_path):
    nits = [0, 1, 5, 20, 50, 100, 203, 500, 1000, 4000]
    found = patches(film(tmp_path / "pq.mkv", [pq(value) for value in nits], 16))
    kept = [255 * (value / 203) ** (1 / 2.4) for value in nits[:6]]
    np.testing.assert_allclose(found[:6], kept, atol=2)
    assert found[6] == pytest.approx(227, abs=2)  # reference white
    assert (np.diff(found.astype(int)) >= 0).all()
    assert 240 < found[7] < 254
    assert found[8:].tolist() == [255, 255]


def test_hlg(tmp_path):
    found = patches(film(tmp_path / "hlg.mkv", [0, 0.25, 0.75, 1.0], 18))
    scene = 0.25**2 / 3  # BT.2100: the square root part
    nits = 1000 * scene**1.2
    np.testing.assert_allclose(found, [0, 255 * (nits / 203) ** (1 / 2.4), 227, 255], atol=2)
