"""Link models against times that are worked out by hand, and Table III's replay on unshaped links."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_runs
import yaml
from ranks import run_ranks

from benchmarks.table3 import replay as table3
from benchmarks.table3.namespaces import can_shape, shaped_star
from experiments.study import compose_grid
from sasg.__main__ import run_config
from sasg.cluster.accounting.links import Link
from sasg.errors import UserError
from sasg.parts import build

ROOT = Path(__file__).resolve().parent.parent


def test_serial_reception_takes_the_sum_and_parallel_the_longest():
    uploads = np.array([9, 0, 2])
    serial = Link(up_bits_per_second=1e6, latency_seconds=0.5)
    assert serial.upload_seconds(uploads, bits=2e6) == pytest.approx([22.5, 0.0, 5.0])
    parallel = Link(up_bits_per_second=1e6, latency_seconds=0.5, reception="parallel")
    assert parallel.upload_seconds(uploads, bits=2e6) == pytest.approx([2.5, 0.0, 2.5])
    shared = Link(up_bits_per_second=1e6, reception="parallel", server_bits_per_second=4e6)
    assert shared.upload_seconds(uploads, bits=2e6) == pytest.approx([4.5, 0.0, 2.0])


def test_the_published_time_of_sgd_is_a_hundred_iterations_of_nine_uploads():
    shared = table3.Replay(table3.METHODS, {}, iterations=100, reception="serial")
    assert table3.predicted_seconds("sgd", shared, Link(up_bits_per_second=1e9)) == pytest.approx(321.8, abs=0.05)
    assert table3.predicted_seconds("sparse", shared, Link(up_bits_per_second=1e9)) == pytest.approx(6.4, abs=0.05)


def test_a_ledger_becomes_seconds():
    totals = {"rounds": 40, "value_bits": 4000, "index_bits_int32": 8000, "flag_bits": 100}
    totals["downlink_broadcast_bits_int32"] = 5000
    link = Link(up_bits_per_second=100.0, down_bits_per_second=1000.0, latency_seconds=0.1)
    seconds = link.run_seconds(totals, iterations=10, num_workers=10, code="int32", num_local=5)
    assert seconds == pytest.approx({"upload": 20 * 3.1, "flags": 10 * 0.11, "download": 10 * 0.1 + 5.0})
    assert Link().run_seconds(totals, 10, 10, "int32") == {"upload": 0.0, "flags": 0.0, "download": 0.0}


def test_where_nobody_uploads_flags_and_downloads_take_their_time():
    totals = {"rounds": 0, "value_bits": 0, "index_bits_int32": 0, "flag_bits": 100}
    totals["downlink_broadcast_bits_int32"] = 5000
    link = Link(up_bits_per_second=100.0, down_bits_per_second=1000.0, latency_seconds=0.1)
    seconds = link.run_seconds(totals, iterations=10, num_workers=10, code="int32")
    assert seconds == pytest.approx({"upload": 0.0, "flags": 10 * 0.11, "download": 10 * 0.1 + 5.0})


@pytest.mark.parametrize("reception, upload", [("serial", 10 * 5 * (1.5 + 3.5)), ("parallel", 10 * (1.5 + 3.5))])
def test_two_exchanges_of_an_iteration_take_their_time_one_after_the_other(reception, upload):
    """As PowerSGD's: ten iterations in which five workers upload 100 bits, then 300."""
    totals = {"rounds": 100, "value_bits": 10 * 5 * (100 + 300), "index_bits_int32": 0, "flag_bits": 0}
    totals["downlink_broadcast_bits_int32"] = 5000
    link = Link(100.0, 1000.0, latency_seconds=0.5, reception=reception)
    seconds = link.run_seconds(totals, iterations=10, num_workers=5, code="int32")
    assert seconds == pytest.approx({"upload": upload, "flags": 0.0, "download": 2 * 10 * 0.5 + 5.0})


def test_times_along_a_run_add_up():
    """Two intervals: forty uploads in ten iterations, then ten in five."""
    first = {
        "iteration": 10,
        "rounds": 40,
        "value_bits": 4000,
        "flag_bits": 0,
        "index_bits_int32": 0,
        "downlink_broadcast_bits_int32": 5000,
    }
    last = {
        "iteration": 15,
        "rounds": 50,
        "value_bits": 5000,
        "flag_bits": 0,
        "index_bits_int32": 0,
        "downlink_broadcast_bits_int32": 6000,
    }
    link = Link(up_bits_per_second=100.0, down_bits_per_second=1000.0, latency_seconds=0.1)
    at = link.seconds_at([first, last], num_workers=10)
    uploads = 0.9 * 40 * 1.1, 0.9 * 50 * 1.1  # one worker in ten sends nothing
    assert [row["upload"] for row in at] == pytest.approx(uploads)
    assert [row["download"] for row in at] == pytest.approx([1 + 5, 1.5 + 6])
    assert [row["flags"] for row in at] == [0.0, 0.0]


