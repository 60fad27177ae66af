"""W&B mirrors a run, the same one after an interruption, and nothing that happens there harms the run."""

import http.server
import json
import re
import shlex
import sys
import threading
import time
import types
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import small_runs
import yaml
from PIL import Image

from experiments.study import compose_grid
from sasg.config import Config
from sasg.errors import UserError
from sasg.training import tracker
from sasg.training.run import run
from sasg.training.tracker import WandB, logged_in, make_tracker, publish

ROOT = Path(__file__).resolve().parent.parent


def config(runs_dir: Path, **options) -> Config:
    (small,) = small_runs.grid(runs_dir, ["sasg"], [1])
    return replace(small, tracker={"kind": "wandb", **options} if options else None)


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """Nobody is logged in, and nothing says that W&B is off."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return monkeypatch


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, bytes]:
    """The files of the run without a tracker."""
    return files(run(config(tmp_path_factory.mktemp("plain") / "runs")))


def files(summary: dict) -> dict[str, bytes]:
    folder = Path(summary["folder"])
    return {name: (folder / name).read_bytes() for name in ("metrics.csv", "config.json", "uploads.npz")}


class TestLoggedIn:
    def test_nobody(self, nobody):
        assert not logged_in()

    def test_by_key_unless_switched_off(self, nobody):
        nobody.setenv("WANDB_API_KEY", "x" * 40)
        assert logged_in()
        nobody.setenv("WANDB_MODE", "disabled")
        assert not logged_in()

    @pytest.mark.parametrize(("machine", "expected"), [("api.wandb.ai", True), ("example.org", False)])
    def test_by_netrc(self, nobody, machine, expected):
        (Path.home() / ".netrc").write_text(f"machine {machine}\n  login user\n  password {'x' * 40}\n")
        assert logged_in() == expected

    def test_by_a_netrc_that_cannot_be_read(self, nobody):
        (Path.home() / ".netrc").write_text("machine\n")
        assert not logged_in()


def test_auto_imports_nothing_where_nobody_is_logged_in(nobody, tmp_path, plain):
    nobody.setitem(sys.modules, "wandb", None)  # an import would fail
    summary = run(config(tmp_path / "runs", only_if_logged_in=True))
    assert files(summary) == plain
    assert "W&B" not in (Path(summary["folder"]) / "console.log").read_text()


def test_the_default_is_auto():
    assert compose_grid(["digits"], ["sgd"], [1])[0].tracker == {
        "kind": "wandb",
        "project": "sasg",
        "entity": None,
        "only_if_logged_in": True,
    }


def test_options_are_checked():
    with pytest.raises(UserError, match="colour"):
        make_tracker({"kind": "wandb", "colour": "red"})


def stored(folder: Path) -> list:
    """The records of an offline W&B run: protocol buffers in LevelDB's log format, after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    data, position, pending, records = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:  # too little is left of a block for a record
            position += 32768 - position % 32768
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        pending += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(wandb_internal_pb2.Record.FromString(pending))
            pending = b""
    return records


def artifact_files(records: list, name: str) -> set[str]:
    """The paths in the artifact of this name."""
    artifacts = [
        record.request.log_artifact.artifact if record.HasField("request") else record.artifact
        for record in records
        if record.HasField("artifact") or record.request.HasField("log_artifact")
    ]
    (artifact,) = [one for one in artifacts if one.name == name]
    return {entry.path for entry in artifact.manifest.contents}


def kinds_shown(records: list) -> dict[str, str]:
    """What pictures and tables a run's history has."""
    items = [item for record in records if record.HasField("history") for item in record.history.item]
    return {item.nested_key[0]: json.loads(item.value_json) for item in items if item.nested_key[1:] == ["_type"]}


