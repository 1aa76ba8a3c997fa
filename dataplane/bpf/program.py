"""C files to programs and maps.

bcc is used for what it is best at, compiling on the spot and making the maps. The
programs are loaded by `syscall.load_program`, which hands the verifier's words to
the caller rather than to the terminal, and the compiler's memory is given back as
soon as everything is loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.bpf import headers
from dataplane.bpf.syscall import PROG_TYPE_XDP, load_program

LICENCE = "GPL"
"""What the kernel is told: some helpers (bpf_fib_lookup) ask for it. The C files
are under Apache-2.0 or GPL-2.0, as their first lines say."""

WARNINGS = (
    "-Wall", "-Werror",
    # What bcc itself puts before and around the program.
    "-Wno-unused-function", "-Wno-macro-redefined", "-Wno-pragma-once-outside-header",
)  # fmt: skip

_INCLUDE = re.compile(r'\s*#include "([^"]+)"')

_compiling = threading.Lock()
"""What bcc makes and lets go of is not to be touched by two threads at once."""


class BpfError(Exception):
    """A program cannot be compiled or loaded; the text is for the operator."""


class BpfModule:
    """One compiled C file: its maps, and its programs as they are asked for."""

    def __init__(
        self, source: Path, constants: Mapping[str, int] | None = None, *flags: str
    ) -> None:
        """Compile `source`; `constants` are macros that it sees. Its own folder is
        searched for headers. Raises BpfError with the compiler's words."""
        defines = [f"-D{name}={value}" for name, value in (constants or {}).items()]
        options = [f"-I{source.parent}", *WARNINGS, *defines, *flags]
        self._source = source
        self._programs: dict[str, int] = {}
        self._mappings: list[mmap.mmap] = []
        self._bpf = _compile(source, options)

    def load(self, function: str) -> int:
        """The descriptor of an XDP program, which belongs to this object.

        Raises LoadError with the verifier's words.
        """
        if function not in self._programs:
            code = self._bpf.dump_func(function.encode())
            self._programs[function] = load_program(PROG_TYPE_XDP, code, function, LICENCE)
        return self._programs[function]

    def free_compiler(self) -> None:
        """Give back the compiler's memory: nothing more can be loaded."""
        with _compiling:
            self._bpf.free_bcc_memory()

    def map_fd(self, name: str) -> int:
        """The descriptor of a map, which belongs to this object."""
        return int(self._bpf[name.encode()].map_fd)

    def array(self, name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The values of an array map made with BPF_F_MMAPABLE, shared with the programs.

        A view of the map's own memory, writable, one element of `dtype` an entry,
        whose size has to be a multiple of 8 bytes.
        """
        table = self._bpf[name.encode()]
        kind = np.dtype(dtype)
        size = ctypes.sizeof(table.Leaf)
        if kind.itemsize != size:
            raise ValueError(f"map {name} has entries of {size} bytes, not {kind.itemsize}")
        count = int(table.max_entries)
        mapping = mmap.mmap(self.map_fd(name), _pages(count * kind.itemsize))
        self._mappings.append(mapping)
        return np.frombuffer(mapping, kind, count)

    def close(self) -> None:
        """Let go of programs and maps; the kernel keeps what is attached elsewhere."""
        for fd in self._programs.values():
            os.close(fd)
        self._programs.clear()
        for mapping in self._mappings:
            # A view that somebody still holds keeps its mapping.
            with contextlib.suppress(BufferError):
                mapping.close()
        self._mappings.clear()
        with _compiling:
            self._bpf.cleanup()


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def whole_text(source: Path, seen: set[Path] | None = None) -> str:
    """A C file with the files of its own folder that it includes, each once.

    bcc knows what `table.lookup()` means in the main file alone. The compiler is
    told by `#line` where each part comes from.
    """
    seen = set() if seen is None else seen
    seen.add(source)
    lines = [f'#line 1 "{source.name}"']
    for number, line in enumerate(source.read_text().splitlines(), 1):
        match = _INCLUDE.match(line)
        included = source.parent / match[1] if match else None
        if included is None or not included.exists():
            lines.append(line)
            continue
        if included not in seen:
            lines.append(whole_text(included, seen))
        lines.append(f'#line {number + 1} "{source.name}"')
    return "\n".join(lines) + "\n"


def _compile(source: Path, options: list[str]) -> Any:
    try:
        from bcc import BPF
    except ImportError as error:
        raise BpfError(f"bcc is not there: install python3-bpfcc ({error})") from error
    text = whole_text(source)
    try:
        # The environment and the standard error stream are the whole process's.
        with _compiling, headers.view() as folder, _kernel_source(folder), _stderr() as said:
            try:
                return BPF(text=text.encode(), cflags=options)
            except Exception as error:
                raise BpfError(f"{source.name} does not compile:\n{said() or error}") from error
    except headers.HeadersError as error:
        raise BpfError(str(error)) from error


@contextlib.contextmanager
def _kernel_source(folder: Path | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    os.environ["BCC_KERNEL_SOURCE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["BCC_KERNEL_SOURCE"]


@contextlib.contextmanager
def _stderr() -> Iterator[Any]:
    """What is written to descriptor 2 meanwhile: clang knows no other way to complain."""
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)

        def said() -> str:
            file.seek(0)
            return file.read().decode(errors="replace").strip()

        try:
            yield said
        finally:
            os.dup2(before, 2)
            os.close(before)
