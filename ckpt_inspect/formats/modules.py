"""Whole-module pickles: the tree of ``nn.Module`` objects without their classes (formats 2.4).

Keys follow ``nn.Module``'s own rule for ``state_dict()``: parameters, buffers, then children, in order of
registration. What it leaves out (non-persistent buffers, tensors that are plain attributes) is there too,
marked as not persistent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import LimitError
from ..model.graph import Dict, Opaque, Persistent, Set
from ..model.section import ModuleInfo, Section, Value
from . import layer_facts, objects, values

if TYPE_CHECKING:
    from .sections import Builder

_REGISTRIES = ("_parameters", "_buffers", "_modules")


def is_module(node: Any) -> bool:
    """Whether an object carries the registries of ``nn.Module``."""
    if type(node) is not Opaque:
        return False
    fields = module_fields(node)
    return all(objects.is_mapping(fields.get(name)) for name in _REGISTRIES)


def module_fields(node: Opaque) -> dict[str, Any]:
    """Attributes of a module object, also of the one class that takes its child as an argument."""
    if node.qualname == "torch._dynamo.eval_frame.OptimizedModule" and type(node.args) is tuple and node.args:
        child = Dict(["_orig_mod", node.args[0]])
        return {"_parameters": Dict([]), "_buffers": Dict([]), "_modules": child}
    return objects.fields(node)


def child_module(node: Opaque, name: str) -> Any:
    """The child of that name, as the graph has it."""
    return dict(objects.entries(objects.mapping_items(module_fields(node)["_modules"]))[0]).get(name)


def read_module(builder: Builder, root: Opaque, pointer: str) -> Section:
    """The whole tree below ``root`` as one section."""
    section = Section(pointer, "module", objects.class_name(root), root)
    tree = _flatten(builder, root)
    registered = {id(node) for _, node, _ in tree}
    for path, node, fields in tree:
        builder.spend(path, sum(builder.again(value) for name, value in fields.items() if name.endswith("_hooks")))
        section.modules[path] = _info(node, fields)
        prefix = path + "." if path else ""
        _registry(builder, section, fields["_parameters"], prefix, "parameter", frozenset())
        _registry(
            builder,
            section,
            fields["_buffers"],
            prefix,
            "buffer",
            names_of(fields.get("_non_persistent_buffers_set")),
        )
    for path, _, fields in tree:
        _attributes(builder, section, path + "." if path else "", fields, registered)
    return section


def _flatten(builder: Builder, root: Opaque) -> list[tuple[str, Opaque, dict[str, Any]]]:
    """Modules in the order of ``state_dict()``: (dotted path, node, fields). Shared ones come at each place."""
    tree = []
    waiting: list[tuple[str, Opaque, Any]] = [("", root, None)]
    while waiting:
        path, node, chain = waiting.pop()
        builder.spend(path, len(path) >> 4)
        link, depth = chain, 0
        while link is not None and link[0] is not node:
            link, depth = link[1], depth + 1
        if link is not None:
            builder.problems.append(f"the module {path!r} holds itself")
            continue
        if depth > builder.limits.depth:
            raise LimitError(f"modules nested more than {builder.limits.depth} deep: refused")
        fields = module_fields(node)
        tree.append((path, node, fields))
        below = []
        for name, child in objects.entries(objects.mapping_items(fields["_modules"]))[0]:
            inner = f"{path}.{name}" if path else name
            if is_module(child):
                below.append((inner, child, (node, chain)))
            elif child is not None:
                leaf = values.leaf(child)
                builder.values.append(Value(inner, leaf.type, leaf.value, leaf.text, child))
        waiting.extend(reversed(below))
    return tree


def _registry(
    builder: Builder, section: Section, registry: Any, prefix: str, role: str, transient: frozenset[str]
) -> None:
    for name, value in objects.entries(objects.mapping_items(registry))[0]:
        if value is None:  # register_parameter(name, None)
            continue
        key = prefix + name
        info = builder.tensor(value, section.name_of(key))
        if info is not None:
            section.tensors[key] = info._replace(
                key=key, role=role, role_from="recorded", persistent=name not in transient
            )


def names_of(node: Any) -> frozenset[str]:
    """The members of a set of strings, however it was pickled."""
    members: list[Any] = []
    if type(node) is Set:
        members = node.members
    elif type(node) is Opaque and type(node.args) is tuple and node.args and type(node.args[0]) in (list, tuple):
        members = list(node.args[0])
    return frozenset(str(name) for name in members if isinstance(name, str))


def _info(node: Opaque, fields: dict[str, Any]) -> ModuleInfo:
    cls = objects.class_name(node)
    training = fields.get("training")
    hooks = tuple(
        name.strip("_") for name, value in fields.items()
        if name.endswith("_hooks") and objects.is_mapping(value) and objects.mapping_items(value)
    )  # fmt: skip
    source = None
    if type(node.callee) is Persistent and type(node.callee.pid) is tuple and len(node.callee.pid) == 4:
        text = node.callee.pid[3]  # ('module', class, source file, source): formats 6
        source = str(text) if isinstance(text, str) else None
    args = layer_facts.from_attributes(cls, fields)
    return ModuleInfo(cls, args, training if type(training) is bool else None, hooks, source)


def _attributes(builder: Builder, section: Section, prefix: str, fields: dict[str, Any], registered: set[int]) -> None:
    """What a module holds beside its registries: tensors join the section, other leaves are values."""
    for name, value in fields.items():
        if name not in _REGISTRIES and not name.endswith("_hooks") and name != "_non_persistent_buffers_set":
            _attribute(builder, section, value, prefix + name, registered)


def _attribute(builder: Builder, section: Section, node: Any, where: str, registered: set[int]) -> None:
    """One attribute and all inside it: ``cache.0`` for ``self.cache = [tensor]``."""
    private = where.rpartition(".")[2].startswith("_")
    waiting: list[tuple[Any, str, int]] = [(node, where, 0)]
    seen = set(registered)
    while waiting:
        value, key, depth = waiting.pop()
        builder.spend(key, values.length(value) + builder.again(value))
        if type(value) in (Opaque, Persistent):
            info = builder.tensor(value, section.name_of(key))
            if info is not None:
                section.tensors.setdefault(key, info.outside_state_dict(key))
                continue
        if not builder.is_container(value):
            if not private and key not in section.tensors:
                leaf = values.leaf(value)
                builder.values.append(Value(section.name_of(key), leaf.type, leaf.value, leaf.text, value))
        elif id(value) not in seen and depth <= builder.limits.depth:
            seen.add(id(value))
            inside, _ = objects.entries(objects.children(value)[0])
            waiting.extend((child, f"{key}.{name}", depth + 1) for name, child in reversed(inside))
