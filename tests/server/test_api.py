"""The API on a tiny model: it answers as the library does, refuses as the command line does, and gives files."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import PROMPT, WORDS, Loader, Run, tokenizer
from fastapi.testclient import TestClient
from number_models import SERIES, with_numbers
from page_blocks import blocks
from served import chat_model, client, events, served_model
from tiny_models import llama_like

import lens_scopes as ls
from lens_scopes.scopes.registry import READOUTS
from lens_scopes.server import create_app
from lens_scopes.server.api.examples import EXAMPLES
from lens_scopes.server.api.schemas import (
    AttributeRequest,
    AttributionAnswer,
    CellsAnswer,
    FlowAnswer,
    HeadsAnswer,
    InfluenceAnswer,
    MatrixAnswer,
    ModesAnswer,
    SeriesAnswer,
)
from lens_scopes.server.settings import Limits
from lens_scopes.server.work.explain import refuse_early
from lens_scopes.views import attribution_page


@pytest.fixture(scope="module")
def model() -> Any:
    return served_model()


@pytest.fixture
def api(model: Any) -> Iterator[TestClient]:
    with client(create_app({"tiny": model})) as opened:
        yield opened


def plain(result: Any) -> Any:
    return json.loads(json.dumps(result.to_dict()))


def same(one: Any, other: Any) -> bool:
    """Equal, but for the digits of a float32 beyond the ninth, which an answer leaves out."""
    if isinstance(one, float):
        return isinstance(other, float) and math.isclose(one, other, rel_tol=5e-9)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def ask(api: TestClient, kind: str, **question: Any) -> Any:
    answer = api.post(f"/api/{kind}", json={"text": PROMPT, **question})
    assert answer.status_code == 200, answer.text
    return answer.json()


OTHER = "The sofa sleeps on the"
QUESTIONS: dict[str, tuple[dict[str, Any], Callable[[Any], Any], Any]] = {
    "attribute": (
        {
            "scope": "logprob",
            "target": " sofa",
            "position": 3,
            "layers": True,
            "through": "0",
            "freeze": ["norms"],
            "rules": ["half-av"],
        },
        lambda model: ls.attribute(
            model,
            PROMPT,
            ls.LogProb(" sofa"),
            position=3,
            layers=True,
            through=ls.Layers(0) & ls.Frozen("norms") & ls.Rules("half-av"),
        ),
        AttributionAnswer,
    ),
    "heads": (
        {
            "scope": "fisher",
            "rank": "2",
            "baseline": "zero",
            "mlp_rules": ["relp"],
            "head": ["L1H2"],
            "verify": 3,
        },
        lambda model: ls.inspect_heads(
            model, PROMPT, ls.Fisher(2), baseline="zero", mlp_rules="relp", patterns=["L1H2"], verify=3
        ),
        HeadsAnswer,
    ),
    "cells": (
        {
            "scope": "logprob",
            "target": " sofa",
            "against": OTHER,
            "points": "path@2",
            "layer_site": "resid_mid",
            "verify": 3,
        },
        lambda model: ls.patch_cells(
            model,
            ls.attribute(
                model,
                PROMPT,
                ls.LogProb(" sofa"),
                layers="resid_mid",
                readout="dot",
                points=ls.StraightPath(OTHER, 2),
            ),
            3,
        ),
        CellsAnswer,
    ),
    "cells of an answer": (
        {"scope": "logprob", "answer": " sofa dog", "eligible": "all", "against": OTHER, "verify": 4},
        lambda model: ls.patch_cells(
            model,
            ls.attribute(
                model, PROMPT, ls.LogProb(), answer=" sofa dog", eligible="all", layers=True, readout=ls.Dot(OTHER)
            ),
            4,
        ),
        CellsAnswer,
    ),
    "matrix": (
        {"scope": "entropy", "generate": 2, "spans": {"start": "The"}},
        lambda model: ls.attribute_all(model, PROMPT, ls.Entropy(), generate=2, spans={"start": "The"}),
        MatrixAnswer,
    ),
    "influence": (
        {"scope": "entropy", "generate": 3, "of": "generated"},
        lambda model: ls.attribute_all(model, PROMPT, ls.Entropy(), generate=3).total_influence("generated"),
        InfluenceAnswer,
    ),
    "matrix of an answer": (
        {"scope": "logprob", "answer": " sofa dog"},
        lambda model: ls.attribute_all(model, PROMPT, ls.LogProb(), answer=" sofa dog"),
        MatrixAnswer,
    ),
    "flow": (
        {"spans": {"animal": "dog"}, "characters": {"verb": [8, 14]}, "sigma": 0.5, "rank": 3, "samples": 2, "seed": 4},
        lambda model: ls.information_flow(
            model, PROMPT, {"animal": "dog", "verb": ls.Chars(8, 14)}, sigma=0.5, rank=3, samples=2, seed=4
        ),
        FlowAnswer,
    ),
    "flow to an answer": (
        {"spans": {"animal": "dog"}, "answer": " sofa dog", "through": "0"},
        lambda model: ls.information_flow(model, PROMPT, {"animal": "dog"}, answer=" sofa dog", through=ls.Layers(0)),
        FlowAnswer,
    ),
    "modes": (
        {"rank": 2, "baseline": "zero"},
        lambda model: ls.inspect_modes(model, PROMPT, 2, baseline="zero"),
        ModesAnswer,
    ),
}


@pytest.mark.parametrize("kind", QUESTIONS)
def test_an_answer_is_the_result_of_the_library(api: TestClient, model: Any, kind: str) -> None:
    question, expected, described = QUESTIONS[kind]
    answer = ask(api, kind.partition(" ")[0], **question)
    described.model_validate(answer)
    result = plain(expected(model))
    assert same({name: value for name, value in answer.items() if name in result}, result)
    assert set(answer) - set(result) == {"id", "kind", "command"}


def test_layers_are_read_as_tokens(api: TestClient, model: Any) -> None:
    answer = ask(api, "attribute", lens="logit@2")
    expected = ls.attribute(model, PROMPT, ls.Semantic(), lens="logit@2")
    assert answer["lens"] == plain(expected)["lens"] and answer["layers"] is not None
    assert "lens='logit@2'" in answer["command"]["python"] and "--lens logit@2" in answer["command"]["shell"]
    assert ask(api, "attribute", layers=True)["lens"] is None


def test_a_scope_with_a_place_of_its_own_is_read_there(api: TestClient, model: Any) -> None:
    answer = ask(api, "attribute", scope="fisher-at-values", rank="2")
    assert answer["scores"] == plain(ls.attribute(model, PROMPT, ls.FisherAtValues(2)))["scores"]
    assert ask(api, "attribute", scope="fisher-at-values", readout="norm")["scores"] != answer["scores"]
    refused = api.post("/api/heads", json={"text": PROMPT, "scope": "fisher-at-values"})
    assert refused.status_code == 422 and "choose fisher" in refused.text


@pytest.fixture
def any_model_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A served model may have a name that the command line knows nothing of."""
    monkeypatch.setattr("lens_scopes.cli.options.model.find_source", lambda name: None)


