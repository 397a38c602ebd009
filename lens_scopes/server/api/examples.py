"""Example requests, from the paper's three case studies: instructions, translation, time series."""

from __future__ import annotations

from lens_scopes.server.api.schemas import Example

_PERIOD = "50, 62, 74, 81, 84, 81, 74, 62, 50, 38, 26, 19, 16, 19, 26, 38"

EXAMPLES = (
    Example(
        study="Translation",
        title="Sofa, from German",
        what="Which word of the German sentence becomes the next English word?",
        request={
            "text": "German: Der Hund schläft auf dem Sofa. English: The dog sleeps on the",
            "scope": "fisher",
        },
    ),
    Example(
        study="Translation",
        title="Apples, into German",
        what="“ Ä” begins “Äpfel”: does it come from “apples”?",
        request={"text": "English: I have three red apples. German: Ich habe drei rote", "scope": "fisher"},
    ),
    Example(
        study="Instructions",
        title="The opposite",
        what="Compare with the synonym: the same words after another instruction.",
        request={
            "text": "List the opposite of each word.\nhot: cold\nbig: small\nfast:",
            "scope": "logit-diff",
            "target": " slow",
            "other": " fast",
        },
    ),
    Example(
        study="Instructions",
        title="Opposite against synonym",
        what="Two instructions side by side, with the differences between their shares.",
        request={
            "text": "List the opposite of each word.\nhot: cold\nbig: small\nfast:",
            "scope": "fisher",
        },
        compare={"text": "List a synonym of each word.\nhot: warm\nbig: large\nfast:", "scope": "fisher"},
    ),
    Example(
        study="Instructions",
        title="Germany, in French",
        what="“Allemagne” against “Europe”: does the English “Germany” bring it?",
        request={
            "text": "Instruction: answer in French.\nQuestion: What is the capital of Germany?\n"
            "Answer: La capitale de l'",
            "scope": "logit-diff",
            "target": "Allemagne",
            "other": "Europe",
        },
    ),
    Example(
        study="Time series",
        title="A wave",
        what="The first digit of 19: does the model look one period back?",
        request={"text": f"{_PERIOD}, 50, 62, 74, 81, 84, 81, 74, 62, 50, 38, 26, ", "scope": "fisher"},
    ),
    Example(
        study="Time series",
        title="A logistic map",
        what="x ← 3.5 x (1 − x), in hundredths: four values that repeat.",
        request={"text": "84, 47, 87, 39, 83, 48, 87, 38, 82, 49, 87, 38, 82, 50, 87, 38, ", "scope": "fisher"},
    ),
)
