"""The guests' first and only file system: busybox, the modules virtio-fs needs, and the agent that runs scripts.

Written as a "newc" archive from here, since the kernel takes nothing else and the format is a hundred bytes a file
(Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

DIRECTORIES = ("bin", "dev", "mnt", "modules", "proc", "run", "sys", "tmp")

# One request is base64 lines of a script and a line "run NONCE"; the answer is base64 lines of what the script printed
# and a line "end NONCE STATUS". Base64 because a serial line, whatever its mode, carries it unchanged.
AGENT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/run
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
for module in /modules/*; do
    [ -e "$module" ] && insmod "$module"
done
for word in $(cat /proc/cmdline); do
    case $word in agent=*) line=/dev/${word#agent=} ;; esac
done
exec 3<>"$line"
stty raw -echo <&3
echo "ready $(uname -r)" >&3
: >/run/request
while read -r word nonce <&3; do
    if [ "$word" = run ]; then
        base64 -d /run/request >/run/script
        : >/run/request
        sh /run/script >/run/output 2>&1 </dev/null 3>&-
        status=$?
        base64 /run/output >&3
        echo "end $nonce $status" >&3
    else
        echo "$word" >>/run/request
    fi
done
poweroff -f
"""


def build(busybox: Path, modules: Sequence[Path], target: Path, files: Sequence[tuple[str, Path]] = ()) -> Path:
    """Write the archive to *target* and return it. *modules* are loaded in their order; *files* are further ones."""
    archive = b"".join(_archive(busybox.read_bytes(), modules, files))
    target.write_bytes(archive)
    return target


def _archive(busybox: bytes, modules: Sequence[Path], files: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    for directory in DIRECTORIES:
        yield _entry(directory, stat.S_IFDIR | 0o755, b"")
    yield _entry("bin/busybox", stat.S_IFREG | 0o755, busybox)
    yield _entry("init", stat.S_IFREG | 0o755, AGENT.encode())
    # The kernel opens its console before the agent can mount devtmpfs.
    yield _entry("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1))
    for number, module in enumerate(modules):
        yield _entry(f"modules/{number}-{module.name}", stat.S_IFREG | 0o644, module.read_bytes())
    parents = {str(parent) for name, _ in files for parent in PurePath(name).parents} - {".", *DIRECTORIES}
    for parent in sorted(parents):
        yield _entry(parent, stat.S_IFDIR | 0o755, b"")
    for name, source in files:
        yield _entry(name, stat.S_IFREG | 0o755, source.read_bytes())
    yield _entry("TRAILER!!!", 0, b"")


def _entry(name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> bytes:
    path = name.encode() + b"\0"
    # inode, mode, uid, gid, nlink, mtime, size, device major and minor, rdev major and minor, name length, checksum
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + path) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
