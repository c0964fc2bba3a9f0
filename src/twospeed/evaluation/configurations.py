"""The report's tables: all pathway configurations of SlowFast Mask R-CNN on DAVIS-2016, from one call.

Table 1, unsupervised: J&F, parameters, evaluation time. Table 2, semi-supervised: J&F after fine-tuning on each first
mask, all frames scored, the first one predicted like any other.
Source: "Applying SlowFast Networks to Video Object Segmentation" (report), its Tables 1 and 2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twospeed.data.benchmarks.davis import Davis
from twospeed.errors import InputError
from twospeed.evaluation.report import Kind, Report, Table
from twospeed.evaluation.unsupervised import UnsupervisedSettings
from twospeed.evaluation.vos import evaluate_davis
from twospeed.files import make_folder, write_text
from twospeed.results import OnProgress
from twospeed.weights.load import weights_sha256


@dataclass(frozen=True)
class Published:
    """What the report gives for DAVIS-2016 val: J&F of both tasks, seconds for the 20 sequences."""

    unsupervised: float
    seconds: float
    semi_supervised: float


REPORT = {
    "slowfast_maskrcnn_1_1": Published(0.645, 477, 0.747),
    "slowfast_maskrcnn_3_3": Published(0.679, 544, 0.747),
    "slowfast_maskrcnn_7_7": Published(0.673, 853, 0.755),
    "slowfast_maskrcnn_1_7": Published(0.655, 528, 0.741),
    "slowfast_maskrcnn_3_7": Published(0.676, 584, 0.758),
}


def evaluate_configurations(
    root: Path | str,
    *,
    weights: Mapping[str, Any],
    settings: UnsupervisedSettings | None = None,
    split: str = "val",
    sequences: Sequence[str] | None = None,
    output: Path | str | None = None,
    resume: bool = False,
    device: str | None = None,
    on_progress: OnProgress = lambda progress: None,
) -> Report:
    """Evaluate several configurations on DAVIS-2016 and put them into the report's tables.

    weights: of each configuration by its name, in the order of the rows. settings: of all; `finetune` iterations ask
    for Table 2, too. output: folder for masks, each configuration's own report and the tables as text and CSV (table1
    and table2); None keeps nothing. resume: configurations that are done are read back, an interrupted one goes on.

    Evaluation time is the clock's for the frames that this run computed, scaled to all frames; it includes neither
    reading and writing of files nor fine-tuning, which has a column of its own. The report's scores are {"table1":
    {name: {...}}, "table2": ...}. Raises as `evaluate_davis`.
    """
    if not weights:
        raise InputError("no configuration is named; give weights of one at least")
    if resume and output is None:
        raise InputError("--resume needs the folder of the interrupted run: give -o DIR")
    settings = settings or UnsupervisedSettings()
    checksums = {name: weights_sha256(name, source) for name, source in weights.items()}  # all there before any runs
    frames = sum(len(sample.frames) for sample in Davis(root, 2016, split, sequences=sequences))
    stages = {"table1": replace(settings, finetune=0)}
    if settings.finetune:
        stages["table2"] = settings
    documents: dict[str, dict[str, dict[str, Any]]] = {stage: {} for stage in stages}
    with ExitStack() as stack:
        folder = Path(output) if output is not None else Path(stack.enter_context(TemporaryDirectory()))
        for stage, chosen in stages.items():
            for name, source in weights.items():
                place = folder / stage / name

                def run(place: Path = place, name: str = name, source: Any = source, chosen: Any = chosen) -> Report:
                    return evaluate_davis(
                        root,
                        2016,
                        model=name,
                        weights=source,
                        split=split,
                        all_frames=bool(chosen.finetune),
                        sequences=sequences,
                        settings=chosen,
                        output=place,
                        resume=resume and place.is_dir(),
                        device=device,
                        on_progress=on_progress,
                    )

                same = {"weights_sha256": checksums[name], "settings": {**asdict(chosen), "merged": True}}
                documents[stage][name] = _done_or(run, folder / stage / f"{name}.json", same, resume)
        rows = {stage: {name: _row(one, frames) for name, one in each.items()} for stage, each in documents.items()}
        tables = [_table_1(rows["table1"]), *([_table_2(rows["table2"])] if settings.finetune else [])]
        for stage, table in zip(stages, tables, strict=True):
            make_folder(folder)
            write_text(folder / f"{stage}.txt", table.text() + "\n")
            write_text(folder / f"{stage}.csv", table.csv())
    document = next(iter(documents["table1"].values()))
    return Report(
        benchmark="davis16-configurations",
        scores=rows,
        table=tables[0],
        more_tables=tuple(tables[1:]),
        protocol="; ".join(dict.fromkeys(one["protocol"] for each in documents.values() for one in each.values())),
        coverage=document["coverage"],
        model=", ".join(weights),
        weights_sha256=tuple(one["weights_sha256"] for one in documents["table1"].values()),
        settings=asdict(settings),
        notes=(
            "the report's scores are of weights that started from COCO, its seconds of 20 sequences on its own machine",
        ),
    )


def _done_or(run: Callable[[], Report], file: Path, same: Mapping[str, Any], resume: bool) -> dict[str, Any]:
    """Return the document of a finished evaluation, or evaluate and write it."""
    if resume and file.is_file():
        before: dict[str, Any] = json.loads(file.read_text())
        if changed := [key for key, value in same.items() if before.get(key) != value]:
            raise InputError(
                f"{file}: was made with other {changed[0]} ({before.get(changed[0])!r}, now {same[changed[0]]!r}); "
                "use the same, or write elsewhere (-o)"
            )
        return before
    report = run()
    report.write_json(file)
    return report.to_json()


def _row(document: Mapping[str, Any], frames: int) -> dict[str, Any]:
    """What the tables need of one evaluation."""
    speed = document["speed"]
    each = speed["seconds"] / speed["frames"] if speed.get("frames") else None
    return {
        **{key: document["global"][key] for key in ("J&F-Mean", "J-Mean", "F-Mean")},
        "parameters": document["parameters"],
        "seconds": None if each is None else each * frames,
        "seconds_per_frame": each,
        "finetune_seconds": speed.get("finetune_seconds"),
    }


def _table_1(of: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for name, row in of.items():
        known = REPORT.get(name)
        given = (known.unsupervised, known.seconds) if known else (None, None)
        rows.append((name, (row["J&F-Mean"], row["J-Mean"], row["F-Mean"], row["parameters"], row["seconds"], *given)))
    kinds: tuple[Kind, ...] = ("share", "share", "share", "count", "seconds", "share", "seconds")
    columns = ("J&F-Mean", "J-Mean", "F-Mean", "parameters", "seconds", "J&F report", "seconds report")
    return Table(columns, tuple(rows), kinds, "Table 1: unsupervised")


def _table_2(of: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for name, row in of.items():
        given = REPORT[name].semi_supervised if name in REPORT else None
        times = (row["seconds"], row["finetune_seconds"])
        rows.append((name, (row["J&F-Mean"], row["J-Mean"], row["F-Mean"], *times, given)))
    kinds: tuple[Kind, ...] = ("share", "share", "share", "seconds", "seconds", "share")
    columns = ("J&F-Mean", "J-Mean", "F-Mean", "seconds", "fine-tuning s", "J&F report")
    return Table(columns, tuple(rows), kinds, "Table 2: semi-supervised")
