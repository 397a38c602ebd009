"""Rules on the backward pass: against a transformer written out by hand, and the laws that the papers prove."""

import itertools
import math
from typing import Any

import pytest
import torch
from einops import einsum
from reference import site_activation
from tiny_models import TINY_MODELS, random_transformer
from torch import Tensor
from torch.nn.functional import gelu, silu

import lens_scopes as ls
from lens_scopes.engine import attention
from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import ObjectiveError, PathError
from lens_scopes.scopes.contract import ELEMENTS
from lens_scopes.scopes.paths import parse_path
from lens_scopes.scopes.registry import FREEZABLE, RULE_SETS, RULES
from lens_scopes.scopes.spec import Spec
from lens_scopes.scopes.text.forms import rule_names
from lens_scopes.scopes.text.options import options

IDS = [3, 7, 1, 7, 4, 9, 2]
TARGET = 5
EXACT: Any = {"rtol": 1e-10, "atol": 1e-12}
SINGLES = [*FREEZABLE, *(f"{name}@1.5" if name == "softmax" else name for name in RULES)]
ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": lambda x: gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: gelu(x, approximate="tanh"),
    "silu": silu,
}


class _Half(torch.autograd.Function):
    """The product a·b, of whose gradient each factor gets half."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, equation: str) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.equation = equation
        return einsum(a, b, equation)

    @staticmethod
    def backward(ctx, g: Tensor):
        a, b = ctx.saved_tensors
        inputs, out = ctx.equation.split(" -> ")
        of_a, of_b = inputs.split(", ")
        return einsum(g, b, f"{out}, {of_b} -> {of_a}") / 2, einsum(g, a, f"{out}, {of_a} -> {of_b}") / 2, None


class _Identity(torch.autograd.Function):
    """act(x), whose slope is taken to be act(x)/x."""

    @staticmethod
    def forward(ctx, x: Tensor, name: str) -> Tensor:
        ctx.ratio = ACTIVATIONS[name](x) / x
        return ACTIVATIONS[name](x)

    @staticmethod
    def backward(ctx, g: Tensor):
        return g * ctx.ratio, None


class _SoftmaxAt(torch.autograd.Function):
    """softmax(s), which goes back as if its probabilities were those of softmax(s/T)."""

    @staticmethod
    def forward(ctx, scores: Tensor, temperature: float) -> Tensor:
        ctx.soft = (scores / temperature).softmax(-1)
        return scores.softmax(-1)

    @staticmethod
    def backward(ctx, g: Tensor):
        jacobian = torch.diag_embed(ctx.soft) - ctx.soft[..., :, None] * ctx.soft[..., None, :]
        return einsum(jacobian, g, "head dest i j, head dest j -> head dest i"), None


class Literal:
    """A tiny model written out for one prompt, each rule in the place where its paper puts it."""

    def __init__(self, model, rules: frozenset[str]) -> None:
        self.model, self.cfg, self.rules = model, model.cfg, rules
        self.temperature = next((float(rule.partition("@")[2]) for rule in rules if "@" in rule), None)

    def gradient(self, ids: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The embeddings, ∂ logit of TARGET / ∂ embeddings by the rules, and the logit."""
        embeddings = site_activation(self.model, ids, "hook_embed").requires_grad_(True)
        logit = self.logit(embeddings)
        (gradient,) = torch.autograd.grad(logit, embeddings)
        return embeddings.detach(), gradient, logit.detach()

    def logit(self, residual: Tensor) -> Tensor:
        if "hook_pos_embed" in self.model.hook_dict:
            residual = residual + self.model.pos_embed.W_pos[: len(residual)]
        for layer, block in enumerate(self.model.blocks):
            attended = self.attention(block.attn, self.norm(getattr(block, "ln1", None), residual), layer)
            attended = self.norm(getattr(block, "ln1_post", None), attended)
            if self.cfg.attn_only:
                residual = residual + attended
                continue
            middle = residual if self.cfg.parallel_attn_mlp else residual + attended
            out = self.norm(getattr(block, "ln2_post", None), self.mlp(block.mlp, self.norm(block.ln2, middle)))
            residual = residual + attended + out
        y = self.norm(getattr(self.model, "ln_final", None), residual)[-1]
        z = y @ self.model.W_U[:, TARGET] + self.model.b_U[TARGET]
        cap = self.cfg.output_logits_soft_cap
        return cap * torch.tanh(z / cap) if cap > 0 else z

    def norm(self, norm, x: Tensor) -> Tensor:
        if norm is None or not hasattr(norm, "w"):
            return x
        if hasattr(norm, "b"):
            x = x - x.mean(-1, keepdim=True)
        scale = (x.square().mean(-1, keepdim=True) + norm.eps).sqrt()
        scale = scale.detach() if "norms" in self.rules else scale
        return x / scale * norm.w + getattr(norm, "b", 0)

    def product(self, rule: str, a: Tensor, b: Tensor, equation: str) -> Tensor:
        return _Half.apply(a, b, equation) if rule in self.rules else einsum(a, b, equation)

    def attention(self, part, x: Tensor, layer: int) -> Tensor:
        q, k, v = (
            einsum(x, weight, "pos d, head d e -> pos head e") + bias
            for weight, bias in ((part.W_Q, part.b_Q), (part.W_K, part.b_K), (part.W_V, part.b_V))
        )
        if self.cfg.use_qk_norm:
            q, k = self.norm(part.q_norm, q), self.norm(part.k_norm, k)
        if self.cfg.positional_embedding_type == "rotary":
            q, k = part.apply_rotary(q[None])[0], part.apply_rotary(k[None])[0]
        scores = self.product("half-qk", q, k, "dest head e, src head e -> head dest src") / part.attn_scale
        if self.cfg.attn_scores_soft_cap > 0:
            scores = self.cfg.attn_scores_soft_cap * torch.tanh(scores / self.cfg.attn_scores_soft_cap)
        ahead = torch.arange(len(x))[:, None] - torch.arange(len(x))
        hidden = ahead < 0
        if part.attn_type == "local":
            hidden = hidden | (ahead >= self.cfg.window_size)
        scores = scores.masked_fill(hidden, -math.inf)
        pattern = scores.softmax(-1) if self.temperature is None else _SoftmaxAt.apply(scores, self.temperature)
        pattern = pattern.detach() if "patterns" in self.rules else pattern
        z = self.product("half-av", pattern, v, "head dest src, src head e -> dest head e")
        return einsum(z, part.W_O, "pos head e, head e d -> pos d") + part.b_O

    def mlp(self, part, x: Tensor) -> Tensor:
        name = self.cfg.act_fn

        def activation(pre: Tensor) -> Tensor:
            return _Identity.apply(pre, name) if "identity" in self.rules else ACTIVATIONS[name](pre)

        if not self.cfg.gated_mlp:
            pre = x @ part.W_in + part.b_in
            post = _Identity.apply(pre, name) if "gates" in self.rules else activation(pre)
        else:
            gate = activation(x @ part.W_gate)
            gate = gate.detach() if "gates" in self.rules else gate
            post = self.product("half-gate", gate, x @ part.W_in, "pos i, pos i -> pos i") + part.b_in
        return post @ part.W_out + part.b_out


