"""Results as Parquet: one row a video in `results.parquet`, and folders of tables, a file a video, of what was found.

Columns are described in docs/reference/batch.md; they change only with SCHEMA_VERSION, which every file holds in its
metadata.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twospeed.errors import InputError
from twospeed.files import read_text

if TYPE_CHECKING:
    import pyarrow as pa

    from twospeed.batch.manifest import Row

SCHEMA_VERSION = 1
RESULTS = "results.parquet"
_ACTIONS = "list<struct<class_id: int32, label: string, score: float>>"

COLUMNS: Mapping[str, Mapping[str, str]] = {
    "results": {
        "video": "string", "source": "string", "state": "string", "attempts": "int32", "error_kind": "string",
        "error": "string", "model": "string", "weights_sha256": "string", "frames": "int64", "seconds": "double",
        "frames_per_second": "double", "summary": "string", "begun": "string", "ended": "string",
    },
    "frames": {
        "video": "string", "output_index": "int64", "source_index": "int64", "file_name": "string", "time_s": "double",
        "pts": "int64", "keyframe": "bool",
    },
    "objects": {
        "video": "string", "output_index": "int64", "source_index": "int64", "time_s": "double", "object_id": "int32",
        "area_pixels": "int64", "x1": "int32", "y1": "int32", "x2": "int32", "y2": "int32", "confidence": "float",
    },
    "classes": {
        "video": "string", "output_index": "int64", "time_s": "double", "class_id": "int32", "label": "string",
        "share": "float",
    },
    "boxes": {
        "video": "string", "time_s": "double", "person_id": "int32", "x1": "float", "y1": "float", "x2": "float",
        "y2": "float", "person_score": "float", "actions": _ACTIONS,
    },
    "actions": {
        "video": "string", "kind": "string", "start_s": "double", "end_s": "double", "class_id": "int32",
        "label": "string", "probability": "float",
    },
}  # fmt: skip
"""Columns and types of each table."""


def need_parquet() -> None:
    """Raise InputError where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError("results of many videos are written with pyarrow; install twospeed[batch]") from error


def video_tables(job: str, video: str, folder: Path, record: Mapping[str, Any]) -> dict[str, pa.Table]:
    """Return the tables of one finished video, read from its folder of results."""
    table = list(csv.DictReader(io.StringIO(read_text(folder / "frames.csv"), newline="")))
    numbers = [
        {
            "output_index": int(line["output_index"]),
            "source_index": int(line["source_index"]),
            "file_name": line["file_name"] or None,
            "time_s": float(line["time_s"]),
            "pts": int(line["pts"]) if line["pts"] else None,
            "keyframe": line["keyframe"] == "1",
        }
        for line in table
    ]
    found = {"frames": _table("frames", video, numbers)}
    if job == "track":
        found["objects"] = _table("objects", video, _objects(folder, table, numbers))
    elif job == "segment":
        found["classes"] = _table("classes", video, _classes(json.loads(read_text(folder / "areas.json")), record))
    else:
        document = json.loads(read_text(folder / "results.json"))
        name, rows = ("boxes", _boxes(document)) if job == "detect" else ("actions", _actions(document))
        found[name] = _table(name, video, rows)
    return found


def results_table(rows: Iterable[Row]) -> pa.Table:
    """Return the table of all videos."""
    lines = []
    for row in rows:
        facts = {name: value for name, value in row.facts.items() if name in COLUMNS["results"]}
        summary = json.dumps(row.facts["summary"]) if "summary" in row.facts else None
        line = {"video": row.key, "source": row.source, "state": row.state, "attempts": row.attempts}
        line |= {"error_kind": row.kind or None, "error": row.error or None}
        line |= {"begun": row.begun or None, "ended": row.ended or None}
        lines.append({**line, **facts, "summary": summary, "seconds": row.seconds})
    return _table("results", None, lines)


def write_table(table: pa.Table) -> bytes:
    """Return a table as the content of a Parquet file."""
    import pyarrow.parquet as pq

    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    return content.getvalue()


def _table(name: str, video: str | None, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    simple = {"bool": pa.bool_(), "double": pa.float64(), "float": pa.float32(), "string": pa.string()}
    simple |= {"int32": pa.int32(), "int64": pa.int64()}
    simple[_ACTIONS] = pa.list_(pa.struct([("class_id", pa.int32()), ("label", pa.string()), ("score", pa.float32())]))
    schema = pa.schema(
        [(column, simple[kind]) for column, kind in COLUMNS[name].items()],
        metadata={"twospeed.table": name, "twospeed.schema": str(SCHEMA_VERSION)},
    )
    lines = [row if video is None else {"video": video, **row} for row in rows]
    return pa.Table.from_pylist(lines, schema=schema)


def _objects(folder: Path, table: list[dict[str, str]], numbers: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    import numpy as np

    from twospeed.video.indexed_png import read_label_map

    for line, frame in zip(table, numbers, strict=True):
        name = line["file_name"] or f"{frame['source_index']:05d}"
        labels = read_label_map(folder / "masks" / f"{name}.png", allow_empty=True)
        sure = dict(pair.split(":") for pair in line["confidence"].split(";") if pair)
        shared = {key: frame[key] for key in ("output_index", "source_index", "time_s")}
        areas = np.bincount(labels.ravel(), minlength=256)
        for number in sorted({*map(int, sure), *areas.nonzero()[0].tolist()} - {0}):
            corners: dict[str, int] = {}
            if areas[number]:
                ys, xs = (np.flatnonzero((labels == number).any(axis)) for axis in (1, 0))
                corners = {"x1": int(xs[0]), "y1": int(ys[0]), "x2": int(xs[-1]) + 1, "y2": int(ys[-1]) + 1}
            confidence = float(sure[str(number)]) if str(number) in sure else None
            area = int(areas[number])
            yield {**shared, "object_id": number, "area_pixels": area, **corners, "confidence": confidence}


def _classes(document: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for index, time_s in enumerate(document["time_s"]):
        for number, (label, shares) in enumerate(document["areas"].items()):
            if shares[index]:
                facts = {"output_index": index, "time_s": time_s, "class_id": number, "label": label}
                yield {**facts, "share": shares[index]}


def _boxes(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for keyframe in document["keyframes"]:
        for person in keyframe["people"]:
            corners = dict(zip(("x1", "y1", "x2", "y2"), person["box_xyxy"], strict=True))
            facts = {"time_s": keyframe["time_s"], "person_id": person["id"], "person_score": person["person_score"]}
            yield {**facts, **corners, "actions": person["actions"]}


def _actions(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    parts = [("video", None, None, document["top"])]
    parts += [("span", span["start_s"], span["end_s"], [span]) for span in document["timeline"]]
    parts += [("view", view["time_s"], view["time_s"], view["top"]) for view in document["views"]]
    for kind, start_s, end_s, best in parts:
        for action in best:
            facts = {name: action[name] for name in ("class_id", "label", "probability")}
            yield {"kind": kind, "start_s": start_s, "end_s": end_s, **facts}
