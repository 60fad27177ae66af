"""Data sets: found in the promised order, read exactly, and every mistake is one line that names the file."""

import gzip
import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sasg.errors import UserError
from sasg.parts import build
from sasg.problem import datasets, image_files, shards
from sasg.problem.datasets import Dataset, Source, from_arrays

torchvision_datasets = pytest.importorskip("torchvision.datasets")

GREY = {"mean": (0.1,), "std": (0.2,)}
COLOUR = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
CASES = [
    (datasets.mnist, GREY, (28, 28), 10),
    (datasets.cifar10, COLOUR, (32, 32, 3), 10),
    (datasets.cifar100, COLOUR, (32, 32, 3), 100),
]
CONF = Path(__file__).parents[1] / "conf" / "dataset"


def tiny(shape: tuple[int, ...], num_classes: int = 10) -> image_files.Arrays:
    """Keras layout: 10 training and 4 test images."""
    generator = np.random.default_rng(0)
    return {
        "x_train": generator.integers(0, 256, (10, *shape), dtype=np.uint8),
        "y_train": np.arange(10, dtype=np.uint8) % num_classes,
        "x_test": generator.integers(0, 256, (4, *shape), dtype=np.uint8),
        "y_test": np.array([0, 1, 2, num_classes - 1], dtype=np.uint8),
    }


def assert_holds(dataset: Dataset, arrays: image_files.Arrays) -> None:
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        x = arrays[f"x_{name}"]
        x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
        assert split.images.dtype == torch.uint8 and split.images.is_contiguous()
        assert np.array_equal(split.images.numpy(), x)
        assert split.labels.dtype == split.sources.dtype == torch.int64
        assert split.labels.tolist() == arrays[f"y_{name}"].ravel().tolist()
    joined = b"".join(arrays[key].tobytes() for key in sorted(arrays))
    assert dataset.sha256 == hashlib.sha256(joined).hexdigest()


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb") as file:
        file.write(header + array.tobytes())


