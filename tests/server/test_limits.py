"""What the server refuses, who it answers, and what becomes of the rest: limits, the queue, other sites, the log."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from command_line import PROMPT
from fastapi.testclient import TestClient
from served import ADDRESS, client, events, served_model, serving, wait_until

from lens_scopes.server import create_app
from lens_scopes.server.api.problems import Refusal
from lens_scopes.server.api.schemas import AttributeRequest
from lens_scopes.server.settings import Access, Limits
from lens_scopes.server.work.explain import explain
from lens_scopes.server.work.queue import Job, Ticket, WorkQueue


@pytest.fixture(scope="module")
def model() -> Any:
    return served_model()


@pytest.fixture
def api(model: Any) -> Iterator[TestClient]:
    with client(create_app({"tiny": model})) as opened:
        yield opened


def ask(api: TestClient, **question: Any) -> httpx.Response:
    return api.post("/api/attribute", json={"text": PROMPT, **question})


# Limits


@pytest.mark.parametrize(
    ("limits", "kind", "question", "says"),
    [
        (Limits(prompt_characters=20), "attribute", {}, "the prompt has 21 characters; this server takes 20."),
        (Limits(prompt_tokens=5), "attribute", {}, "the prompt has 6 tokens; this server takes 5 (--prompt-tokens)."),
        (Limits(), "attribute", {"lens": "logit@5@9999"}, "a lens was to read 9999 cells; this server takes 2048."),
        (
            Limits(generated_tokens=2),
            "influence",
            {"generate": 3},
            "3 tokens were to be generated; this server takes 2.",
        ),
        (Limits(generated_tokens=2), "matrix", {"generate": 3}, "3 tokens were to be generated; this server takes 2."),
        (
            Limits(generated_tokens=2),
            "attribute",
            {"generate": 3},
            "3 tokens were to be generated; this server takes 2.",
        ),
        (
            Limits(prompt_tokens=8),
            "attribute",
            {"generate": 4},
            "the prompt and its answer have 10 tokens; this server takes 8 (--prompt-tokens).",
        ),
        (
            Limits(prompt_tokens=8),
            "attribute",
            {"answer": " sofa The dog sleeps"},
            "the prompt and its answer have 10 tokens; this server takes 8 (--prompt-tokens).",
        ),
        (
            Limits(directions=5),
            "attribute",
            {"scope": "fisher@2", "generate": 3},
            "an answer of 3 tokens has 6 directions at rank 2; this server takes 5. Ask for samples=16.",
        ),
        (
            Limits(directions=5),
            "flow",
            {"spans": {"a": "dog"}, "rank": 1, "samples": 2, "generate": 2},
            "the flow to 2 predictions takes 6 backward passes, 3 for each; this server takes 5. Ask for a lower rank "
            "and fewer samples, or a shorter answer.",
        ),
        (Limits(request_bytes=20), "attribute", {}, "the request is larger than the 20 bytes this server takes."),
    ],
)
def test_what_is_too_large_is_refused(
    model: Any, limits: Limits, kind: str, question: dict[str, Any], says: str
) -> None:
    with client(create_app({"tiny": model}, limits)) as api:
        answer = api.post(f"/api/{kind}", json={"text": PROMPT, **question})
        assert (answer.status_code, answer.json()["detail"]) == (413, says)


def test_a_body_that_hides_its_size_is_cut_off(model: Any) -> None:
    with client(create_app({"tiny": model}, Limits(request_bytes=1000))) as api:
        parts = (b'{"text": "' + b"a" * 400 for _ in range(10))
        answer = api.post("/api/attribute", content=parts, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_work_that_takes_too_long_is_stopped_and_the_next_is_answered(model: Any) -> None:
    with client(create_app({"tiny": model}, Limits(seconds=1.5))) as api:
        with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda x, hook: time.sleep(1.6))]):
            answer = ask(api)
        assert answer.status_code == 503
        assert answer.json()["detail"] == (
            "the work took longer than 1.5 seconds (--seconds); shorten the prompt or ask for less."
        )
        assert ask(api).status_code == 200


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 GB")]
)
def test_a_request_that_runs_out_of_memory_fails_alone(model: Any, error: Exception) -> None:
    def run_out(x: Any, hook: Any) -> None:
        raise error

    with client(create_app({"tiny": model})) as api:
        with model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", run_out)]):
            answer = ask(api)
        assert answer.status_code == 503 and "memory ran out" in answer.json()["detail"]
        assert ask(api).status_code == 200


# The queue


def in_a_loop_of_its_own(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine in another thread: a browser test before this one leaves its loop running in the main one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, scenario).result()


def test_a_full_queue_refuses_and_loses_nothing() -> None:
    async def scenario() -> None:
        queue = WorkQueue(Limits(waiting=2))
        begun, go_on = threading.Event(), threading.Event()

        def work(job: Job) -> Job:
            begun.set()
            go_on.wait(10)
            return job

        tickets = [queue.submit(work)]
        await asyncio.to_thread(begun.wait, 10)
        tickets += [queue.submit(work), queue.submit(work)]
        assert [queue.ahead_of(ticket) for ticket in tickets] == [0, 1, 2]
        with pytest.raises(Refusal) as refused:
            queue.submit(work)
        assert refused.value.status_code == 503 and (refused.value.headers or {})["Retry-After"]
        queue.cancel(tickets[1])
        assert tickets[1].finished and tickets[1].refusal is not None and queue.ahead_of(tickets[2]) == 1
        go_on.set()
        for ticket in (tickets[0], tickets[2]):
            async for _ in queue.updates(ticket):
                pass
            assert ticket.result is ticket.job
        queue.stop()
        with pytest.raises(Refusal, match="stopping"):
            queue.submit(work)

    in_a_loop_of_its_own(scenario())


class Held:
    """Work that begins, waits until it may go on, and counts how often it was begun."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.times = 0

    def __call__(self, job: Job) -> str:
        self.times += 1
        self.begun.set()
        while not self.go_on.wait(0.01):
            job.check()
        return "the answer"


