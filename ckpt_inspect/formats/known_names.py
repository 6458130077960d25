"""What a name in a pickle is for: a known rebuild, a class of somebody's, or something with no business in a checkpoint.

Not a list of bad names: the standard library is at hand wherever Python is, so whatever of it is not known to be a
plain value has no business here; nor have calls of functions of torch and numpy that are no known rebuild. Names of other
packages are unknown, but for those that are there to run things.
Nothing is imported to find out.
"""

from __future__ import annotations

import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

from .weights_only import ALLOWED

HARMLESS, UNKNOWN, NO_BUSINESS = "harmless", "unknown", "no-business"

# Values of the standard library that objects of all sorts are pickled with: each builds data and does nothing else.
_PLAIN: dict[str, str] = {
    "builtins": "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple "
    "Ellipsis NotImplemented print ArithmeticError AssertionError AttributeError BaseException Exception IndexError "
    "KeyError KeyboardInterrupt LookupError NotImplementedError OSError RuntimeError StopIteration TypeError ValueError "
    "len max min abs sum any all sorted zip enumerate reversed round divmod pow hash id isinstance issubclass callable "
    "repr staticmethod classmethod property super buffer chr enumerate iter map filter",
    "_codecs": "encode",
    "argparse": "Namespace",
    "array": "array _array_reconstructor",
    "collections": "ChainMap Counter OrderedDict UserDict UserList UserString defaultdict deque namedtuple",
    "copyreg": "_reconstructor __newobj__ __newobj_ex__",
    "dataclasses": "Field MISSING _MISSING_TYPE _HAS_DEFAULT_FACTORY_CLASS",
    "datetime": "date datetime time timedelta timezone tzinfo",
    "decimal": "Context Decimal",
    "enum": "Enum EnumMeta EnumType Flag IntEnum IntFlag StrEnum auto",
    "fractions": "Fraction",
    "_functools": "reduce",
    "functools": "partial reduce",
    "_io": "BytesIO StringIO",
    "io": "BytesIO StringIO",
    "inspect": "Parameter Signature _ParameterKind _empty",
    "ipaddress": "IPv4Address IPv4Network IPv6Address IPv6Network",
    "contextlib": "nullcontext",
    "itertools": "chain combinations compress count cycle islice pairwise permutations product repeat zip_longest",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "random": "Random",
    "re": "RegexFlag _compile",
    "string": "Template",
    "time": "struct_time",
    "types": "EllipsisType GenericAlias MappingProxyType NoneType NotImplementedType SimpleNamespace UnionType",
    "uuid": "SafeUUID UUID",
    "zoneinfo": "ZoneInfo ZoneInfo._unpickle",
}
_FUNCTIONS = frozenset(
    f"builtins.{name}"
    for name in (
        "print",
        "len",
        "max",
        "min",
        "abs",
        "sum",
        "any",
        "all",
        "sorted",
        "round",
        "divmod",
        "pow",
        "hash",
        "id",
    )
) | {"builtins.isinstance", "builtins.issubclass", "builtins.callable", "builtins.repr", "abc.ABCMeta"}
_REBUILDS = frozenset(["getitem", "or_"])  # ``List[int]`` and ``int | None`` are pickled as calls of these
_PLAIN_MODULES = frozenset(["math", "cmath", "numbers", "typing", "statistics", "_operator", "collections.abc", "abc"])
_NOT_THOSE = frozenset(["attrgetter", "methodcaller", "itemgetter", "call", "setitem", "delitem", "get_type_hints"])
_KNOWN = frozenset(f"{module}.{name}" for module, names in _PLAIN.items() for name in names.split())

