"""What a name in a pickle is for: a known rebuild, a class of somebody's, or something with no business in a checkpoint.

Not a list of bad names: the standard library is at hand wherever Python is, so whatever of it is not known to be a
plain value has no business here; nor have calls of functions of torch and numpy that are no known rebuild, and calls of
classes that honest pickles make otherwise (NEWOBJ calls no ``__init__``). Names of other packages are unknown, but for
those that are there to run things. Nothing is imported to find out.
"""

from __future__ import annotations

import builtins
import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

from .torch_classes import kind_of
from .weights_only import ALLOWED

HARMLESS, UNKNOWN, NO_BUSINESS = "harmless", "unknown", "no-business"

# Values of the standard library that objects of all sorts are pickled with: each builds data and does nothing else.
_PLAIN: dict[str, str] = {
    "builtins": "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple "
    "Ellipsis NotImplemented print len max min abs sum any all sorted zip enumerate reversed round divmod pow hash id "
    "isinstance issubclass callable repr staticmethod classmethod property super buffer chr enumerate iter map filter",
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
    "ipaddress": "IPv4Address IPv4Interface IPv4Network IPv6Address IPv6Interface IPv6Network",
    "json.decoder": "JSONDecodeError",
    "urllib.parse": "DefragResult ParseResult SplitResult",
    "contextlib": "nullcontext",
    "http": "HTTPMethod HTTPStatus",
    "itertools": "accumulate chain combinations combinations_with_replacement compress count cycle dropwhile filterfalse "
    "groupby islice pairwise permutations product repeat starmap takewhile zip_longest _grouper _tee _tee_dataobject",
    "logging": "getLogger",
    "operator": "itemgetter",
    "_operator": "itemgetter",
    "os": "stat_result statvfs_result terminal_size uname_result",
    "posix": "uname_result",
    "platform": "uname_result",
    "signal": "Handlers Sigmasks Signals",
    "socket": "AddressFamily SocketKind",
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
    for name in "print len max min abs sum any all sorted round divmod pow hash id isinstance issubclass callable repr".split()  # noqa: SIM905
)
# ``List[int]`` and ``int | None`` are pickled as calls of the first two
_REBUILDS = frozenset(["getitem", "or_", "itemgetter"])
_PLAIN_MODULES = frozenset(["math", "cmath", "numbers", "typing", "statistics", "_operator", "collections.abc", "abc"])
_NOT_THOSE = frozenset(["attrgetter", "methodcaller", "call", "setitem", "delitem", "get_type_hints"])
_EXCEPTIONS = frozenset(
    f"builtins.{name}"
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
)
_KNOWN = frozenset(f"{module}.{name}" for module, names in _PLAIN.items() for name in names.split()) | _EXCEPTIONS
# Plain values whose methods, bound to one, do nothing but compute; a bound method of any other may write a file.
_COMPUTING = frozenset(
    f"{module}.{name}"
    for module, names in {
        "builtins": "bool bytearray bytes complex dict float frozenset int list range set slice str tuple",
        "collections": "Counter OrderedDict deque",
        "datetime": "date datetime time timedelta timezone",
        "decimal": "Decimal",
        "fractions": "Fraction",
        "logging": "getLogger",
        "random": "Random",
        "re": "_compile",
        "uuid": "UUID",
    }.items()
    for name in names.split()
)
# What makes classes: a class that was made answers to every opcode with what it was given.
_METACLASSES = frozenset(
    [
        "abc.ABCMeta",
        "enum.Enum",
        "enum.EnumMeta",
        "enum.EnumType",
        "enum.Flag",
        "enum.IntEnum",
        "enum.IntFlag",
        "enum.StrEnum",
    ]
)

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
        "numpy.random._pcg64": "PCG64 PCG64DXSM",
        "numpy.random._philox": "Philox",
        "numpy.random._sfc64": "SFC64",
        "numpy.random.bit_generator": "SeedSequence SeedlessSeedSequence __pyx_unpickle_SeedSequence "
        "__pyx_unpickle_SeedlessSeedSequence",
    }.items()
    for name in names.split()
)
_TORCH = frozenset(
    [
        *ALLOWED, "torch._tensor._rebuild_from_type", "torch._utils._rebuild_xla_tensor", "torch._utils._rebuild_sparse_csr_tensor",
        "torch.storage._load_from_bytes", "torch.storage._UntypedStorage", "torch.storage._TypedStorage", "torch.UntypedStorage",
        "torch.nn.backends.thnn._get_thnn_function_backend", "torch.nn.parameter.Buffer", "torch.nn.parameter.UninitializedParameter",
        "torch.nn.parameter.UninitializedBuffer", "torch.Generator", "torch._C.Generator", "torch._C.ScriptObject", "torch.jit._pickle.build_intlist",
        "torch.jit._pickle.build_doublelist", "torch.jit._pickle.build_boollist", "torch.jit._pickle.build_tensorlist",
        "torch.jit._pickle.restore_type_tag", "torch.jit._pickle.build_tensor_from_id", "torch.ScriptObject",
        "torch.nested._internal.nested_tensor._rebuild_njt", "torch.distributed.tensor._api.DTensor",
        "torch.distributed.tensor.DTensor", "torch.distributed._tensor.api.DTensor", "torch.nn.backends.thnn._get_thnn_backend",
    ]
)  # fmt: skip
# Packages, and parts of torch and numpy, that are there to run, load or fetch things.
_RUNNERS = (
    "torch.load", "torch.save", "torch.serialization.load", "torch.serialization._load", "torch.serialization.save", "torch.hub.",
    "torch.package.", "torch.utils.cpp_extension.", "torch.utils.collect_env.", "torch.utils.bottleneck.",
    "torch.utils.model_zoo.", "torch.jit.load", "torch.jit._script.", "torch.jit.unsupported_tensor_ops.", "torch.ops.",
    "torch.classes.", "torch._ops.", "torch._classes.", "torch.utils._config_module.", "torch.cuda._compile_kernel",
    "torch.utils._sympy.", "torch.fromfile", "torch.from_file", "torch.fx.graph_module.reduce_", "torch.fx._lazy_graph_module._make_",
    "numpy.load", "numpy.save", "numpy.savez", "numpy.fromfile", "numpy.memmap", "numpy.loadtxt", "numpy.genfromtxt", "numpy.savetxt",
    "numpy.testing.", "numpy.f2py.", "numpy.distutils.", "numpy.ctypeslib.", "numpy.lib.", "numpy.compat.", "numpy.apply_along_axis",
    "numpy.vectorize", "numpy.frompyfunc",
)  # fmt: skip
# Classes whose call opens a file, a connection or a process. An object of one that is only made is unknown.
_NOT_TO_BE_CALLED = (
    "torch._C.", "torch.distributed.elastic.", "torch.distributed.launcher.", "torch.distributed.rpc.", "torch.distributed.run.",
    "torch.distributed.TCPStore", "torch.distributed.FileStore", "torch.multiprocessing.", "torch.utils.benchmark.",
    "torch.utils.data.datapipes.", "torch._inductor.", "torch.utils.tensorboard.", "torch.onnx.", "torch.export.",
)  # fmt: skip
# Functions and methods of torch and numpy that open files, wherever they hang.
_OPENING = frozenset(
    [
        "_new_using_filename_cpu", "_new_with_file", "_set_from_file", "_share_filename_cpu_", "_write_file", "dump", "export",
        "from_file", "fromfile", "memmap", "open_memmap", "save", "tofile",
    ]
)  # fmt: skip
# There classes are usual in objects that were saved whole; functions are not, nor are calls of classes.
_RUNNING_FUNCTIONS = (
    "torch._inductor.", "torch._dynamo.", "torch.fx.", "torch.distributed.rpc.", "torch.distributed.launcher.",
    "torch.distributed.run.", "torch.distributed.elastic.", "torch.multiprocessing.", "torch.testing.", "torch.utils.data.datapipes.",
    "torch.utils.benchmark.", "torch._numpy.", "torch._export.", "torch._functorch.", "torch.onnx.", "torch.export.",
)  # fmt: skip
_RUNNING_PACKAGES = frozenset(
    [
        "aiohttp", "boto3", "botocore", "cloudpickle", "dill", "fabric", "fsspec", "gdown", "git", "httpx",
        "huggingface_hub", "invoke", "ipykernel", "IPython", "joblib", "jsonpickle", "nbconvert", "paramiko", "pexpect",
        "pip", "pkg_resources", "plumbum", "psutil", "pymysql", "pytest", "requests", "ruamel", "s3fs", "sagemaker",
        "setuptools", "sh", "sqlalchemy", "tornado", "twisted", "urllib3", "uvloop", "virtualenv", "websocket",
        "websockets", "wget", "wheel", "yaml",
    ]
)  # fmt: skip
# What those packages have that holds values, and does nothing by being made.
_PLAIN_CLASSES_OF_THEIRS = (
    "joblib.numpy_pickle.NumpyArrayWrapper", "ruamel.yaml.scalar", "ruamel.yaml.comments.", "ruamel.yaml.anchor.",
    "ruamel.yaml.timestamp.",
)  # fmt: skip
# Packages that come with torch, or wherever Python 2 was, and whose objects are no parts of models: ``sympify`` evaluates text.
_DRAGGED_IN = frozenset(
    [
        "filelock", "functorch", "future", "jinja2", "markupsafe", "mpmath", "networkx", "past", "six", "sympy", "torchgen",
        "triton", "typing_extensions",
    ]
)  # fmt: skip
# The library of other versions than the one that runs this: Python 2, what was removed, what is newer. Names that are
# usual for modules of one's own (``parser``) are left out.
_OTHER_LIBRARIES = frozenset(
    [
        "__builtin__", "_colorize", "_interpchannels", "_interpqueues", "_interpreters", "_pyrepl", "_remote_debugging",
        "_testbuffer", "_testcapi", "_testinternalcapi", "_testmultiphase", "aifc", "annotationlib", "asynchat",
        "asyncore", "audioop", "BaseHTTPServer", "Bastion", "binhex", "bsddb", "cgi", "cgitb", "commands",
        "ConfigParser", "copy_reg", "cPickle", "crypt", "cStringIO", "dircache", "distutils", "dl", "dummy_thread",
        "exceptions", "execfile", "future_builtins", "hotshot", "htmlentitydefs", "htmllib", "httplib", "idlelib",
        "ihooks", "imghdr", "imp", "imputil", "lib2to3", "linuxaudiodev", "macpath", "mailcap", "md5", "mhlib",
        "mimetools", "MimeWriter", "mimify", "msilib", "multifile", "new", "nis", "nntplib", "os2", "os2emxpath",
        "ossaudiodev", "pipes", "popen2", "posixfile", "Queue", "rexec", "rfc822", "robotparser", "sets", "sgmllib",
        "sha", "smtpd", "sndhdr", "SocketServer", "spwd", "StringIO", "stringold", "strop", "sunau", "telnetlib",
        "tempnam", "thread", "toaiff", "turtledemo", "urllib2", "urlparse", "user", "uu", "xdrlib", "xmlrpclib",
    ]
)  # fmt: skip
_LIBRARY = frozenset(sys.stdlib_module_names) | _OTHER_LIBRARIES
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
# Classes of the library whose call opens, starts or runs something, by their names alone: modules of torch import them.
_ACTING_CLASSES = frozenset(
    [
        "BZ2File", "BaseManager", "CDLL", "Client", "CodeType", "Connection", "ContextVar", "ExitStack",
        "ExtensionFileLoader", "FTP", "FileHandler", "FileIO", "FunctionType", "GzipFile", "HTTPConnection", "HTTPServer",
        "HTTPSConnection", "InteractiveConsole", "InteractiveInterpreter", "LZMAFile", "LambdaType", "Listener", "MethodType",
        "ModuleType", "NamedTemporaryFile", "OpenerDirector", "Pdb", "Pickler", "Pool", "Popen", "Process", "ProcessPoolExecutor",
        "Profile", "PyDLL", "RotatingFileHandler", "SMTP", "SharedMemory", "ShareableList", "SourceFileLoader",
        "SourcelessFileLoader", "SpooledTemporaryFile", "Stats", "SyncManager", "TarFile", "TemporaryDirectory", "TemporaryFile",
        "TextIOWrapper", "Thread", "ThreadPool", "ThreadPoolExecutor", "TimedRotatingFileHandler", "Timer", "Unpickler",
        "WatchedFileHandler", "WinDLL", "ZipFile", "ZipImporter", "mmap", "zipimporter",
    ]
)  # fmt: skip
# Functions of torch and numpy have these names, as modules of the library do.
_NAMED_ALIKE = frozenset(["array", "chunk", "copy", "profile", "random", "select", "trace"])
# Classes of numpy that are not written as classes are.
_SMALL_CLASSES = frozenset(
    ["dtype", "flatiter", "generic", "matrix", "ndarray", "nditer", "number", "record", "recarray", "ufunc"]
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
    first, dot, rest = name.partition(".")  # what hangs there keeps its name: ``unicode.lower``
    module, first = NAME_MAPPING.get((module, first)) or (IMPORT_MAPPING.get(module, module), first)
    return module, first + dot + rest


def classify(module: str, name: str) -> str:
    """What a global is, by its name: ``harmless``, ``unknown`` or ``no-business``."""
    module, name = python3(module, name)
    full = f"{module}.{name}"
    if full in _KNOWN or full in _TORCH or full in _NUMPY:
        return HARMLESS
    parts = full.split(".")
    *way, last = name.split(".")
    # ``torch`` / ``serialization.os.system``: a dotted name is a path of attributes, which leads through modules
    if not WAYS_OUT.isdisjoint(parts[1:]) or not _LIBRARY.isdisjoint(way):
        return NO_BUSINESS
    top = parts[0]
    if top not in _LIBRARY and last in _MODULES_THAT_ACT and not (way and _is_class(way[-1])):
        return NO_BUSINESS  # the module itself
    if top in ("torch", "numpy") and _is_borrowed(way, last):
        return NO_BUSINESS
    if top in ("torch", "numpy") and parts[-1] in _OPENING:
        return NO_BUSINESS
    if top == "__torch__":  # a class of a TorchScript archive: its code is in the archive, no module of Python
        return HARMLESS
    if top == "torch":
        return _torch(full, parts)
    if top == "numpy":
        if full.startswith(_RUNNERS):
            return NO_BUSINESS
        plain = full.startswith(("numpy.dtypes.", "numpy.random.", "numpy.ma.")) and "." not in name and _is_class(name)
        return HARMLESS if plain else UNKNOWN
    if top in _LIBRARY or (
        top == "test" and len(parts) > 2
    ):  # its tests, which are installed with it; not one's own test.py
        plain = module in _PLAIN_MODULES and "." not in name and name not in _NOT_THOSE and not name.startswith("__")
        plain = plain and (module != "typing" or _is_class(name))  # its functions evaluate text: _eval_type
        return HARMLESS if plain or is_attribute(module, name) else NO_BUSINESS
    if top in _RUNNING_PACKAGES and not full.startswith(_PLAIN_CLASSES_OF_THEIRS):
        return NO_BUSINESS
    return UNKNOWN


def _is_borrowed(way: list[str], last: str) -> bool:
    """Whether a name of torch's or numpy's leads to what their modules imported: a module of the library, or a class of it."""
    if any(not _is_class(part) and part not in _SMALL_CLASSES for part in way) or last in _ACTING_CLASSES:
        return True
    return not way and last in _LIBRARY and last not in _NAMED_ALIKE


def classify_call(module: str, name: str, how: str = "REDUCE") -> str:
    """What calling a global by an opcode is: functions that are values (``key=len``) have no business there, for they
    rebuild nothing, nor has a function of torch or numpy that is no known rebuild.

    NEWOBJ only makes an object of a class; REDUCE, OBJ and INST call whatever it is, which honest pickles do to
    rebuilds, plain values, enums and exceptions.
    """
    kind = classify(module, name)
    module, name = python3(module, name)
    full = f"{module}.{name}"
    path = full.split(".")
    if path[0] in _DRAGGED_IN or full in _METACLASSES or (module == "typing" and name != "ForwardRef"):
        return NO_BUSINESS
    if kind == NO_BUSINESS or how.startswith("NEWOBJ"):
        return kind
    if full in _FUNCTIONS or (module in _PLAIN_MODULES and not _is_class(name) and name not in _REBUILDS):
        return NO_BUSINESS
    if path[0] not in ("torch", "numpy") or full in _TORCH or full in _NUMPY or path[:2] == ["torch", "return_types"]:
        return kind
    if kind_of(module, name) == "made" or full.startswith(_NOT_TO_BE_CALLED):
        return NO_BUSINESS
    return kind if kind != UNKNOWN or _is_class(path[-1]) or path[-1].startswith("_rebuild") else NO_BUSINESS


def computes(module: str, name: str) -> bool:
    """Whether the methods of a class do nothing by being bound to an object of it, as hooks are: modules and plain values."""
    if module.startswith("torch.distributed."):
        return False  # its file systems write and delete
    return ".".join(python3(module, name)) in _COMPUTING or kind_of(module, name) == "made"


def is_attribute(module: str, name: str) -> bool:
    """Whether a dotted name is a method, as such a thing's value, of a class that is known: ``torch.Tensor.add``."""
    module, name = python3(module, name)
    owner, _, last = name.rpartition(".")
    if last.startswith("__") or not owner:
        return False
    if f"{module}.{owner}" in _TENSORS:
        return not acts(last)
    return computes(module, owner)


def acts(method: str) -> bool:
    """Whether a method of a tensor or an array is private, calls what it is given, or opens a file."""
    return method.startswith("_") or method in _ACTING_METHODS or method in _OPENING


_TENSORS = frozenset(["torch._C.TensorBase", "torch._C._TensorBase", "torch.Tensor", "torch._tensor.Tensor"])
_ACTING_METHODS = frozenset(["share_memory_", "map_", "map2_", "apply_", "register_hook"])


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
    if kind_of(full[: -len(parts[-1]) - 1], parts[-1]):
        return HARMLESS
    if is_class and parts[-1].endswith(("Storage", "Tensor")) and (len(parts) == 2 or parts[1] in _TENSOR_MODULES):
        return HARMLESS
    if (
        parts[1] == "return_types"
        and len(parts) == 3
        and parts[2].partition("_")[0] not in ("pytree", "all", "inspect", "torch")
    ):
        return HARMLESS  # tuples with names: what torch.max gives
    if len(parts) == 2 and parts[1].islower() and parts[1] in _DTYPES_AND_LAYOUTS:
        return HARMLESS
    return UNKNOWN


_TENSOR_MODULES = frozenset(["cuda", "hpu", "npu", "sparse", "storage", "xpu"])  # torch.cuda.sparse.FloatTensor
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
