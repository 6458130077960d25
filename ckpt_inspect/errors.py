"""What can go wrong, and how it is said.

::

    CheckpointError
    ├── FileError            the file system said no                      (OSError)
    │   └── MissingFileError there is no such file                        (FileNotFoundError)
    ├── FormatError          not a checkpoint: says what it is instead    (ValueError)
    ├── CorruptError         claims a format and breaks its rule          (ValueError)
    │   └── LimitError       a bound that no honest file meets
    ├── SelectionError       the argument names no part, or several       (ValueError)
    ├── MissingKeyError      no such key: says the close matches          (KeyError)
    ├── KeyCollisionError    two names would meet                         (ValueError)
    ├── RuleError            a rule that cannot be followed                (ValueError)
    ├── OutputExistsError    the output is there already                  (FileExistsError)
    ├── ModelError           the user's model fails; it is quoted          (RuntimeError)
    └── UnsupportedError     known, but not done here: says who does it   (ValueError)
        └── TorchMissingError torch is needed, and not installed          (ImportError)

No other exception leaves the library, whatever the bytes of the input.
"""

from __future__ import annotations

from typing import Any


class CheckpointError(Exception):
    """Base of all errors of this package.

    Attributes:
        message: what is wrong, in one sentence.
        path: the file, as the user gave it.
        record: the member of the archive, where there is one.
        offset: byte offset in the record if there is one, else in the file.
        hint: what to do or type next.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        record: str | None = None,
        offset: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.record = record
        self.offset = offset
        self.hint = hint

    def beside(self, key: str) -> str:
        """The message where ``key`` stands before it: many begin with the name of their tensor."""
        rest = self.message.removeprefix(repr(key))
        return rest.lstrip(": ") if rest != self.message else rest

    @property
    def place(self) -> str:
        """``path, record data.pkl, byte 1,234``, as far as they are known."""
        where = [self.path] if self.path is not None else []
        if self.record is not None:
            where.append(f"record {self.record}")
        if self.offset is not None:
            where.append(f"byte {self.offset:,}")
        return ", ".join(where)

    def __str__(self) -> str:
        # Not the built-in one: KeyError would quote the message, OSError would show an errno.
        text = f"{self.place}: {self.message}" if self.place else self.message
        return f"{text}\n{self.hint}" if self.hint else text

    def to_dict(self) -> dict[str, Any]:
        """The ``error`` object of the JSON contract."""
        return {
            "type": type(self).__name__,
            "message": self.message,
            "path": self.path,
            "record": self.record,
            "offset": self.offset,
            "hint": self.hint,
        }


class FileError(CheckpointError, OSError):
    """The file system refused."""


class MissingFileError(FileError, FileNotFoundError):
    """There is no such file."""


class FormatError(CheckpointError, ValueError):
    """The file is not a checkpoint; the message says what it is instead."""


class CorruptError(CheckpointError, ValueError):
    """The file claims a format and breaks its rule."""


class LimitError(CorruptError):
    """A bound was met that no honest file meets (see ``pickles.limits``)."""


class SelectionError(CheckpointError, ValueError):
    """The argument names no part of the checkpoint, or the choice between several is open."""


class MissingKeyError(CheckpointError, KeyError):
    """No such key; the hint holds the close matches."""


class KeyCollisionError(CheckpointError, ValueError):
    """Two names would meet."""


class RuleError(CheckpointError, ValueError):
    """A rule, a glob or a file of them is malformed, matches nothing, or has no answer for a key.

    Attributes:
        unused: it matches nothing, which a caller may allow.
    """

    unused = False


class OutputExistsError(CheckpointError, FileExistsError):
    """The output is there already."""


class ModelError(CheckpointError, RuntimeError):
    """The user's own model cannot be imported, built or run; the message quotes it, the hint names its line."""


class UnsupportedError(CheckpointError, ValueError):
    """The thing is known but not done here; the hint names the official way."""


class TorchMissingError(UnsupportedError, ImportError):
    """What was asked for computes with torch, or builds modules of it, and torch is not installed here."""
