"""Connections with a time limit on request headers, and a limit on how many a client has open."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
MAX_PER_CLIENT = 256

_open: Counter[str] = Counter()


class PatientProtocol(H11Protocol):
    """uvicorn's protocol, but for clients that open connections and say nothing: they would hold them for ever."""

    _deadline: asyncio.TimerHandle | None = None
    _client = ""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._client = (transport.get_extra_info("peername") or ("",))[0]
        _open[self._client] += 1
        if _open[self._client] > MAX_PER_CLIENT:
            transport.close()
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        _open[self._client] -= 1
        if not _open[self._client]:
            del _open[self._client]
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Starts the clock while headers are awaited, and stops it once they are there."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
