"""The models and files that must work by name: what each row must show beyond its keys (see ``test_zoo``)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ckpt_inspect as ci
from tests.zoo import MODELS, files

STATE_DICTS = [name for name in MODELS if f"{name}-state_dict.pth" in files.FILES]
TOLD_BY_NAME = [name for name in STATE_DICTS if name not in ("attributes", "weight-norm")]


@pytest.mark.parametrize("name", STATE_DICTS)
def test_roles_of_a_bare_state_dict(name: str, tmp_path: Path) -> None:
    """Inferred roles are never wrong, and for ordinary layers never missing."""
    checkpoint = ci.open(files.FILES[f"{name}-state_dict.pth"](tmp_path))
    model = MODELS[name]()
    truth = dict.fromkeys(dict(model.named_parameters(remove_duplicate=False)), "parameter")
    truth |= dict.fromkeys(dict(model.named_buffers(remove_duplicate=False)), "buffer")
    for key, info in checkpoint.sections[""].tensors.items():
        assert info.role in (None, truth.get(key)), key
        if name in TOLD_BY_NAME and key in truth:
            assert info.role == truth[key], key
            assert info.role_from == "inferred"


@pytest.mark.parametrize(
    "name", ["mnist", "norm", "lenet", "named-lenet", "cifar", "cifar-seq", "cnn1", "cnn2", "cnn3"]
)
def test_whole_module_records_classes_and_facts(name: str, tmp_path: Path) -> None:
    file = "mnist.pt" if name == "mnist" else f"{name}-module.pt"
    section = ci.open(files.FILES[file](tmp_path)).sections[""]
    model = MODELS[name]() if name in MODELS else files.MnistNet()  # type: ignore[attr-defined]
    assert section.kind == "module"
    for path, module in model.named_modules(remove_duplicate=False):
        recorded = section.modules[path]
        assert recorded.cls == f"{type(module).__module__}.{type(module).__qualname__}"
        assert recorded.training is module.training
    assert section.modules.keys() == dict(model.named_modules(remove_duplicate=False)).keys()


def test_facts_are_what_torch_prints(tmp_path: Path) -> None:
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 12, 3, padding=1, stride=2),
        torch.nn.Conv2d(12, 24, (3, 5), bias=False, groups=2),
        torch.nn.BatchNorm2d(24, momentum=0.2),
        torch.nn.Linear(600, 128, bias=False),
        torch.nn.Dropout(0.25),
        torch.nn.LSTM(8, 16, num_layers=2, bidirectional=True),
        torch.nn.Embedding(10, 4, padding_idx=1),
        torch.nn.LayerNorm((4, 5)),
        torch.nn.GroupNorm(2, 8),
    )
    torch.save(layers, tmp_path / "layers.pt")
    modules = ci.open(tmp_path / "layers.pt").sections[""].modules
    assert [modules[str(i)].args for i in range(len(layers))] == [
        "3, 12, kernel_size=3, stride=2, padding=1",
        "12, 24, kernel_size=(3, 5), groups=2, bias=False",
        "24, momentum=0.2",
        "600, 128, bias=False",
        "p=0.25",
        "8, 16, num_layers=2, bidirectional=True",
        "10, 4, padding_idx=1",
        "(4, 5)",
        "2, 8",
    ]


def test_hooks_and_registries_are_seen(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    model.register_forward_hook(torch.nn.functional.relu)
    model.eval()
    torch.save(model, tmp_path / "hooked.pt")
    module = ci.open(tmp_path / "hooked.pt").sections[""].modules[""]
    assert module.hooks == ("forward_hooks",)
    assert module.training is False


def test_file_shows_what_was_saved_after_the_class_is_gone(tmp_path: Path) -> None:
    section = ci.open(files.FILES["vanished-module.pt"](tmp_path)).sections["model"]
    assert section.cls is not None
    assert section.modules[""].cls == section.cls
    assert len(section) == 7


@pytest.mark.parametrize("name", ["mnist.ckpt", "mnist-groups.ckpt", "mnist-named.ckpt"])
def test_optimizer_state_is_under_its_parameter(name: str, tmp_path: Path) -> None:
    path = files.FILES[name](tmp_path)
    checkpoint = ci.open(path)
    optimizer = checkpoint.sections["optimizer_state_dict"]
    loaded = torch.load(path, weights_only=True)
    order = list(loaded["model_state_dict"])
    assert len(optimizer.params) == len(optimizer.tensors)
    for key, (owner, how) in optimizer.params.items():
        number = int(key.split("/")[1])
        assert owner == f"model_state_dict/{order[number]}"
        assert how == ("recorded" if name == "mnist-named.ckpt" else "derived")


def test_wrapper_segments(tmp_path: Path) -> None:
    found = {
        name: [
            (p.prefix, p.found == p.of) for p in ci.info(ci.open(files.FILES[f"wrapped-{name}.pth"](tmp_path))).prefixes
        ]
        for name in ("dataparallel", "compiled", "compiled-in-ddp", "fsdp", "checkpointed", "module-inside")
    }
    assert found["dataparallel"] == [("module.", True)]
    assert found["compiled"] == [("_orig_mod.", True)]
    assert found["compiled-in-ddp"] == [("module.", True), ("_orig_mod.", True)]
    assert "_fsdp_wrapped_module." in [prefix for prefix, _ in found["fsdp"]]
    assert "_checkpoint_wrapped_module." in [prefix for prefix, _ in found["checkpointed"]]
    assert ("module.", True) not in found["module-inside"]


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("gan.pth", None),
        ("rl.pth", None),
        ("nested-state_dict.pth", ["state_dict"]),
        ("nested-model.pth", ["model"]),
        ("nested-net.pth", ["net"]),
        ("lightning.ckpt", ["state_dict"]),
        ("mnist_para.pth", [""]),
        ("mnist.pt", [""]),
        ("traced_model.pt", [""]),
        ("tensor.t", []),
        ("optimizer-only.pth", []),
        ("cnn3.ckpt", ["model_state_dict"]),
    ],
)
def test_weights_candidates(name: str, candidates: list[str] | None, tmp_path: Path) -> None:
    found = ci.open(files.FILES[name](tmp_path)).candidates()
    if candidates is None:
        assert len(found) > 1 or "/" not in found[0]
        assert not any("opt" in pointer for pointer in found)
    else:
        assert found == candidates


def test_candidates_are_the_highest_containers(tmp_path: Path) -> None:
    weights = torch.nn.Linear(2, 2).state_dict()
    torch.save(
        {"model": {"encoder": weights, "decoder": weights}, "ema": weights, "callbacks": {"swa": weights}, "epoch": 1},
        tmp_path / "deep.pt",
    )
    assert ci.open(tmp_path / "deep.pt").candidates() == ["model", "ema"]


def test_oversized_views(tmp_path: Path) -> None:
    big = torch.zeros(1_000_000)
    torch.save(
        {"slice": big[:1000], "strided": torch.zeros(100, 100)[:, ::2], "whole": torch.zeros(10)}, tmp_path / "v.pt"
    )
    found = {o.names[0]: (o.stored, o.used) for o in ci.info(ci.open(tmp_path / "v.pt")).oversized}
    assert found == {"slice": (4_000_000, 4000), "strided": (40_000, 20_000)}