@pytest.mark.usefixtures("any_model_name")
@pytest.mark.parametrize("kind", QUESTIONS)
def test_the_python_and_the_command_line_give_the_same_result(
    api: TestClient,
    run: Callable[..., Run],
    loader: Loader,
    kind: str,
) -> None:
    answer = ask(api, kind.partition(" ")[0], **QUESTIONS[kind][0])
    command = answer["command"]
    variables: dict[str, Any] = {}
    exec(command["python"].replace("ls.load_model", "load_model"), {"load_model": loader}, variables)
    name, *arguments = shlex.split(command["shell"])
    assert name == "lens-scopes"
    printed = json.loads(run(*arguments, "--json").out)
    for found in (plain(variables["result"]), printed):
        for part in ("model", "versions"):
            found.pop(part)
        assert same(found, {name: value for name, value in answer.items() if name in found})
    assert {call[0] for call in loader.calls} == {"tiny"}


@pytest.mark.usefixtures("any_model_name")
def test_a_series_is_that_of_the_library_the_python_and_the_command_line(
    run: Callable[..., Run], loader: Loader
) -> None:
    loader.model = with_numbers(llama_like())
    asked = {"text": SERIES, "scope": "logprob", "answer": "34", "readout": "dot", "width": 2, "least": 0.01}
    with client(create_app({"tiny": loader.model})) as api:
        answer = ask(api, "series", **asked)
        refused = api.post("/api/series", json={"text": "12,34"})
        modest = ask(api, "series", text=SERIES)
    SeriesAnswer.model_validate(answer)
    expected = plain(
        ls.inspect_series(loader.model, SERIES, ls.LogProb(), answer="34", readout="dot", width=2, least=0.01)
    )
    assert same({name: value for name, value in answer.items() if name in expected}, expected)
    assert refused.status_code == 422 and "end it with ','" in refused.json()["detail"]
    assert modest["command"]["shell"] == f"lens-scopes series {SERIES} --model tiny"
    variables: dict[str, Any] = {}
    exec(answer["command"]["python"].replace("ls.load_model", "load_model"), {"load_model": loader}, variables)
    _, *arguments = shlex.split(answer["command"]["shell"])
    for found in (plain(variables["result"]), json.loads(run(*arguments, "--json").out)):
        for part in ("model", "versions"):
            found.pop(part)
        assert same(found, {name: value for name, value in answer.items() if name in found})


