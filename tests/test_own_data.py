"""Data of a user's own: archives, tables and folders of images, and what is said where they are not right."""

import csv

import numpy as np
import pytest
from PIL import Image
from suite_config import config

from sasg.config import Config
from sasg.errors import UserError
from sasg.problem.building import load_dataset
from sasg.problem.datasets import Dataset
from sasg.training.run import run

SHORT = ("cluster.workers=2", "task.name=mine", "max_iterations=3", "tracker=none")
SMALL = ("model.hidden=[8]", "task.batch_size=2", *SHORT)


def images(num: int, seed: int, channels: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Small images of three classes, the brighter the higher."""
    labels = np.arange(num) % 3
    noise = np.random.default_rng(seed).integers(0, 60, (num, 5, 4, *channels))
    return (noise + 80 * labels.reshape(-1, 1, 1, *(1 for _ in channels))).astype(np.uint8), labels


def archive(path, **changed) -> str:
    (x, y), (x_test, y_test) = images(30, 0), images(9, 1)
    np.savez(path, **{"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test, **changed})
    return str(path)


def table(path, rows: int = 40, label=lambda i: "cat" if i % 2 else "ant", header=("a", "kind", "b", "flat")) -> str:
    draw = np.random.default_rng(0).normal(5, 3, (rows, 2)).round(3)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *([a, label(i), b, 7] for i, (a, b) in enumerate(draw))])
    return str(path)


def folders(path, num: int = 12, channels: tuple[int, ...] = (3,)) -> str:
    for number, (image, label) in enumerate(zip(*images(num, 2, channels), strict=True)):
        (path / f"class{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / f"class{label}" / f"{number:02}.png")
    return str(path)


def own(kind: str, file, *words: str) -> Config:
    return config(f"dataset={kind}", f"data.file={file}", *SMALL, *words)


def load(kind: str, file, *words: str) -> Dataset:
    return load_dataset(own(kind, file, *words))


def test_an_archive(tmp_path):
    dataset = load("npz", archive(tmp_path / "mine.npz"))
    x, y = images(30, 0)
    assert dataset.image_shape == (1, 5, 4) and dataset.num_classes == 3 and dataset.name == "mine"
    assert (dataset.train.images[:, 0].numpy() == x).all() and dataset.train.labels.tolist() == y.tolist()
    (source,) = dataset.sources
    assert source.mean[0] == pytest.approx((x / 255).mean(), abs=1e-4)
    assert source.std[0] == pytest.approx((x / 255).std(), abs=1e-4)
    assert load("npz", tmp_path / "mine.npz", "dataset.mean=[0.5]").sources[0].mean == (0.5,)


def test_a_run_knows_the_data_by_its_content(tmp_path):
    first = run(own("npz", archive(tmp_path / "a.npz"), f"runs_dir={tmp_path}/runs"))
    copy = run(own("npz", archive(tmp_path / "b.npz"), f"runs_dir={tmp_path}/runs"))
    x, y = images(30, 5)
    other = run(own("npz", archive(tmp_path / "c.npz", x_train=x, y_train=y), f"runs_dir={tmp_path}/runs"))
    assert first["folder"] == copy["folder"] != other["folder"]
    assert first["status"] == "finished" and "mine-sasg-s1-" in first["folder"]


def test_a_file_is_found_in_the_data_root_too(tmp_path):
    archive(tmp_path / "mine.npz")
    assert load("npz", "mine.npz", f"data.root={tmp_path}").name == "mine"


def test_a_table(tmp_path):
    dataset = load("csv", table(tmp_path / "mine.csv"), "dataset.label=kind", "dataset.test_share=0.25")
    assert dataset.num_classes == 2 and dataset.image_shape == (1, 1, 4)  # a, b, flat and the constant
    train, test = dataset.train.images.flatten(1), dataset.test.images.flatten(1)
    assert (len(train), len(test)) == (30, 10)
    assert train[:, :2].mean(0).abs().max() < 1e-12 and train[:, :2].std(0, correction=0).numpy() == pytest.approx(1)
    assert (train[:, 2] == 0).all() and (train[:, 3] == 1).all() and (test[:, 3] == 1).all()
    again = load("csv", tmp_path / "mine.csv", "dataset.label=kind", "dataset.test_share=0.25", "seed=5")
    assert again.sha256 == dataset.sha256
    assert load("csv", tmp_path / "mine.csv", "dataset.label=kind", "dataset.test_share=0.5").sha256 != dataset.sha256


def test_labels_of_a_table(tmp_path):
    """Words are classes by the alphabet, numbers by their size; the last column is the label."""
    header = ("a", "b", "c", "d")
    path = tmp_path / "mine.csv"
    path.write_text("\n".join([",".join(header), "1,2,3,10", "4,5,6,9", "7,8,10,10", "2,2,2,9"]))
    assert load("csv", path, "dataset.test_share=0.0").train.labels.tolist() == [1, 0, 1, 0]
    numbers = load("csv", path, "dataset.test_share=0.0", "dataset.labels=numbers")
    assert numbers.train.labels.tolist() == [10, 9, 10, 9] and not len(numbers.test.labels)


def test_a_table_and_its_test_rows(tmp_path):
    path, test = table(tmp_path / "a.csv"), table(tmp_path / "b.csv", 10)
    dataset = load("csv", path, "dataset.label=kind", f"data.test_file={test}")
    assert len(dataset.test.labels) == 10
    assert dataset.test.labels.tolist() == [i % 2 for i in range(10)]
    assert (dataset.test.images == dataset.train.images[:10]).all()  # the same rows, in the training rows' units


def test_a_table_is_learned(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("a,b\n" + "".join(f"{i % 2 + i / 199},{'odd' if i % 2 else 'even'}\n" for i in range(48)))
    words = ("dataset.test_share=0.25", "max_iterations=40", "epochs=10", f"runs_dir={tmp_path}/runs")
    assert run(own("csv", path, *words))["final"]["top1"] > 0.9


def test_a_table_is_regressed_on(tmp_path):
    path = table(tmp_path / "mine.csv", label=lambda i: i / 7)
    words = ("dataset.label=kind", "dataset.labels=numbers", "dataset.test_share=0", f"runs_dir={tmp_path}/runs")
    chosen = ("task=linear_regression", "dataset=csv", f"data.file={path}", *SHORT, *words)
    assert run(config(*chosen))["final"]["objective_error"] > 0


def test_folders(tmp_path):
    dataset = load("folder", folders(tmp_path / "mine"), "dataset.test_share=0.25")
    assert dataset.image_shape == (3, 5, 4) and dataset.num_classes == 3
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (9, 3)
    grey = load("folder", tmp_path / "mine", "dataset.test_share=0.25", "dataset.grey=true")
    assert grey.image_shape == (1, 5, 4)


def test_folders_of_training_and_test_images(tmp_path):
    folders(tmp_path / "mine" / "train"), folders(tmp_path / "mine" / "test", 6)
    inside = load("folder", tmp_path / "mine")
    apart = load("folder", tmp_path / "mine" / "train", f"data.test_file={tmp_path / 'mine' / 'test'}")
    assert len(inside.train.labels) == 12 and len(inside.test.labels) == 6
    assert inside.sha256 == apart.sha256
    x, y = images(12, 2, (3,))
    assert inside.train.labels.tolist() == sorted(y.tolist())
    assert (inside.train.images[0].permute(1, 2, 0).numpy() == x[0]).all()
    assert run(own("folder", tmp_path / "mine", f"runs_dir={tmp_path}/runs"))["status"] == "finished"


class TestMistakes:
    def refused(self, kind: str, file, *words: str) -> str:
        with pytest.raises(UserError) as caught:
            load(kind, file, *words)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_no_file(self, tmp_path):
        assert "data.file=PATH" in self.refused("npz", "null")
        assert "there is no such file" in self.refused("npz", tmp_path / "none.npz")
        told = self.refused("digits", "some.npz")
        assert "data.file=some.npz: is for dataset=npz, csv, folder or text" in told

    def test_archives(self, tmp_path):
        x, y = images(30, 0)
        assert "uint8" in self.refused("npz", archive(tmp_path / "a.npz", x_train=x / 255.0))
        assert "outside 0 to 2" in self.refused("npz", archive(tmp_path / "b.npz", y_test=np.full(9, 3)))
        assert "30 integers" in self.refused("npz", archive(tmp_path / "c.npz", y_train=y[:9]))
        np.savez(tmp_path / "d.npz", x_train=x)
        assert "lacks x_test, y_test, y_train" in self.refused("npz", tmp_path / "d.npz")

    def test_tables(self, tmp_path):
        path = table(tmp_path / "a.csv")
        assert "data.test_file=PATH, or dataset.test_share=0.2" in self.refused("csv", path, "dataset.label=kind")
        told = self.refused("csv", path, "dataset.label=kind", "dataset.test_share=1.5")
        assert "must be at least 0 and below 1" in told
        assert "columns a, kind, b, flat" in self.refused("csv", path, "dataset.label=c", "dataset.test_share=0.2")
        assert "row 2, column kind: 'ant' is not a number" in self.refused("csv", path, "dataset.test_share=0.2")
        numbers = ("dataset.test_share=0.2", "dataset.label=kind", "dataset.labels=numbers")
        assert "row 2: the label 'ant' is not a number" in self.refused("csv", path, *numbers)
        for text, told in (
            ("1,2\n3,4", "begins with numbers"),
            ("a,b\n1,2\n3", "row 3 has 1 values, but the header has 2"),
            ("a,b\n1,x\nnan,y", "row 3, column a: 'nan' is not a number"),
            ("a,b\n1,x\n2,", "row 3: the label '' is not there"),
            ("a,b\n1,x\n2,x", "all labels are 'x'"),
            ("a,b", "must have a header"),
        ):
            (tmp_path / "b.csv").write_text(text)
            assert told in self.refused("csv", tmp_path / "b.csv", "dataset.test_share=0.2")
        (tmp_path / "c.csv").write_text("a,b,kind,flat\n1,2,ant,7")
        other = table(tmp_path / "d.csv", header=("b", "kind", "a", "flat"))
        told = self.refused("csv", other, "dataset.label=kind", f"data.test_file={tmp_path / 'c.csv'}")
        assert "c.csv: has the columns a, b, flat, kind, but" in told

    def test_folders(self, tmp_path):
        folders(tmp_path / "mine")
        assert "0 folders" in self.refused("folder", tmp_path / "mine" / "class0", "dataset.test_share=0.2")
        Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "mine" / "class2" / "zz.png")
        told = self.refused("folder", tmp_path / "mine", "dataset.test_share=0.2")
        assert "zz.png: is 3x3, but those before are 4x5" in told
        (tmp_path / "mine" / "class0" / "00.png").write_bytes(b"not an image")
        assert "00.png: cannot be read" in self.refused("folder", tmp_path / "mine", "dataset.test_share=0.2")
        (tmp_path / "mine" / "empty").mkdir()
        (tmp_path / "mine" / "class0" / "00.png").unlink()
        (tmp_path / "mine" / "class2" / "zz.png").unlink()
        assert "empty: has no images" in self.refused("folder", tmp_path / "mine", "dataset.test_share=0.2")


def test_a_mistyped_data_root_is_not_made(tmp_path):
    with pytest.raises(UserError, match="there is no such folder; make it"):
        load_dataset(config("task=mnist", f"data.root={tmp_path / 'dta'}"))
    assert not (tmp_path / "dta").exists()