# numpy and torch: what their own objects are pickled with (formats 2.1, 2.3).
_NUMPY = frozenset(
    f"{module}.{name}"
    for module, names in {
        "numpy": "dtype ndarray ufunc bool bool_ generic float16 float32 float64 longdouble int8 int16 int32 int64 uint8 uint16 uint32 "
        "uint64 complex64 complex128 str_ bytes_ void datetime64 timedelta64 object_ number floating integer matrix recarray record",
        "numpy.core.multiarray": "_reconstruct scalar",
        "numpy._core.multiarray": "_reconstruct scalar",
        "numpy.core.numeric": "_frombuffer",
        "numpy._core.numeric": "_frombuffer",
        "numpy.ma.core": "MaskedArray _mareconstruct",
        "numpy.random._pickle": "__randomstate_ctor __generator_ctor __bit_generator_ctor",
        "numpy.random": "__RandomState_ctor RandomState Generator",
        "numpy.random.mtrand": "RandomState",
        "numpy.random._mt19937": "MT19937",
        "numpy.random._pcg64": "PCG64",
    }.items()
    for name in names.split()
)
_TORCH = frozenset(
    [
        *ALLOWED, "torch._tensor._rebuild_from_type", "torch._utils._rebuild_xla_tensor", "torch._utils._rebuild_sparse_csr_tensor",
        "torch.storage._load_from_bytes", "torch.storage._UntypedStorage", "torch.storage._TypedStorage", "torch.UntypedStorage",
        "torch.nn.backends.thnn._get_thnn_function_backend", "torch.nn.parameter.Buffer", "torch.nn.parameter.UninitializedParameter",
        "torch.nn.parameter.UninitializedBuffer", "torch.Generator", "torch._C.ScriptObject", "torch.jit._pickle.build_intlist",
        "torch.jit._pickle.build_doublelist", "torch.jit._pickle.build_boollist", "torch.jit._pickle.build_tensorlist",
        "torch.jit._pickle.restore_type_tag", "torch.jit._pickle.build_tensor_from_id", "torch.ScriptObject",
        "torch.nested._internal.nested_tensor._rebuild_njt", "torch.distributed.tensor._api.DTensor",
        "torch.distributed.tensor.DTensor", "torch.distributed._tensor.api.DTensor", "torch.nn.backends.thnn._get_thnn_backend",
    ]
)  # fmt: skip
_TORCH_CLASSES = ("torch.nn.modules.", "torch.nn.parallel.", "torch.nn.quantized.", "torch.ao.nn.", "torch.optim.",
                  "torch.nn.utils.", "torch.nn.intrinsic.", "torch.ao.quantization.", "torch.quantization.",
                  "torch.distributed.checkpoint.", "torch.distributed.tensor.", "torch.distributed._tensor.",
                  "torch.distributed.device_mesh.", "torch.distributed._shard.", "torch.distributions.",
                  "torch.nested._internal.", "torch.nn.qat.", "torch.nn.qatt.")  # fmt: skip