ANSWERED: list[tuple[dict[str, Any], Any, dict[str, Any]]] = [
    (
        {"scope": "logprob", "answer": " sofa The dog", "eligible": "all"},
        ls.LogProb(),
        {"answer": " sofa The dog", "eligible": "all"},
    ),
    ({"scope": "fisher@2", "generate": 3, "samples": 4}, ls.Fisher(2, samples=4), {"answer": 3}),
    ({"scope": "logprob-diff", "answer": " sofa", "other": " dog sleeps"}, ls.LogProbDiff(" sofa", " dog sleeps"), {}),
]


@pytest.mark.parametrize(("question", "objective", "more"), ANSWERED)
def test_a_whole_answer_is_explained(
    api: TestClient, model: Any, loader: Loader, question: dict[str, Any], objective: Any, more: dict[str, Any]
) -> None:
    answer = ask(api, "attribute", **question)
    AttributionAnswer.model_validate(answer)
    result = plain(ls.attribute(model, PROMPT, objective, **more))
    assert answer["answer"]["tokens"]
    assert same({name: value for name, value in answer.items() if name in result}, result)
    variables: dict[str, Any] = {}
    python = answer["command"]["python"].replace("ls.load_model", "load_model")
    exec(python, {"load_model": loader}, variables)
    assert plain(variables["result"])["scores"] == result["scores"]


@pytest.mark.usefixtures("any_model_name")
@pytest.mark.parametrize(("question", "objective", "more"), ANSWERED)
def test_heads_of_a_whole_answer(
    api: TestClient,
    run: Callable[..., Run],
    loader: Loader,
    model: Any,
    question: dict[str, Any],
    objective: Any,
    more: dict[str, Any],
) -> None:
    question, more = ({k: v for k, v in some.items() if k != "eligible"} for some in (question, more))
    answer = ask(api, "heads", **question, verify=2)
    HeadsAnswer.model_validate(answer)
    result = plain(ls.inspect_heads(model, PROMPT, objective, **more, verify=2))
    assert same({name: value for name, value in answer.items() if name in result}, result)
    variables: dict[str, Any] = {}
    exec(answer["command"]["python"].replace("ls.load_model", "load_model"), {"load_model": loader}, variables)
    _, *arguments = shlex.split(answer["command"]["shell"])
    for found in (plain(variables["result"]), json.loads(run(*arguments, "--json").out)):
        assert (found["effect"], found["answer"]) == (result["effect"], result["answer"])


