"""A pickle machine that resolves nothing and calls nothing.

It runs the opcodes (:mod:`.opcodes`) onto the inert graph of :mod:`ckpt_inspect.model.graph`, looking at the
pickle through a window, so that its end need not be known. Three million opcodes take about a second.
"""

from __future__ import annotations

from struct import error as struct_error
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import CheckpointError, CorruptError, LimitError
from ..model.graph import Blob, Opaque, Pickle
from .limits import DEFAULT, Limits
from .opcodes import TABLE, Stop

if TYPE_CHECKING:
    from ..model.source import Source

_WINDOW = 1 << 18  # bytes of the pickle held at a time
_FIRST_WINDOW = 1 << 12  # most pickles of a legacy stream or a tar are short, and there may be many
_LOOKAHEAD = 16  # more than the longest fixed operand
_BLOB = 1 << 14  # bytes objects from this length on stay in the file


class Machine:
    """Reads one pickle. ``data`` is a window of the source, ``base`` the offset of its first byte."""

    __slots__ = ("base", "data", "eof", "limits", "made", "marks", "memo", "pickle", "pos", "refill_at",
                 "source", "stack", "window")  # fmt: skip

    def __init__(self, source: Source, offset: int, limits: Limits) -> None:
        self.source = source
        self.limits = limits
        self.base = offset
        self.pos = 0
        self.data = b""
        self.eof = False
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.made = 0
        self.window = _FIRST_WINDOW
        self.pickle = Pickle(offset)
        self.refill(_LOOKAHEAD)

    # -- the window ---------------------------------------------------------------------------------

    def refill(self, need: int) -> None:
        """Move the window to the current position and make it at least ``need`` bytes, if there are as many."""
        offset = self.base + self.pos
        wanted = max(self.window, need + _LOOKAHEAD)
        self.window = _WINDOW
        self.data = self.source.read_at(offset, wanted)
        self.base, self.pos = offset, 0
        self.eof = len(self.data) < wanted
        self.refill_at = len(self.data) if self.eof else len(self.data) - _LOOKAHEAD
        limits = self.limits
        if self.made > limits.objects:
            self.limit(f"more than {limits.objects:,} objects")
        if len(self.memo) > limits.memo:
            self.limit(f"more than {limits.memo:,} memo entries")
        if len(self.stack) > limits.stack or len(self.marks) > min(limits.stack, limits.objects):
            self.limit(f"more than {limits.stack:,} values on the stack")

    def take(self, nbytes: int) -> bytes:
        """The next ``nbytes`` bytes. Lengths are compared with what is there before anything is allocated."""
        if nbytes > len(self.data) - self.pos:
            self.expect(nbytes)
            if nbytes > self.limits.string:
                self.limit(f"a string of {nbytes:,} bytes")
            self.refill(nbytes)
        start = self.pos
        self.pos = start + nbytes
        return self.data[start : start + nbytes]

    def expect(self, nbytes: int) -> None:
        left = self.source.size - self.base - self.pos
        if nbytes > left:
            self.early(f"the pickle ends early: a value of {nbytes:,} bytes is announced, {left:,} bytes are left")

    def line(self) -> bytes:
        """Text up to a newline, which is consumed."""
        end = self.data.find(b"\n", self.pos)
        size = _WINDOW
        while end < 0:
            if self.eof:
                self.early("the pickle ends inside a line of text")
            if size > self.limits.string:
                self.limit("a line of more than a gigabyte")
            size *= 4
            self.refill(size)
            end = self.data.find(b"\n", self.pos)
        text = self.data[self.pos : end]
        self.pos = end + 1
        return text

    def blob(self, nbytes: int, kind: str) -> Any:
        """A bytes value: short ones as themselves, long ones as a range of the file."""
        if nbytes < _BLOB:
            return self.take(nbytes)
        self.expect(nbytes)
        blob = Blob(self.source, self.base + self.pos, nbytes, kind)
        self.pos += nbytes
        if self.pos >= self.refill_at:
            self.refill(_LOOKAHEAD)
        return blob

    # -- complaints ---------------------------------------------------------------------------------

    def fail(self, message: str) -> NoReturn:
        raise CorruptError(message, offset=self.base + self.pos)

    def early(self, message: str) -> NoReturn:
        """The bytes end: more of them might be read."""
        raise _marked("early", CorruptError(message, offset=self.base + self.pos))

    def differ(self, message: str) -> NoReturn:
        """Stop where Python's own machine might go on."""
        raise _marked("differs", CorruptError(message, offset=self.base + self.pos))

    def limit(self, what: str) -> NoReturn:
        raise LimitError(f"the pickle makes {what}: refused", offset=self.base + self.pos)

    def refuse(self, name: str) -> None:
        """Note an opcode that ``weights_only=True`` does not know (formats 2.1)."""
        if all(name != seen for seen, _ in self.pickle.refused):
            self.pickle.refused.append((name, self.base + self.pos - 1))

    def note(self, text: str) -> None:
        if text not in self.pickle.notes:
            self.pickle.notes.append(text)

    # -- stack --------------------------------------------------------------------------------------

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            self.fail("the stack has no mark")
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def build(self, how: str, callee: Any, args: Any, kwargs: Any = None) -> None:
        node = Opaque(how, callee, args, kwargs)
        self.made += 1
        self.pickle.calls.append(node)
        self.stack.append(node)

    def run(self) -> Pickle:
        table = TABLE
        try:
            while True:
                if self.pos >= self.refill_at:
                    if self.eof and self.pos >= len(self.data):
                        self.early("the pickle ends without STOP")
                    if not self.eof:
                        self.refill(_LOOKAHEAD)
                code = self.data[self.pos]
                self.pos += 1
                table[code](self)
        except Stop:
            pass
        except CheckpointError:
            raise
        except (IndexError, struct_error) as error:
            # bytes say "index out of range"; lists say "list index out of range" or "pop from empty list"
            if isinstance(error, struct_error) or str(error) == "index out of range":
                raise _marked("early", CorruptError("the pickle ends early", offset=self.base + self.pos)) from error
            raise CorruptError("the stack is empty where a value is needed", offset=self.base + self.pos) from error
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CorruptError(f"malformed opcode: {str(error)[:200]}", offset=self.base + self.pos) from error
        if self.stack or self.marks:
            self.note("values are left on the stack at STOP")
        self.pickle.end = self.base + self.pos
        return self.pickle


def _marked(mark: str, error: CorruptError) -> CorruptError:
    """A local name for it where it is raised would make a cycle, and the collector is paused."""
    error.__dict__[mark] = True
    return error


def may_go_on(error: CheckpointError) -> bool:
    """Whether Python's own machine might run on where :func:`read_pickle` stopped: at a limit, or where ours is stricter."""
    return isinstance(error, LimitError) or "differs" in error.__dict__


def ends_early(error: CheckpointError) -> bool:
    """Whether :func:`read_pickle` stopped because the bytes end."""
    return "early" in error.__dict__


def read_pickle(source: Source, offset: int = 0, limits: Limits = DEFAULT) -> Pickle:
    """Read the pickle that begins at ``offset`` of ``source``.

    Raises:
        CorruptError: the bytes are no pickle, or one that ends early; ``offset`` says where.
        LimitError: it makes more than ``limits`` allow.
    """
    machine = Machine(source, offset, limits)
    try:
        return machine.run()
    except CheckpointError as error:
        error.__dict__["partial"] = machine.pickle  # what it named and called before it broke
        error.__dict__["reached"] = machine.base + len(machine.data)  # what was looked at
        raise
