"""Results as files: made one at a time beside the model work, and kept while they are asked for again."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable

from starlette.concurrency import run_in_threadpool

from lens_scopes.server.api.problems import Refusal

_MAX_WAITING = 16
_MAX_FILES, _MAX_BYTES = 8, 64_000_000


class Reports:
    """Makes files in one thread of its own, so that the pages of others are not kept waiting."""

    def __init__(self) -> None:
        self._lock = asyncio.Semaphore(1)
        self._n_waiting = 0
        self._contents: OrderedDict[Hashable, bytes] = OrderedDict()

    async def content(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """The file of that key, made where it is not kept.

        Raises:
            Refusal: 503 where many are waiting for files already; and whatever `make` raises.
        """
        if self._n_waiting >= _MAX_WAITING:
            raise Refusal(503, "many files are being made; try again in a moment.", headers={"Retry-After": "5"})
        self._n_waiting += 1
        try:
            # One at a time; who waited for the same file finds it made.
            async with self._lock:
                if key not in self._contents:
                    self._contents[key] = await run_in_threadpool(make)
                self._contents.move_to_end(key)
                content = self._contents[key]
                # The files asked for longest ago go first.
                while len(self._contents) > _MAX_FILES or sum(map(len, self._contents.values())) > _MAX_BYTES:
                    self._contents.popitem(last=False)
                return content
        finally:
            self._n_waiting -= 1