@pytest.mark.parametrize("text", ["-", "--help", 'it\'s "a" $(b) `c` \\ !', "two\nlines\n", "- a\n"])
def test_any_text_survives_the_shell(api: TestClient, text: str) -> None:
    shell = ask(api, "attribute", text=text)["command"]["shell"]
    script = 'lens-scopes() { if [ "$2" = --file ]; then cat "$3"; else printf "%s" "$2"; fi; }\n'
    done = subprocess.run(["bash", "-c", script + shell], capture_output=True, text=True, check=True)
    assert done.stdout.removesuffix("\n" if "--file" in shell else "") == text


def test_another_prompt_is_contrasted_everywhere(api: TestClient, model: Any) -> None:
    heads = ask(api, "heads", against=OTHER, verify=2)
    assert heads["effect"] == plain(ls.inspect_heads(model, PROMPT, baseline=OTHER, verify=2))["effect"]
    assert f"baseline={OTHER!r}" in heads["command"]["python"] and "--against" in heads["command"]["shell"]
    both = api.post("/api/heads", json={"text": PROMPT, "against": OTHER, "baseline": "zero"})
    assert both.status_code == 422 and "give one of them" in both.text
    matrix = ask(api, "matrix", against=OTHER)
    assert matrix["matrix"] == plain(ls.attribute_all(model, PROMPT, readout=ls.Dot(OTHER)))["matrix"]
    attribution, cells = ask(api, "attribute", against=OTHER, layers=True), ask(api, "cells", against=OTHER)
    assert attribution["layers"][0][2] == -cells["effect"][0][2] != 0
    assert "ls.patch_cells(model, attribution, 10)" in cells["command"]["python"]
    place = f"/api/results/{attribution['id']}"
    page = api.get(f"{place}/page", params={"with": cells["id"]}).json()
    assert {"cells", "patches", "contract"} <= {section["key"] for section in page["sections"]}
    assert api.get(f"/api/results/{cells['id']}/csv").text.startswith("layer,site,position,token,other_token")
    assert api.post("/api/cells", json={"text": PROMPT}).status_code == 422


def test_two_prompts_are_put_beside_each_other_before_anything_is_asked(api: TestClient) -> None:
    same = ask(api, "alignment", against=OTHER)
    assert same["aligned"] is True and same["problem"] == ""
    (row,) = same["blocks"][1]["rows"]
    assert [cell["value"] for cell in row] == [2, " dog", " sofa"]
    longer = ask(api, "alignment", against="The sofa. sleeps on the")
    assert longer["aligned"] is False and "they part at position 2: ' dog' (1 token)" in longer["problem"]
    assert longer["blocks"][1]["rows"][0][-1]["text"] == [{"bold": "1 | 2"}]
    assert api.post("/api/alignment", json={"text": PROMPT, "against": ""}).status_code == 422
    assert api.post("/api/alignment", json={"text": "x" * 10**6, "against": OTHER}).status_code == 413


def test_a_chat_is_explained() -> None:
    chat = [{"role": "user", "content": "The dog"}, {"role": "assistant", "content": "it's <&> on"}]
    with client(create_app({"chatty": chat_model()})) as api:
        assert api.get("/api/about").json()["models"][0]["chat"] is True
        answer = api.post("/api/attribute", json={"chat": chat}).json()
        other = json.dumps([{"role": "user", "content": "The sofa"}, {"role": "assistant", "content": "it's <&> on"}])
        against = api.post("/api/attribute", json={"chat": chat, "against": other}).json()
        for kind in ("heads", "cells"):
            further = api.post(f"/api/{kind}", json={"chat": chat, "against": other, "verify": 2}).json()
            assert further["baseline_tokens"][2] == " sofa"
            assert 'under the prompt "The sofa.' in further["contract"]["generative process"]
            assert "The sofa" in further["command"]["python"]
            assert f"--against {shlex.quote(other)}" in further["command"]["shell"]
        beside = api.post("/api/alignment", json={"chat": chat, "against": other}).json()
        assert beside["aligned"] is True and beside["blocks"][1]["rows"][0][2]["value"] == " sofa"
    assert against["settings"]["readout"]["baseline_tokens"][2] == " sofa"
    assert "".join(answer["tokens"]).startswith("<bos>The dog.")
    script = 'lens-scopes() { cat "$3"; }\n' + answer["command"]["shell"]
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == chat


