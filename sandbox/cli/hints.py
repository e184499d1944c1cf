"""What to give a monitor so that it finds the share: lines ready to paste."""

from __future__ import annotations

import shlex

from virtiofs_sandbox.policies.policy import QEMU_MAX_PATH

# By hand, since the standard library's XML modules bring an HTTP client and OpenSSL into a process that stays.
_XML_ATTRIBUTE = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&apos;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}
)


def monitor_lines(socket: str, tag: str) -> str:
    """QEMU's options, libvirt's elements and the guest's mount for the share with *tag* on *socket*."""
    chardev = shlex.quote(f"socket,id=virtiofs0,path={_qemu(socket)}")
    device = shlex.quote(f"vhost-user-fs-pci,chardev=virtiofs0,tag={_qemu(tag)}")
    note = ""
    if len(socket.encode()) > QEMU_MAX_PATH:
        note = f"  (QEMU takes at most {QEMU_MAX_PATH} bytes of path: choose a shorter --socket for it)\n"
    return (
        "no monitor has connected yet; give it one of these:\n"
        f"{note}"
        "  QEMU, with size= as large as -m:\n"
        "    -object memory-backend-memfd,id=mem0,size=1G,share=on -machine memory-backend=mem0 \\\n"
        f"    -chardev {chardev} -device {device}\n"
        "  libvirt, in <domain> and in its <devices>:\n"
        "    <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>\n"
        "    <filesystem type='mount'><driver type='virtiofs'/>"
        f"<source socket={_attribute(socket)}/><target dir={_attribute(tag)}/></filesystem>\n"
        "  and in the guest:\n"
        f"    mount -t virtiofs {shlex.quote(tag)} /mnt"
    )


def _qemu(value: str) -> str:
    """In a QEMU option a comma is written twice."""
    return value.replace(",", ",,")


def _attribute(value: str) -> str:
    return f"'{value.translate(_XML_ATTRIBUTE)}'"
