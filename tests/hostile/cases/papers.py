"""`twospeed papers`: its options, and evaluations that are none."""

from __future__ import annotations

from pathlib import Path

from tests.hostile.case import case
from tests.hostile.inputs import CHECKPOINTS as C
from tests.hostile.inputs import SETS as S


def add_cases() -> None:
    case("papers", "papers", want="ok")
    case("papers list", "papers", "--list", "--format", "json", want="ok")
    case("papers stcn table1", "papers", "stcn", "table1", want="ok")
    for words in (
        ("nonsense",),
        ("stcn", "nonsense"),
        ("",),
        ("../etc/passwd",),
        ("stcn", ""),
        ("stcn", "../table1"),
        ("x" * 300,),
    ):
        case(f"papers {' '.join(words)[:30]!r}", "papers", *words, want="refuse" if words != ("stcn", "") else "any")
    table = ("papers", "stcn", "table1")
    for option in ("--format=x", "--run", "--score", "--score=x", "--score==", "--score=a/b=x", "--score=a/b=nan", "--score=a/b=1", "--data=x",
                   "--data=davis17=/nowhere", "--weights=x", "--weights=x=y", "--weights={name}", "--weights=/nowhere/{name}.pth", "--options='",
                   "--data=nonsense=."):  # fmt: skip
        case(f"papers {option}", *table, option, want="refuse")
    for option in (
        "--data=x",
        "--data=nonsense=.",
        "--weights=x",
        "--weights=nonsense=y",
        "--weights=/nowhere/{name}.pth",
    ):
        case(f"papers --run {option}", *table, "--run", "runs", option, want="refuse")
    for text in ("'", "--sequences 'dog"):
        case(f"papers --run --options {text}", *table, "--run", "runs", "--data", f"davis17={S}/kinetics", "--options", text,
             want="refuse", must=("--options",))  # fmt: skip
    for value in ("nan", "inf", "1e999", "\u0663"):
        case(f"papers --score {value!a}", *table, f"--score=STCN/J&F={value}", want="refuse", must=("not a number",))
    case("papers --run nowhere", *table, "--run", "nowhere", want="ok")
    name = "stcn-l2-davis17"
    for what, text in {"not json": b"{", "a list": b"[]", "empty": b"", "binary": b"\xff\xfe", "deep": b"[" * 100_000, "null": b"null",
                       "a number": b"3", "digits": b"9" * 9000}.items():  # fmt: skip
        case(
            f"papers run with every file {what}",
            *table,
            "--run",
            "runs",
            before=lambda p, t=text: every_run(t),
            want="refuse",
        )
    case("papers run with other files", *table, "--run", "runs", before=lambda p: (Path("runs").mkdir(), (Path("runs") / f"{name}x.json").write_text("{")),
         want="ok")  # fmt: skip
    case(
        "papers run, data broken",
        *table,
        "--run",
        "runs",
        "--data",
        f"davis17={S}/kinetics",
        "--weights",
        f"stcn-l2={C}/good.pth",
        want="any",
    )


def every_run(text: bytes) -> None:
    from twospeed.papers.facts import read_paper

    Path("runs").mkdir()
    for run in read_paper("stcn").runs:
        Path(f"runs/{run}.json").write_bytes(text)
