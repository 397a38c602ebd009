"""Results as files: made one at a time beside the model work, and kept while they are asked for again."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable

from starlette.concurrency import run_in_threadpool

from lens_scopes.server.api.problems import Refusal

_MOST_WAITING = 16
_KEPT, _KEPT_BYTES = 8, 64_000_000


class Reports:
    """Makes files in one thread of its own, so that the pages of others are not kept waiting."""

    def __init__(self) -> None:
        self._one = asyncio.Semaphore(1)
        self._waiting = 0
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()

    async def content(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """The file of that key, made where it is not kept.

        Raises:
            Refusal: 503 where many are waiting for files already; and whatever `make` raises.
        """
        if self._waiting >= _MOST_WAITING:
            raise Refusal(503, "many files are being made; try again in a moment.", headers={"Retry-After": "5"})
        self._waiting += 1
        try:
            async with self._one:
                if key not in self._kept:
                    self._kept[key] = await run_in_threadpool(make)
                self._kept.move_to_end(key)
                content = self._kept[key]
                while len(self._kept) > _KEPT or sum(map(len, self._kept.values())) > _KEPT_BYTES:
                    self._kept.popitem(last=False)
                return content
        finally:
            self._waiting -= 1