def write_mnist(root: Path, arrays: image_files.Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original four .gz files; torchvision and we are told their checksums."""
    resources = []
    for prefix, split in (("train", "train"), ("t10k", "test")):
        for kind, key in (("images-idx3", "x"), ("labels-idx1", "y")):
            path = root / "MNIST" / "raw" / f"{prefix}-{kind}-ubyte.gz"
            write_idx(path, arrays[f"{key}_{split}"])
            resources.append((path.name, md5(path)))
    monkeypatch.setattr(torchvision_datasets.MNIST, "resources", resources)
    monkeypatch.setattr(image_files, "MNIST_SHA256", image_files.digest(arrays))


def write_cifar(root: Path, name: str, arrays: image_files.Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original pickled batches; torchvision is told their checksums."""
    dataset_class = getattr(torchvision_datasets, name.upper())
    folder = root / dataset_class.base_folder
    folder.mkdir(parents=True)
    label_key = "fine_labels" if name == "cifar100" else "labels"

    def write(file_name: str, content: dict) -> str:
        (folder / file_name).write_bytes(pickle.dumps(content))
        return md5(folder / file_name)

    def batches(listed: list, split: str) -> list:
        images = arrays[f"x_{split}"].transpose(0, 3, 1, 2).reshape(-1, 3072)
        parts = np.array_split(np.arange(len(images)), len(listed))
        contents = [{"data": images[i], label_key: arrays[f"y_{split}"][i].tolist()} for i in parts]
        return [[entry[0], write(entry[0], content)] for entry, content in zip(listed, contents, strict=True)]

    monkeypatch.setattr(dataset_class, "train_list", batches(dataset_class.train_list, "train"))
    monkeypatch.setattr(dataset_class, "test_list", batches(dataset_class.test_list, "test"))
    meta = dataset_class.meta
    monkeypatch.setattr(dataset_class, "meta", {**meta, "md5": write(meta["filename"], {meta["key"]: []})})


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def no_network(*args, **kwargs):
    raise RuntimeError("no network\nin the tests")


def assert_one_line(error: pytest.ExceptionInfo, *parts: object) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


# --- look-up order ---


@pytest.mark.parametrize(("loader", "options", "shape", "num_classes"), CASES)
def test_npz_in_keras_layout(tmp_path, loader, options, shape, num_classes):
    arrays = tiny(shape, num_classes)
    np.savez(tmp_path / f"{loader.name}.npz", **{**arrays, "y_train": arrays["y_train"][:, None]})
    dataset = loader(tmp_path, False, **options)
    assert_holds(dataset, arrays)
    assert dataset.num_classes == num_classes and dataset.name == loader.name
    assert dataset.origin == f"{loader.name}.npz (Keras layout)"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_original_cifar_files_come_first(tmp_path, monkeypatch, name):
    arrays = tiny((32, 32, 3), 100 if name == "cifar100" else 10)
    write_cifar(tmp_path, name, arrays, monkeypatch)
    np.savez(tmp_path / f"{name}.npz", **tiny((32, 32, 3)))
    dataset = getattr(datasets, name)(tmp_path, False, **COLOUR)
    assert_holds(dataset, arrays)
    assert dataset.origin.startswith("torchvision's files (cifar-10")


def test_original_mnist_files_packed_and_unpacked(tmp_path, monkeypatch):
    arrays = tiny((28, 28))
    write_mnist(tmp_path, arrays, monkeypatch)
    assert_holds(datasets.mnist(tmp_path, False, **GREY), arrays)  # unpacks
    for path in (tmp_path / "MNIST" / "raw").glob("*.gz"):
        path.unlink()
    dataset = datasets.mnist(tmp_path, False, **GREY)
    assert_holds(dataset, arrays)
    assert dataset.origin.startswith("torchvision's files (MNIST/raw/)")


def test_original_cifar_archive_is_unpacked_without_network(tmp_path, monkeypatch):
    arrays = tiny((32, 32, 3))
    write_cifar(tmp_path / "elsewhere", "cifar10", arrays, monkeypatch)
    packed = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(tmp_path / "elsewhere" / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(torchvision_datasets.CIFAR10, "tgz_md5", md5(packed))
    assert_holds(datasets.cifar10(tmp_path, False, **COLOUR), arrays)


@pytest.mark.parametrize(("loader", "options", "shape", "num_classes"), CASES)
def test_missing_files_name_all_three_ways(tmp_path, loader, options, shape, num_classes):
    with pytest.raises(UserError) as error:
        loader(tmp_path / "absent", False, **options)
    folder = image_files.TORCHVISION[loader.name][1]
    assert_one_line(error, tmp_path, folder, f"{loader.name}.npz", "data.download=true")


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision_datasets.CIFAR10, "download", no_network)
    with pytest.raises(UserError) as error:
        datasets.cifar10(tmp_path, True, **COLOUR)
    assert_one_line(error, "cannot download cifar10", tmp_path, "no network")


def test_download_is_the_last_resort(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision_datasets.CIFAR10, "download", no_network)
    np.savez(tmp_path / "cifar10.npz", **tiny((32, 32, 3)))
    assert datasets.cifar10(tmp_path, True, **COLOUR).name == "cifar10"


# --- damaged files ---


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut short"])
def test_a_damaged_npz_is_named(tmp_path, content):
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(UserError) as error:
        datasets.mnist(tmp_path, False, **GREY)
    assert_one_line(error, tmp_path / "mnist.npz", "cannot be read")


def test_a_truncated_npz_is_named(tmp_path):
    path = tmp_path / "mnist.npz"
    np.savez_compressed(path, **tiny((28, 28)))
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        datasets.mnist(tmp_path, False, **GREY)
    assert_one_line(error, path, "cannot be read")


def test_an_npz_that_is_a_plain_array_is_named(tmp_path):
    with (tmp_path / "mnist.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError) as error:
        datasets.mnist(tmp_path, False, **GREY)
    assert_one_line(error, tmp_path / "mnist.npz", "cannot be read")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.zeros((10, 8, 8), np.uint8)}, "x_train is uint8 [10, 8, 8], but images must be [28, 28]"),
        ({"x_test": np.zeros((4, 28, 28), np.float32)}, "x_test is float32"),
        ({"x_train": np.zeros((0, 28, 28), np.uint8)}, "x_train is uint8 [0, 28, 28]"),
        ({"y_train": np.zeros(9, np.uint8)}, "y_train is uint8 [9], but must be 10 integers"),
        ({"y_test": np.zeros(4)}, "y_test is float64"),
        ({"y_test": np.full(4, 10)}, "labels outside 0 to 9"),
        ({"y_test": np.full(4, -1)}, "labels outside 0 to 9"),
        ({"y_train": None}, "lacks y_train"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, change, message):
    arrays = {key: value for key, value in {**tiny((28, 28)), **change}.items() if value is not None}
    np.savez(tmp_path / "mnist.npz", **arrays)
    with pytest.raises(UserError) as error:
        datasets.mnist(tmp_path, False, **GREY)
    assert_one_line(error, "mnist.npz", message)


def test_a_damaged_cifar_file_is_named(tmp_path, monkeypatch):
    write_cifar(tmp_path, "cifar10", tiny((32, 32, 3)), monkeypatch)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError) as error:
        datasets.cifar10(tmp_path, False, **COLOUR)
    assert_one_line(error, path, "damaged")


def test_a_damaged_mnist_archive_is_named(tmp_path, monkeypatch):
    write_mnist(tmp_path, tiny((28, 28)), monkeypatch)
    path = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError) as error:
        datasets.mnist(tmp_path, False, **GREY)
    assert_one_line(error, path, "damaged")


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_unpacked_mnist_is_named(tmp_path, monkeypatch, damage):
    write_mnist(tmp_path, tiny((28, 28)), monkeypatch)
    datasets.mnist(tmp_path, False, **GREY)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content[:-1] if damage == "cut" else content)
    with pytest.raises(UserError) as error:
        datasets.mnist(tmp_path, False, **GREY)
    assert_one_line(error, tmp_path)