def has_place(model, rule: str) -> bool:
    if model.cfg.attn_only:
        return rule not in ("half-gate", "identity")
    return rule != "half-gate" or model.cfg.gated_mlp


def single_rules(*names: str) -> frozenset[str]:
    return ls.Rules(*names).rules


@pytest.mark.parametrize("names", [(), *((name,) for name in (*SINGLES, *RULE_SETS))], ids=str)
def test_gradients_are_those_of_the_model_written_out_with_the_rules(tiny, names) -> None:
    through = ls.Rules(*names) if names else None
    if not all(has_place(tiny, name) for name in names):
        with pytest.raises(PathError, match="would change nothing"):
            ls.attribute(tiny, IDS, through=through)
        return
    embeddings, gradient, logit = Literal(tiny, through.rules if through else frozenset()).gradient(IDS)
    free = ls.attribute(tiny, IDS, ls.Semantic(TARGET))
    by_norm = ls.attribute(tiny, IDS, ls.Semantic(TARGET), through=through)
    by_dot = ls.attribute(tiny, IDS, ls.Semantic(TARGET), through=through, readout="dot")
    torch.testing.assert_close(by_norm.scores, gradient.norm(dim=-1), **EXACT)
    torch.testing.assert_close(by_dot.scores, (gradient * embeddings).sum(-1), **EXACT)
    # The forward pass is the model's: to the last digit, but where attention leaves its blocks for a rule.
    whole = through is not None and any(rule == "patterns" or "softmax" in rule for rule in through.rules)
    assert by_norm.prediction.entropy == pytest.approx(free.prediction.entropy, rel=1e-13)
    assert whole or by_norm.prediction == free.prediction
    torch.testing.assert_close(logit, tiny(torch.tensor([IDS]))[0, -1, TARGET], **EXACT)


