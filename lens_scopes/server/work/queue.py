"""Queue for model work: bounded, first in first out, one job at a time, with cancellation.

A job runs in a thread of its own, so that the server goes on answering. It is asked to stop by `Job.check`, which the
work calls between layers and between passes. Requests with the same question share one job, each with a ticket for
it; the job is cancelled when the last of them leaves.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from lens_scopes.server.api.problems import Refusal, TimeUpError, WorkCancelledError, defect, refusal_of
from lens_scopes.server.api.schemas import Progress
from lens_scopes.server.settings import Limits

logger = logging.getLogger("lens_scopes.server")

_REPORT_INTERVAL = 0.05  # seconds between two reports of progress
_HEARTBEAT = 10.0  # seconds without news after which a stream still says something


@dataclass(frozen=True)
class Stage:
    """What a job is doing and how far it is."""

    name: str
    done: int
    total: int


class Job:
    """Model work that one or several requests wait for."""

    def __init__(self, work: Callable[[Job], Any], seconds: float, question: str = "") -> None:
        self.question = question
        self.tickets: list[Ticket] = []
        self.stage = Stage("waiting", 0, 1)
        self.result: Any = None
        self.refusal: Refusal | None = None
        self.finished = False
        self._work = work
        self._seconds = seconds
        self._deadline = float("inf")
        self._cancellation = threading.Event()
        self._last_report = 0.0

    @property
    def joinable(self) -> bool:
        """Whether another request may still wait for it."""
        return not self.finished and not self._cancellation.is_set()

    def check(self) -> None:
        """Called by the work wherever it can stop.

        Raises:
            WorkCancelledError: when someone has asked it to.
            TimeUpError: when it has run for longer than it may.
        """
        if self._cancellation.is_set():
            raise WorkCancelledError
        if time.monotonic() > self._deadline:
            raise TimeUpError

    def report(self, name: str, done: int, total: int) -> None:
        """Called by the work with what it has done; a place to stop too."""
        self.check()
        self.stage = Stage(name, done, total)
        now = time.monotonic()
        # Each report wakes every waiting request, and work may report thousands of times a second.
        if now - self._last_report > _REPORT_INTERVAL:
            self._last_report = now
            self.wake()

    def cancel(self) -> None:
        """Asks the work to stop."""
        self._cancellation.set()

    def wake(self) -> None:
        """Tells whoever waits for the job that something has changed."""
        # A copy: requests come and go in another thread.
        for ticket in tuple(self.tickets):
            ticket.wake()

    def run(self) -> None:
        """Does the work, in the queue's thread."""
        self._deadline = time.monotonic() + self._seconds
        try:
            self.check()
            self.result = self._work(self)
        except BaseException as error:
            self.refusal = refusal_of(error, self._seconds)
            if self.refusal is None:
                self.refusal = defect()
                # Without the message: it may quote the prompt, and nothing typed is logged.
                frames = "".join(traceback.format_tb(error.__traceback__))
                logger.error("a request failed with %s\n%s", type(error).__name__, frames)
        finally:
            self.finish()

    def finish(self) -> None:
        """Marks the job as done and lets go of the work, which may hold a prompt."""
        self._work = lambda job: None
        self.finished = True
        self.wake()


class Ticket:
    """One request's claim to what a job gives.

    Attributes:
        client: who waits; nobody may fill the queue alone.
    """

    def __init__(self, job: Job, client: str = "") -> None:
        self.id = secrets.token_urlsafe(9)
        self.job = job
        self.client = client
        self._has_left = False
        self._change = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def finished(self) -> bool:
        return self._has_left or self.job.finished

    @property
    def refusal(self) -> Refusal | None:
        """Why there is no result; None where there is one."""
        return Refusal(409, "the request was cancelled.") if self._has_left else self.job.refusal

    @property
    def result(self) -> Any:
        return self.job.result

    def leave(self) -> None:
        """Gives the claim up, whatever becomes of the job."""
        self._has_left = True
        self.wake()

    def wake(self) -> None:
        """Tells the request that something has changed."""
        try:
            self._loop.call_soon_threadsafe(self._change.set)
        except RuntimeError:  # the server has stopped and nobody waits any more
            self.job.cancel()

    async def change(self) -> None:
        """Waits until something has changed, or for a heartbeat."""
        try:
            await asyncio.wait_for(self._change.wait(), _HEARTBEAT)
        except asyncio.TimeoutError:  # noqa: UP041 (another class before Python 3.11)
            return
        self._change.clear()


