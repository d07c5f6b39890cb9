"""What a checkpoint says of its model: config.json and generation_config.json.

As transformers 5 reads them for gpt_oss, llama and mistral. What may be absent has its defaults; what
no tensor shows and no published checkpoint leaves out must be there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .rope import Rope, read_rope

__all__ = ["ModelConfig", "SamplingDefaults", "read_config"]

ARCHITECTURES = {"gpt_oss": "GptOssForCausalLM", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}


@dataclass(frozen=True)
class SamplingDefaults:
    """What generation_config.json recommends; otherwise temperature 1 and nothing cut off."""

    temperature: float = 1.0  # 0: the likeliest token, as for do_sample false
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """Every number of the model that its tensors' shapes do not tell, and those that they must have."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_experts: int  # 0: a dense model
    n_experts_per_token: int
    context: int
    windows: tuple[int, ...]  # [n_layers]: keys that a position sees, itself included; 0: all
    attention_bias: bool
    mlp_bias: bool
    sinks: bool
    tied: bool
    rms_norm_eps: float
    swiglu_limit: float
    swiglu_alpha: float
    rope: Rope
    bos_token: int | None
    eos_tokens: tuple[int, ...]
    sampling: SamplingDefaults


def _refuse(name: str, expected: str, found: Any) -> ValueError:
    return ValueError(f"config.json: {name}: expected {expected}, found {found!r}")


class _Fields:
    """A JSON object, read by kind. Null is as absent, unless a rule asks with `in`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def size(self, name: str, default: int | None = None, minimum: int = 1) -> int:
        value = self.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < minimum:
            raise _refuse(name, f"an integer from {minimum} on", self.get(name))
        return int(value)

    def number(self, name: str, default: float | None = None) -> float:
        value = self.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e30:
            raise _refuse(name, "a number from 0 on", self.get(name))
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise _refuse(name, "true or false", value)
        return default if value is None else value


def read_config(config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> ModelConfig:
    """From the two files' objects. ValueError with field, expected and found."""
    fields = _Fields(config)
    architecture = _architecture(fields)
    gpt_oss = architecture == "gpt_oss"
    n_heads, n_layers = fields.size("num_attention_heads"), fields.size("num_hidden_layers")
    context = fields.size("max_position_embeddings", 2048 if architecture == "llama" else 131072)
    head_dim = _head_dim(fields, gpt_oss, n_heads)
    bos, eos = _tokens(fields, _Fields(generation or {}), architecture)
    return ModelConfig(
        architecture=architecture,
        vocab_size=fields.size("vocab_size"),
        hidden_size=fields.size("hidden_size"),
        intermediate_size=fields.size("intermediate_size"),
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=_kv_heads(fields, architecture, n_heads),
        head_dim=head_dim,
        **_experts(fields, gpt_oss),
        context=context,
        windows=_windows(fields, architecture, n_layers),
        attention_bias=fields.flag("attention_bias", gpt_oss),
        mlp_bias=fields.flag("mlp_bias", False),
        sinks=gpt_oss,
        tied=fields.flag("tie_word_embeddings", False),
        rms_norm_eps=fields.number("rms_norm_eps"),
        rope=read_rope(config, head_dim, context, gpt_oss),
        bos_token=bos,
        eos_tokens=eos,
        sampling=_sampling(_Fields(generation or {})),
    )


def _architecture(fields: _Fields) -> str:
    kind, classes = fields.get("model_type"), fields.get("architectures")
    if kind is None and isinstance(classes, list) and len(classes) == 1:
        kind = {name: key for key, name in ARCHITECTURES.items()}.get(classes[0], classes[0])
    if kind not in ARCHITECTURES:
        raise _refuse("model_type", ", ".join(ARCHITECTURES), kind)
    if classes not in (None, [ARCHITECTURES[kind]]):
        raise _refuse("architectures", ARCHITECTURES[kind], classes)
    quantization = fields.get("quantization_config")
    if quantization is not None and (not isinstance(quantization, dict) or quantization.get("quant_method") != "mxfp4"):
        raise _refuse("quantization_config.quant_method", "mxfp4", quantization)
    if fields.get("hidden_act") not in (None, "silu", "swish"):
        raise _refuse("hidden_act", "silu", fields.get("hidden_act"))
    return kind