# --- options ---


@pytest.mark.parametrize(
    "options",
    [
        {"mean": (0.1, 0.2), "std": (0.1,)},
        {"mean": (0.1, 0.2), "std": (0.1, 0.2)},
        {"mean": (0.1,), "std": (0.0,)},
        {**GREY, "crop": -1},
        {**GREY, "rotation": 181.0},
        {**GREY, "rotation": float("nan")},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(UserError, match="digits"):
        datasets.digits(Path(), False, **options)


def test_a_data_set_without_scikit_learn_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        datasets.digits(Path(), False, **GREY)


# --- digits, mixes and data sets of one's own ---


def test_digits_are_fixed():
    dataset = datasets.digits(Path("nowhere"), False, **GREY)
    assert len(dataset.train.labels) == 1437 and len(dataset.test.labels) == 360
    assert dataset.image_shape == (1, 8, 8) and dataset.train.images.max() == 255
    assert dataset.sha256 == "a61f5c547620f30f9252af1f6655e6c9fd24720e8d32acd7b27038f83175e1e6"


def test_the_heterogeneous_task(tmp_path):
    grey, colour = tiny((28, 28)), tiny((32, 32, 3))
    np.savez(tmp_path / "mnist.npz", **grey)
    np.savez(tmp_path / "cifar10.npz", **colour)
    spec = yaml.safe_load((CONF / "heterogeneous.yaml").read_text())
    dataset = build("dataset", spec, root=tmp_path, download=False)
    assert dataset.image_shape == (3, 32, 32) and dataset.num_classes == 10
    cifar10, mnist = dataset.sources
    assert cifar10 == Source("cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), crop=4, flip=True)
    assert mnist == Source("mnist", (0.1307,) * 3, (0.3081,) * 3)
    images = dataset.train.images.numpy()
    assert np.array_equal(images[:10], colour["x_train"].transpose(0, 3, 1, 2))
    assert np.array_equal(images[10:], np.pad(grey["x_train"], ((0, 0), (2, 2), (2, 2)))[:, None].repeat(3, 1))
    assert dataset.test.sources.tolist() == [0] * 4 + [1] * 4
    assert dataset.test.labels.tolist() == [*colour["y_test"], *grey["y_test"]]
    parts = shards.by_source(dataset.train.labels.numpy(), dataset.train.sources.numpy(), 4, seed=0)
    assert [set(dataset.train.sources[p].tolist()) for p in parts] == [{0}, {1}, {0}, {1}]


def two_channels(root: Path, download: bool) -> Dataset:
    return from_arrays(Source("two", (0.0,) * 2, (1.0,) * 2), 10, tiny((4, 4, 2)), "test")


def test_a_mix_of_different_channels_is_refused(tmp_path):
    np.savez(tmp_path / "cifar10.npz", **tiny((32, 32, 3)))
    parts = [{"kind": "tests.test_datasets.two_channels"}, {"kind": "cifar10", **COLOUR}]
    with pytest.raises(UserError, match="two's 2 channels into 3"):
        datasets.mix(tmp_path, False, parts)
    with pytest.raises(UserError, match="at least one"):
        datasets.mix(tmp_path, False, [])


def test_a_mistake_in_a_part_is_located(tmp_path):
    with pytest.raises(UserError, match=r"parts\[0\].*unknown option 'crops'"):
        datasets.mix(tmp_path, False, [{"kind": "mnist", **GREY, "crops": 4}])


def test_training_and_test_images_must_agree():
    arrays = {**tiny((4, 4)), "x_test": np.zeros((4, 5, 5), np.uint8)}
    with pytest.raises(UserError, match="x_train is uint8"):
        from_arrays(Source("own", (0.0,), (1.0,)), 10, arrays, "own files")


OWN = ("npz", "csv", "folder", "shakespeare", "text")  # tests/test_own_data.py and test_language.py


@pytest.mark.parametrize(
    "path", [path for path in sorted(CONF.glob("*.yaml")) if path.stem not in OWN], ids=lambda path: path.stem
)
def test_every_configuration_builds_with_its_paper_values(tmp_path, path):
    for name, shape in (("mnist", (28, 28)), ("cifar10", (32, 32, 3)), ("cifar100", (32, 32, 3))):
        np.savez(tmp_path / f"{name}.npz", **tiny(shape))
    spec = yaml.safe_load(path.read_text())
    if "limit" in spec:
        spec["limit"] = 10  # images in the file
    dataset = build("dataset", spec, root=tmp_path, download=False)
    if path.stem == "cifar100":
        same = (0.5071, 0.4865, 0.4409)
        assert dataset.sources == (Source("cifar100", same, same, crop=4, flip=True, rotation=15.0),)
    if path.stem == "mnist":
        assert dataset.sources == (Source("mnist", (0.1307,), (0.3081,)),)