def test_a_run_tells_its_time_on_links_and_is_the_same_run(tmp_path, capsys):
    (plain,) = small_runs.grid(tmp_path, ["sasg"], [1])
    assert run_config(plain) == 0
    folder = Path(capsys.readouterr().out.strip())
    spec = yaml.safe_load((ROOT / "conf/link/gigabit.yaml").read_text())
    linked = compose_grid(["digits"], ["sasg"], [1], [*small_runs.OVERRIDES, f"runs_dir={tmp_path}", "link=gigabit"])[0]
    assert linked.link == spec
    assert run_config(linked) == 0  # finished before: told all the same
    out, said = capsys.readouterr()
    assert Path(out.strip()) == folder
    rows = pd.read_csv(folder / "metrics.csv").to_dict("records")
    at = [sum(row.values()) for row in build("link", spec).seconds_at(rows, 10)]
    crossing = json.loads((folder / "summary.json").read_text())["crossing"]["iteration"]
    assert f"{at[-1]:.4g} s of communication in 60 iterations" in said
    assert f"{at[[row['iteration'] for row in rows].index(crossing)]:.4g} s to the baseline" in said
    assert "(modelled: 1,000 Mbit/s up, 1,000 Mbit/s down, 0.1 ms, serial reception)" in said


def test_a_wrong_link_is_told_before_anything_starts(tmp_path):
    (config,) = small_runs.grid(tmp_path, ["sasg"], [1])
    wrong = {"kind": "link", "up_bits_per_second": -1.0}
    with pytest.raises(UserError, match=r"link\.up_bits_per_second=-1\.0: must be positive"):
        run_config(replace(config, link=wrong))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", sorted((ROOT / "conf/link").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_suites_links_are_links(file):
    assert isinstance(build("link", yaml.safe_load(file.read_text())), Link)


def test_impossible_links_are_refused():
    with pytest.raises(UserError, match="up_bits_per_second=0"):
        Link(up_bits_per_second=0)
    with pytest.raises(UserError, match="latency"):
        Link(latency_seconds=-1.0)


def test_decisions_are_spread_over_the_recorded_training(tmp_path):
    uploads = np.zeros((1000, 10), dtype=bool)
    uploads[500:] = True
    folder = tmp_path / "cifar10-lasg-s1-00000000"
    folder.mkdir()
    np.savez(folder / "uploads.npz", packed=np.packbits(uploads), shape=np.array(uploads.shape))
    chosen, origin = table3.recorded_decisions(folder / "uploads.npz", "lasg", 100)
    assert chosen[:50].sum() == 0
    assert chosen[50:].all()
    assert origin.startswith("recorded (cifar10-lasg-s1-00000000)")
    drawn, origin = table3.recorded_decisions(None, "sasg", 100)
    assert 0.75 < drawn.mean() < 0.9
    assert "no recorded run was found" in origin


def test_table_3_replays_payloads_of_the_real_sizes():
    decisions = [[1, 1, 0, 0, 1, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    shared = table3.Replay(("sasg", "lasg"), {"sasg": decisions, "lasg": decisions}, 2, reception="serial")
    measured = run_ranks(10, table3.replay, shared)[0]
    assert measured["sasg"]["received_bytes"] == 3 * 111_723 * 8
    assert measured["lasg"]["received_bytes"] == 3 * 11_173_962 * 4
    assert measured["lasg"]["server_mebibytes"] == pytest.approx(426.25, abs=0.01)
    assert measured["sasg"]["server_mebibytes"] == pytest.approx(3 * 4.26, abs=0.01)
    assert all(0 < measured[method]["communication_seconds"] < 60 for method in ("sasg", "lasg"))


@pytest.mark.skipif(can_shape() is not None, reason=f"links cannot be shaped here: {can_shape()}")
def test_shaped_links_are_slow_one_way_and_removed_after_an_interruption():
    with pytest.raises(KeyboardInterrupt), shaped_star(2, egress_mbit=8, name="sasg-test") as (server, worker):
        assert subprocess.run([*server, "true"], check=True).returncode == 0
        seconds = {name: transfer(*ends) for name, ends in {"up": (worker, server), "down": (server, worker)}.items()}
        assert 0.8 < seconds["up"] < 3  # a megabyte at 8 Mbit/s
        assert seconds["down"] < seconds["up"] / 2
        raise KeyboardInterrupt
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert "sasg-test" not in left
    assert not list(Path("/etc/netns").glob("sasg-test*"))


def transfer(sender: list[str], receiver: list[str]) -> float:
    """Seconds that a megabyte takes from one node to the other."""
    listen = (
        "import socket, time\n"
        "server = socket.create_server(('', 29600))\n"
        "print('ready', flush=True)\n"
        "peer, _ = server.accept()\n"
        "started = time.perf_counter()\n"
        "while peer.recv(65536): pass\n"
        "print(time.perf_counter() - started)\n"
    )
    address = "10.99.0.1" if receiver[-1].endswith("-0") else "10.99.0.2"
    send = f"import socket; s = socket.create_connection(({address!r}, 29600)); s.sendall(bytes(10**6)); s.close()"
    with subprocess.Popen([*receiver, sys.executable, "-c", listen], stdout=subprocess.PIPE, text=True) as listening:
        listening.stdout.readline()
        subprocess.run([*sender, sys.executable, "-c", send], check=True)
        return float(listening.stdout.readline())


def test_table_three_is_written_under_its_name(tmp_path):
    write = runpy.run_path(str(ROOT / "benchmarks/table3/measure.py"))["_write"]
    write(tmp_path, "table3_unshaped", [{"method": "sgd", "communication_s_measured": 1.5}], ["a note"])
    assert (tmp_path / "table3_unshaped.csv").read_text() == "method,communication_s_measured\nsgd,1.5\n"
    assert "| sgd    | 1.5 " in (tmp_path / "table3_unshaped.md").read_text()
    assert len(list(tmp_path.iterdir())) == 2