def test_a_nul_character_has_no_command_line(api: TestClient) -> None:
    assert ask(api, "attribute", text="The dog\0")["command"]["shell"] is None


# (the question beyond the prompt, the command line's arguments)
REFUSED: list[tuple[str, dict[str, Any], list[str]]] = [
    ("attribute", {"scope": "fischer"}, ["--scope", "fischer"]),
    ("attribute", {"scope": "logit-diff", "target": " sofa"}, ["--scope", "logit-diff", "--target", " sofa"]),
    ("attribute", {"target": "sofa"}, ["--target", "sofa"]),
    ("attribute", {"target": " dog sleeps"}, ["--target", " dog sleeps"]),
    ("attribute", {"target": "#99"}, ["--target", "#99"]),
    ("attribute", {"position": 99}, ["--position", "99"]),
    ("attribute", {"scope": "fisher", "rank": "many"}, ["--scope", "fisher", "--rank", "many"]),
    ("attribute", {"scope": "fisher", "rank": "17"}, ["--scope", "fisher", "--rank", "17"]),
    ("attribute", {"scope": "entropy", "seed": 1}, ["--scope", "entropy", "--seed", "1"]),
    ("attribute", {"through": "7"}, ["--through", "7"]),
    ("attribute", {"through": "everything"}, ["--through", "everything"]),
    ("attribute", {"freeze": ["keys"]}, ["--freeze", "keys"]),
    ("attribute", {"rules": ["gimm"]}, ["--rules", "gimm"]),
    ("attribute", {"rules": ["half-gate"]}, ["--rules", "half-gate"]),
    ("attribute", {"readout": "mean"}, ["--readout", "mean"]),
    ("attribute", {"layer_site": "resid"}, ["--layer-site", "resid"]),
    ("heads", {"baseline": "mode"}, ["--baseline", "mode"]),
    ("heads", {"head": ["L9H9"]}, ["--head", "L9H9"]),
    ("heads", {"mlp_rules": ["repl"]}, ["--mlp-rules", "repl"]),
    ("heads", {"against": "The sofa"}, ["--against", "The sofa"]),
    ("cells", {"against": "The sofa. sleeps on the"}, ["--against", "The sofa. sleeps on the"]),
    ("cells", {"against": OTHER, "points": "path-mean"}, ["--against", OTHER, "--points", "path-mean"]),
    ("attribute", {"against": OTHER, "readout": "norm"}, ["--against", OTHER, "--readout", "norm"]),
    ("attribute", {"against": "The sofa sleeps on"}, ["--against", "The sofa sleeps on"]),
    ("matrix", {"generate": 40}, ["--generate", "40"]),
    ("matrix", {"spans": {"a": "cat"}}, ["--span", "a=cat"]),
    ("attribute", {"lens": "tuned"}, ["--lens", "tuned"]),
    ("modes", {"rank": 0}, ["--rank", "0"]),
    ("flow", {}, []),
    ("flow", {"spans": {"a": "cat"}}, ["--span", "a=cat"]),
    ("flow", {"characters": {"a": [1, 99]}}, ["--characters", "a=1:99"]),
    ("flow", {"spans": {"a": "dog", "b": "dog sleeps"}}, ["--span", "a=dog", "--span", "b=dog sleeps"]),
    ("flow", {"spans": {"a": "dog"}, "rank": 17}, ["--span", "a=dog", "--rank", "17"]),
    ("modes", {"baseline": "mode"}, ["--baseline", "mode"]),
]


