"""What the name of a module says where its tensors leave several classes open: ``lm_head``, ``wte``, ``ln_1``."""

from __future__ import annotations

import re

from .layers import Layer, Leaves

_WORDS = re.compile(r"[a-z]+")
_LINEAR_ENDS = frozenset(
    [
        "linear",
        "lin",
        "fc",
        "proj",
        "projection",
        "dense",
        "head",
        "classifier",
        "logits",
        "query",
        "key",
        "value",
        "qkv",
        "kv",
        "gate",
        "mlp",
    ]
)
_LINEAR_NAMES = frozenset(
    [
        "q",
        "k",
        "v",
        "o",
        "wq",
        "wk",
        "wv",
        "wo",
        "w1",
        "w2",
        "w3",
        "wi",
        "wi_0",
        "wi_1",
        "to_q",
        "to_k",
        "to_v",
        "to_kv",
        "to_qkv",
        "to_out",
    ]
)
_EMBEDDING_WORDS = frozenset(["embed", "embeds", "embedding", "embeddings", "emb", "wte", "wpe"])


def by_name(inferred: str, leaves: Leaves, path: str) -> Layer | None:
    """The one of the inferred classes that the module is called after; None where its name does not settle it.

    Args:
        inferred: ``Linear|Embedding``, as :func:`infer` names what fits.
        leaves: the module's own tensors.
        path: the module's, dotted; numbers at its end say nothing.
    """
    name = next((segment for segment in reversed(path.lower().split(".")) if not segment.isdecimal()), "")
    words = _WORDS.findall(name)
    shape = leaves["weight"][1] if "weight" in leaves else ()
    if inferred == "Linear|Embedding" and words:
        embeds = not _EMBEDDING_WORDS.isdisjoint(words) and words[-1] != "out"  # embed_out gives words again
        linear = words[-1] in _LINEAR_ENDS or name in _LINEAR_NAMES
        rows, columns = shape
        if embeds != linear:
            return (
                Layer("Embedding", f"{rows}, {columns}")
                if embeds
                else Layer("Linear", f"{columns}, {rows}, bias=False")
            )
    if inferred.startswith("LayerNorm|") and ("ln" in words or "layernorm" in words or "layer_norm" in name):
        return Layer("LayerNorm", str(shape[0]))
    if inferred.startswith("RMSNorm|") and ("rms" in words or "rmsnorm" in words):
        return Layer("RMSNorm", str(shape[0]))
    return None