class TestTheRealLibraryOffline:
    @pytest.fixture(scope="class")
    def followed(self, tmp_path_factory) -> tuple[dict, list[list]]:
        """A run that was stopped at once and taken up again, and the records of both of its parts."""
        root = tmp_path_factory.mktemp("offline")
        following = config(root / "runs", project="test")
        assert run(replace(following, budget="0s"))["status"] == "stopped"
        summary = run(following)
        sys.modules["wandb"].teardown()  # only then is all of it written: finish() returns earlier
        return summary, [stored(path) for path in sorted((root / "wandb").glob("offline-run-*"))]

    def test_both_parts_are_one_run(self, followed):
        summary, parts = followed
        assert len(parts) == 2
        heads = [record.run for records in parts for record in records if record.HasField("run")]
        assert {(head.run_id, head.project) for head in heads} == {(Path(summary["folder"]).name, "test")}
        assert any(item.key == "preset" for head in heads for item in head.config.update)

    def test_where_it_is_kept_is_said(self, followed):
        """With the command that uploads it, in words that a shell takes."""
        log = (Path(followed[0]["folder"]) / "console.log").read_text()
        commands = re.findall(r"W&B: this run is kept offline; `(wandb sync .*?)` uploads what it has", log)
        folders = {Path(shlex.split(command)[2]) for command in commands}
        assert len(folders) == 2 and all(list(folder.glob("*.wandb")) for folder in folders)

    def test_the_rows_are_those_of_the_file(self, followed):
        summary, parts = followed
        rows = []
        for record in parts[-1]:
            if record.HasField("history"):
                rows.append(
                    {
                        item.nested_key[0] if item.nested_key else item.key: item.value_json
                        for item in record.history.item
                    }
                )
        metrics = pd.read_csv(Path(summary["folder"]) / "metrics.csv")
        assert [int(row["rounds"]) for row in rows] == metrics["rounds"].tolist()
        assert [float(row["top1"]) for row in rows] == metrics["top1"].tolist()

    def test_the_files_are_an_artifact(self, followed):
        names = artifact_files(followed[1][-1], Path(followed[0]["folder"]).name)
        assert names == {"config.json", "metrics.csv", "timing.csv", "summary.json", "uploads.npz", "curves.png"}

    def test_the_last_step_shows_the_curves_and_the_rows(self, followed):
        shown = kinds_shown(followed[1][-1])
        assert shown["curves"] == "image-file" and shown["metrics"] == "table-file"

    def test_the_run_is_the_same(self, followed, plain):
        assert files(followed[0]) == plain


def test_figures_and_tables_are_published(nobody, tmp_path):
    (tmp_path / "table2").mkdir()
    table, picture = tmp_path / "table2" / "table2.csv", tmp_path / "figure.png"
    table.write_text("method,mean,low\nsgd,1.5,\nsasg,2,1\n")
    Image.new("RGB", (4, 4)).save(picture)
    files = {"figures/figure.png": picture, "table2/table2.csv": table, "table3/table2.csv": table}
    said = publish(files, "figures", tmp_path, "test")
    sys.modules["wandb"].teardown()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert said == f"W&B, project test: {folder}: `wandb sync` uploads it"
    assert artifact_files(stored(folder), "figures") == files.keys()
    shown = kinds_shown(stored(folder))
    assert shown["figures/figure"] == "image-file" and shown["table2/table2"] == "table-file"
    (kept,) = folder.glob("files/media/table/table2/table2_*.table.json")
    assert json.loads(kept.read_text())["data"] == [["sgd", 1.5, None], ["sasg", 2, 1]]


def test_publishing_without_wandb_is_told(nobody, tmp_path):
    nobody.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        publish({}, "figures", tmp_path)


def test_a_run_is_followed_without_matplotlib(nobody, tmp_path, plain):
    nobody.setitem(sys.modules, "matplotlib.figure", None)
    fake = Broken("nothing")
    nobody.setitem(sys.modules, "wandb", fake)
    nobody.setattr(tracker, "_artifact", lambda name, kind, files: files)
    summary = run(config(tmp_path / "runs", project="test"))
    assert files(summary) == plain and fake.logged[-1].keys() == {"metrics"}
    assert "W&B failed" not in (Path(summary["folder"]) / "console.log").read_text()


class Broken(types.SimpleNamespace):
    """A wandb whose parts fail, or hang, as the test wants it."""

    Settings = staticmethod(lambda **options: options)
    Image = Table = staticmethod(lambda *arguments, **options: options)

    def __init__(self, fails: str):
        super().__init__(fails=fails, summary={}, modes=[], logged=[])

    def init(self, mode: str, **options):
        self.modes.append(mode)
        self._do("init")
        return self

    def log(self, values, step):
        self.logged.append(values)
        self._do("log")

    def Artifact(self, *arguments, **options):
        raise OSError("disk full")

    def finish(self, exit_code):
        self._do("finish")

    def log_artifact(self, artifact):
        pass

    def teardown(self):
        pass

    def _do(self, name: str):
        if self.fails == name:
            raise ConnectionError("no route to host\nand more")
        if self.fails == "hang" and name == "finish":
            time.sleep(60)