@pytest.mark.parametrize(("kind", "question", "options"), REFUSED)
def test_a_problem_is_the_sentence_of_the_command_line(
    api: TestClient,
    run: Callable[..., Run],
    kind: str,
    question: dict[str, Any],
    options: list[str],
) -> None:
    answer = api.post(f"/api/{kind}", json={"text": PROMPT, **question})
    printed = run(kind, PROMPT, *options)
    assert (answer.status_code, printed.status) == (422, 2)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert f"lens-scopes: {problem['detail']}\n" == printed.err
    assert problem["status"] == 422 and problem["type"].endswith("Error")
    streamed = api.post(f"/api/{kind}", json={"text": PROMPT, **question}, headers={"Accept": "text/event-stream"})
    said = streamed.json() if streamed.status_code == 422 else json.loads(events(streamed.text)[-1][1])
    assert said == problem


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ({}, "give one of text and chat"),
        ({"text": "a", "chat": [{"role": "user", "content": "b"}]}, "give one of text and chat"),
        ({"text": 1}, "text: input should be a valid string"),
        ({"text": "a", "position": "last"}, "position: input should be a valid integer"),
        ({"text": "a", "postion": 1}, "postion: extra inputs are not permitted"),
    ],
)
def test_a_question_of_another_form_is_refused_in_one_sentence(
    api: TestClient, question: dict[str, Any], sentence: str
) -> None:
    answer = api.post("/api/attribute", json=question)
    assert answer.status_code == 422
    assert sentence in answer.json()["detail"]
    broken = api.post("/api/attribute", content=b"{", headers={"Content-Type": "application/json"})
    assert broken.status_code == 422 and broken.json()["detail"] == "the body is not valid JSON."


def test_progress_is_streamed_before_the_same_answer(api: TestClient) -> None:
    streamed = api.post("/api/heads", json={"text": PROMPT, "verify": 2}, headers={"Accept": "text/event-stream"})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    said = events(streamed.text)
    assert [name for name, _ in said[:-1]] == ["progress"] * (len(said) - 1) and said[-1][0] == "result"
    progress = json.loads(said[0][1])
    assert set(progress) == {"job", "waiting", "stage", "done", "total"}
    assert json.loads(said[-1][1]) == ask(api, "heads", verify=2)


def test_the_same_question_is_answered_from_memory(api: TestClient, model: Any) -> None:
    first = ask(api, "attribute")
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: pytest.fail("the model was run again"))]):
        assert ask(api, "attribute") == first
        assert ask(api, "attribute", model="tiny") == first
    assert ask(api, "attribute", position=2)["id"] != first["id"]


