"""`report.html`: how many videos are done, what has failed and why, what each looks like, and how fast it went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from twospeed.batch.manifest import Row
from twospeed.batch.worker import THUMBNAILS, VIDEOS

REPORT = "report.html"
_MOST_SHOWN = 2000
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .2rem .8rem .2rem 0; text-align: left;
vertical-align: top; }
.videos { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 1rem; }
.videos img { width: 160px; background: #eee; } .videos a { color: inherit; overflow-wrap: anywhere; }
small { color: #666; display: block; }
"""


def report_page(job: str, place: str, rows: Sequence[Row], *, ended: int, seconds: float) -> str:
    """Return the page. It refers to images and folders beside it, and to nothing elsewhere.

    ended: how many videos this run has done. seconds: how long it took.
    """
    states = Counter(row.state for row in rows)
    done = [row for row in rows if row.state == "done"]
    frames = sum(row.facts.get("frames", 0) for row in done)
    work_s = sum(row.seconds for row in done)
    facts = [
        ("Videos", f"{len(rows)}"),
        *((state.capitalize(), f"{states[state]}") for state in ("done", "failed", "running", "pending")),
        ("Frames", f"{frames}"),
        ("Time of work", f"{work_s:.1f} s, summed over workers"),
        (
            "Last run",
            f"{ended} videos in {seconds:.1f} s" + (f", {60 * ended / seconds:.1f} a minute" if ended else ""),
        ),
    ]
    summary = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in facts)
    failed = [row for row in rows if row.state == "failed"]
    lines = "".join(
        f"<tr><td>{escape(row.key)}</td><td>{escape(row.kind)}</td><td>{row.attempts}</td><td>{escape(row.error)}</td></tr>"
        for row in failed[:_MOST_SHOWN]
    )
    failures = (
        f"<h2>Failed</h2><table><tr><th>Video</th><th>Kind</th><th>Attempts</th><th>Reason</th></tr>{lines}</table>"
        if failed
        else ""
    )
    videos = "".join(
        f'<a href="{VIDEOS}/{quote(row.key)}/"><img loading="lazy" alt="" src="{THUMBNAILS}/{quote(row.key)}.jpg">'
        f"{escape(row.key)}<small>{row.facts.get('frames', 0)} frames, {row.seconds:.1f} s</small></a>"
        for row in done[:_MOST_SHOWN]
    )
    more = len(done) + len(failed) - min(len(done), _MOST_SHOWN) - min(len(failed), _MOST_SHOWN)
    rest = f"<p>{more} more are in results.parquet.</p>" if more else ""
    title = f"{escape(job)}: {len(rows)} videos"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{escape(place)}</p><table>{summary}</table>{failures}"
        f'<h2>Done</h2><div class="videos">{videos}</div>{rest}</html>\n'
    )
