"""Which tensors of a bare state_dict are parameters and which are buffers, where nothing recorded it."""

from __future__ import annotations

from ..model.averages import averages
from ..model.layers import role
from ..model.section import Section


def infer_roles(section: Section) -> None:
    """Fill in the roles of a state_dict from names and kinds (design 5.3); recorded ones stay."""
    modules: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}
    for key, info in section.tensors.items():
        path, _, name = key.rpartition(".")
        leaves = modules.get(path)
        if leaves is None:
            modules[path] = {name: (info.dtype, info.shape)}
        else:
            leaves[name] = (info.dtype, info.shape)
    copies = averages(section.tensors)  # the hook registers them as buffers
    for key, info in section.tensors.items():
        if info.role is None:
            path, _, name = key.rpartition(".")
            found = "buffer" if key in copies else role(name, info.dtype, modules[path])
            if found is not None:
                section.tensors[key] = info.with_role(found, "inferred")
