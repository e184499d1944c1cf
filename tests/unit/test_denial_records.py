"""Audit records are the kernel's text with names in it that an attacker chose."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.confine import records
from virtiofs_sandbox.confine.records import AccessRecord, CallRecord, DomainRecord

PREFIX = b"audit(1795599652.490:4): "
# As kernels wrote them: seccomp from this project's jails, Landlock from a domain whose denials were recorded.
CORPUS = {
    (1326, PREFIX + b'auid=4294967295 uid=0 gid=0 ses=4294967295 pid=23779 comm="virtiofs-worker" exe="/" sig=31 '
     b"arch=c000003e syscall=13 compat=0 ip=0x7fa126771b3f code=0x80000000"):
        CallRecord(23779, "virtiofs-worker", 0xC000003E, 13, records.KILL_PROCESS),
    (1326, PREFIX + b"auid=1000 uid=65534 gid=65534 ses=2 subj=unconfined pid=7 comm=71756575652D31203D22 exe=(null) "
     b"sig=0 arch=40000003 syscall=20 compat=1 ip=0xf7 code=0x50000"):
        CallRecord(7, 'queue-1 ="', 0x40000003, 20, records.ERRNO),
    (1326, PREFIX + b'auid=0 uid=0 gid=0 ses=1 pid=9 comm="x" exe="/x" sig=0 arch=c000003e syscall=1073741863 compat=0 '
     b"ip=0x7f code=0x7ffc0000"):
        CallRecord(9, "x", 0xC000003E, 1073741863, records.LOG),
    (1423, PREFIX + b'domain=195ba459b blockers=fs.make_reg,fs.refer path="/usr/bin" dev="vda2" ino=351'):
        AccessRecord(0x195BA459B, "fs.make_reg,fs.refer", "/usr/bin"),
    (1423, PREFIX + b"domain=195ba459b blockers=fs.read_file path=2F746D702F610A3C333E666F72676564 dev=\"t\" ino=3"):
        AccessRecord(0x195BA459B, "fs.read_file", "/tmp/a\\n<3>forged"),  # noqa: S108
    (1423, PREFIX + b"domain=1a6fdc66f blockers=scope.abstract_unix_socket path=00666F6F"):
        AccessRecord(0x1A6FDC66F, "scope.abstract_unix_socket", "\\x00foo"),
    (1423, PREFIX + b'domain=195ba459b blockers=ptrace opid=1 ocomm="systemd"'):
        AccessRecord(0x195BA459B, "ptrace", None),
    (1423, PREFIX + b"domain=195ba459b blockers=net.connect_tcp daddr=127.0.0.1 dest=80"):
        AccessRecord(0x195BA459B, "net.connect_tcp", None),
    (1424, PREFIX + b'domain=195ba459b status=allocated mode=enforcing pid=300 uid=0 exe="/root/sandboxer" comm="s"'):
        DomainRecord(0x195BA459B, 300),
    (1424, PREFIX + b"domain=195ba459b status=deallocated denials=3"):
        DomainRecord(0x195BA459B, None),
}  # fmt: skip


def datagram(kind: int, text: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(text), kind, 0, 0, 0) + text


@pytest.mark.parametrize("kind_and_text", CORPUS, ids=lambda pair: f"{pair[0]}-{len(pair[1])}")
def test_what_kernels_have_written_is_understood(kind_and_text: tuple[int, bytes]) -> None:
    assert records.parse(datagram(*kind_and_text)) == CORPUS[kind_and_text]
    assert records.parse(datagram(*kind_and_text) + b"\0") == CORPUS[kind_and_text]


@given(st.binary(max_size=400))
def test_no_bytes_make_the_parser_fail(data: bytes) -> None:
    records.parse(data)


@given(st.sampled_from(sorted(CORPUS)), st.integers(0, 300), st.binary(max_size=8), st.integers(0, 8))
def test_no_damage_to_a_record_makes_the_parser_fail_or_gives_the_log_a_control_character(
    kind_and_text: tuple[int, bytes], place: int, inserted: bytes, cut: int
) -> None:
    kind, text = kind_and_text
    record = records.parse(datagram(kind, text[:place] + inserted + text[place + cut :]))
    shown = "" if record is None else "".join(value for value in vars(record).values() if isinstance(value, str))
    assert shown.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        b"pid=1 comm=\"a\" pid=2 sig=0 arch=c000003e syscall=1 code=0x0",
        b"pid=1 comm=\"a\"sig=0 arch=c000003e syscall=1 code=0x0",
        b"pid=1 comm=\"a sig=0 arch=c000003e syscall=1 code=0x0",
        b"pid= comm=\"a\" sig=0 arch=c000003e syscall=1 code=0x0",
        b"pid=0x1 comm=\"a\" sig=0 arch=c000003e syscall=1 code=0x0",
        b"pid=1 sig=0 arch=c000003e syscall=1 code=0x0",
        b"free text pid=1 comm=\"a\" sig=0 arch=c000003e syscall=1 code=0x0",
        b"",
    ],
)  # fmt: skip
def test_text_that_is_not_the_kernel_s_is_no_record(text: bytes) -> None:
    assert records.parse(datagram(1326, PREFIX + text)) is None


def test_records_of_other_kinds_are_nobody_s_business() -> None:
    assert records.parse(datagram(1300, PREFIX + b"pid=1")) is None


@pytest.mark.parametrize(
    ("number", "found", "words"),
    [
        (0, records.Source.RECORDS, "audit records"),
        (errno.EPERM, records.Source.OWN_REPORT, "CAP_AUDIT_READ"),
        (errno.ENODATA, records.Source.OWN_REPORT, "initial network"),
    ],
)
def test_a_host_s_source_is_named_with_its_reason(number: int, found: records.Source, words: str) -> None:
    kind, sentence = records.source(number)
    assert kind is found
    assert words in sentence
