"""Quantized modules: their weights are packed into an object that only their own class makes, and unpacks."""

from __future__ import annotations

from ..errors import UnsupportedError
from ..model.checkpoint import Checkpoint
from ..model.section import Section
from ..model.spelling import as_path, shell_join

ONLY_TORCH = "Only torch.ao.quantization makes those again, from the model that they were made of"


def quantized_modules(section: Section) -> dict[str, str]:
    """Path and class of the quantized modules of a whole module, those inside others left out."""
    found = {path: info.cls for path, info in section.modules.items() if _is_quantized(info.cls)}
    return {path: cls for path, cls in found.items() if not path or path.rpartition(".")[0] not in found}


def packed_modules(section: Section) -> dict[str, str]:
    """Those whose tensors lie in packed objects: a state_dict that is read from the file would lack them."""
    found = quantized_modules(section)
    if not found:
        return found
    away = [key for key, info in section.items() if not info.persistent]
    return {path: cls for path, cls in found.items() if any(key.startswith(f"{path}." if path else "") for key in away)}


def refuse_packed(checkpoint: Checkpoint, sections: list[Section] | None = None) -> None:
    """
    Raises:
        UnsupportedError: modules whose state_dict() only their own classes can give.
    """
    for section in checkpoint.sections.values() if sections is None else sections:
        if found := packed_modules(section):
            listed = [f"{path!r}: {cls}" for path, cls in found.items()]
            more = f"; and {len(listed) - 8:,} more" if len(listed) > 8 else ""
            raise UnsupportedError(
                f"the weights of quantized modules are packed, and only their classes unpack them: "
                f"{'; '.join(listed[:8])}{more}",
                path=checkpoint.path,
                hint=f"See them: {shell_join(['ckpt', 'ls', '--long', as_path(checkpoint.path)])}",
            )


def _is_quantized(cls: str) -> bool:
    return ".nn.quantized." in cls or ".nn.intrinsic.quantized." in cls