class WorkQueue:
    """Runs jobs one after the other in one thread, which begins with the first."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._lock = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    def submit(self, work: Callable[[Job], Any], client: str = "", question: str = "") -> Ticket:
        """Queues work, or joins the job of the same question, which takes no place in the queue.

        Args:
            client: whose request it is: nobody may fill the queue alone.
            question: what is asked; equal questions are worked on once. Empty for work that is never shared.

        Raises:
            Refusal: 503 where the queue, or the client's share of it, is full, or the server is stopping.
        """
        with self._lock:
            if self._is_stopped:
                raise Refusal(503, "the server is stopping.")
            jobs = self._jobs()
            # Joined jobs count too: each ticket holds a connection.
            n_own = sum(ticket.client == client for job in jobs for ticket in job.tickets)
            if n_own >= self._limits.requests_per_client:
                raise _too_many(n_own)
            # One job serves all who ask the same, as long as it has neither ended nor been cancelled.
            job = next((job for job in jobs if question and job.question == question and job.joinable), None)
            if job is None:
                job = self._new_job(work, client, question)
            ticket = Ticket(job, client)
            job.tickets.append(ticket)
            self._lock.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="model work", daemon=True)
                self._thread.start()
        return ticket

    def _new_job(self, work: Callable[[Job], Any], client: str, question: str) -> Job:
        """A job at the end of the queue, where there is room for it."""
        if len(self._waiting) >= self._limits.waiting:
            raise Refusal(
                503,
                f"{len(self._waiting)} requests are waiting already; try again in a moment.",
                headers={"Retry-After": "5"},
            )
        n_own = sum(any(ticket.client == client for ticket in job.tickets) for job in self._waiting)
        if n_own >= self._limits.waiting_per_client:
            raise _too_many(n_own)
        job = Job(work, self._limits.seconds, question)
        self._waiting.append(job)
        return job

    @property
    def idle(self) -> bool:
        """Whether a job would begin at once."""
        with self._lock:
            return not self._jobs()

    def _jobs(self) -> list[Job]:
        """Those that wait and the one that runs."""
        return [job for job in (*self._waiting, self._running) if job is not None and not job.finished]

    def ahead_of(self, ticket: Ticket) -> int:
        """How many jobs will be run before this request's is."""
        with self._lock:
            if ticket.job not in self._waiting:
                return 0
            return self._waiting.index(ticket.job) + (self._running is not None)

    def cancel(self, ticket: Ticket) -> None:
        """Cancels a request at once; its job too where nobody else waits for it, at its next check where it runs."""
        ticket.leave()
        with self._lock:
            job = ticket.job
            if ticket in job.tickets:
                job.tickets.remove(ticket)
            if job.tickets:
                return
            job.cancel()
            if job not in self._waiting:
                return
            self._waiting.remove(job)
            behind = list(self._waiting)
        job.finish()
        for other in behind:
            other.wake()

    def find(self, ticket_id: str) -> Ticket:
        """The waiting or running request of that id.

        Raises:
            Refusal: 404 where there is none.
        """
        with self._lock:
            for ticket in (ticket for job in self._jobs() for ticket in job.tickets):
                if ticket.id == ticket_id:
                    return ticket
        raise Refusal(404, "no such request is waiting or running.")

    def open(self) -> None:
        """Takes work again, after `stop`."""
        with self._lock:
            self._is_stopped = False
            self._thread = None

    def stop(self, seconds: float = 5.0) -> None:
        """Cancels everything, takes nothing more, and waits for the thread to end."""
        with self._lock:
            self._is_stopped = True
            self._lock.notify_all()
            tickets = [ticket for job in self._jobs() for ticket in job.tickets]
            thread = self._thread
        for ticket in tickets:
            self.cancel(ticket)
        if thread is not None:
            thread.join(seconds)

    async def updates(self, ticket: Ticket) -> AsyncGenerator[Progress, None]:
        """How far the job is, whenever that changes, until it has finished; only the latest state is kept.

        Whoever stops listening cancels the request.
        """
        try:
            while not ticket.finished:
                stage = ticket.job.stage
                yield Progress(
                    job=ticket.id, waiting=self.ahead_of(ticket), stage=stage.name, done=stage.done, total=stage.total
                )
                await ticket.change()
        finally:
            if not ticket.finished:
                self.cancel(ticket)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            job.run()

    def _next(self) -> Job | None:
        """Waits for the next job; None when the queue has been stopped."""
        with self._lock:
            self._running = None
            while not self._waiting and not self._is_stopped:
                self._lock.wait()
            if not self._waiting:
                return None
            self._running = self._waiting.popleft()
            behind = list(self._waiting)
            job = self._running
        for other in behind:
            other.wake()
        return job


def _too_many(n_own: int) -> Refusal:
    return Refusal(503, f"{n_own} of your requests are waiting already.", headers={"Retry-After": "5"})
