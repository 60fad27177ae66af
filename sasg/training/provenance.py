"""What produced a result: versions, device, commit."""

import ctypes
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

import sasg


def versions() -> dict[str, str]:
    """Versions of everything that the numbers depend on; what is not installed is left out."""
    found = {"sasg": sasg.__version__, "python": platform.python_version(), "numpy": np.__version__}
    found["torch"] = torch.__version__
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    for package in ("torchvision", "numba", "triton"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def processor() -> dict[str, str]:
    """What decides the last bits on a CPU: its model, torch's vector instructions, BLAS and its code path."""
    library, _, path = _mkl_words().partition(" for ")
    return {
        "model": _cpu_model(),
        "aten": torch.backends.cpu.get_cpu_capability(),
        "blas": library or "not MKL",
        "blas_path": path,
    }


@cache
def _mkl_words() -> str:
    """What MKL says of itself, and of how reproducible it was told to be; "" without MKL.

    It says so on the process's standard output alone, once, at its first product.
    """
    if not torch.backends.mkl.is_available():
        return ""
    with tempfile.TemporaryFile() as said:
        try:
            sys.stdout.flush()
            kept = os.dup(1)
        except OSError:  # the output is closed
            return ""
        os.dup2(said.fileno(), 1)
        try:
            with torch.backends.mkl.verbose(torch.backends.mkl.VERBOSE_ON):
                torch.mm(torch.ones(2, 2), torch.ones(2, 2))
            ctypes.CDLL(None).fflush(None)
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        said.seek(0)
        words = said.read().decode(errors="replace")
    about = re.search(r"MKL_VERBOSE (oneMKL .*?), Lnx", words)
    reproducible = re.search(r"CNR:\S+", words)
    return ", ".join(match[match.lastindex or 0] for match in (about, reproducible) if match)


def device_name(device: torch.device) -> str:
    """The name of the GPU or the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_model()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def code_sha256() -> str:
    """A digest of the suite's source files."""
    root = Path(sasg.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def git_commit() -> str | None:
    """The commit of the source tree, with "-modified" where tracked files differ; None without git.

    None for an installed package too, though it may lie within a repository, of something else.
    """
    root = Path(sasg.__file__).parent.parent
    try:
        known = ["git", "ls-files", "--error-unmatch", "sasg/__init__.py"]
        subprocess.run(known, cwd=root, capture_output=True, check=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        status = ["git", "status", "--porcelain", "--untracked-files=no", "--", "sasg", "conf", "experiments"]
        changes = subprocess.run(status, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("-modified" if changes.stdout.strip() else "")