@pytest.mark.parametrize("pair", list(itertools.combinations(SINGLES, 2)), ids=str)
def test_rules_hold_together(pair: tuple[str, str]) -> None:
    model = TINY_MODELS["llama_like"]()
    _, gradient, _ = Literal(model, single_rules(*pair)).gradient(IDS)
    found = ls.attribute(model, IDS, ls.Semantic(TARGET), through=ls.Rules(*pair))
    torch.testing.assert_close(found.scores, gradient.norm(dim=-1), **EXACT)


@pytest.mark.parametrize("temperature", [1, 0.25, 7])
def test_the_softmax_goes_back_at_any_temperature(tiny, temperature: float) -> None:
    name = f"softmax@{temperature}"
    _, gradient, _ = Literal(tiny, single_rules(name)).gradient(IDS)
    found = ls.attribute(tiny, IDS, ls.Semantic(TARGET), through=ls.Rules(name)).scores
    torch.testing.assert_close(found, gradient.norm(dim=-1), **EXACT)
    free = ls.attribute(tiny, IDS, ls.Semantic(TARGET)).scores
    assert torch.allclose(found, free) == (temperature == 1)


def test_the_softmax_of_a_model_with_attention_sinks_goes_back_at_a_temperature() -> None:
    model = random_transformer(
        0, torch.float64, n_layers=1, d_model=12, d_head=4, n_heads=3, attn_only=True, normalization_type=None,
        use_attention_sinks=True,
    )  # fmt: skip
    part, temperature = model.blocks[0].attn, 2.0
    x = site_activation(model, IDS, "blocks.0.hook_resid_pre").requires_grad_(True)
    q, k, v = (
        einsum(x, weight, "pos d, head d e -> pos head e") + bias
        for weight, bias in ((part.W_Q, part.b_Q), (part.W_K, part.b_K), (part.W_V, part.b_V))
    )
    scores = einsum(q, k, "dest head e, src head e -> head dest src") / part.attn_scale
    scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -math.inf)
    with_sink = torch.cat([scores, part.sinks[:, None, None].expand(-1, len(x), 1)], -1)
    pattern = _SoftmaxAt.apply(with_sink, temperature)[..., :-1]
    z = einsum(pattern, v, "head dest src, src head e -> dest head e")
    y = (x + einsum(z, part.W_O, "pos head e, head e d -> pos d") + part.b_O)[-1]
    (gradient,) = torch.autograd.grad(y @ model.W_U[:, TARGET], x)
    found = ls.attribute(model, IDS, ls.Semantic(TARGET), through=ls.Rules("softmax@2"))
    torch.testing.assert_close(found.scores, gradient.norm(dim=-1), **EXACT)
    assert not torch.allclose(found.scores, ls.attribute(model, IDS, ls.Semantic(TARGET)).scores)


