"""Tables of people's boxes."""

from __future__ import annotations

from tests.hostile.case import case
from tests.hostile.inputs import CHECKPOINTS as C
from tests.hostile.inputs import FRAMES as F
from tests.hostile.inputs import GOOD
from tests.hostile.inputs import TABLES as T


def add_cases() -> None:
    base = ("detect", GOOD, "--model", "slow_r50_4x16_ava", "--weights", C / "small_ava.safetensors", "--size", 64, "-q", "-o",
            "out", "--boxes")  # fmt: skip
    for name in ("good.csv", "bom.csv", "crlf.csv", "quoted.csv", "ava.csv", "duplicate.csv", "good.json", "bom.json"):
        case(f"boxes {name}", *base, T / name, want="ok")
    for path in sorted(TABLE_NAMES):
        if path in (
            "good.csv",
            "bom.csv",
            "crlf.csv",
            "quoted.csv",
            "ava.csv",
            "duplicate.csv",
            "good.json",
            "bom.json",
        ):
            continue
        case(f"boxes {path}", *base, T / path, want="any" if path in ("twice_column.csv", "negative.csv") else "refuse",
             must=(path,) if path not in ("no_rows.csv", "empty_list.json", "bbox_empty.json") else ())  # fmt: skip
    case("boxes is a folder", *base, F / "good", want="refuse")
    case("boxes is /dev/zero", *base, "/dev/zero", want="refuse", seconds=30)


TABLE_NAMES = [f"{n}.csv" for n in ["good", "bom", "crlf", "no_rows", "empty", "missing_column", "twice_column", "ragged", "nan", "inf", "nan_time", "inf_time", "huge_time", "negative_time", "negative", "outside", "inverted", "no_area", "score2", "score_nan", "duplicate", "quoted", "open_quote", "comma_decimals", "words", "frame_huge", "frame_negative", "frame_float", "nul", "long_field", "ava", "ava_pixels", "ava_other", "ava_class", "utf16", "latin1", "binary"]
] + [f"{n}.json" for n in ["good", "empty_list", "number", "string", "null", "nested", "strings", "three", "scores_number", "scores_few", "time_text", "time_list", "time_bool", "null_box", "null_boxes", "people_null", "people_box_null", "keyframes_number", "keyframes_numbers", "mixed", "huge_int", "huge_coordinate", "bbox_empty", "nan", "infinity", "bom", "utf16", "cut", "deep", "keys", "digits"]]  # fmt: skip