@pytest.mark.parametrize("fails", ["import", "init", "log", "finish", "hang", "artifact"])
def test_failures_do_not_harm_the_run(nobody, tmp_path, plain, fails):
    nobody.setitem(sys.modules, "wandb", None if fails == "import" else Broken(fails))
    if fails in ("finish", "hang"):
        nobody.setattr(tracker, "_artifact", lambda *arguments: None)
        nobody.setattr(tracker, "_FINISH_SECONDS", 0.2)
    summary = run(config(tmp_path / "runs", project="test"))
    assert summary["status"] == "finished" and files(summary) == plain
    told = [line for line in (Path(summary["folder"]) / "console.log").read_text().splitlines() if "W&B failed" in line]
    assert len(told) == 1 and "goes on without it" in told[0] and "and more" not in told[0]


def test_kept_offline_where_the_server_cannot_be_reached(nobody, tmp_path):
    nobody.setenv("WANDB_API_KEY", "x" * 40)
    fake = Broken("nothing")
    fake._do = lambda name: (_ for _ in ()).throw(ConnectionError("no route")) if fake.modes == ["online"] else None
    nobody.setitem(sys.modules, "wandb", fake)
    said: list[str] = []
    WandB().start(tmp_path / "runs" / "a-b-s1-c", {"task": {"name": "a"}, "algorithm": {"name": "b"}}, said.append)
    assert fake.modes == ["online", "offline"]
    assert len(said) == 1 and "(no route): kept offline" in said[0]


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers every request with the same status; with none for 0, as if it thought about it."""

    status = 0

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.status == 0:
            self.server.over.wait()
            return
        self.send_response(self.status)
        self.end_headers()

    do_GET = do_PUT = do_POST

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(request):
    """The address of a server that answers with a status, with nothing (0), or that is not there (None)."""
    handler = type("Handler", (Answering,), {"status": request.param})
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    made.daemon_threads, made.over = True, threading.Event()
    address = f"http://127.0.0.1:{made.server_port}"
    if request.param is None:
        made.server_close()
    else:
        threading.Thread(target=made.serve_forever, daemon=True).start()
    yield address
    made.over.set()
    if request.param is not None:
        made.shutdown()
        made.server_close()


@pytest.mark.parametrize("server", [None, 401, 500, 0], indirect=True)
def test_the_real_library_with_a_server_that_does_not_help(nobody, tmp_path, plain, server):
    """Nothing of the run is lost or other than without W&B, and what is said of an offline copy is true."""
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # it keeps the settings of earlier tests
    nobody.setenv("WANDB_API_KEY", "x" * 40)
    nobody.setenv("WANDB_BASE_URL", server)
    nobody.setattr(tracker, "_INIT_SECONDS", 3)
    summary = run(config(tmp_path / "my runs" / "runs", project="test"))
    wandb.teardown()  # only then is all of it written
    assert summary["status"] == "finished" and files(summary) == plain
    log = (Path(summary["folder"]) / "console.log").read_text()
    (told,) = [line for line in log.splitlines() if "W&B" in line]
    assert "W&B does not take this run" in told and "kept offline" in told
    command = shlex.split(told.partition("`")[2].partition("`")[0])
    assert command[:2] == ["wandb", "sync"]
    (folder,) = map(Path, command[2:])
    assert folder.parent == tmp_path / "my runs" / "wandb" and folder.name.startswith("offline-run-")
    rows = [record for record in stored(folder) if record.HasField("history")]
    assert len(rows) >= len(pd.read_csv(Path(summary["folder"]) / "metrics.csv"))


def test_a_copy_that_is_there_is_named_where_the_upload_fails(nobody, tmp_path):
    fake = Broken("finish")
    fake.dir = str(tmp_path / "wandb" / "run-1" / "files")
    Path(fake.dir).mkdir(parents=True)
    (tmp_path / "wandb" / "run-1" / "run-x.wandb").touch()
    nobody.setitem(sys.modules, "wandb", fake)
    nobody.setattr(tracker, "_artifact", lambda *arguments: None)
    summary = run(config(tmp_path / "runs", project="test"))
    log = (Path(summary["folder"]) / "console.log").read_text()
    assert f"goes on without it; `wandb sync {tmp_path / 'wandb' / 'run-1'}` uploads what it has" in log


def test_the_sweep_file_names_what_train_takes():
    sweep = yaml.safe_load((ROOT / "experiments" / "wandb_sweep.yaml").read_text())
    assert (ROOT / sweep["program"]).exists() and "${args_no_hyphens}" in sweep["command"]
    words = []
    for key, choice in sweep["parameters"].items():
        value = choice["value"] if "value" in choice else choice["values"][0]
        words.append(f"{key}={value}")
    fixed = [word for word in words if not word.startswith(("task=", "algorithm=", "seed="))]
    assert compose_grid(["digits"], ["sasg"], [1], [*fixed, *(w for w in sweep["command"] if "=" in w)])