async def answer_to(queue: WorkQueue, ticket: Ticket) -> Any:
    async for _ in queue.updates(ticket):
        pass
    if ticket.refusal is not None:
        raise ticket.refusal
    return ticket.result


def test_equal_questions_are_worked_on_once() -> None:
    async def scenario() -> None:
        queue, held, other = WorkQueue(Limits(waiting=1)), Held(), Held()
        running = queue.submit(held, "a", "one")
        await asyncio.to_thread(held.begun.wait, 10)
        waiting = queue.submit(other, "a", "two")
        # What runs and what waits is joined, though the queue is full for another question.
        joined = [queue.submit(held, "b", "one"), queue.submit(other, "b", "two"), queue.submit(other, "c", "two")]
        assert len({running.id, waiting.id, *(ticket.id for ticket in joined)}) == 5
        assert [queue.ahead_of(ticket) for ticket in joined] == [0, 1, 1]
        for question in ("three", ""):
            with pytest.raises(Refusal, match="1 requests are waiting already"):
                queue.submit(held, "c", question)
        held.go_on.set()
        other.go_on.set()
        answers = [await answer_to(queue, ticket) for ticket in (running, waiting, *joined)]
        assert answers == ["the answer"] * 5 and (held.times, other.times) == (1, 1)
        assert queue.submit(other, "b", "two").job is not waiting.job, "what has ended is not joined"
        queue.stop()

    in_a_loop_of_its_own(scenario())