@pytest.mark.parametrize("name", ["llama_like", "gemma_like", "gpt2_like"])
def test_relevances_of_attnlrp_add_up_to_the_logit(name: str) -> None:
    """Without biases and soft-caps every operation is a homogeneous function whose relevance is conserved, but for the
    softmax: what goes back through it is Σ_j s_j (R_j/s_j − Σ R) scores_j, the part that its bias takes."""
    model = TINY_MODELS[name]()
    for key, parameter in model.named_parameters():
        if key.split(".")[-1].startswith(("b", "_b")) or key.endswith("W_pos"):
            parameter.data = torch.zeros_like(parameter)
    model.cfg.output_logits_soft_cap = -1.0
    logit = float(model(torch.tensor([IDS]))[0, -1, TARGET])

    def total(*rules: str) -> float:
        return float(
            ls.attribute(model, IDS, ls.Semantic(TARGET), through=ls.Rules(*rules), readout="dot").scores.sum()
        )

    # Constant patterns take nothing: all of the logit comes back.
    assert total("relp") == pytest.approx(logit, rel=1e-10)
    assert total("norms", "patterns", "gates") == pytest.approx(logit, rel=1e-10)
    if model.cfg.gated_mlp:
        assert abs(total("norms", "patterns", "identity") - logit) > 1e-3  # the product is counted twice

    # With A·V and Q·K halved, what is missing is exactly what the softmax's bias takes in all layers.
    literal = Literal(model, single_rules("attnlrp"))
    taken = []
    apply = _SoftmaxAt.apply
    literal.temperature = 1.0

    def record(scores: Tensor, temperature: float) -> Tensor:
        pattern = apply(scores, temperature)
        finite = scores.detach().nan_to_num(neginf=0)
        pattern.register_hook(
            lambda g: taken.append(
                (g * pattern.detach()).sum()
                - ((pattern * (g - (g * pattern).sum(-1, keepdim=True))).detach() * finite).sum()
            )
        )
        return pattern

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_SoftmaxAt, "apply", record)
        literal.gradient(IDS)
    capped = model.cfg.attn_scores_soft_cap > 0  # whose slope is no ratio, so a part is lost there too
    if not capped:
        assert total("attnlrp") == pytest.approx(logit - float(sum(taken)), rel=1e-9)
    assert total("attnlrp") != pytest.approx(logit, rel=1e-3)


def test_rules_compose_with_components_layers_and_memory(tiny, monkeypatch) -> None:
    path = ls.Layers(0) & ls.Heads("L0H1") & ls.Rules("gim")

    def ask(**choices):
        return ls.attribute(tiny, IDS, ls.Fisher(rank=2), layers=True, through=path, readout="dot", **choices)

    whole, free = ask(), ls.attribute(tiny, IDS, ls.Fisher(rank=2), layers=True, through=ls.Rules("gim"))
    assert not torch.allclose(whole.scores, free.scores)
    assert path.carried(ScopedModel.of(tiny)) == {(0, 1)}
    with monkeypatch.context() as patch:  # one layer at a time
        patch.setattr("lens_scopes.engine.memory.plan.Budget.whole", lambda *_: 10**15)
        sliced = ask(memory="1GB")
    assert sliced.memory.sliced
    torch.testing.assert_close(sliced.scores, whole.scores, **EXACT)
    torch.testing.assert_close(sliced.layers, whole.layers, **EXACT)


