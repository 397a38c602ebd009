"""Writes the secrets of `flow_cases` as labelled prompts, for `lens-scopes flow --calibrate`.

python analyses/labelled_secrets.py     analyses/data/secrets.jsonl, from the answers in results/information_flow.json
"""

from __future__ import annotations

import json

from flow_cases import CASES
from records import RESULTS, ROOT, load_record

from lens_scopes.results.storage.writing import write_whole

SECRETS = ROOT / "analyses" / "data" / "secrets.jsonl"
PREDICTIONS = 2  # of the answer: the first token of a number is a space, which tells nothing


def labelled() -> list[dict[str, object]]:
    """Every secret as a labelled prompt: it leaks where the model's own answer holds it."""
    measured = load_record(RESULTS, "information_flow")["findings"]["cases"]
    told = {item["text"]: item["positive"] for item in measured}
    return [
        {
            "prompt": case.text,
            "characters": list(case.span),
            "leaks": told[case.text],
            "generate": PREDICTIONS,
            "group": case.wanted,
            "wording": case.template,
        }
        for case in CASES
        if case.kind == "secret"
    ]


def content() -> bytes:
    """The contents of the file."""
    return "".join(json.dumps(case, ensure_ascii=False) + "\n" for case in labelled()).encode()


if __name__ == "__main__":
    write_whole(SECRETS, content())
    print(SECRETS)