@pytest.mark.parametrize("waits", [False, True], ids=["running", "waiting"])
def test_who_cancels_leaves_the_others_their_answer(waits: bool) -> None:
    async def scenario() -> None:
        queue, before, held = WorkQueue(Limits()), Held(), Held()
        queue.submit(before, "z")
        await asyncio.to_thread(before.begun.wait, 10)
        first, second, third = (queue.submit(held, client, "one") for client in "abc")
        if not waits:
            before.go_on.set()
            await asyncio.to_thread(held.begun.wait, 10)
        queue.cancel(first)
        assert first.finished and first.refusal is not None and first.refusal.status_code == 409
        assert not second.finished and first.job.joinable
        with pytest.raises(Refusal, match="no such request"):
            queue.find(first.id)
        assert queue.find(third.id) is third
        queue.cancel(third)
        before.go_on.set()
        held.go_on.set()
        assert await answer_to(queue, second) == "the answer" and held.times == 1

        # The last one takes the work along; whoever comes after that begins it again.
        again = Held()
        leaving = [queue.submit(again, client, "two") for client in "ab"]
        await asyncio.to_thread(again.begun.wait, 10)
        for ticket in leaving:
            queue.cancel(ticket)
        assert not leaving[0].job.joinable
        later = queue.submit(again, "c", "two")
        again.go_on.set()
        assert later.job is not leaving[0].job and await answer_to(queue, later) == "the answer"
        queue.stop()

    in_a_loop_of_its_own(scenario())


def test_a_share_counts_the_questions_that_a_client_waits_for() -> None:
    async def scenario() -> None:
        queue, held = WorkQueue(Limits(waiting=8, waiting_per_client=2, requests_per_client=4)), Held()
        queue.submit(held, "z")
        await asyncio.to_thread(held.begun.wait, 10)
        # The same question twice is one of two; that of another client counts as well once it is joined.
        own = [queue.submit(held, "a", "one") for _ in range(2)]
        queue.submit(held, "b", "two")
        joined = queue.submit(held, "a", "two")
        with pytest.raises(Refusal, match="2 of your requests are waiting already"):
            queue.submit(held, "a", "three")
        queue.cancel(joined)
        queue.submit(held, "a", "three")
        # One that has left counts no more, though its question still waits for the other one.
        queue.cancel(own[0])
        with pytest.raises(Refusal, match="2 of your requests"):
            queue.submit(held, "a", "four")
        queue.cancel(own[1])
        queue.submit(held, "a", "four")
        # Requests that join are bounded too: each holds a connection.
        for _ in range(2):
            queue.submit(held, "a", "two")
        with pytest.raises(Refusal, match="4 of your requests"):
            queue.submit(held, "a", "two")
        queue.submit(held, "b", "three")
        held.go_on.set()
        queue.stop()

    in_a_loop_of_its_own(scenario())


def test_the_same_question_of_many_is_one_computation(model: Any) -> None:
    passes, held = [], threading.Event()

    def count(x: Any, hook: Any) -> None:
        passes.append(len(x))
        held.wait(10)

    def one(kind: str) -> httpx.Response:
        return httpx.post(f"{address}/api/attribute", json={"text": PROMPT}, headers={"Accept": kind}, timeout=60)

    hooks = model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", count)])
    app = create_app({"tiny": model})
    with serving(app) as address, hooks, ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(one, kind) for kind in ["application/json", "text/event-stream"] * 12]
        queue = app.state.service.queue
        wait_until(lambda: queue._running is not None and len(queue._running.tickets) == 24)
        held.set()
        answers = [item.result() for item in asked]
    assert {answer.status_code for answer in answers} == {200} and len(passes) == 1
    contents = {dict(events(one.text))["result"] if one.text.startswith("event") else one.text for one in answers}
    assert len(contents) == 1


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_running_work_stops_at_the_next_layer_and_leaves_no_hooks(model: Any, direction: str) -> None:
    before = {name: len(point.fwd_hooks) for name, point in model.hook_dict.items()}

    async def scenario() -> list[str]:
        stages: list[str] = []

        class Stopped(Job):
            def report(self, name: str, done: int, total: int) -> None:
                stages.append(f"{name} {done}")
                if name == direction:
                    self.cancel()
                super().report(name, done, total)

        job = Stopped(lambda job: explain(model, AttributeRequest(text=PROMPT, layers=True), Limits(), job), 60.0)
        await asyncio.to_thread(job.run)
        assert job.refusal is not None and job.refusal.detail == "the request was cancelled."
        return stages

    stages = in_a_loop_of_its_own(scenario())
    assert stages == (["forward 1"] if direction == "forward" else ["forward 1", "forward 2", "backward 1"])
    assert {name: len(point.fwd_hooks) for name, point in model.hook_dict.items()} == before


