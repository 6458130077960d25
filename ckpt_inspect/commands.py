"""The commands there are: drives their lazy registration, the hints, and the test of the documentation."""

from __future__ import annotations

COMMANDS: dict[str, str] = {
    "info": "What a checkpoint is: format, sections, counts, devices, classes, and the line that loads it.",
    "tree": "The module tree: modules, parameters and buffers with shapes, repeated blocks folded.",
    "ls": "One tensor a line: name, dtype, shape, bytes, device, role.",
    "show": "One entry: a tensor's facts, statistics, histogram and values, or any other value, inertly.",
    "stats": "Numbers of each tensor: min, max, mean, std, norm, zeros, NaN, Inf; --check for CI.",
    "diff": "What changed between two checkpoints: keys, renames, shapes, dtypes, values.",
    "hash": "A fingerprint of content: the same for the same weights in any container, order or file name.",
    "strip-prefix": "Take wrapper prefixes (module., _orig_mod., …) out of the keys.",
    "add-prefix": "Put a prefix before every key of the weights.",
    "remap": "Rename, drop and keep keys by rules.",
    "convert": "Convert between devices, dtypes and formats; take out a part, leave out entries.",
    "check": "Will it load into a model? What is missing, why, and the command that fixes it.",
    "run": "Run a TorchScript archive or a model with these weights: shapes, parameters, FLOPs.",
    "code": "Python source of the modules: real layers where they are recorded or inferred.",
    "scan": "What the pickles would import and call, without doing it.",
    "verify": "Check integrity: checksums, lengths, bounds; damage is named by the tensors it hurts.",
    "salvage": "Rescue what is whole of a cut or damaged file, and name what is not.",
    "recover": "Undo an edit in place that was interrupted.",
}