# Packages, and parts of torch and numpy, that are there to run, load or fetch things.
_RUNNERS = (
    "torch.load", "torch.save", "torch.serialization.load", "torch.serialization._load", "torch.serialization.save", "torch.hub.",
    "torch.package.", "torch.utils.cpp_extension.", "torch.utils.collect_env.", "torch.utils.bottleneck.",
    "torch.utils.model_zoo.", "torch.jit.load", "torch.jit._script.", "torch.jit.unsupported_tensor_ops.", "torch.ops.",
    "torch.classes.", "torch._ops.", "torch._classes.", "torch.utils._config_module.", "torch.cuda._compile_kernel",
    "torch.fromfile", "torch.from_file", "torch.fx.graph_module.reduce_", "torch.fx._lazy_graph_module._make_",
    "numpy.load", "numpy.save", "numpy.savez", "numpy.fromfile", "numpy.memmap", "numpy.loadtxt", "numpy.genfromtxt", "numpy.savetxt",
    "numpy.testing.", "numpy.f2py.", "numpy.distutils.", "numpy.ctypeslib.", "numpy.lib.", "numpy.compat.", "numpy.apply_along_axis",
    "numpy.vectorize", "numpy.frompyfunc",
)  # fmt: skip
# There classes are usual in objects that were saved whole; functions are not.
_RUNNING_FUNCTIONS = (
    "torch._inductor.", "torch._dynamo.", "torch.fx.", "torch.distributed.rpc.", "torch.distributed.launcher.",
    "torch.distributed.run.", "torch.distributed.elastic.", "torch.multiprocessing.", "torch.testing.", "torch.utils.data.datapipes.",
)  # fmt: skip
_RUNNING_PACKAGES = frozenset(
    [
        "aiohttp",
        "cloudpickle",
        "dill",
        "fabric",
        "fsspec",
        "gdown",
        "git",
        "httpx",
        "huggingface_hub",
        "invoke",
        "ipykernel",
        "IPython",
        "joblib",
        "jsonpickle",
        "paramiko",
        "pexpect",
        "pip",
        "pkg_resources",
        "plumbum",
        "pymysql",
        "psutil",
        "pytest",
        "requests",
        "s3fs",
        "sagemaker",
        "setuptools",
        "sh",
        "sqlalchemy",
        "tornado",
        "twisted",
        "uvloop",
        "urllib3",
        "virtualenv",
        "websocket",
        "websockets",
        "wheel",
        "wget",
        "yaml",
        "ruamel",
        "boto3",
        "botocore",
        "nbconvert",
    ]
)
# Modules of Python 2 that are gone, and what the standard library's own modules are written in.
_OLD_LIBRARY = frozenset(
    [
        "__builtin__",
        "BaseHTTPServer",
        "ConfigParser",
        "Queue",
        "SocketServer",
        "StringIO",
        "cPickle",
        "cStringIO",
        "commands",
        "copy_reg",
        "dircache",
        "dummy_thread",
        "exceptions",
        "execfile",
        "htmllib",
        "httplib",
        "imputil",
        "ihooks",
        "mimetools",
        "new",
        "os2emxpath",
        "popen2",
        "sets",
        "sgmllib",
        "sha",
        "md5",
        "tempnam",
        "thread",
        "urllib2",
        "urlparse",
        "user",
        "xmlrpclib",
        "imp",
        "asyncore",
        "asynchat",
        "smtpd",
        "distutils",
    ]
)
_LIBRARY = frozenset(sys.stdlib_module_names) | _OLD_LIBRARY
# Attributes through which one gets from any object to everything.
WAYS_OUT = frozenset(
    [
        "__globals__",
        "__builtins__",
        "__class__",
        "__subclasses__",
        "__bases__",
        "__base__",
        "__mro__",
        "__dict__",
        "__code__",
        "__closure__",
        "__loader__",
        "__import__",
        "__getattribute__",
        "__reduce__",
        "__reduce_ex__",
        "__init__",
        "__call__",
        "__spec__",
        "f_globals",
        "gi_frame",
        "tb_frame",
        "func_globals",
    ]
)
_MODULES_THAT_ACT = frozenset(
    [
        "os",
        "posix",
        "nt",
        "sys",
        "subprocess",
        "builtins",
        "__builtin__",
        "importlib",
        "runpy",
        "ctypes",
        "pickle",
        "_pickle",
        "marshal",
        "shutil",
        "socket",
        "pty",
        "code",
        "codeop",
        "pdb",
        "bdb",
        "timeit",
        "webbrowser",
        "multiprocessing",
        "commands",
        "popen2",
        "operator",
        "_io",
        "io",
        "inspect",
        "linecache",
    ]
)


def python3(module: str, name: str) -> tuple[str, str]:
    """A global as Python 3 finds it: protocols 0 to 2 name what is its own as Python 2 did, by pickle's own tables."""
    return NAME_MAPPING.get((module, name)) or (IMPORT_MAPPING.get(module, module), name)


