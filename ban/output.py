"""Output that never ends the work: whatever cannot be written is left out, or spelled in ASCII."""

import codecs
import io
import os
import sys
from typing import TextIO

SPELLING = {"−": "-", "–": "-", "—": "-", "±": "+-", "×": "x", "·": "*", "→": "->", "…": "...", "≤": "<=", "≥": ">="}
SPELLING |= dict(zip("▁▂▃▄▅▆▇█┤", "_..--==#|", strict=True))
SPELLING |= {"Π": "Pi", "ω": "omega", "σ": "sigma", "✓": "yes", "✗": "no", "•": "*", "━": "-", "╸": "-", "╺": "-"}
"""Character → ASCII, where the encoding lacks it. A minus sign is part of a number, so it must not be lost."""


def _spell(error: UnicodeError) -> tuple[str, int]:
    """An error handler for encoding, as `codecs.register_error` takes it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(SPELLING.get(character, "?") for character in lacking), error.end


codecs.register_error("ban.spell", _spell)


class Output(io.TextIOWrapper):
    """A stream that drops what cannot be written, because a pipe or a terminal is closed or a disk is full."""

    def write(self, text: str, /) -> int:
        """See `io.TextIOBase`."""
        try:
            return super().write(text)
        except OSError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        """See `io.IOBase`."""
        try:
            super().flush()
        except OSError:
            self._discard()

    def _discard(self) -> None:
        """Sends this and all later output of the process nowhere. Python flushes the stream again when it exits."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def tolerant(stream: TextIO | None) -> TextIO | None:
    """A stream to the same file, terminal or pipe that never raises an error; other streams as they are."""
    if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, Output):
        return stream
    file = io.FileIO(stream.fileno(), "w", closefd=False)
    opened = Output(io.BufferedWriter(file), stream.encoding, "ban.spell")
    opened.reconfigure(line_buffering=stream.line_buffering, write_through=stream.write_through)
    return opened


def tolerate_failures() -> None:
    """Makes standard output and standard error of this process tolerant; those that a test replaced stay."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:  # was closed: no other file may get its number
        os.set_inheritable(opened, True)
    os.close(opened)
    if sys.stdout is sys.__stdout__:
        sys.stdout = tolerant(sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = tolerant(sys.stderr)
