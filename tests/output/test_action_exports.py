"""Actions as subtitles, JSON lines and CVAT's tracks."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import av
import pytest

from twospeed.errors import InputError
from twospeed.output.exports.actions import (
    Cue,
    check_action_formats,
    people_cues,
    timeline_cues,
    write_lines,
    write_people,
    write_srt,
    write_vtt,
)


def person(number, left, *actions):
    return {
        "id": number,
        "box_xyxy": [left, 10.0, left + 30, 200.0],
        "actions": [{"label": label, "score": score} for label, score in actions],
    }


KEYFRAMES = {
    "video": "a <b>",
    "keyframes": [
        {"time_s": 0.0, "people": [person(1, -5, ("walk", 0.9), ("talk & eat", 0.5)), person(2, 60, ("sit", 0.2))]},
        {"time_s": 1.0, "people": [person(1, 15, ("walk", 0.8))]},
        {"time_s": 2.0, "people": []},
    ],
}


@pytest.mark.parametrize(("suffix", "write"), [("vtt", write_vtt), ("srt", write_srt)])
def test_ffmpeg_reads_the_subtitles(suffix, write, tmp_path):
    path = tmp_path / f"a.{suffix}"
    write(path, [Cue(0.0, 1.5, "open <door>\n\nwalk --> run"), Cue(3661.25, 3662.0, "jump & run")])
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux() if packet.size]
    assert [float(packet.pts * packet.time_base) for packet in packets] == [0.0, 3661.25]
    assert [float(packet.duration * packet.time_base) for packet in packets] == [1.5, 0.75]
    assert bytes(packets[1]).decode() == ("jump &amp; run" if suffix == "vtt" else "jump & run")
    assert bytes(packets[0]).decode().splitlines()[1] == ("walk -&gt; run" if suffix == "vtt" else "walk -> run")


def test_spans_that_overlap_share_cues():
    spans = [
        {"label": "walk", "start_s": 0, "end_s": 4, "probability": 0.5},
        {"label": "wave", "start_s": 2, "end_s": 6, "probability": 0.25},
        {"label": "sit", "start_s": 8, "end_s": 9, "probability": 1},
    ]
    assert timeline_cues({"timeline": spans}) == [
        Cue(0, 2, "walk 50 %"),
        Cue(2, 4, "walk 50 %\nwave 25 %"),
        Cue(4, 6, "wave 25 %"),
        Cue(8, 9, "sit 100 %"),
    ]


def test_people_hold_until_the_next_keyframe():
    assert [(c.start_s, c.end_s, c.text.strip()) for c in people_cues(KEYFRAMES, 0.3, 1.0)] == [
        (0.0, 1.0, "person 1: walk, talk & eat"),
        (1.0, 2.0, "person 1: walk"),
    ]


def test_tracks_of_people_end_where_they_are_not_seen(tmp_path):
    write_people(tmp_path / "a.xml", KEYFRAMES, [(i + 100, i / 10) for i in range(25)], (240, 320))
    root = ElementTree.parse(tmp_path / "a.xml").getroot()
    assert root.find("meta/task/name").text == "a <b>"
    tracks = {track.get("id"): track.findall("box") for track in root.findall("track")}
    where = {number: [(box.get("frame"), box.get("outside")) for box in boxes] for number, boxes in tracks.items()}
    assert where == {"1": [("100", "0"), ("110", "0"), ("120", "1")], "2": [("100", "0"), ("110", "1")]}
    assert tracks["1"][0].get("xtl") == "0.00"  # within the image
    assert tracks["1"][0].find("attribute").text == "walk 0.90; talk & eat 0.50"


def test_lines_are_json(tmp_path):
    write_lines(tmp_path / "a.jsonl", KEYFRAMES["keyframes"])
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == KEYFRAMES["keyframes"]


def test_formats_are_checked():
    assert check_action_formats("vtt,srt,vtt", ("vtt", "srt")) == ("vtt", "srt")
    assert check_action_formats(None, ("vtt",)) == ()
    with pytest.raises(InputError, match="'cvat' is no format; choose from vtt"):
        check_action_formats("cvat", ("vtt",))