def classify(module: str, name: str) -> str:
    """What a global is, by its name: ``harmless``, ``unknown`` or ``no-business``."""
    module, name = python3(module, name)
    full = f"{module}.{name}"
    if full in _KNOWN or full in _TORCH or full in _NUMPY:
        return HARMLESS
    parts = full.split(".")
    # ``torch`` / ``serialization.os.system``: a dotted name is a path of attributes, which leads through modules
    if not WAYS_OUT.isdisjoint(parts[1:]) or not _MODULES_THAT_ACT.isdisjoint(name.split(".")[:-1]):
        return NO_BUSINESS
    top = parts[0]
    if top == "__torch__":  # a class of a TorchScript archive: its code is in the archive, no module of Python
        return HARMLESS
    if top == "torch":
        return _torch(full, parts)
    if top == "numpy":
        if full.startswith(_RUNNERS):
            return NO_BUSINESS
        plain = full.startswith(("numpy.dtypes.", "numpy.random.", "numpy.ma.")) and "." not in name and _is_class(name)
        return HARMLESS if plain else UNKNOWN
    if top in _LIBRARY:
        plain = module in _PLAIN_MODULES and "." not in name and name not in _NOT_THOSE and not name.startswith("__")
        plain = plain and (module != "typing" or _is_class(name))  # its functions evaluate text: _eval_type
        return HARMLESS if plain else NO_BUSINESS
    return NO_BUSINESS if top in _RUNNING_PACKAGES else UNKNOWN


def classify_call(module: str, name: str) -> str:
    """What calling a global is: functions that are values (``key=len``) have no business there, for they rebuild nothing.

    Nor has a function of torch or numpy that is no known rebuild.
    """
    kind = classify(module, name)
    module, name = python3(module, name)
    if f"{module}.{name}" in _FUNCTIONS or (module in _PLAIN_MODULES and not _is_class(name) and name not in _REBUILDS):
        return NO_BUSINESS
    path = f"{module}.{name}".split(".")
    if kind != UNKNOWN or path[0] not in ("torch", "numpy") or _is_class(path[-1]) or path[-1].startswith("_rebuild"):
        return kind
    return NO_BUSINESS


def torch_function(module: str, name: str) -> str | None:
    """``torch.relu`` for ``torch._C`` / ``_VariableFunctionsClass.relu``, which is how torch's own functions are pickled.

    Before torch 1.5.1 that class was ``_VariableFunctions``. Naming such a function is usual in modules that were saved
    whole (``self.act = torch.relu``), calling it is not. None for whatever else hangs there: private names, and functions
    that open files.
    """
    owner, _, function = name.rpartition(".")
    if module != "torch._C" or owner not in ("_VariableFunctionsClass", "_VariableFunctions") or not _PUBLIC(function):
        return None
    full = f"torch.{function}"
    return full if _torch(full, ["torch", function]) != NO_BUSINESS else None


_PUBLIC = re.compile(r"[a-z][a-z0-9_]*").fullmatch


def _is_class(name: str) -> bool:
    return name.lstrip("_")[:1].isupper()


def _torch(full: str, parts: list[str]) -> str:
    if not _MODULES_THAT_ACT.isdisjoint(parts[1:-1]):
        return NO_BUSINESS
    is_class = _is_class(parts[-1])
    if full.startswith(_RUNNERS) or (full.startswith(_RUNNING_FUNCTIONS) and not is_class):
        return NO_BUSINESS
    if full.startswith(_TORCH_CLASSES) and is_class:
        return HARMLESS
    if parts[-1].endswith(("Storage", "Tensor")) and len(parts) <= 4:
        return HARMLESS
    if len(parts) == 2 and parts[1].islower() and parts[1] in _DTYPES_AND_LAYOUTS:
        return HARMLESS
    return UNKNOWN


_DTYPES_AND_LAYOUTS = frozenset(
    [
        "strided",
        "sparse_coo",
        "sparse_csr",
        "sparse_csc",
        "sparse_bsr",
        "sparse_bsc",
        "jagged",
        "contiguous_format",
        "channels_last",
        "preserve_format",
        "float",
        "half",
        "double",
        "long",
        "int",
        "short",
        "chfloat",
        "cfloat",
        "cdouble",
    ]
)
