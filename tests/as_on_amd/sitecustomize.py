"""With this folder on PYTHONPATH, MKL takes the code path that it takes on an AMD processor.

There it sums in other orders, which depend on shapes and on where in memory an operand begins. What MKL asks about the
processor are functions of its own; as soon as torch is loaded, they answer as they would on AMD's Zen.

    PYTHONPATH=tests/as_on_amd python -m pytest
"""

import ctypes
import importlib.abc
import mmap
import sys
from pathlib import Path

ANSWERS = {"mkl_serv_intel_cpu_true": 0, "mkl_serv_intel_cpu": 0, "mkl_serv_cpuiszen": 1}
PROT_READ_WRITE_EXEC = 7


def answer_as_on_amd() -> None:
    """Make MKL's questions about the processor return what they return on AMD; RuntimeError without this MKL."""
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    (library,) = (path for path in mapped if path.endswith("/libtorch_cpu.so"))
    functions = ctypes.CDLL(library)
    for name, answer in ANSWERS.items():
        try:
            address = ctypes.cast(getattr(functions, name), ctypes.c_void_p).value
        except AttributeError:
            raise RuntimeError(f"this torch has no {name}: it is not built with MKL") from None
        page = address - address % mmap.PAGESIZE
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(2 * mmap.PAGESIZE), PROT_READ_WRITE_EXEC):
            raise RuntimeError(f"mprotect: {ctypes.get_errno()}")
        ctypes.memmove(address, b"\xb8" + answer.to_bytes(4, "little") + b"\xc3", 6)  # mov eax, answer; ret


class OnceTorchIsLoaded(importlib.abc.MetaPathFinder):
    """Finds nothing, but sees the first import after torch's library was loaded."""

    def find_spec(self, *_):
        if "torch._C" in sys.modules:
            sys.meta_path.remove(self)
            answer_as_on_amd()


sys.meta_path.insert(0, OnceTorchIsLoaded())
