"""What Prometheus reads: counts of a batch as text, served on this machine only."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from twospeed.errors import InputError
from twospeed.results import OnProgress, Progress


@contextlib.contextmanager
def serve_metrics(port: int) -> Iterator[OnProgress]:
    """Serve /metrics on 127.0.0.1; give a function that takes each progress. Raises InputError for a port in use.

    port: 0 chooses one; it is in the function's attribute `port`.
    """
    latest: list[Progress] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/metrics"
            content = _text(latest[-1] if latest else None).encode() if found else b"see /metrics\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            return

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise InputError(
            f"port {port} cannot be used ({error.strerror}); give another", option="metrics_port"
        ) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def note(progress: Progress) -> None:
        latest[:] = [progress]

    note.port = server.server_address[1]  # type: ignore[attr-defined]
    try:
        yield note
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _text(progress: Progress | None) -> str:
    if progress is None:
        return ""
    failed, running = progress.values.get("failed", 0), progress.values.get("running", 0)
    gauges = {
        "videos": ("Videos of the batch", progress.total or 0),
        "videos_done": ("Videos that are done", progress.done - failed),
        "videos_failed": ("Videos that have failed", failed),
        "videos_running": ("Videos that are worked on", running),
        "seconds": ("Seconds since this run began", round(progress.seconds, 3)),
    }
    lines = []
    for name, (meaning, value) in gauges.items():
        full = f"twospeed_batch_{name}"
        lines += [f"# HELP {full} {meaning}.", f"# TYPE {full} gauge", f"{full} {value:g}"]
    return "\n".join(lines) + "\n"