def test_whoever_leaves_cancels_and_whoever_asks_can_cancel(model: Any) -> None:
    app = create_app({"tiny": model})
    held = threading.Event()
    hold = [("blocks.0.hook_resid_pre", lambda x, hook: held.wait(10) and None)]
    question = {"text": PROMPT}
    streaming = {"Accept": "text/event-stream"}
    with serving(app) as address, model.hooks(fwd_hooks=hold), httpx.Client(base_url=address, timeout=20) as http:
        with http.stream("POST", "/api/attribute", json=question, headers=streaming) as left:
            chunks = left.iter_text()  # kept: an iterator that is thrown away closes the connection
            job = app.state.service.queue.find(json.loads(events(next(chunks))[0][1])["job"]).job
        deadline = time.monotonic() + 10
        while not job._cancellation.is_set() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert job._cancellation.is_set()
        with http.stream("POST", "/api/attribute", json=question, headers=streaming) as waiting:
            chunks = waiting.iter_text()
            name = json.loads(events(next(chunks))[0][1])["job"]
            assert http.delete(f"/api/jobs/{name}").status_code == 204
            held.set()
            assert "the request was cancelled." in "".join(chunks)
        assert http.delete(f"/api/jobs/{name}").status_code == 404


def test_fifty_requests_at_once_are_answered_or_refused(model: Any) -> None:
    app = create_app({"tiny": model}, Limits(waiting=8))

    def one(index: int) -> httpx.Response:
        return httpx.post(
            f"{address}/api/attribute",
            json={"text": PROMPT, "seed": index, "scope": "fisher", "rank": "trace", "samples": 2},
            timeout=60,
        )

    with serving(app) as address, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(one, range(50)))
        page = httpx.get(address)
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 503} and statuses.count(200) >= 9 and page.status_code == 200
    for answer in answers:
        if answer.status_code == 200:
            assert answer.json()["settings"]["objective"]["samples"] == 2
        else:
            assert "waiting already" in answer.json()["detail"] and answer.headers["retry-after"]


# Who is answered


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "localhost@evil.example", "a b"])
def test_another_host_name_is_not_answered(api: TestClient, host: str) -> None:
    for answer in (api.get("/", headers={"Host": host}), api.get("/api/about", headers={"Host": host})):
        assert answer.status_code == 421 and answer.json()["status"] == 421


def test_names_of_this_machine_are_answered(api: TestClient) -> None:
    for host in ("127.0.0.1:8765", "localhost", "LOCALHOST:1", "[::1]:8765", "127.0.0.1."):
        assert api.get("/api/about", headers={"Host": host}).status_code == 200


def test_any_address_is_answered_where_all_are_listened_at(model: Any) -> None:
    with client(create_app({"tiny": model}, access=Access(any_address=True))) as api:
        for host, status in (("192.168.1.7:8765", 200), ("[fe80::1]", 200), ("evil.example", 421), ("1.2.3", 421)):
            assert api.get("/api/about", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": ADDRESS}, 200),
        ({"Origin": ADDRESS, "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Length": "many"}, 400),
    ],
)
def test_other_sites_cannot_ask(api: TestClient, headers: dict[str, str], status: int) -> None:
    content = json.dumps({"text": PROMPT}).encode()
    answer = api.post("/api/attribute", content=content, headers={"Content-Type": "application/json"} | headers)
    assert answer.status_code == status
    assert status == 200 or answer.json()["status"] == status


def test_other_sites_may_link_to_the_page_and_no_more(api: TestClient) -> None:
    there = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    assert api.get("/", headers=there).status_code == 200
    assert api.get("/api/vocabulary?q=a", headers=there).status_code == 403
    assert api.get("/server/page/main.js", headers=there).status_code == 403