def _kv_heads(fields: _Fields, architecture: str, n_heads: int) -> int:
    """Absent and null differ: the classes have a default for the one and a rule for the other."""
    by_rule = architecture == "llama" or "num_key_value_heads" in fields
    n_kv_heads = fields.size("num_key_value_heads", n_heads if by_rule else 8)
    if n_heads % n_kv_heads:
        raise _refuse("num_attention_heads", f"a multiple of num_key_value_heads ({n_kv_heads})", n_heads)
    return n_kv_heads


def _head_dim(fields: _Fields, gpt_oss: bool, n_heads: int) -> int:
    if gpt_oss and "head_dim" not in fields:
        return 64
    hidden = fields.size("hidden_size")
    if fields.get("head_dim") is None and hidden % n_heads:
        raise _refuse("hidden_size", f"a multiple of num_attention_heads ({n_heads}) where there is no head_dim", hidden)
    head_dim = fields.size("head_dim", hidden // n_heads)
    if head_dim % 2:
        raise _refuse("head_dim", "an even size, as its halves are rotated", head_dim)
    return head_dim


def _experts(fields: _Fields, gpt_oss: bool) -> dict[str, Any]:
    if not gpt_oss:
        return {"n_experts": 0, "n_experts_per_token": 0, "swiglu_limit": 0.0, "swiglu_alpha": 0.0}
    n, k = (fields.size(one if fields.get(other) is None else other) for one, other in
            (("num_experts", "num_local_experts"), ("experts_per_token", "num_experts_per_tok")))
    if k > n:
        raise _refuse("num_experts_per_tok", f"at most num_local_experts ({n})", k)
    return {"n_experts": n, "n_experts_per_token": k, "swiglu_limit": fields.number("swiglu_limit", 7.0),
            "swiglu_alpha": fields.number("swiglu_alpha", 1.702)}


def _windows(fields: _Fields, architecture: str, n_layers: int) -> tuple[int, ...]:
    """Without layer_types gpt_oss slides on even layers, mistral on all, llama on none."""
    default = {"gpt_oss": 128, "llama": 0, "mistral": 4096}[architecture]
    window = fields.size("sliding_window", 0 if "sliding_window" in fields else default, 0)
    types = fields.get("layer_types")
    if types is None:
        slides = [architecture == "mistral" or (architecture == "gpt_oss" and i % 2 == 0) for i in range(n_layers)]
    elif not isinstance(types, list) or len(types) != n_layers or not set(types) <= {"full_attention", "sliding_attention"}:
        raise _refuse("layer_types", f"full_attention or sliding_attention, {n_layers} times", types)
    else:
        slides = [kind == "sliding_attention" for kind in types]
    if any(slides) and window == 0 and (types is not None or architecture == "gpt_oss"):
        raise _refuse("sliding_window", "a size, as there are layers that slide", fields.get("sliding_window"))
    return tuple(window if slide else 0 for slide in slides)


def _tokens(fields: _Fields, generation: _Fields, architecture: str) -> tuple[int | None, tuple[int, ...]]:
    """generation_config.json's ids count where it has them; the classes' own where nobody does."""
    named = {"bos_token_id": None if architecture == "gpt_oss" else 1, "eos_token_id": None if architecture == "gpt_oss" else 2}
    for name in named:
        if name in fields:
            named[name] = fields.get(name)
        if generation.get(name) is not None:
            named[name] = generation.get(name)
    eos = named["eos_token_id"]
    ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
    if not all(isinstance(each, int) and each >= 0 for each in ids):
        raise _refuse("eos_token_id", "token ids", eos)
    return named["bos_token_id"], tuple(ids)


def _sampling(fields: _Fields) -> SamplingDefaults:
    temperature = fields.number("temperature", 1.0) if fields.flag("do_sample", True) else 0.0
    return SamplingDefaults(temperature, fields.size("top_k", 0, 0), fields.number("top_p", 1.0), fields.number("min_p", 0.0),
                            fields.number("repetition_penalty", 1.0))