@pytest.mark.parametrize("names", [("gim",), ("attnlrp",), ("relp",)], ids=str)
def test_a_batch_is_as_single_prompts(tiny, names) -> None:
    prompts = [IDS, IDS[:4]]
    together = ls.attribute_batch(tiny, prompts, ls.Fisher(rank=2), through=ls.Rules(*names), layers=True)
    for result, ids in zip(together, prompts, strict=True):
        alone = ls.attribute(tiny, ids, ls.Fisher(rank=2), through=ls.Rules(*names), layers=True)
        torch.testing.assert_close(result.scores, alone.scores, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(result.layers, alone.layers, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "shares"),
    [
        ("half-av", {"attn.hook_v": 0.5, "attn.hook_q": 0.5, "attn.hook_k": 0.5, "attn.hook_z": 1}),
        ("half-qk", {"attn.hook_v": 1, "attn.hook_q": 0.5, "attn.hook_k": 0.5, "attn.hook_z": 1}),
        ("half-gate", {"mlp.hook_pre": 0.5, "mlp.hook_pre_linear": 0.5, "mlp.hook_post": 1}),
        ("identity", {"mlp.hook_pre_linear": 1, "mlp.hook_post": 1}),
    ],
)
def test_sites_inside_have_the_gradient_that_arrives_there(rule: str, shares: dict[str, float]) -> None:
    """At the factors of a product what is left by its rule, at the product all of it."""
    model = TINY_MODELS["llama_like"]()
    sites = [f"blocks.2.{name}" for name in shares]
    free = ls.attribute(model, IDS, ls.Semantic(TARGET), sites=sites).sites
    ruled = ls.attribute(model, IDS, ls.Semantic(TARGET), sites=sites, through=ls.Rules(rule)).sites
    for site, share in zip(sites, shares.values(), strict=True):
        assert free[site].any()
        torch.testing.assert_close(ruled[site], share * free[site], **EXACT)


def test_only_the_softmax_needs_patterns(tiny: Any) -> None:
    """Half rules leave attention in blocks."""
    half = ls.attribute(tiny, IDS, through=ls.Rules("half-av", "half-qk", "norms"))
    assert attention.PATTERNS_READ not in half.memory.unfused
    soft = ls.attribute(tiny, IDS, through=ls.Rules("gim"))
    assert soft.memory.unfused == {attention.PATTERNS_READ: list(range(tiny.cfg.n_layers))}


def test_hooks_are_gone_afterwards(tiny) -> None:
    ls.attribute(tiny, IDS, through=ls.Rules("gim", "attnlrp"))
    assert not any(point.fwd_hooks or point.bwd_hooks for point in tiny.hook_dict.values())


def test_every_function_takes_rules() -> None:
    model = TINY_MODELS["llama_like"]()
    rules = ls.Rules("attnlrp")
    heads = ls.inspect_heads(model, IDS, ls.Semantic(TARGET), through=rules, baseline="zero")
    assert not torch.allclose(heads.effect, ls.inspect_heads(model, IDS, ls.Semantic(TARGET), baseline="zero").effect)
    for result in (
        heads,
        ls.inspect_modes(model, IDS, through=rules),
        ls.information_flow(model, IDS, {"first": (0, 2)}, through=rules),
        ls.attribute_all(model, IDS, through=rules),
        ls.attribute(model, IDS, answer=[1, 2], through=rules, points=ls.StraightPath("zero", 3)),
    ):
        assert "those of AttnLRP (arXiv:2402.05602: normalisation scales constant" in result.contract["held fixed"]


# Names and texts