def test_a_token_is_wanted_where_there_is_one(model: Any) -> None:
    app = create_app({"tiny": model}, access=Access(token="secret-token"))
    with client(app, follow_redirects=False) as api:
        for path in ("/", "/?token=wrong", "/api/about", "/api/about?token=secret-token", "/server/page/main.js"):
            refused = api.get(path)
            assert refused.status_code == 401 and "token" in refused.json()["detail"]
        assert api.get("/api/about", headers={"Authorization": "Bearer secret-token"}).status_code == 200
        assert api.get("/api/about", headers={"Authorization": b"Bearer s\xe9cret"}).status_code == 401
        assert api.get("/api/about", headers={"Cookie": "lens_scopes_token_8765=wrong; =; a,b"}).status_code == 401
        entered = api.get("/?token=secret-token")
        assert entered.status_code == 303 and entered.headers["location"] == "/"
        cookie = entered.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert api.get("/").status_code == api.get("/api/about").status_code == 200


def test_every_answer_carries_the_policy(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lens_scopes.server.app.choices", lambda **_: 1 / 0)
    answers = {
        200: api.get("/"),
        404: api.get("/nothing"),
        405: api.put("/"),
        422: ask(api, scope="none"),
        421: api.get("/", headers={"Host": "evil.example"}),
        403: api.get("/api/about", headers={"Origin": "https://evil.example"}),
        500: api.get("/api/about"),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert status == 200 or answer.headers["content-type"] == "application/problem+json"


def test_only_the_files_of_the_page_are_there(api: TestClient) -> None:
    for name in ("server/page/main.js", "server/page/parts/edit.js", "views/page/scripts/blocks/map.js"):
        assert api.get(f"/{name}").headers["content-type"].startswith("text/javascript")
    for name in ("../app.py", "..%2fapp.py", "%2e%2e/app.py", "nothing.js", "/etc/passwd"):
        assert api.get(f"/server/page/{name}").status_code in (404, 307)


# What is written down


@pytest.mark.parametrize("place", ["lens_scopes.server.work.explain.attribute", "lens_scopes.server.app.refuse_early"])
def test_a_defect_is_logged_without_what_was_typed(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise KeyError(PROMPT)

    monkeypatch.setattr(place, fail)
    with caplog.at_level(logging.DEBUG), client(create_app({"tiny": model})) as api:
        answer = ask(api)
    assert answer.status_code == 500 and "defect" in answer.json()["detail"]
    assert "KeyError" in caplog.text and "in fail" in caplog.text
    assert PROMPT not in caplog.text and PROMPT not in answer.text


_SERVED = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the shell of the tests may ignore it
sys.path.insert(0, {tests!r})
from served import served_model
from lens_scopes.server.app import create_app
from lens_scopes.server.launch import _listen, serve
model = served_model()
for block in model.blocks:
    block.hook_resid_pre.add_perma_hook(lambda x, hook: time.sleep(0.2))
listening = _listen("127.0.0.1", 0)
print(listening.getsockname()[1], flush=True)
serve(create_app({{"tiny": model}}), listening)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_server_cleanly(number: signal.Signals) -> None:
    tests = Path(__file__).parents[1] / "support"
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVED.format(tests=str(tests))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tests.parents[1])},
    )
    assert process.stdout is not None
    address = f"http://127.0.0.1:{int(process.stdout.readline())}"
    question = {"text": PROMPT}
    with httpx.Client(timeout=30) as http, ThreadPoolExecutor(3) as pool:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                http.get(address)
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        asked = [pool.submit(http.post, f"{address}/api/heads", json=question | {"top": i + 1}) for i in range(3)]
        time.sleep(0.5)
        process.send_signal(number)
        answers = [future.result() for future in asked]
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and err == ""
    assert {answer.status_code for answer in answers} <= {409, 503}


def test_no_file_is_read_for_a_lens(api: TestClient, tmp_path: Path) -> None:
    """Whether it is there or not: the answer would tell."""
    there = tmp_path / "lens.pt"
    there.write_bytes(b"x")
    for path in (str(there), "/nowhere/lens.pt"):
        for question in ({"lens": path}, {"scope": f"semantic+lens={path}"}):
            answer = ask(api, **question)
            assert answer.status_code == 422 and "reads no files" in answer.json()["detail"]
