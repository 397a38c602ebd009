"""TotalInfluence: what a generated text rests on in its prompt, through the generated tokens between.

A matrix says which earlier tokens moved each prediction directly. Read as a graph, its edges lead from a generated
token to earlier ones, and the influence of the prompt is the sum over all paths that end in it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.errors import PromptError, ResultError, whole_number
from lens_scopes.prompts.groups import Group, Grouping, group_tokens
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.spans import SpanLike, resolve_spans
from lens_scopes.results.base import Entry, Result
from lens_scopes.results.storage.writing import data_frame

if TYPE_CHECKING:
    import pandas

    from lens_scopes.results.matrix import AttributionMatrix

ANSWER, GENERATED = "answer", "generated"


@dataclass(frozen=True)
class Segment:
    """A run of tokens, such as a sentence, with its part in the influence on the target.

    Attributes:
        label, start, stop: its text without the white space around it, and its tokens [start, stop).
        generated: whether it is generated text; else it is a part of the prompt.
        share: the share of the target's influence that ends in it, for the prompt; that passes through it or, for the
            target, sets out from it, for generated text.
    """

    label: str
    start: int
    stop: int
    generated: bool
    share: float


@dataclass(frozen=True)
class Chain:
    """A way from the target back to the prompt, segment by segment.

    Attributes:
        segments: from the target to a segment of the prompt.
        share: the weight of all token paths that visit exactly these segments.
    """

    segments: list[Segment]
    share: float

    def __str__(self) -> str:
        return " ← ".join(segment.label for segment in self.segments)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TotalInfluence(Result):
    """The influence of each prompt token on a part of a generated text, through the generated tokens between.

    With s_j,t the matrix's score of token t on the prediction of generated token j, a row is normalised to

        R_j,t = |s_j,t| / Σ_u |s_j,u|,   the sums over the eligible tokens u before j,

    so that it is non-negative and adds up to one. Eligible are all earlier tokens, the prompt's and generated ones, but
    for special ones: BOS is an attention sink, and where it took part most of every row would end in it. Where special
    tokens are asked for they are sources like any other. R = [P | A] with the columns P of the prompt and A of the
    generated tokens, strictly lower triangular. For e, uniform over the target's tokens (after CAGE, arXiv:2512.15663),

        direct = e P,   total = e (I − A)⁻¹ P = e (P + A P + A² P + …),

    a sum over all paths from the target to the prompt: shares, ≥ 0, that add up to one where no row is empty. A row
    that has no score but zeros keeps its influence to itself: `leak` is what is lost so. Signed scores count by their
    magnitude, and squared ones (Fisher's) as they are: shares do not say in which direction a token moves anything, and
    they are products of first-order scores, not effects of interventions.

    Attributes:
        scores: total influence of each prompt token on the target, from 0 to 1.
        direct: the same by paths of one step.
        through: for each generated token, the share of the target's influence that passes through it; for the target's
            own tokens that which sets out from them too.
        shares: R, a row for each generated token, a column for each token of the text.
        of: what was asked for: "answer", "generated", a span's name or text.
        target: the tokens [start, stop) of the target.
        spans: named token ranges [start, stop).

    The other attributes are those of Result; `tokens` are the prompt's and the generated ones. An answer that was given
    to the matrix, and not written by the model, stands for generated text everywhere here.

    Example:
        >>> matrix = ls.attribute_all(model, "The capital of France is", ls.Semantic(), generate=3)
        >>> influence = matrix.total_influence(of="generated")
        >>> influence.scores.shape, round(float(influence.scores.sum()), 6)
        (torch.Size([6]), 1.0)
    """

    kind = "influence"
    derived = {
        "segments": lambda influence: influence.segments(),
        "hops": lambda influence: influence.hops().to_dict("records"),
        "chains": lambda influence: influence.chains(),
    }

    scores: Float[Tensor, " prompt"]
    direct: Float[Tensor, " prompt"]
    through: Float[Tensor, " made"]
    shares: Float[Tensor, "made pos"]
    of: str
    target: tuple[int, int]
    spans: dict[str, tuple[int, int]]

    @property
    def n_prompt(self) -> int:
        """How many of the tokens are the prompt's."""
        return len(self.scores)

    @property
    def target_text(self) -> str:
        """The text of the target."""
        return "".join(self.tokens[slice(*self.target)])

    @property
    def leak(self) -> float:
        """The share of the influence that ends in generated tokens on whose predictions no eligible token has any."""
        return max(0.0, 1.0 - float(self.scores.sum()))

    def __repr__(self) -> str:
        leading = ", ".join(f"{token!r} {value:.3g}" for _, token, value in self.top(3))
        return (
            f"TotalInfluence({self.objective} on {self.model['name']}, of {self.n_prompt} prompt tokens on "
            f"{self.target_text!r} through {len(self.through)} generated ones; top: {leading})"
        )

    def entries(self) -> list[Entry]:
        return [
            Entry(*item) for item in zip(range(self.n_prompt), self.tokens[: self.n_prompt], self.special, strict=False)
        ]

    def values(self) -> Float[Tensor, " prompt"]:
        return self.scores

    def difference_parts(self) -> dict[str, Tensor]:
        return {"scores": self.scores, "direct": self.direct}

    def to_pandas(self) -> pandas.DataFrame:
        """One row per prompt token: index, token, token_id, special, score (the total), direct."""
        n = self.n_prompt
        return data_frame(
            {
                "index": range(n),
                "token": self.tokens[:n],
                "token_id": self.token_ids[:n],
                "special": self.special[:n],
                "score": self.scores.tolist(),
                "direct": self.direct.tolist(),
            }
        )

    def group(self, by: Grouping | None = None) -> pandas.DataFrame:
        """Total and direct influence, and what passes through, summed over sentences or other runs of tokens.

        Args:
            by: as for `Attribution.group`, or "token"; by default sentences, or tokens where there is no text. Groups
                are parted at the prompt's end, and the target is one of its own.

        Returns:
            One row per segment of the text: label, start, stop, generated, score (its share, as in `Segment`), direct.

        Raises:
            PromptError: as `Attribution.group`, and for named spans that overlap.
        """
        segments = self.segments(by)
        start = self._start()
        direct = start @ self.shares
        rows = [
            {**asdict(item), "score": item.share, "direct": float(direct[item.start : item.stop].sum())}
            for item in segments
        ]
        columns = ["label", "start", "stop", "generated", "score", "direct"]
        return data_frame(rows, columns=columns)

    def segments(self, by: Grouping | None = None) -> list[Segment]:
        """The text in runs of tokens, each with its part in the influence; Args and errors as for `group`."""
        groups = self._groups(by)
        flows = self._flows(groups)
        arrivals = flows.sum(0).tolist()
        first, last = self.target
        return [
            Segment(
                label=group.label,
                start=group.start,
                stop=group.stop,
                generated=group.start >= self.n_prompt,
                share=arrival + (1.0 if (group.start, group.stop) == (first, last) else 0.0),
            )
            for group, arrival in zip(groups, arrivals, strict=True)
        ]

    def flows(self, by: Grouping | None = None) -> Float[Tensor, "segment segment"]:
        """The share of the target's influence that goes from one segment (rows) directly to another (columns).

        flow_G,H = Σ_{j in G} through_j Σ_{t in H} R_j,t, zero for a segment to itself. What comes into a segment of
        generated text goes out of it. Args and errors are those of `group`; segments are in the order of `segments`.
        """
        return self._flows(self._groups(by))

    def hops(self, by: Grouping | None = None) -> pandas.DataFrame:
        """What each segment of generated text rests on, one step back, for the target's influence.

        Args and errors are those of `group`.

        Returns:
            One row per pair of segments, the nearest to the target first, with the strongest sources of each first:
            segment, rests_on (labels), from_index, to_index (in `segments`), in_prompt, share (of what the segment
            rests on), flow (of the target's whole influence).

        Example:
            >>> matrix = ls.attribute_all(model, "Hello. My name is", ls.Semantic(), generate=3)
            >>> matrix.total_influence("generated").hops(["Hello"]).columns.tolist()[:3]
            ['segment', 'rests_on', 'from_index']
        """
        segments, flows = self.segments(by), self.flows(by)
        rows = []
        for index in reversed(range(len(segments))):
            whole = float(flows[index].sum())
            for source in flows[index].argsort(descending=True, stable=True).tolist():
                flow = float(flows[index, source])
                if flow > 0:
                    rows.append(
                        {
                            "segment": segments[index].label,
                            "rests_on": segments[source].label,
                            "from_index": index,
                            "to_index": source,
                            "in_prompt": not segments[source].generated,
                            "share": flow / whole,
                            "flow": flow,
                        }
                    )
        columns = ["segment", "rests_on", "from_index", "to_index", "in_prompt", "share", "flow"]
        return data_frame(rows, columns=columns)

    def chains(self, k: int = 5, by: Grouping | None = None) -> list[Chain]:
        """The k strongest ways from the target back to the prompt, segment by segment, strongest first.

        The weight of a way G_0 ← G_1 ← … is exact: e (I − A_G0)⁻¹ A_G0,G1 (I − A_G1)⁻¹ …, the sum over all token paths
        that visit these segments in turn, with any number of steps within each. The weights of all ways add up to one
        less the leak. Args and errors are those of `group`.

        Example:
            >>> matrix = ls.attribute_all(model, "Hello. My name is", ls.Semantic(), generate=3)
            >>> matrix.total_influence("generated").chains(1, by=["Hello"])[0].segments[0].generated
            True
        """
        k = whole_number(k, "the number of ways", ResultError)
        segments = self.segments(by)
        order = itertools.count()  # settles ties, so that tensors are never compared
        start = torch.zeros(len(self.tokens), dtype=self.shares.dtype, device=self.shares.device)
        start[self.n_prompt :] = self._start()
        (target,) = (i for i, item in enumerate(segments) if (item.start, item.stop) == self.target)
        # Best first: a way's beginning weighs at least as much as any way that goes on from it.
        waiting: list[tuple[float, int, tuple[int, ...], Tensor]] = [(-1.0, next(order), (target,), start)]
        chains: list[Chain] = []
        while waiting and len(chains) < k:
            weight, _, way, arrivals = heapq.heappop(waiting)
            if not segments[way[-1]].generated:
                chains.append(Chain([segments[index] for index in way], -weight))
                continue
            onward = self._source_influence(segments[way[-1]], arrivals)
            for index, item in enumerate(segments[: way[-1]]):
                part = torch.zeros_like(onward)
                part[item.start : item.stop] = onward[item.start : item.stop]
                if (mass := float(part.sum())) > 0:
                    heapq.heappush(waiting, (-mass, next(order), (*way, index), part))
        return chains

    @classmethod
    def from_record(cls, record: Mapping[str, Any], tensor: Any) -> TotalInfluence:
        result = super().from_record(record, tensor)
        if len(kinds := {item.dtype for item in (result.scores, result.direct, result.through, result.shares)}) > 1:
            raise ValueError(f"scores, direct, through and shares are of several kinds: {', '.join(map(str, kinds))}")
        if len(result.scores) + len(result.through) != len(result.tokens):
            raise ValueError(
                f"scores and through have {len(result.scores)} and {len(result.through)} entries for "
                f"{len(result.tokens)} tokens"
            )
        if not len(result.scores) <= result.target[0] < result.target[1] <= len(result.tokens):
            raise ValueError(f"target is tokens {result.target}, outside the generated ones")
        return result

    def _start(self) -> Float[Tensor, " made"]:
        """e: uniform over the target's tokens."""
        return _uniform(self.target, self.n_prompt, self.shares)

    def _source_influence(self, segment: Segment, arrivals: Float[Tensor, " pos"]) -> Float[Tensor, " pos"]:
        """Where influence that arrives at a segment's tokens goes on to, after any number of steps within it."""
        rows = slice(segment.start - self.n_prompt, segment.stop - self.n_prompt)
        inside = self.shares[rows, segment.start : segment.stop]
        return _visits(inside, arrivals[segment.start : segment.stop]) @ self.shares[rows]

    def _flows(self, groups: list[Group]) -> Float[Tensor, "segment segment"]:
        """`flows` of groups that part the text."""
        member = torch.zeros(len(groups), len(self.tokens), dtype=self.shares.dtype, device=self.shares.device)
        for row, group in enumerate(groups):
            member[row, group.start : group.stop] = 1
        # How often each token is visited times its shares, summed over the segments it goes from and to.
        flows = (member[:, self.n_prompt :] * self.through) @ self.shares @ member.T
        return flows.fill_diagonal_(0)

    def _groups(self, by: Grouping | None) -> list[Group]:
        """The text in runs of tokens, parted at the prompt's end and around the target."""
        prompt = self.as_prompt()
        if by is None:
            by = "token" if prompt.text is None or prompt.offsets is None else "sentence"
        if isinstance(by, str) and by == "token":
            groups = [Group(token, index, index + 1) for index, token in enumerate(self.tokens)]
        else:
            groups = group_tokens(prompt, by)
        for one, other in itertools.pairwise(groups):
            if one.stop > other.start:
                raise PromptError(
                    f"the spans {one.label!r} and {other.label!r} overlap, and influence goes through each token once; "
                    "give spans apart."
                )
        return _split(self, groups, (self.n_prompt, *self.target))


def total_influence(matrix: AttributionMatrix, of: SpanLike = ANSWER, special: bool = False) -> TotalInfluence:
    """`AttributionMatrix.total_influence`."""
    if not isinstance(special, bool):
        raise PromptError(f"special is True or False; got {type(special).__name__}.")
    n_generated = matrix.answer or matrix.generated
    n_prompt = len(matrix.tokens) - n_generated
    if not n_generated:
        raise PromptError(
            "the matrix has no generated tokens for influence to pass through; make it with attribute_all(…, "
            "generate=8), or with an answer."
        )
    prompt = matrix.as_prompt()
    target = _read_target(matrix, prompt, of, n_prompt)
    shares = _shares(matrix, n_prompt, special)

    # Everything follows from how often a walk back from the target visits each generated token.
    start = _uniform(target, n_prompt, shares)
    through = _visits(shares[:, n_prompt:], start)
    # All visits, and the first step alone.
    scores, direct = through @ shares[:, :n_prompt], start @ shares[:, :n_prompt]
    record = {item.name: getattr(matrix, item.name) for item in fields(Result)}
    name = of if isinstance(of, str) else "".join(matrix.tokens[slice(*target)])
    settings = {"of": name, "target": list(target), "special": special}
    return TotalInfluence(
        **record
        | {
            "contract": _contract(matrix, target, n_prompt, special),
            "settings": matrix.settings | {"total_influence": settings},
            "warnings": [*matrix.warnings, *_warnings(matrix, 1 - float(scores.sum()))],
        },
        scores=scores,
        direct=direct,
        through=through,
        shares=shares,
        of=name,
        target=target,
        spans=dict(matrix.spans),
    )


def _read_target(matrix: AttributionMatrix, prompt: Prompt, of: SpanLike, n_prompt: int) -> tuple[int, int]:
    """The tokens of the target: by the name of a span, as "answer" or "generated", or as any span is given."""
    if isinstance(of, str) and of in matrix.spans:
        target = matrix.spans[of]
    elif isinstance(of, str) and of == GENERATED:
        target = (n_prompt, len(prompt))
    elif isinstance(of, str) and of == ANSWER:
        target = _last_sentence(prompt, n_prompt)
    else:
        target = resolve_spans(prompt, {"of": of})["of"]
    if target[0] < n_prompt:
        raise PromptError(
            f"{of!r} is tokens {target[0]} to {target[1]}, and the text was generated from token {n_prompt} on; total "
            "influence is that on generated text: give a part of it, 'answer' or 'generated'."
        )
    return target


def _last_sentence(prompt: Prompt, n_prompt: int) -> tuple[int, int]:
    """The last sentence of the generated text; all of it where there is no text to find sentences in."""
    if prompt.text is None or prompt.offsets is None:
        return n_prompt, len(prompt)
    for group in reversed(group_tokens(prompt, "sentence")):
        start = max(group.start, n_prompt)
        if start < group.stop and not all(prompt.special[start : group.stop]):
            return start, group.stop
    return n_prompt, len(prompt)


def _shares(matrix: AttributionMatrix, n_prompt: int, special: bool) -> Float[Tensor, "made pos"]:
    """R: each generated token's row of the matrix by magnitude, over its sum over the eligible tokens."""
    rows = {dest: row for row, dest in enumerate(matrix.destinations)}
    generated_rows = [rows[position - 1] for position in range(n_prompt, len(matrix.tokens))]
    scores = matrix.matrix[generated_rows].double().abs().cpu()
    if not bool(scores.isfinite().all()):
        first = int((~scores.isfinite()).any(1).nonzero()[0])
        raise ResultError(
            f"the scores of generated token {n_prompt + first} are not finite, so they have no shares; compute the "
            'matrix in dtype="float32".'
        )
    if not special:
        scores[:, torch.tensor(matrix.special, device="cpu")] = 0
    # A row is divided by its largest score first: tiny scores would otherwise vanish in their sum.
    scores = scores / scores.amax(1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
    totals = scores.sum(1, keepdim=True)
    return torch.where(totals > 0, scores / totals, 0)


def _visits(steps: Float[Tensor, "made made"], start: Float[Tensor, " made"]) -> Float[Tensor, " made"]:
    """start (I − A)⁻¹ for a strictly lower triangular A: how often a walk visits each token."""
    matrix = torch.eye(len(steps), dtype=steps.dtype, device=steps.device) - steps
    return torch.linalg.solve_triangular(matrix, start[None], upper=False, left=False, unitriangular=True)[0]


def _uniform(target: tuple[int, int], n_prompt: int, like: Float[Tensor, "made pos"]) -> Float[Tensor, " made"]:
    start = torch.zeros(len(like), dtype=like.dtype, device=like.device)
    start[target[0] - n_prompt : target[1] - n_prompt] = 1 / (target[1] - target[0])
    return start


def _split(influence: TotalInfluence, groups: list[Group], edges: tuple[int, ...]) -> list[Group]:
    """Groups cut at some tokens; what lies within the target is one group."""
    first, last = influence.target
    pieces: list[Group] = []
    for group in groups:
        cuts = sorted({group.start, group.stop, *(edge for edge in edges if group.start < edge < group.stop)})
        for start, stop in itertools.pairwise(cuts):
            if start >= first and stop <= last:
                continue
            whole = (start, stop) == (group.start, group.stop)
            text = "".join(influence.tokens[start:stop])
            pieces.append(group if whole else Group(text.strip() or repr(text), start, stop))
    text = influence.target_text
    pieces.append(Group(text.strip() or repr(text), first, last))
    return sorted(pieces, key=lambda group: group.start)


def _contract(matrix: AttributionMatrix, target: tuple[int, int], n_prompt: int, special: bool) -> dict[str, str]:
    """The contract of the matrix, with what the walk through the generated text adds to it."""
    base = matrix.contract
    which = "" if special else " that are not special"
    return base | {
        "output explained": f"tokens {target[0]} to {target[1] - 1} of the generated text; "
        f"{base.get('output explained', 'each generated token')}",
        "eligible features": f"the prompt's {n_prompt} tokens{which}, through generated tokens; "
        f"{base.get('eligible features', 'all tokens')}",
        "score attributed": "total = e (I − A)⁻¹ P, e uniform over the tokens explained; the rows of [P | A] are those "
        f"of the matrix by magnitude, each over its sum over the eligible tokens; {base.get('score attributed', '')}",
    }


def _warnings(matrix: AttributionMatrix, leak: float) -> list[str]:
    notes = []
    if bool((matrix.matrix < 0).any()):
        notes.append(
            "the scores have signs and count by their magnitude here: shares do not say what raises and what lowers."
        )
    if leak > 1e-6:
        notes.append(
            f"{leak:.1%} of the influence ends in generated tokens on whose predictions no eligible token has any."
        )
    return notes
