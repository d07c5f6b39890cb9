"""Rotary position embedding: half-split pairs, plain, linear, llama3 or YaRN.

As transformers computes it: frequencies in float32, angles as their float32 product with the
position, cosines of that. YaRN's bounds are rounded unless `truncate` says no, and its concentration
is on both cosine and sine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Rope", "apply_rope", "read_rope", "rope_tables"]


@dataclass(frozen=True)
class Rope:
    """Of one model: the frequency of each pair, and the factor of cosine and sine."""

    kind: str
    inverse_frequencies: tuple[float, ...]  # [head_dim / 2], float32 values
    concentration: float


def rope_tables(rope: Rope, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [n, head_dim / 2] of positions 0 to n - 1, float32."""
    positions = np.arange(n, dtype=np.float32)
    angles = (positions[:, None] * np.array(rope.inverse_frequencies, np.float32)).astype(np.float64)
    concentration = np.float32(rope.concentration)
    return np.cos(angles).astype(np.float32) * concentration, np.sin(angles).astype(np.float32) * concentration


def apply_rope(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the pairs (x[i], x[i + d / 2]) of each head. x [T, heads, d]; cos, sin [T, d / 2]."""
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


# ---- from config.json


def read_rope(config: Mapping[str, Any], head_dim: int, context: int, gpt_oss: bool) -> Rope:
    """`rope_scaling` and `rope_parameters` are two spellings of one."""
    theta = config.get("rope_theta")
    theta = (150000.0 if gpt_oss else 10000.0) if theta is None else theta
    said: Any = config.get("rope_scaling") or config.get("rope_parameters")
    if said is None:
        said = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0,
                "beta_slow": 1.0, "truncate": False} if gpt_oss else {}
    if not isinstance(said, Mapping):
        raise ValueError(f"config.json: rope_scaling: expected an object or null, found {said!r}")
    scaling = dict(said)
    theta = scaling.get("rope_theta") or theta
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    for part in (scaling, config):
        if part.get("partial_rotary_factor") not in (None, 1):
            raise ValueError("config.json: partial_rotary_factor: expected 1: part of a head is not supported, found "
                             f"{part['partial_rotary_factor']!r}")
    old = config.get("original_max_position_embeddings") or scaling.get("original_max_position_embeddings") or context
    try:
        return _rope(kind, float(theta), head_dim, scaling, float(old), context)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"config.json: rope_scaling ({kind}): expected every number that this kind has, found {said!r} "
                         f"({error})") from None


def _rope(kind: str, theta: float, head_dim: int, scaling: dict[str, Any], old: float, context: int) -> Rope:
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    waves = np.power(np.float64(np.float32(theta)), exponents.astype(np.float64)).astype(np.float32)
    frequencies, concentration = np.float32(1) / waves, 1.0
    if kind == "linear":
        frequencies = frequencies / np.float32(scaling["factor"])
    elif kind == "llama3":
        frequencies = _llama3(frequencies, scaling, old)
    elif kind == "yarn":
        factor = scaling["factor"]
        factor = context / old if factor is None else float(factor)
        frequencies = _yarn(waves, theta, head_dim, scaling, old, factor)
        concentration = _concentration(scaling, factor)
    elif kind != "default":
        raise ValueError(f"config.json: rope_type: expected default, linear, llama3 or yarn, found {kind!r}")
    return Rope(kind, tuple(frequencies.tolist()), concentration)


def _llama3(frequencies: np.ndarray, scaling: dict[str, Any], old: float) -> np.ndarray:
    """Long waves are divided by the factor, short ones kept; between the two a blend."""
    f32 = np.float32
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    waves = f32(2 * math.pi) / frequencies
    smooth = (f32(old) / waves - f32(low)) / f32(high - low)
    blend = (1 - smooth) * frequencies / f32(factor) + smooth * frequencies
    return np.where(waves < f32(old / high), frequencies,
                    np.where(waves > f32(old / low), frequencies / f32(factor), blend)).astype(f32)


def _yarn(waves: np.ndarray, theta: float, head_dim: int, scaling: dict[str, Any], old: float, factor: float) -> np.ndarray:
    """Between the pairs that make beta_fast and beta_slow turns over the old context a ramp."""
    low, high = (head_dim * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(theta))
                 for turns in (scaling.get("beta_fast") or 32.0, scaling.get("beta_slow") or 1.0))
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # as the reference does
    f32 = np.float32
    keep = 1 - np.clip((np.arange(head_dim // 2, dtype=f32) - f32(low)) / f32(high - low), f32(0), f32(1))
    return (1 / (f32(factor) * waves) * (1 - keep) + 1 / waves * keep).astype(f32)


def _concentration(scaling: dict[str, Any], factor: float) -> float:
    """0.1 ln(factor) + 1, or as the fields have it."""
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1
    said, one, other = (scaling.get(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    if said is not None:
        return float(said)
    return scale(one) / scale(other) if one and other else scale(1.0)
