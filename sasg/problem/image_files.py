"""Finding MNIST, CIFAR-10 and CIFAR-100: torchvision's files, then an archive in Keras's layout, then a download.

Everything here returns `Arrays`: x_train, x_test uint8 [N, H, W] or [N, H, W, C] and y_train, y_test [N].
"""

import hashlib
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from sasg.errors import UserError

Arrays = dict[str, np.ndarray]
KEYS = ("x_test", "x_train", "y_test", "y_train")

# data set: torchvision's class, what its files are called in `data.root`, and what they begin with, packed or not
TORCHVISION = {
    "mnist": ("MNIST", "MNIST/raw/", "MNIST"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py/", "cifar-10-*"),
    "cifar100": ("CIFAR100", "cifar-100-python/", "cifar-100-*"),
}
_DEFAULT_ROOT = "data"  # sasg.config's; the only one that a download makes, as another may be mistyped
# torchvision checks the checksums of CIFAR, but not those of MNIST once it is unpacked.
MNIST_SHA256 = "c868f4cc70f1ec2961bd3b26437ea3a5d0e93cba4d95b336c6d475dd9dabb021"


def look_up(name: str, root: Path, download: bool) -> tuple[Arrays, str]:
    """The arrays of `name` and which files they came from. UserError: nothing there, or something damaged."""
    found = _installed_torchvision(name, root)
    folder = TORCHVISION[name][1]
    archive = root / f"{name}.npz"
    if found is not None:
        return found, f"torchvision's files ({folder})"
    if archive.exists():
        return read_npz(archive), f"{archive.name} (Keras layout)"
    if download:
        check_root(root, name)
        return _load_torchvision(name, root, download=True), f"torchvision's files ({folder})"
    raise UserError(
        f"{name} is not in {root}: put torchvision's files ({folder}) or {archive.name} (Keras layout) there, "
        "or set data.download=true"
    )


def check_root(root: Path, name: str) -> None:
    """UserError: `root` is not there, so that nothing can be downloaded to it."""
    if not root.is_dir() and root != Path(_DEFAULT_ROOT):
        raise UserError(f"data.root={root}: there is no such folder; make it (mkdir -p {root}) to download {name}")


def read_npz(path: Path) -> Arrays:
    """The four arrays of an archive in Keras's layout."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in KEYS if key not in archive]
            arrays = {key: archive[key] for key in KEYS if key not in missing}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({_first_line(error)}); replace it") from error
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; the Keras layout has {', '.join(KEYS)}")
    return arrays


def digest(arrays: Arrays) -> str:
    """SHA-256 of the arrays' bytes in the order of `KEYS`."""
    sha256 = hashlib.sha256()
    for key in KEYS:
        sha256.update(np.ascontiguousarray(arrays[key]).data)
    return sha256.hexdigest()


def _installed_torchvision(name: str, root: Path) -> Arrays | None:
    """From torchvision's own files if they are all there, unpacked or packed; never from the network."""
    if not any(root.glob(TORCHVISION[name][2])):
        return None  # without the import of torchvision, which takes seconds
    try:
        from torchvision import datasets
        from torchvision.datasets.utils import check_integrity
    except ImportError:
        return None
    unpacked, packed = _torchvision_files(getattr(datasets, TORCHVISION[name][0]), root)
    is_unpacked = all(path.is_file() for path, _ in unpacked)
    if not is_unpacked and not all(path.is_file() for path, _ in packed):
        return None
    for path, md5 in unpacked if is_unpacked else packed:
        if not check_integrity(path, md5):
            raise UserError(f"{path} is damaged (its MD5 is not {md5}); delete or replace it")
    # torchvision unpacks only when it is allowed to download, which intact archives make unnecessary.
    arrays = _load_torchvision(name, root, download=not is_unpacked)
    if name == "mnist" and digest(arrays) != MNIST_SHA256:
        raise UserError(f"{root / TORCHVISION[name][1]} is damaged (not the original images); delete or replace it")
    return arrays


def _torchvision_files(dataset_class: Any, root: Path) -> tuple[list, list]:
    """(path, MD5 or None) of the unpacked files and of the packed ones."""
    if hasattr(dataset_class, "resources"):  # MNIST: one .gz for each file
        packed = [(root / "MNIST" / "raw" / name, md5) for name, md5 in dataset_class.resources]
        return [(path.with_suffix(""), None) for path, _ in packed], packed
    meta = dataset_class.meta
    listed = [*dataset_class.train_list, *dataset_class.test_list, (meta["filename"], meta["md5"])]
    unpacked = [(root / dataset_class.base_folder / name, md5) for name, md5 in listed]
    return unpacked, [(root / dataset_class.filename, dataset_class.tgz_md5)]


def _load_torchvision(name: str, root: Path, download: bool) -> Arrays:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise UserError(f"downloading {name} needs torchvision: pip install torchvision") from error
    dataset_class = getattr(datasets, TORCHVISION[name][0])
    try:
        train, test = (dataset_class(root, train=is_train, download=download) for is_train in (True, False))
    except (OSError, RuntimeError, ValueError, KeyError, AssertionError, EOFError, pickle.UnpicklingError) as error:
        what = "download" if download else "read"
        raise UserError(
            f"torchvision cannot {what} {name} in {root} ({_first_line(error)}); put its files or {name}.npz there, "
            "or name another folder with data.root=DIR"
        ) from error
    return {
        "x_train": np.asarray(train.data),
        "y_train": np.asarray(train.targets, dtype=np.uint8),
        "x_test": np.asarray(test.data),
        "y_test": np.asarray(test.targets, dtype=np.uint8),
    }


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
