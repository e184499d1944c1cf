"""Metrics of a share in service, as Prometheus gets them: from real requests, over workers that come and go."""

from __future__ import annotations

import http.client
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from virtiofs_sandbox.supervisor.metrics.table import PREFIX

from tests.guest import fuse
from tests.guest.frontend import FrontEnd, FuseError
from tests.guest.fuse import Opcode
from tests.integration.running import Running
from tests.integration.serving import Policies, Serving

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
WRITTEN = b"x" * 4096


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=15)
        self._path = os.fspath(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(15)
        self.sock.connect(self._path)


def scrape(connection: http.client.HTTPConnection) -> Samples:
    connection.request("GET", "/metrics")
    reply = connection.getresponse()
    assert reply.status == 200
    assert reply.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    text = reply.read().decode()
    connection.close()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for found in text_string_to_metric_families(text)
        for sample in found.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"{PREFIX}{name}", frozenset({"share": "data", **labels}.items())]


def shares_in(samples: Samples) -> set[str]:
    """Those of which anything is told."""
    return {value for _, labels in samples for label, value in labels if label == "share"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def visit(place: Path) -> None:
    """A guest that writes a page, reads it twice, and looks for what is not there."""
    with FrontEnd.connect(place) as guest:
        guest.start().init()
        with pytest.raises(FuseError):
            guest.lookup(b"missing")
        node = guest.lookup(b"file").node
        handle = guest.open(node, os.O_RDWR)
        guest.call(Opcode.WRITE, fuse.write(handle, 0, WRITTEN), node)
        for _ in range(2):
            assert guest.read(node, handle, 0, 4096) == WRITTEN


def test_what_guests_did_is_told_and_goes_on_with_the_next_worker(tmp_path: Path) -> None:
    place, metrics = tmp_path / "s", tmp_path / "m.sock"
    options = ["--socket", os.fspath(place), "--metrics", os.fspath(metrics)]
    with Running("real", tmp_path, *options) as run:
        run.ready()
        (tmp_path / "share" / "file").write_bytes(b"")
        assert stat.S_IMODE(metrics.stat().st_mode) == 0o660
        idle = scrape(_Connection(metrics))
        assert of(idle, "workers", state="warm") == 1
        assert idle["process_open_fds", frozenset()] > 0
        for round_number in (1, 2):
            visit(place)
            run.logged("worker ended", round_number)
        # Within a second of the last time the text is the same.
        run.until(lambda: of(scrape(_Connection(metrics)), "clients_served_total") == 2, "tell of both")
        found = scrape(_Connection(metrics))
        assert run.stop() == 0
    assert not metrics.exists()
    assert of(found, "requests_total", opcode="READ") == 4
    assert of(found, "requests_total", opcode="WRITE") == 2
    assert of(found, "errors_total", **{"class": "metadata", "errno": "ENOENT"}) == 2
    assert of(found, "read_bytes_total") == 4 * 4096
    assert of(found, "written_bytes_total") == 2 * 4096
    assert of(found, "request_duration_seconds_count", **{"class": "read"}) == 4
    assert 0 < of(found, "request_duration_seconds_sum", **{"class": "read"}) < 60
    assert of(found, "ring_answers_total", ring="1") >= 14
    assert of(found, "ring_depth", ring="1") == of(found, "inodes") == 0
    assert of(found, "restarts_total") == 0


def test_a_port_of_this_machine_answers_too_and_one_that_is_taken_costs_a_warning_alone(tmp_path: Path) -> None:
    port = free_port()
    options = ["--metrics", f"127.0.0.1:{port}", "--socket"]
    with Running("fake", tmp_path, *options, os.fspath(tmp_path / "s")) as run:
        run.ready()
        found = scrape(http.client.HTTPConnection("127.0.0.1", port, timeout=15))
        assert found[f"{PREFIX}shares", frozenset()] == 1
        (tmp_path / "second").mkdir()
        with Running("fake", tmp_path / "second", *options, os.fspath(tmp_path / "second" / "s")) as second:
            second.ready().logged(f"metrics: nobody is told: 127.0.0.1:{port}: Address already in use")
            assert second.stop() == 0
        assert run.stop() == 0


def test_serve_tells_of_all_its_shares_where_the_site_says_and_of_those_it_cannot_serve(tmp_path: Path) -> None:
    policies, metrics = Policies(tmp_path), tmp_path / "there" / "m.sock"
    (tmp_path / "defaults.toml").write_text(f'[site]\nmetrics = "{metrics}"\n')
    policies.put("one")
    policies.put("two")
    policies.write("broken", "x = 1\n")
    with Serving(tmp_path) as run:
        run.ready()
        found = scrape(_Connection(metrics))
        assert shares_in(found) == {"one", "two"}
        assert found[f"{PREFIX}shares", frozenset()] == 2
        assert found[f"{PREFIX}shares_absent", frozenset()] == 1
        table = run.said("top", "--once", "--interval", "0.1")
        assert [line.split()[0] for line in table] == ["NAME", "one", "two"]
        assert run.said("top", "--once", "--interval", "0.1", "two")[1].split()[0] == "two"
        policies.remove("two")
        policies.remove("broken")
        assert run.ask("reload").returncode == 0
        run.until(lambda: shares_in(scrape(_Connection(metrics))) == {"one"}, "forget what is gone")
        assert run.stop() == 0
    assert not metrics.exists()


def test_without_metrics_the_supervisor_carries_no_client_of_prometheus(tmp_path: Path) -> None:
    """Five mebibytes for each supervisor: imports are told by the interpreter itself."""
    prefix = ["env", "PYTHONPROFILEIMPORTTIME=1"]
    for options, there in ([], False), (["--metrics", os.fspath(tmp_path / "m")], True):
        with Running("real", tmp_path, "--socket", os.fspath(tmp_path / "s"), *options, prefix=prefix) as run:
            run.ready()
            assert run.stop() == 0
        assert ("prometheus_client" in run.log.read_text()) is there


@pytest.mark.parametrize(
    "address", ["0.0.0.0:9100", "localhost:9100", "127.0.0.1:0", "[::]:9100", ":9100", "127.0.0.1:x"]
)
def test_an_address_that_other_machines_could_reach_is_refused_by_name(tmp_path: Path, address: str) -> None:
    with Running("real", tmp_path, "--socket", os.fspath(tmp_path / "s"), "--metrics", address) as run:
        assert run.process.wait(15) == 2
    assert "accepted are an absolute path, 127.0.0.1:PORT and [::1]:PORT" in run.log.read_text()