def test_the_contract_says_what_goes_back_in_place_of_the_derivative(tiny) -> None:
    for name in rule_names():
        name = name.replace("@T", "@2")
        if not has_place(tiny, name):
            continue
        path = ls.Layers(0) & ls.Rules(name)
        result = ls.attribute(tiny, IDS, through=path)
        held = result.contract[ELEMENTS[3]]
        assert "gradient flows only through layers 0, all else keeps its value" in held
        assert (f"{FREEZABLE[name]} constant" if name in FREEZABLE else "gradient follows rules") in held
        assert result.settings["path"] == str(path)
        again = ls.attribute(tiny, IDS, Spec.from_options(**result.spec))
        assert torch.equal(again.scores, result.scores)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("gim", ls.Rules("gim")),
        ("5-9 & relp", ls.Layers(5, 9) & ls.Rules("relp")),
        ("half-av & softmax@1.5", ls.Rules("half-av", "softmax@1.5")),
        ("softmax", ls.Rules("softmax@2")),
        ("frozen-patterns & half-av", ls.Frozen("patterns") & ls.Rules("half-av")),
        ("L0H1 & gim, mlp & gim", (ls.Heads("L0H1") | ls.MLP()) & ls.Rules("gim")),
    ],
)
def test_rules_can_be_written_as_text(written: str, path: ls.Path) -> None:
    assert parse_path(written) == path and parse_path(path.text) == path
    assert eval(repr(path), dict(vars(ls.scopes.paths))) == path
    spec = Spec.read("semantic", through=path)
    assert Spec.parse(spec.line) == spec == Spec.from_options(**spec.to_options())


def test_every_name_is_taken_by_every_face() -> None:
    for name in rule_names():
        name = name.replace("@T", "@3")
        rules = ls.Rules(name)
        assert Spec.from_options(rules=[name]).through == rules
        assert name in FREEZABLE or Spec.parse(f"fisher@2+{name}+dot").through == rules
        assert name in FREEZABLE or parse_path(name) == rules
        assert name.partition("@")[0] in options()["rules"].help
    assert Spec.from_options(rules=["gim"], freeze=["patterns"], through="0-1").through == ls.Layers(0, 1) & ls.Rules(
        "gim", "patterns"
    )
    assert set(itertools.chain(*(entry.rules for entry in RULE_SETS.values()))) <= set(SINGLES) | {"softmax@2"}


def test_what_can_be_frozen_is_a_rule_by_the_same_name() -> None:
    assert ls.Rules("norms", "patterns") == ls.Frozen("norms", "patterns")
    assert repr(ls.Rules("norms")) == "Frozen('norms')" and ls.Rules("norms").text == "frozen-norms"
    assert ls.Rules(*RULE_SETS["relp"].rules) == ls.Rules("relp") and str(ls.Rules("relp")) == "rules relp"
    assert str(ls.Rules("relp", "gates", "half-av")) == "gates frozen; rules relp, half-av"


def test_an_activation_of_several_entries_has_no_identity_rule() -> None:
    model = random_transformer(0, torch.float64, n_layers=1, d_model=8, d_head=4, n_heads=2, d_mlp=6, act_fn="solu_ln")
    for name in ("identity", "attnlrp", "relp"):
        with pytest.raises(PathError, match="solu_ln of this model mixes"):
            ls.attribute(model, IDS, through=ls.Rules(name))
    assert ls.attribute(model, IDS, through=ls.Rules("gim")).scores.any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ls.Rules(), PathError, "'attnlrp'.*none is given"),
        (lambda: ls.Rules("gimm"), PathError, "unknown rule 'gimm'; did you mean 'gim'"),
        (lambda: ls.Rules("softmax@0"), PathError, "temperature"),
        (lambda: ls.Rules("softmax@two"), PathError, "temperature"),
        (lambda: ls.Rules("softmax@nan"), PathError, "temperature"),
        (lambda: ls.Rules("half-av@2"), PathError, "unknown rule 'half-av@2'"),
        (lambda: ls.Rules("gim") & ls.Rules("softmax@3"), PathError, "one temperature.*softmax@2 and softmax@3"),
        (lambda: Spec.parse("fisher+half-vv"), ObjectiveError, "did you mean 'half-av'"),
        (lambda: parse_path("gimm"), PathError, 'a rule like "gim"'),
    ],
)
def test_malformed_rules_are_refused(make, error, message: str) -> None:
    with pytest.raises(error, match=message):
        make()
