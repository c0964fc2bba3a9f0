"""Boxes and class names as text files."""

from __future__ import annotations

import json

import numpy as np

from tests.hostile.inputs import ASSETS as A


def tables() -> None:
    t = A / "table"
    t.mkdir()
    head = "time_s,x1,y1,x2,y2,score\n"
    rows = {
        "good": head + "0,10,10,40,50,0.9\n",
        "bom": "\ufeff" + head + "0,10,10,40,50,0.9\n",
        "crlf": (head + "0,10,10,40,50,0.9\n").replace("\n", "\r\n"),
        "no_rows": head,
        "empty": "",
        "missing_column": "time_s,x1,y1,x2\n0,1,2,3\n",
        "twice_column": "x1,x1,y1,x2,y2\n1,1,2,30,40\n",
        "ragged": head + "0,10,10,40\n",
        "nan": head + "0,nan,10,40,50,0.9\n",
        "inf": head + "0,10,10,inf,50,0.9\n",
        "nan_time": head + "nan,10,10,40,50,0.9\n",
        "inf_time": head + "inf,10,10,40,50,0.9\n",
        "huge_time": head + "1e300,10,10,40,50,0.9\n",
        "negative_time": head + "-5,10,10,40,50,0.9\n",
        "negative": head + "0,-100,10,40,50,0.9\n",
        "outside": head + "0,10,10,4000,50,0.9\n",
        "inverted": head + "0,40,50,10,10,0.9\n",
        "no_area": head + "0,10,10,10,50,0.9\n",
        "score2": head + "0,10,10,40,50,2\n",
        "score_nan": head + "0,10,10,40,50,nan\n",
        "duplicate": head + "0,10,10,40,50,0.9\n" * 50,
        "quoted": '"time_s","x1","y1","x2","y2","score"\n"0","10","10","40","50","0.9"\n',
        "open_quote": head + '"0,10,10,40,50,0.9\n',
        "comma_decimals": "time_s;x1;y1;x2;y2\n0,5;10,1;10;40;50\n",
        "words": head + "0,ten,10,40,50,0.9\n",
        "frame_huge": "frame,x1,y1,x2,y2\n99999999999999999999,1,1,30,40\n",
        "frame_negative": "frame,x1,y1,x2,y2\n-3,1,1,30,40\n",
        "frame_float": "frame,x1,y1,x2,y2\n1.5,1,1,30,40\n",
        "nul": head + "0,10,10,40,50,0.9\n\0\n",
        "long_field": head + "0,10,10,40,50," + "9" * 200_000 + "\n",
        "ava": "clip,0000,0.1,0.1,0.5,0.5,,0.9\n",
        "ava_pixels": "clip,0000,10,10,50,50,,0.9\n",
        "ava_other": "a,0000,0.1,0.1,0.5,0.5,,0.9\nb,0000,0.1,0.1,0.5,0.5,,0.9\n",
        "ava_class": "clip,0000,0.1,0.1,0.5,0.5,999,0.9\n",
    }
    for name, text in rows.items():
        (t / f"{name}.csv").write_bytes(text.encode())
    (t / "utf16.csv").write_text(rows["good"], encoding="utf-16")
    (t / "latin1.csv").write_bytes((head + "0,10,10,40,50,0.9\n").encode() + b"\xe9\xff\n")
    (t / "binary.csv").write_bytes(np.random.default_rng(0).bytes(5000))
    documents = {
        "good": [{"time_s": 0, "boxes": [[10, 10, 40, 50]], "scores": [0.9]}],
        "empty_list": [],
        "number": 7,
        "string": "boxes",
        "null": None,
        "nested": [[[[1]]]],
        "strings": [{"boxes": [["a", "b", "c", "d"]]}],
        "three": [{"boxes": [[1, 2, 3]]}],
        "scores_number": [{"boxes": [[1, 2, 30, 40]], "scores": 0.9}],
        "scores_few": [{"boxes": [[1, 2, 30, 40], [1, 2, 30, 40]], "scores": [0.9]}],
        "time_text": [{"time_s": "0", "boxes": [[1, 2, 30, 40]]}],
        "time_list": [{"time_s": [0], "boxes": [[1, 2, 30, 40]]}],
        "time_bool": [{"time_s": True, "boxes": [[1, 2, 30, 40]]}],
        "null_box": [{"box": None}],
        "null_boxes": [{"boxes": None}],
        "people_null": {"keyframes": [{"people": None}]},
        "people_box_null": {"keyframes": [{"people": [{"box_xyxy": None}]}]},
        "keyframes_number": {"keyframes": 3},
        "keyframes_numbers": {"keyframes": [3, 4]},
        "mixed": [[1, 2, 30, 40], {"boxes": [[1, 2, 30, 40]]}],
        "huge_int": [{"time_s": 10**400, "boxes": [[1, 2, 30, 40]]}],
        "huge_coordinate": [{"boxes": [[1, 2, 10**400, 40]]}],
        "bbox_empty": [{"bbox": []}],
    }
    for name, document in documents.items():
        (t / f"{name}.json").write_text(json.dumps(document))
    (t / "nan.json").write_text('[{"time_s": NaN, "boxes": [[1, 2, 30, 40]]}]')
    (t / "infinity.json").write_text('[{"boxes": [[1, 2, Infinity, 40]]}]')
    (t / "bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(documents["good"]).encode())
    (t / "utf16.json").write_text(json.dumps(documents["good"]), encoding="utf-16")
    (t / "cut.json").write_text('[{"boxes": [[1, 2')
    (t / "deep.json").write_text("[" * 100_000)
    (t / "keys.json").write_text('{"a": 1}')
    (t / "digits.json").write_text('[{"time_s": ' + "1" * 6000 + ', "boxes": [[1, 2, 30, 40]]}]')
    names = {"three": "a\nb\nc\n", "empty": "", "same": "a\na\na\na\n", "utf16": None, "json_gap": '{"a": 0, "b": 2}',
             "json_cut": '["a"', "json_deep": "[" * 100_000}  # fmt: skip
    for name, text in names.items():
        path = t / f"labels_{name}.txt"
        path.write_text("a\nb\n", encoding="utf-16") if text is None else path.write_text(text)
