"""Learned vectors, keys and values on architectures of all kinds: each works, or is refused when attached."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers as hf
from torch import Tensor
from torch.nn import functional as F

from deltatune import AdaptedModel
from deltatune.errors import TargetError
from deltatune.methods import METHODS

AT_INPUT, IN_ATTENTION = ("prompt", "p_tuning"), ("prefix", "p_tuning_v2")
BOTH, NEITHER = AT_INPUT + IN_ATTENTION, ()
CLASSES = 3

SIZES = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
GPT_SIZES = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
SSM_SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "state_size": 4,
    "pad_token_id": 0,
}
BART_SIZES = {
    "vocab_size": 64, "d_model": 16, "pad_token_id": 0, "decoder_start_token_id": 2, "bos_token_id": 1,
    "eos_token_id": 2, "max_position_embeddings": 64,
    **{f"{part}_layers": 2 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 2 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 32 for part in ("encoder", "decoder")},
}  # fmt: skip
T5_SIZES = {
    "vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
    "decoder_start_token_id": 0,
}  # fmt: skip
XLM_SIZES = {
    "vocab_size": 64,
    "emb_dim": 16,
    "n_layers": 2,
    "n_heads": 2,
    "max_position_embeddings": 64,
}
VIT_SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
SWIN_SIZES = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 4,
}
PERCEIVER_SIZES = {
    "num_latents": 4, "d_latents": 16, "d_model": 16, "num_blocks": 1, "num_self_attends_per_block": 2,
    "num_self_attention_heads": 2, "num_cross_attention_heads": 2, "vocab_size": 64,
    "max_position_embeddings": 64,
}  # fmt: skip
CLIP_TOWERS = {
    "vision_config": VIT_SIZES,
    "text_config": {name: SIZES[name] for name in SIZES if name not in ("pad_token_id",)},
}


class Case(NamedTuple):
    """An architecture and the methods that work on it; the others are refused."""

    name: str
    model: str
    sizes: dict[str, Any]
    works: tuple[str, ...]
    config: str = ""


TEXT = [
    Case("longformer", "LongformerForSequenceClassification", SIZES | {"attention_window": 4}, AT_INPUT),
    Case("bigbird", "BigBirdForSequenceClassification", SIZES | {"block_size": 2, "num_random_blocks": 1},
         AT_INPUT),
    Case("fnet", "FNetForSequenceClassification", SIZES, AT_INPUT),
    Case("funnel", "FunnelForSequenceClassification", {"vocab_size": 64, "block_sizes": [1, 1], "d_model":
         16, "n_head": 2, "d_head": 8, "d_inner": 32}, AT_INPUT),
    Case("xlnet", "XLNetForSequenceClassification", {"vocab_size": 64, "d_model": 16, "n_layer": 2,
         "n_head": 2, "d_inner": 32}, AT_INPUT),
    Case("xlm", "XLMForSequenceClassification", XLM_SIZES, AT_INPUT),
    Case("flaubert", "FlaubertForSequenceClassification", XLM_SIZES, AT_INPUT),
    Case("canine", "CanineForSequenceClassification", SIZES | {"num_hash_buckets": 64,
         "local_transformer_stride": 4, "downsampling_rate": 4, "upsampling_kernel_size": 4}, NEITHER),
    Case("nystromformer", "NystromformerForSequenceClassification", SIZES | {"num_landmarks": 2,
         "segment_means_seq_len": 2}, AT_INPUT),
    Case("perceiver", "PerceiverForSequenceClassification", PERCEIVER_SIZES, NEITHER),
    Case("squeezebert", "SqueezeBertForSequenceClassification", SIZES | {"embedding_size": 16, "q_groups":
         1, "k_groups": 1, "v_groups": 1}, AT_INPUT),
    Case("mobilebert", "MobileBertForSequenceClassification", SIZES | {"embedding_size": 16,
         "intra_bottleneck_size": 16}, BOTH),
    Case("convbert", "ConvBertForSequenceClassification", SIZES | {"embedding_size": 16, "head_ratio": 1},
         AT_INPUT),
    Case("layoutlm", "LayoutLMForSequenceClassification", SIZES, BOTH),
    Case("yoso", "YosoForSequenceClassification", SIZES, AT_INPUT),
    Case("ibert", "IBertForSequenceClassification", SIZES, NEITHER),
    Case("xmod", "XmodForSequenceClassification", SIZES | {"languages": ["en_XX"], "default_language":
         "en_XX"}, BOTH),
    Case("megatron-bert", "MegatronBertForSequenceClassification", SIZES, AT_INPUT),
    Case("deberta-v2", "DebertaV2ForSequenceClassification", SIZES | {"relative_attention": True,
         "pos_att_type": ["p2c", "c2p"]}, BOTH),
    Case("deberta-v2-shared", "DebertaV2ForSequenceClassification", SIZES | {"relative_attention": True,
         "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "position_buckets": 4,
         "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3}, BOTH),
    Case("deberta-v2-absolute", "DebertaV2ForSequenceClassification", SIZES, BOTH),
    Case("deberta", "DebertaForSequenceClassification", SIZES | {"relative_attention": True,
         "pos_att_type": ["p2c", "c2p"]}, BOTH),
    Case("deberta-talking", "DebertaForSequenceClassification", SIZES | {"relative_attention": True,
         "pos_att_type": ["c2p"], "talking_head": True}, BOTH),
]  # fmt: skip
CAUSAL = [
    Case("mamba", "MambaForCausalLM", SSM_SIZES, AT_INPUT),
    Case("mamba2", "Mamba2ForCausalLM", SSM_SIZES | {"num_heads": 4, "head_dim": 8, "n_groups": 1,
         "chunk_size": 4}, AT_INPUT),
    Case("falcon-mamba", "FalconMambaForCausalLM", SSM_SIZES, AT_INPUT),
    Case("rwkv", "RwkvForCausalLM", {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2,
         "context_length": 64}, AT_INPUT),
    Case("recurrent-gemma", "RecurrentGemmaForCausalLM", {"vocab_size": 64, "hidden_size": 16,
         "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "lru_width": 16,
         "attention_window_size": 4}, BOTH),
    Case("jamba", "JambaForCausalLM", SIZES | {"num_key_value_heads": 2, "attn_layer_period": 2,
         "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 2,
         "mamba_d_state": 4, "mamba_dt_rank": 2, "use_mamba_kernels": False}, BOTH),
    Case("bamba", "BambaForCausalLM", SIZES | {"num_key_value_heads": 2, "attn_layer_indices": [1],
         "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 4
         }, BOTH),
    Case("xlnet-lm", "XLNetLMHeadModel", {"vocab_size": 64, "d_model": 16, "n_layer": 2, "n_head": 2,
         "d_inner": 32}, AT_INPUT),
    Case("gpt-neo", "GPTNeoForCausalLM", {"vocab_size": 64, "hidden_size": 16, "num_layers": 2, "num_heads":
         2, "attention_types": [[["global", "local"], 1]], "window_size": 4, "max_position_embeddings": 64},
         AT_INPUT),
    Case("bloom", "BloomForCausalLM", {"vocab_size": 64, "hidden_size": 16, "n_layer": 2, "n_head": 2},
         BOTH),
    Case("mistral", "MistralForCausalLM", SIZES | {"num_key_value_heads": 2, "sliding_window": 4}, BOTH),
    Case("gemma3", "Gemma3ForCausalLM", SIZES | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window":
         4, "layer_types": ["sliding_attention", "full_attention"]}, BOTH, "Gemma3TextConfig"),
    Case("lfm2", "Lfm2ForCausalLM", SIZES | {"num_key_value_heads": 2, "layer_types": ["conv",
         "full_attention"]}, BOTH),
    Case("ctrl", "CTRLLMHeadModel", GPT_SIZES | {"dff": 32}, BOTH),
]  # fmt: skip
READ_WRITE = [
    Case("led", "LEDForConditionalGeneration", {name: value for name, value in BART_SIZES.items() if name !=
         "max_position_embeddings"} | {"attention_window": 4, "max_encoder_position_embeddings": 64,
         "max_decoder_position_embeddings": 64}, AT_INPUT),
    Case("longt5", "LongT5ForConditionalGeneration", T5_SIZES | {"local_radius": 3,
         "encoder_attention_type": "local"}, BOTH),
    Case("longt5-global", "LongT5ForConditionalGeneration", T5_SIZES | {"local_radius": 3,
         "global_block_size": 2, "encoder_attention_type": "transient-global"}, BOTH),
    Case("bigbird-pegasus", "BigBirdPegasusForConditionalGeneration", BART_SIZES | {"block_size": 2,
         "num_random_blocks": 1}, BOTH),
    Case("pegasus-x", "PegasusXForConditionalGeneration", BART_SIZES | {"num_global_tokens": 2,
         "block_size": 4}, BOTH),
    Case("switch", "SwitchTransformersForConditionalGeneration", T5_SIZES | {"num_decoder_layers": 2,
         "num_experts": 2}, BOTH),
]  # fmt: skip
IMAGES = [
    Case("deit", "DeiTForImageClassification", VIT_SIZES, BOTH),
    Case("beit", "BeitForImageClassification", VIT_SIZES, BOTH),
    Case("beit-relative", "BeitForImageClassification", VIT_SIZES | {"use_relative_position_bias": True},
         IN_ATTENTION),
    Case("data2vec-vision", "Data2VecVisionForImageClassification", VIT_SIZES |
         {"use_shared_relative_position_bias": True}, NEITHER),
    Case("dinov2-registers", "Dinov2WithRegistersForImageClassification", VIT_SIZES |
         {"num_register_tokens": 2}, BOTH),
    Case("vit-msn", "ViTMSNForImageClassification", VIT_SIZES, BOTH),
    Case("ijepa", "IJepaForImageClassification", VIT_SIZES, BOTH),
    Case("clip", "CLIPForImageClassification", CLIP_TOWERS, BOTH),
    Case("siglip", "SiglipForImageClassification", CLIP_TOWERS, BOTH),
    Case("swin", "SwinForImageClassification", SWIN_SIZES, IN_ATTENTION),
    Case("swinv2", "Swinv2ForImageClassification", SWIN_SIZES, NEITHER),
    Case("hiera", "HieraForImageClassification", {"image_size": [32, 32], "embed_dim": 8, "depths": [1, 1],
         "num_heads": [1, 2], "query_stride": [2, 2], "masked_unit_size": [4, 4], "num_query_pool": 1,
         "masked_unit_attention": [True, False]}, NEITHER),
    Case("convnext", "ConvNextForImageClassification", {"hidden_sizes": [8, 16], "depths": [1, 1],
         "num_stages": 2}, NEITHER),
    Case("resnet", "ResNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths":
         [1, 1]}, NEITHER),
    Case("segformer", "SegformerForImageClassification", {"num_encoder_blocks": 2, "depths": [1, 1],
         "sr_ratios": [2, 1], "hidden_sizes": [8, 16], "patch_sizes": [3, 3], "strides": [2, 2],
         "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]}, IN_ATTENTION),
    Case("mobilevit", "MobileViTForImageClassification", {"image_size": 32, "hidden_sizes": [16, 16, 16],
         "neck_hidden_sizes": [8] * 7, "num_attention_heads": 2}, NEITHER),
    Case("pvt", "PvtForImageClassification", {"image_size": 32, "num_encoder_blocks": 2, "depths": [1, 1],
         "hidden_sizes": [8, 16], "num_attention_heads": [1, 2], "sequence_reduction_ratios": [2, 1],
         "patch_sizes": [4, 2], "strides": [4, 2], "mlp_ratios": [2, 2]}, NEITHER),
    Case("poolformer", "PoolFormerForImageClassification", {"hidden_sizes": [8, 8, 8, 16], "depths": [1, 1,
         1, 1]}, NEITHER),
    Case("focalnet", "FocalNetForImageClassification", {"image_size": 32, "patch_size": 4, "embed_dim": 8,
         "hidden_sizes": [8, 16], "depths": [1, 1], "focal_levels": [1, 1], "focal_windows": [3, 3]},
         NEITHER),
    Case("swiftformer", "SwiftFormerForImageClassification", {"image_size": 32, "depths": [1, 1],
         "embed_dims": [8, 16], "mlp_ratio": 2, "downsamples": [True, True]}, NEITHER),
    Case("perceiver-images", "PerceiverForImageClassificationLearned", PERCEIVER_SIZES | {"image_size": 32},
         NEITHER),
]  # fmt: skip


def built(case: Case) -> Any:
    """A tiny base of random weights, far from its initial ones."""
    model: Any = getattr(hf, case.model)
    torch.manual_seed(0)
    sizes = case.sizes | ({} if case in CAUSAL + READ_WRITE else {"num_labels": CLASSES})
    base = model(getattr(hf, case.config)(**sizes) if case.config else model.config_class(**sizes)).eval()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return base


def batch_of(case: Case) -> dict[str, Tensor]:
    """Two images, or two rows of which the second is padded."""
    draw = torch.Generator().manual_seed(1)
    if case in IMAGES:
        return {"pixel_values": torch.randn(2, 3, 32, 32, generator=draw)}
    ids = torch.randint(3, 64, (2, 12), generator=draw)
    mask = torch.ones_like(ids)
    ids[1, 9:], mask[1, 9:] = 0, 0
    if case in TEXT:
        return {"input_ids": ids, "attention_mask": mask}
    labels = torch.randint(3, 64, (2, 12 if case in CAUSAL else 5), generator=draw)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def logits_of(model: AdaptedModel, batch: dict[str, Tensor]) -> Tensor:
    return model.labelled_logits(batch)[0] if "labels" in batch else model.class_logits(batch)


@pytest.mark.slow
@pytest.mark.parametrize("case", TEXT + CAUSAL + READ_WRITE + IMAGES, ids=lambda case: case.name)
@pytest.mark.parametrize("method", BOTH)
def test_each_architecture_works_or_is_refused(case: Case, method: str, tmp_path: Path) -> None:
    base, batch = built(case), batch_of(case)
    model, config = AdaptedModel(base), METHODS.get(method)(n_tokens=4)
    if method not in case.works:
        with pytest.raises(TargetError, match=r"(?i)choose a method"):
            model.attach("delta", config)
        model.attach("other", METHODS.get("bitfit")(), heads=[])  # nothing of it is left behind
        return
    plain = logits_of(model, batch)
    adapter = model.attach("delta", config)
    model.train()
    found = logits_of(model, batch)
    F.cross_entropy(found, torch.zeros(len(found), dtype=torch.long)).backward()
    gradients = [p.grad for _, p in adapter.trainable() if p.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in gradients)
    with torch.no_grad():
        for _, parameter in adapter.trainable():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    model.eval()
    trained = logits_of(model, batch)
    assert (trained - plain).abs().max() > 1e-5
    model.save(tmp_path)
    model.detach("delta")
    torch.testing.assert_close(logits_of(model, batch), plain, rtol=0, atol=0)
    model.load(tmp_path)
    torch.testing.assert_close(logits_of(model, batch), trained, rtol=1e-5, atol=1e-6)


NEXT_TO_THE_TEXT = [case for case in CAUSAL if case.name in ("mamba", "mamba2", "jamba", "gemma3", "lfm2")]


@pytest.mark.parametrize("case", NEXT_TO_THE_TEXT, ids=lambda case: case.name)
def test_a_prompt_is_as_near_behind_padding_as_without(case: Case) -> None:
    """Windows of attention and recurrences count places, so padding must not stand between the two."""
    model = AdaptedModel(built(case))
    model.attach("delta", METHODS.get("prompt")(n_tokens=4, init="random"))
    ids = batch_of(case)["input_ids"][:, :9]
    padded = torch.cat([torch.zeros(2, 5, dtype=torch.long), ids], dim=1)
    padded[0, :5] = 7
    mask = (padded != 0).long()
    arguments: dict[str, Any] = {
        "max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0,
        "output_logits": True, "return_dict_in_generate": True,
    }  # fmt: skip
    together = model.generate(input_ids=padded, attention_mask=mask, **arguments)
    alone = model.generate(input_ids=ids[1:], attention_mask=torch.ones(1, 9, dtype=torch.long), **arguments)
    for among, by_itself in zip(together.logits, alone.logits, strict=True):
        torch.testing.assert_close(among[1:], by_itself, rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        states = model(input_ids=padded, attention_mask=mask).logits[1, 5:]
        torch.testing.assert_close(states, model(input_ids=ids[1:]).logits[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["bamba", "ctrl"])
def test_what_generates_from_ids_alone_says_so(name: str) -> None:
    [case] = [case for case in CAUSAL if case.name == name]
    model = AdaptedModel(built(case))
    model.attach("delta", METHODS.get("prompt")(n_tokens=4))
    with pytest.raises(TargetError, match="generates behind token ids only"):
        model.generate(input_ids=batch_of(case)["input_ids"], max_new_tokens=2)