def test_scores_that_are_not_finite_are_null(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    attribution = ls.attribute(model, PROMPT, layers=True)
    attribution.scores[2] = torch.nan
    monkeypatch.setattr("lens_scopes.server.work.explain.attribute", lambda *_, **__: attribution)
    with client(create_app({"tiny": model})) as api:
        answer = ask(api, "attribute")
    assert answer["scores"][2] is None
    AttributionAnswer.model_validate(answer)


def test_tokens_after_the_position_can_still_be_chosen(api: TestClient) -> None:
    answer = ask(api, "attribute", position=2)
    (strip,) = blocks(api.get(f"/api/results/{answer['id']}/page").json()["sections"], "strip")
    assert strip["later"] == [{"index": i, "token": token} for i, token in ((3, " sleeps"), (4, " on"), (5, " the"))]


def test_files_are_those_of_the_library(api: TestClient, model: Any, tmp_path: Path) -> None:
    expected = ls.attribute(model, PROMPT, layers=True)
    inspected = ls.inspect_heads(model, PROMPT)
    answer, heads = ask(api, "attribute", layers=True), ask(api, "heads")
    place = f"/api/results/{answer['id']}"
    assert api.get(f"{place}/json").json() == answer
    assert api.get(f"{place}/csv").text == expected.to_pandas().to_csv(index=False)
    assert api.get(f"{place}/html").text.replace('"tiny"', "") == expected.to_html().replace('"tiny"', "")
    both = api.get(f"{place}/html", params={"with": heads["id"], "download": True})
    assert both.text == attribution_page(expected, heads=inspected).to_html()
    report = attribution_page(expected, heads=inspected)
    page = api.get(f"{place}/page", params={"with": heads["id"]}).json()
    assert page == json.loads(json.dumps({"title": report.title, **report.content()})), "the page draws the report"
    assert both.headers["content-disposition"] == 'attachment; filename="attribution-the-dog-sleeps-on-the.html"'
    saved = tmp_path / "saved.safetensors"
    saved.write_bytes(api.get(f"{place}/safetensors").content)
    assert torch.equal(ls.Attribution.load(saved).scores, expected.scores)
    saved.write_bytes(api.get(f"/api/results/{heads['id']}/safetensors").content)
    assert torch.equal(ls.HeadInspection.load(saved).effect, inspected.effect)
    for path, status in [
        ("/api/results/unknown/html", 404),
        (f"{place}/html?with={answer['id']}", 422),
        (f"{place}/pdf", 422),
    ]:
        refused = api.get(path)
        assert refused.status_code == status and refused.json()["detail"]


def test_a_report_lives_in_a_sandbox(api: TestClient) -> None:
    report = api.get(f"/api/results/{ask(api, 'attribute')['id']}/html")
    policy = report.headers["content-security-policy"]
    assert "sandbox allow-scripts" in policy and "default-src 'none'" in policy and "same-origin" not in policy


def test_completion_finds_tokens_whatever_their_case_and_space(api: TestClient) -> None:
    def tokens(typed: str, **options: Any) -> list[str]:
        answer = api.get("/api/vocabulary", params={"q": typed, **options})
        assert answer.status_code == 200, answer.text
        return [entry["token"] for entry in answer.json()]

    assert tokens("so") == [" sofa", " Sofa"]
    assert tokens("Sofa") == [" Sofa", " sofa"]
    assert tokens(" the")[0] == " the" and tokens("The")[0] == "The"
    assert tokens("og") == [" dog"]
    assert len(tokens("s", most=2)) == 2
    assert tokens("") == tokens("   ") == []


def test_suggestions_come_by_their_probability_after_the_prompt(api: TestClient, model: Any) -> None:
    def suggested(**asked: Any) -> list[tuple[str, float]]:
        answer = api.post("/api/suggestions", json={"text": PROMPT, "q": "so", **asked})
        assert answer.status_code == 200, answer.text
        return [(entry["token"], entry["probability"]) for entry in answer.json()]

    logits = model(model.tokenizer(f"<bos>{PROMPT}", return_tensors="pt")["input_ids"])[0]
    for position in (-1, 2):
        expected = logits[position].softmax(-1)
        order = sorted([(" sofa", 7), (" Sofa", 8)], key=lambda item: -expected[item[1]])
        found = suggested(position=position)
        assert [token for token, _ in found] == [token for token, _ in order]
        assert [p for _, p in found] == pytest.approx([float(expected[index]) for _, index in order], rel=1e-5)
        assert found == suggested(position=position), "of a prompt that was read before"
    assert {token for token, _ in suggested(q="s", most=4)} == {" sleeps", " sofa", " Sofa", " schläft"}
    # What the model cannot read leaves the order of the vocabulary.
    assert suggested(text="The dog", position=9) == [(" sofa", None), (" Sofa", None)]
    assert api.post("/api/suggestions", json={"text": PROMPT}).status_code == 422


def test_a_target_without_its_space_is_warned_of_everywhere() -> None:
    model = served_model()
    model.tokenizer = tokenizer([*WORDS[:-2], "Paris", " Paris"])
    with torch.no_grad():
        model.unembed.W_U[:, 12] *= 1e-3  # so that its bias decides
        model.unembed.b_U[:] = -50.0
        model.unembed.b_U[12], model.unembed.b_U[11] = 5.0, -5.0
    found = ls.attribute(model, PROMPT, ls.Semantic("Paris")).warnings
    assert len(found) == 1 and found[0].startswith("the target 'Paris' has no space before it and the probability ")
    assert found[0].endswith("; ' Paris' has 1.")
    assert found == ls.inspect_heads(model, PROMPT, ls.Semantic("Paris")).warnings[:1]
    assert found == ls.attribute(model, PROMPT, ls.LogitDiff(" Paris", "Paris")).warnings
    assert not ls.attribute(model, PROMPT, ls.Semantic(" Paris")).warnings
    with client(create_app({"tiny": model})) as own:
        answer = ask(own, "attribute", scope="semantic", target="Paris")
        assert answer["warnings"] == found
        page = own.get(f"/api/results/{answer['id']}/page").json()
        assert found[0] in str(page["header"])


def test_the_server_says_what_it_has(api: TestClient) -> None:
    about = api.get("/api/about").json()
    assert about["models"] == [{"name": "tiny", "loaded": True, "chat": False, "n_layers": 2, "n_heads": 4}]
    assert {example["study"] for example in about["examples"]} == {"Translation", "Instructions", "Time series"}
    assert about["limits"]["prompt_tokens"] == Limits().prompt_tokens
    assert [readout["name"] for readout in about["readouts"]] == list(READOUTS)
    assert all(readout["explains"] for readout in about["readouts"])
    assert api.get("/docs").status_code == api.get("/redoc").status_code == 404


def test_only_models_named_at_the_start_are_loaded(api: TestClient) -> None:
    for name in ("gpt2", "../tiny", "/etc"):
        answer = api.post("/api/attribute", json={"text": PROMPT, "model": name})
        assert answer.status_code == 422 and "was not started with a model" in answer.json()["detail"]
    assert "did you mean 'tiny'" in api.get("/api/vocabulary", params={"q": "a", "model": "tin"}).json()["detail"]


def test_results_are_forgotten_and_memory_stays_bounded(model: Any) -> None:
    app = create_app({"tiny": model}, Limits(kept=3))
    with client(app) as api:
        ids = [ask(api, "attribute", position=position)["id"] for position in range(1, 6)]
        found = [api.get(f"/api/results/{one}/json").status_code for one in ids]
    assert found == [404, 404, 200, 200, 200]
    kept = app.state.service.results
    assert len(kept._stored) == len(kept._ids) == 3
    with client(create_app({"tiny": model}, Limits(kept_bytes=1))) as api:
        ids = [ask(api, "attribute", position=position)["id"] for position in (1, 2)]
        assert [api.get(f"/api/results/{one}/json").status_code for one in ids] == [404, 200]


def test_every_example_is_a_question(api: TestClient) -> None:
    for example in api.get("/api/about").json()["examples"]:
        for question in filter(None, (example["request"], example["compare"])):
            refuse_early(AttributeRequest(**question), Limits())


def test_the_examples_say_what_they_are_about(gemma: Any) -> None:
    expected = {
        "Sofa, from German": (" Sofa", " sofa"),
        "Apples, into German": (" apples", " Ä"),
        "The opposite": ("fast", " slow"),
        "Germany, in French": (" Germany", "Allemagne"),
    }
    with client(create_app({"gemma-3-270m": gemma})) as real:
        for example in EXAMPLES:
            answer = real.post("/api/attribute", json=example.request | {"layers": True}).json()
            tokens, scores = answer["tokens"], answer["scores"]
            strongest = max(range(1, len(tokens)), key=lambda index: abs(scores[index]))
            if example.title in expected:
                assert (tokens[strongest], answer["prediction"]["top"][0]["token"]) == expected[example.title]
            if example.study == "Time series":
                period = "19" if example.title == "A wave" else "82"
                assert answer["prediction"]["top"][0]["token"] == period[0]
