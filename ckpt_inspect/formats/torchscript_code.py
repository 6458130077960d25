"""The source code in a TorchScript archive: what its classes declare, read without compiling anything.

``python_print.cpp`` writes the records ``code/**/*.py``; ``lexer.h`` and ``import_source.cpp`` read them.
The language only looks like Python, and files may be hostile, so this is no parser: one pass of a linear
regular expression knows strings, comments and brackets, and of the lines only declarations are looked at::

    class Conv2d(Module):
      __parameters__ = ["weight", ]                     names, printed without any escaping
      __buffers__ = []                                  absent before torch 1.6
      weight : Tensor                                   an attribute
      __annotations__["0"] = __torch__.torch.nn.Linear  one whose name is no identifier
      kernel_size : Final[Tuple[int, int]] = (3, 3)     a constant
      def forward(self: __torch__.Conv2d,               a method; deeper lines are its body
        x: Tensor) -> Tensor:
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import CorruptError
from ..model.source import Source


class ScriptClass(NamedTuple):
    """One class declaration.

    Attributes:
        name: qualified, with mangling: ``__torch__.torch.nn.modules.conv.___torch_mangle_0.Conv2d``.
        kind: ``Module``, ``NamedTuple``, ``Enum``, ``Interface``, ``ModuleInterface``; ``""`` for others.
        parameters: the names in ``__parameters__``, also of those that are None.
        buffers: the names in ``__buffers__``, also of those that are None or not persistent.
        attributes: name to annotation, in order; submodules too, and the fields of a NamedTuple.
        constants: name to the source of the value: ``Final[...]`` constants, members of an Enum.
        methods: names, hooks included.
        lists_buffers: whether there is a ``__buffers__`` line; without one nothing is recorded of buffers.
    """

    name: str
    kind: str
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    attributes: dict[str, str]
    constants: dict[str, str]
    methods: tuple[str, ...]
    lists_buffers: bool


class Code(NamedTuple):
    """All code of an archive.

    Attributes:
        classes: by qualified name.
        devices: record, literal, byte offset of its opening quote, of every ``torch.device("cuda:0")``.
        constants_used: index N of ``CONSTANTS.cN`` to the methods, functions and attributes that use it.
        problems: what ``torch.jit.load`` would refuse, the first of each record; the rest was read anyway.
    """

    classes: dict[str, ScriptClass]
    devices: tuple[tuple[str, str, int], ...]
    constants_used: dict[int, tuple[str, ...]]
    problems: tuple[CorruptError, ...]


_MANGLE = re.compile(r"(?:^|\.)___torch_mangle_\d+(?=\.|$)")


def original_name(qualified: str) -> str:
    """The Python name of a class: ``__torch__.torch.nn.___torch_mangle_0.Linear`` was ``torch.nn.Linear``."""
    return _MANGLE.sub("", qualified.removeprefix("__torch__.")).removeprefix(".")


def parse(records: Iterable[tuple[str, bytes]]) -> Code:
    """Read the ``code/**/*.py`` records, named without the root of the archive; others are passed over."""
    reader = _Reader()
    for record, data in records:
        if record.startswith("code/") and record.endswith(".py"):
            reader.read(record, data)
    used = {index: tuple(owners) for index, owners in sorted(reader.used.items())}
    return Code(reader.classes, tuple(reader.devices), used, tuple(reader.problems))


def acts(source: Source) -> list[str]:
    """Operators that the code of one record calls, and that write a file or map one: loading may call ``__setstate__``."""
    data = source.read_at(0, min(source.size, _MOST_CODE))
    if not _ACTS.search(data):
        return []
    spelled = b"".join(piece or b" " for piece in _PIECE.findall(data))  # without comments
    code = STRING.sub(b'""', spelled)
    return list(dict.fromkeys(f"torch.{name.decode()}" for name in _ACTS.findall(code)))


def _quoted(end: bytes) -> bytes:
    """The strings of ``lexer.h``; ``end`` quantifies the last quote. Possessive: no byte is read twice."""
    triple = rb'"""(?:[^"\\]++|\\.|"(?!""))*+(?:""")%b' % end
    single = rb'"(?:[^"\\\n]++|\\.)*+(?:")%b' % end
    return b"(?:" + b"|".join([triple, triple.replace(b'"', b"'"), single, single.replace(b'"', b"'")]) + b")"


_LONGEST = 500  # every class repeats the path of its module, every constant used the name of its class
STRING = re.compile(_quoted(b""), re.DOTALL)
_TOKEN = re.compile(
    rb"""[^\n\\"'\#()\[\]{}C]*+ (?:
      (?P<line> \n (?P<indent>[ \t\r\f\v]*+)
          (?P<keyword> (?:def|class)[ ](?=\w) )?+       # never inside an expression
          (?: __\w++[ ]=[ ]\[ (?:"[^\n]*",[ ])? \] (?=\r?\n|\Z)
            | __annotations__\["[^\n]*"\][ ]=[ ]        # names are printed unescaped: in their
          )?+ )                                         # quotes there is no code, nor a closing quote
    | (?P<open> [(\[{] )
    | (?P<close> [)\]}] )
    | (?P<string> %b )
    | (?<![\w.])CONSTANTS\.c(?P<constant> \d{1,9} )(?!\w)
    | \#[^\n]*+ | \\\n | [\\C] | \Z )                   # comments, joints of two lines, the rest
    """
    % _quoted(b"?+"),
    re.DOTALL | re.VERBOSE,
)
_DEVICE = re.compile(rb"(?<![\w.])torch\s*\.\s*device\s*\(\s*\Z")
_PIECE = re.compile(rb"(%b|[^\"'#\n\\]++|\\(?!\n))|\#[^\n]*+|\\?\n" % _quoted(b"?+"), re.DOTALL)

_ACTS = re.compile(rb"(?<![\w.])(?:torch|ops\s*\.\s*aten)\s*\.\s*(save|from_file)\s*\(")
_MOST_CODE = 64 << 20  # bytes

_CLASS = re.compile(rb"class\s++([^\s(:]{1,500}+)\s*+(?:\(\s*+([^\s()]*+)\s*+\)\s*+)?:")
_METHOD = re.compile(rb"def\s++(\w++)\s*+\(")
_HEAD = re.compile(rb"(?:(?:class|def)\s++)?([^\s(:=]*+)")
_NAMES = re.compile(rb"__(parameters|buffers)__\s*+=\s*+")
_LIST = re.compile(rb"\[\s*+(?:%b\s*+(?:,\s*+|(?=\])))*+\]" % _quoted(b""), re.DOTALL)
_LIST_AS_PRINTED = re.compile(rb'\[(?:"(.*)", )?\]')
_SUBSCRIPT = re.compile(rb"__annotations__\s*+\[\s*+(%b)\s*+\]\s*+=" % _quoted(b""), re.DOTALL)
_SUBSCRIPT_AS_PRINTED = re.compile(rb'__annotations__\["(.*)"\] =')
_ANNOTATED = re.compile(rb"([^\W\d]\w*+)\s*+:([^=]*+)(?:=(.*+))?", re.DOTALL)
_MEMBER = re.compile(rb"([^\W\d]\w*+)\s*+=(.*+)", re.DOTALL)

# parse_string_literal.h; \r, which its own printer writes, is not among them
_ESCAPES = {rb"\a": b"\a", rb"\b": b"\b", rb"\f": b"\f", rb"\n": b"\n", rb"\t": b"\t", rb"\v": b"\v"}
_ESCAPES |= {b"\\" + byte: byte for byte in (b"\\", b"'", b'"', b"\n")}
_ESCAPES |= {b"\\%03o" % code: bytes([code]) for code in range(256)}
_ESCAPE = re.compile(rb"\\(?:[0-7]{3}|.)", re.DOTALL)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _literal(literal: bytes) -> str | None:
    """The text of a string literal; None if it is none."""
    if not STRING.fullmatch(literal):
        return None
    quotes = 3 if literal[:3] in (b'"""', b"'''") else 1
    try:
        return _text(_ESCAPE.sub(lambda escape: _ESCAPES[escape[0]], literal[quotes:-quotes]))
    except KeyError:
        return None


class _Reader:
    """What was found so far, and where in a record the reading stands."""

    def __init__(self) -> None:
        self.classes: dict[str, ScriptClass] = {}
        self.devices: list[tuple[str, str, int]] = []
        self.used: dict[int, dict[str, None]] = {}
        self.problems: list[CorruptError] = []
        self.current: ScriptClass | None = None
        self.methods: list[str] = []

    def read(self, record: str, data: bytes) -> None:
        self.record = record
        self.module = record.removeprefix("code/").removesuffix(".py").replace("/", ".")
        self.data = b"\n" + data  # so that every line follows a newline; positions are one too high
        self.outer: int | None = None  # the indentation of classes
        self.inner: int | None = None  # of what they declare
        self.line = self.head = 0  # start of this line, 0 if it declares nothing; of the last one that does
        self.owner = ""  # what that one declares, once asked for
        if len(record) > _LONGEST:
            self._refused("this path is too long", 1)
            return
        depth = 0
        for token in _TOKEN.finditer(self.data):
            kind = token.lastgroup
            if kind == "open":
                depth += 1
            elif kind == "close":
                depth -= depth > 0
            elif kind == "string":
                self._string(token["string"], token.start("string"))
            elif kind == "constant":
                self._use(int(token["constant"]))
            elif kind == "line":
                if depth and token["keyword"]:
                    self._refused("a bracket is not closed", token.start("line"))
                    depth = 0
                # The members of an Enum are printed unescaped, but each on a line of its own.
                if not depth or (self.current and self.current.kind == "Enum"):
                    depth = 0
                    self._end_line(token.start("line"))
                    self._begin_line(token.start("indent"), token.end("indent"))
        self._end_line(len(self.data))
        self._end_class()

    def _refused(self, message: str, position: int) -> None:
        if not self.problems or self.problems[-1].record != self.record:
            hint = "torch.jit.load is likely to refuse this code; the rest of it was read all the same."
            self.problems.append(CorruptError(message, record=self.record, offset=position - 1, hint=hint))

    def _string(self, literal: bytes, position: int) -> None:
        text = _literal(literal)
        if text is None:
            self._refused("this string is not closed, or has an escape that TorchScript lacks", position)
        elif _DEVICE.search(self.data, max(0, position - 40), position):
            self.devices.append((self.record, text, position - 1))

    def _use(self, index: int) -> None:
        """Note a constant, and the method, function or attribute that is being read."""
        if not self.owner:
            head = _HEAD.match(self.data, self.head)
            prefix = self.current.name if self.current else self.module
            self.owner = f"{prefix}.{_text(head[1]) if head else ''}"
        self.used.setdefault(index, {})[self.owner] = None

    def _begin_line(self, newline: int, start: int) -> None:
        self.line, indent = 0, start - newline
        if self.data[start : start + 1] in (b"", b"\n", b"#"):
            return
        if self.outer is None:
            self.outer = indent
        if indent <= self.outer:
            self._end_class()
        elif self.current and self.inner is None:
            self.inner = indent
        if indent <= self.outer or indent == self.inner:
            self.line = self.head = start
            self.owner = ""

    def _end_line(self, end: int) -> None:
        if not self.line:
            return  # blank, or in the body of a method
        text = line = self.data[self.line : end].rstrip()
        if b"#" in line or b"\n" in line:
            text = b"".join(piece[1] or b" " for piece in _PIECE.finditer(line)).rstrip()
        if self.current:
            self._declare(self.current, text, line)
        elif match := _CLASS.match(text):
            name, kind = f"{self.module}.{_text(match[1])}", _text(match[2] or b"")
            self.current = ScriptClass(name, kind, (), (), {}, {}, (), False)
        elif text.startswith(b"class "):
            self._refused("this is no declaration of a class", self.line)

    def _end_class(self) -> None:
        if self.current:
            self.classes[self.current.name] = self.current._replace(methods=tuple(self.methods))
        self.current, self.inner, self.methods = None, None, []

    def _declare(self, current: ScriptClass, text: bytes, line: bytes) -> None:
        """Take in what a line declares; ``text`` is ``line`` without comments and breaks."""
        if names := _NAMES.match(text):
            listed = self._names(text[names.end() :], line[names.end() :])
            if names[1] == b"parameters":
                self.current = current._replace(parameters=listed)
            else:
                self.current = current._replace(buffers=listed, lists_buffers=True)
        elif text.startswith(b"__annotations__"):
            self._annotation(current.attributes, text, line)
        elif method := _METHOD.match(text):
            self.methods.append(_text(method[1]))
        elif annotated := _ANNOTATED.fullmatch(text):
            name, annotation, value = (_text(part or b"").strip() for part in annotated.groups())
            if value and annotation.startswith("Final["):
                current.constants[name] = value
            else:
                current.attributes[name] = annotation
        elif current.kind == "Enum" and (member := _MEMBER.fullmatch(text)):
            current.constants[_text(member[1])] = _text(member[2]).strip()

    def _names(self, text: bytes, line: bytes) -> tuple[str, ...]:
        """The strings of ``["weight", "bias", ]``."""
        names = [_literal(literal) for literal in STRING.findall(text)] if _LIST.fullmatch(text) else [None]
        if None not in names:
            return tuple(name for name in names if name is not None)
        # A name has a quote or a backslash, which is printed as it is.
        self._refused("this list of names does not read back", self.line)
        printed = _LIST_AS_PRINTED.fullmatch(line)
        return tuple(_text(printed[1]).split('", "')) if printed and printed[1] else ()

    def _annotation(self, attributes: dict[str, str], text: bytes, line: bytes) -> None:
        """``__annotations__["0"] = Tensor``; ``__annotations__ = []`` declares nothing."""
        subscript = _SUBSCRIPT.match(text)
        name = _literal(subscript[1]) if subscript else None
        if name is None and (subscript := _SUBSCRIPT_AS_PRINTED.match(line)):
            self._refused("this name does not read back", self.line)
            name, text = _text(subscript[1]), line
        if name is not None and subscript:
            attributes[name] = _text(text[subscript.end() :]).strip()


# The arguments of constructors, in order. A bare name is positional; others are shown unless they equal what
# follows the "=", which may be another argument.
_LAYERS = """\
Linear NonDynamicallyQuantizableLinear: in_features out_features
Conv: in_channels out_channels kernel_size= stride=1 padding=0 dilation=1 groups=1 padding_mode='zeros'
ConvTranspose: in_channels out_channels kernel_size= stride=1 padding=0 output_padding=0 dilation=1 groups=1
BatchNorm SyncBatchNorm: num_features eps=1e-05 momentum=0.1 affine=True track_running_stats=True
InstanceNorm: num_features eps=1e-05 momentum=0.1 affine=False track_running_stats=False
LayerNorm: normalized_shape eps=1e-05 elementwise_affine=True
RMSNorm: normalized_shape eps=None elementwise_affine=True
GroupNorm: num_groups num_channels eps=1e-05 affine=True
Embedding: num_embeddings embedding_dim padding_idx=None max_norm=None norm_type=2.0
EmbeddingBag: num_embeddings embedding_dim padding_idx=None max_norm=None norm_type=2.0 mode='mean'
RNN LSTM GRU: input_size hidden_size num_layers=1 bias=True batch_first=False dropout=0.0 bidirectional=False
RNNCell LSTMCell GRUCell: input_size hidden_size bias=True nonlinearity='tanh'
MaxPool: kernel_size= stride=kernel_size padding=0 dilation=1 ceil_mode=False
AvgPool: kernel_size= stride=kernel_size padding=0 ceil_mode=False count_include_pad=True
AdaptiveAvgPool AdaptiveMaxPool: output_size
Dropout AlphaDropout FeatureAlphaDropout: p= inplace=False
LeakyReLU: negative_slope=0.01 inplace=False
GELU: approximate='none'
Softmax LogSoftmax: dim=
Upsample: size=None scale_factor=None mode='nearest' align_corners=None
"""
_ROWS = [row.partition(": ") for row in _LAYERS.splitlines()]
_ARGUMENTS = {name: arguments.split() for names, _, arguments in _ROWS for name in names.split()}
_EXACT = re.compile(r"True|False|None|-?inf|nan|-?[0-9]{1,20}")
_FLOAT = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{0,20})?(?:e[+-]?[0-9]{1,3})?")
_WORD = re.compile(r'"([\w-]{0,40})"')


def layer_args(script_class: ScriptClass) -> str:
    """What a layer of ``torch.nn`` recorded of its constructor's arguments: ``1, 32, kernel_size=3``.

    Defaults are left out. ``""`` if nothing is recorded, as in traced modules, or the class is another.
    """
    module, _, name = original_name(script_class.name).rpartition(".")
    if not module.startswith(("torch.nn.", "torch.ao.nn.")):
        return ""
    shown: list[str] = []
    values: dict[str, str] = {}
    positional = True
    for argument in _ARGUMENTS.get(re.sub(r"[123]d$", "", name), []):
        key, keyword, default = argument.partition("=")
        value = values[key] = _value(key, script_class.constants.get(key, ""))
        positional = positional and bool(value) and not keyword
        if value and not (keyword and value == values.get(default, default)):
            shown.append(value if positional else f"{key}={value}")
    return ", ".join(shown)


def _value(key: str, source: str) -> str:
    """A constant as Python writes it; ``""`` unless it is a scalar or a flat tuple."""
    items = [_scalar(item) for item in source.strip("()[]").removesuffix(",").split(", ", 8)]
    if len(set(items)) == 1 and (len(items) == 1 or key != "normalized_shape"):
        return items[0]  # (3, 3) is 3, but for one argument
    return f"({', '.join(items)})" if "" not in items else ""


def _scalar(source: str) -> str:
    if _EXACT.fullmatch(source):
        return source
    if _FLOAT.fullmatch(source):
        return repr(float(source))  # printed with 17 digits
    return repr(word[1]) if (word := _WORD.fullmatch(source)) else ""
