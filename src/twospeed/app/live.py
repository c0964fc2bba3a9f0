"""What open tabs hear at once: masks as they are tracked, and what changed."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from twospeed.app.wire import WireMask

MOST_WAITING = 8  # masks that a tab may be behind; after that it is told which frames changed instead


class Tab:
    """One open page. Messages wait here until its connection takes them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._texts: deque[dict[str, Any]] = deque(maxlen=1000)
        self._masks: deque[WireMask] = deque()
        self._missed: list[int] = []
        self._wake = asyncio.Event()

    def put(self, text: dict[str, Any] | None, masks: Iterable[WireMask] = ()) -> None:
        """Add messages."""
        for mask in masks:
            if self._missed or len(self._masks) >= MOST_WAITING:
                self._missed += [*(waiting.frame for waiting in self._masks), mask.frame]
                self._masks.clear()
            else:
                self._masks.append(mask)
        if text is not None:
            if self._texts and self._texts[-1].get("t") == text.get("t") == "job":
                self._texts.pop()
            self._texts.append(text)
        self._wake.set()

    async def send_all(self, socket: WebSocket) -> None:
        """Send messages as they come, for as long as the connection lasts."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._masks or self._missed or self._texts:
                if self._masks:
                    await socket.send_bytes(self._masks.popleft().to_bytes())
                elif self._missed:
                    frames, self._missed = sorted(set(self._missed)), []
                    await socket.send_text(json.dumps({"t": "changed", "frames": frames}))
                else:
                    await socket.send_text(json.dumps(self._texts.popleft()))


class Hub:
    """The open tabs of each project."""

    def __init__(self) -> None:
        self._tabs: dict[str, set[Tab]] = {}

    def names(self, project: str) -> frozenset[str]:
        """Return the names of a project's open tabs."""
        return frozenset(tab.name for tab in self._tabs.get(project, ()))

    def tell(self, project: str, text: dict[str, Any] | None, masks: Iterable[WireMask] = ()) -> None:
        """Send to every tab of a project."""
        held = list(masks)
        for tab in self._tabs.get(project, ()):
            tab.put(text, held)

    async def serve(self, project: str, socket: WebSocket, name: str, hello: dict[str, Any]) -> None:
        """Serve one connection until it ends."""
        await socket.accept()
        tab = Tab(name)
        tabs = self._tabs.setdefault(project, set())
        tabs.add(tab)
        tab.put(hello)
        self.tell(project, {"t": "presence", "tabs": len(tabs)})
        sending = asyncio.create_task(tab.send_all(socket))
        try:
            while True:
                await socket.receive_text()  # pings, which keep the connection open
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            sending.cancel()
            tabs.discard(tab)
            self.tell(project, {"t": "presence", "tabs": len(tabs)})
