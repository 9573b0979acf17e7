"""From the selectors of a recipe to the modules of a base."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from deltatune.core import roles
from deltatune.core.sites import LINEAR, BaseView
from deltatune.errors import TargetError
from deltatune.testing import tiny


def leaves(*ends: str) -> dict[str, list[str]]:
    return {role: of_role.split() for role, of_role in zip(roles.ROLES, ends, strict=True)}


_PROJ = ("q_proj", "k_proj", "v_proj")
_FUSED = ("query_key_value",) * 3
LEAVES = {
    "t5": leaves("q", "k", "v", "o", "wi", "wo"),
    "mt5": leaves("q", "k", "v", "o", "wi_0 wi_1", "wo"),
    **dict.fromkeys(("bart", "mbart", "marian", "opt"), leaves(*_PROJ, "out_proj", "fc1", "fc2")),
    **dict.fromkeys(
        ("bert", "roberta"),
        leaves("query", "key", "value", "attention.output.dense", "intermediate.dense",
               "0.output.dense 1.output.dense"),
    ),
    "deberta-v2": leaves("self.query_proj", "self.key_proj", "self.value_proj", "attention.output.dense",
                         "intermediate.dense", "0.output.dense 1.output.dense"),
    **dict.fromkeys(("vit", "dinov2", "deit"), leaves(*_PROJ, "o_proj", "fc1", "fc2")),
    "clip": leaves(*_PROJ, "out_proj", "fc1", "fc2"),
    "gpt2": leaves("c_attn", "c_attn", "c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"),
    "gpt_neox": leaves(*_FUSED, "attention.dense", "dense_h_to_4h", "dense_4h_to_h"),
    "bloom": leaves(*_FUSED, "self_attention.dense", "dense_h_to_4h", "dense_4h_to_h"),
    **dict.fromkeys(
        ("llama", "qwen2", "mistral"), leaves(*_PROJ, "o_proj", "gate_proj up_proj", "down_proj")
    ),
    "glm": leaves(*_PROJ, "o_proj", "gate_up_proj", "down_proj"),
    "mixtral": leaves(*_PROJ, "o_proj", "", ""),
}  # fmt: skip
"""The ends of the names that a role means; Mixtral keeps all experts in one tensor, which is no module."""
ATTENTIONS = {name: 6 if name in tiny.SEQ2SEQ else 2 for name in tiny.ARCHITECTURES}
BLOCKS = {name: 4 if name in tiny.SEQ2SEQ else 2 for name in tiny.ARCHITECTURES}


def view(architecture: str) -> BaseView:
    return BaseView(tiny.model(architecture), tiny.heads(architecture))


VIEWS = {architecture: view(architecture) for architecture in tiny.ARCHITECTURES}
if any(path.endswith(".attention.query") for path in VIEWS["dinov2"].modules):  # Transformers 5.17
    LEAVES["dinov2"] = leaves("query", "key", "value", "attention.output.dense", "fc1", "fc2")


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("role", roles.ROLES)
def test_roles_find_the_modules_they_mean(architecture: str, role: str) -> None:
    ends = LEAVES[architecture][role]
    found = VIEWS[architecture].by_role(role)
    blocks = BLOCKS if role.startswith("mlp") else ATTENTIONS
    per_block = 1 if any(end[0] in "01" for end in ends) else len(ends)
    assert len(found) == blocks[architecture] * per_block
    assert all(f".{path}".endswith(tuple(f".{end}" for end in ends)) for path in found)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_an_unknown_model_type_falls_back_to_all_tables(architecture: str) -> None:
    known, unknown = VIEWS[architecture], view(architecture)
    unknown.model_type = "something-new"
    for role in ("query", "key", "value", "output", "mlp_in", "mlp_out"):
        assert list(unknown.by_role(role)) == list(known.by_role(role)), role
    assert unknown.is_decoder_only == known.is_decoder_only


@pytest.mark.parametrize("architecture", tiny.SEQ2SEQ)
def test_scopes_part_the_attention(architecture: str) -> None:
    found = [set(VIEWS[architecture].select([f"{scope}.query"])) for scope in roles.SCOPES]
    assert [len(paths) for paths in found] == [2, 2, 2]
    assert set.union(*found) == set(VIEWS[architecture].select(["query"]))
    assert all("decoder" in path for path in found[1] | found[2])


def test_sites_with_one_input_have_one_name_for_it() -> None:
    def names(architecture: str, *paths: str) -> int:
        return len({VIEWS[architecture].input_of(path) for path in paths})

    layer = "decoder.block.0.layer"
    assert names("t5", *(f"{layer}.0.SelfAttention.{name}" for name in "qkv")) == 1
    assert names("t5", *(f"{layer}.1.EncDecAttention.{name}" for name in "qkv")) == 2
    assert names("t5", *(f"{layer}.1.EncDecAttention.{name}" for name in "kv")) == 1
    assert names("t5", f"{layer}.0.SelfAttention.q", "decoder.block.1.layer.0.SelfAttention.q") == 2
    assert names("llama", *(f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up"))) == 1
    assert names("llama", *(f"model.layers.0.self_attn.{name}_proj" for name in "qo")) == 2
    assert names("bert", "bert.encoder.layer.0.output.dense", "bert.pooler.dense") == 2


def test_groups_are_the_union_of_their_roles_in_the_order_of_the_base() -> None:
    for here in VIEWS.values():
        for group, members in roles.GROUPS.items():
            if not here.by_role(group):
                assert (here.model_type, group) == ("mixtral", "mlp")
                continue
            chosen = list(here.select([group]))
            assert set(chosen) == set(here.select(members))
            assert chosen == [path for path in here.modules if path in set(chosen)]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_all_linear_leaves_out_heads_and_embeddings(architecture: str) -> None:
    here = VIEWS[architecture]
    chosen = here.select(["all-linear"])
    linear = {path for path, module in here.modules.items() if isinstance(module, nn.Linear | Conv1D)}
    heads = {"roberta": {"classifier.dense", "classifier.out_proj"}}.get(architecture, {"classifier"})
    assert linear - set(chosen) == (heads if architecture in tiny.CLASSIFIERS else {"lm_head"})


def test_globs_and_ends_of_paths() -> None:
    here = VIEWS["llama"]
    assert list(here.select(["model.layers.0.*.[qv]_proj"])) == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj",
    ]
    assert len(here.select(["self_attn.q_proj"])) == 2
    assert list(here.select(["layers.1.self_attn.q_proj", "1.self_attn.q_proj"])) == [
        "model.layers.1.self_attn.q_proj"
    ]
    assert list(here.select(["lm_head"])) == ["lm_head"]
    with pytest.raises(TargetError):  # the end of a name is not the end of a path
        here.select(["proj"])


@pytest.mark.parametrize(
    ("architecture", "selector", "hint"),
    [
        ("bert", "q_proj", "query"),
        ("llama", "quary", "query"),
        ("llama", "c_attn", "q_proj"),
        ("t5", "encoder.q_proj", "all-linear"),
        ("bert", "decoder.query", "query"),
        ("bert", "classifier", "query"),  # a head is trained whole
        ("gpt2", "*.self_attn.*", "c_attn"),
    ],
)
def test_a_selector_without_a_match_lists_what_would_match(
    architecture: str, selector: str, hint: str
) -> None:
    with pytest.raises(TargetError) as caught:
        VIEWS[architecture].select(["all-linear", selector])
    assert repr(selector) in str(caught.value)
    assert hint in str(caught.value.remedy)
    assert caught.value.field == "targets"


def test_experts_in_one_tensor_are_told_of() -> None:
    with pytest.raises(TargetError, match="its experts are kept in one tensor"):
        VIEWS["mixtral"].select(["query", "mlp_in"])


def test_no_attention_in_the_named_scopes_is_an_error() -> None:
    with pytest.raises(TargetError, match="encoder"):
        VIEWS["bert"].attention_sites(("decoder", "cross"))


def test_shapes_of_attention() -> None:
    for architecture in tiny.ARCHITECTURES:
        grouped = architecture in ("llama", "qwen2", "mistral", "glm", "mixtral")
        sites = VIEWS[architecture].attention_sites()
        assert {(s.kv_heads, s.head_dim) for s in sites} == {(tiny.KV_HEADS if grouped else tiny.HEADS, 4)}
        assert len(sites) == ATTENTIONS[architecture]


PATHS = sorted({path for here in VIEWS.values() for path in here.modules if path})
SELECTORS = st.one_of(
    st.sampled_from([*roles.ROLES, *roles.GROUPS, "all-linear"]),
    st.builds(lambda s, r: f"{s}.{r}", st.sampled_from(roles.SCOPES), st.sampled_from(roles.ROLES)),
    st.builds(lambda p, n: ".".join(p.split(".")[-n:]), st.sampled_from(PATHS), st.integers(1, 4)),
    st.builds(lambda p, n: "*" + p[n:], st.sampled_from(PATHS), st.integers(0, 12)),
    st.text("abq_.*[]?0", min_size=1, max_size=6),
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(tiny.ARCHITECTURES), st.lists(SELECTORS, min_size=1, max_size=3))
def test_selection_is_the_ordered_union_of_its_selectors(architecture: str, selectors: list[str]) -> None:
    """Every selector matches or raises; the result has no duplicates, only linear layers, and no heads."""
    here = VIEWS[architecture]
    parts: list[dict[str, nn.Module] | None] = []
    for selector in selectors:
        try:
            parts.append(here.select([selector]))
        except TargetError:
            parts.append(None)
    if None in parts:
        with pytest.raises(TargetError):
            here.select(selectors)
        return
    chosen = here.select(selectors)
    union = set().union(*(part or () for part in parts))
    assert list(chosen) == [path for path in here.modules if path in union]
    assert all(isinstance(module, LINEAR) for module in chosen.values())
    assert not any(path.startswith("classifier") for path in chosen)
    for selector, part in zip(selectors, parts, strict=True):
        if set("*?[") & set(selector):
            assert all(fnmatch.fnmatchcase(path, selector) for path in part or ())
