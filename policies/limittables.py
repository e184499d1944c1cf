"""The tables of limits, as document.py has the others."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType
from virtiofs_sandbox.policies import control, values
from virtiofs_sandbox.policies.table import Table, key


def _byte_rate(says: str) -> Meta:
    accepted = 'bytes a second with their unit, "16KiB/s" to "1TiB/s", as in "200MiB/s" (binary) or "200MB/s" (decimal)'
    return key(says, accepted, "no limit", parse=values.byte_rate)


def _operation_rate(says: str) -> Meta:
    return key(
        says,
        'operations a second, as in "2000/s"',
        "no limit",
        parse=values.operation_rate,
        pattern="^[0-9]{1,13}/s$",
    )


class RequestRatesTable(Table, frozen=True, rename="kebab"):
    """Most that all shares of a group may ask of their workers together."""

    read: Annotated[str | UnsetType, _byte_rate("Bytes that are read in a second.")] = UNSET
    write: Annotated[str | UnsetType, _byte_rate("Bytes that are written in a second.")] = UNSET
    read_ops: Annotated[str | UnsetType, _operation_rate("Reads in a second.")] = UNSET
    write_ops: Annotated[str | UnsetType, _operation_rate("Writes in a second.")] = UNSET
    metadata_ops: Annotated[str | UnsetType, _operation_rate("All other operations in a second.")] = UNSET


class RequestsTable(RequestRatesTable, frozen=True, rename="kebab"):
    """Most that the guest may ask of its worker, whatever file system is behind it."""

    burst: Annotated[
        str | UnsetType,
        key(
            "For how long each rate may be saved up: so much can come at once after a pause.",
            'a duration, "1ms" to "1m"',
            '"1s"',
            parse=values.burst,
        ),
    ] = UNSET
    max_delay: Annotated[
        str | UnsetType,
        key(
            "A request that waits longer is counted and logged. It waits on: the limit never gives way.",
            'a duration, "1ms" to "24h"',
            '"5s"',
            parse=values.max_delay,
        ),
    ] = UNSET


def _weight(says: str) -> Meta:
    return key(
        says,
        f"1 to {control.MAX_WEIGHT}",
        "100",
        parse=values.between(1, control.MAX_WEIGHT),
        minimum=1,
        maximum=control.MAX_WEIGHT,
    )


def _memory(says: str) -> Meta:
    return key(says, 'a size with its unit, "32MiB" or more, as in "512MiB"', "no limit", parse=control.memory)


class DiskRatesTable(Table, frozen=True, rename="kebab"):
    """Most that all shares of a group may take together from each disk behind them. Needs control groups."""

    read: Annotated[str | UnsetType, _byte_rate("Bytes read from the disk in a second.")] = UNSET
    write: Annotated[str | UnsetType, _byte_rate("Bytes written to the disk in a second.")] = UNSET
    read_ops: Annotated[str | UnsetType, _operation_rate("Reads from the disk in a second.")] = UNSET
    write_ops: Annotated[str | UnsetType, _operation_rate("Writes to the disk in a second.")] = UNSET


class DiskTable(DiskRatesTable, frozen=True, rename="kebab"):
    """Most that the workers may take from each disk behind the share. Needs control groups."""

    weight: Annotated[int | UnsetType, _weight("Share of the disk among all that want it at once.")] = UNSET
    latency: Annotated[
        str | UnsetType,
        key(
            "What the disk shall take for a request: groups beside this with a longer time, or none, give way.",
            'a duration, "1ms" to "1m"',
            "none",
            parse=control.latency,
        ),
    ] = UNSET


class MemoryTable(Table, frozen=True):
    """Most memory that the workers may take, with the files that they cache for the guest. Needs control groups."""

    high: Annotated[str | UnsetType, _memory("Above it memory is taken back, and who wants more is slowed.")] = UNSET
    max: Annotated[str | UnsetType, _memory("There is no more; a worker that cannot do with it is killed.")] = UNSET


class CpuTable(Table, frozen=True):
    """Most processor time that the workers may take. Needs control groups."""

    max: Annotated[
        str | UnsetType,
        key(
            "Share of one processor, or a time in every period.",
            '"50%" ("200%" are two processors), or as in "20ms/100ms"',
            "no limit",
            parse=control.cpu,
        ),
    ] = UNSET
    weight: Annotated[int | UnsetType, _weight("Share of the processors among all that want them at once.")] = UNSET


class PidsTable(Table, frozen=True):
    """How many the workers may become. Needs control groups."""

    max: Annotated[
        int | UnsetType,
        key(
            "Processes and threads, of the worker that serves and of the one that is warm.",
            f"{control.MIN_PIDS} to {control.MAX_PIDS}",
            "no limit",
            parse=values.between(control.MIN_PIDS, control.MAX_PIDS),
            minimum=control.MIN_PIDS,
            maximum=control.MAX_PIDS,
        ),
    ] = UNSET


class GroupTable(Table, frozen=True):
    """A budget that the share draws from together with others."""

    name: Annotated[
        str | UnsetType,
        key(
            "The group, whose budget defaults.toml has in [groups.NAME].",
            "letters, digits, - and _, at most 64",
            "none",
            parse=values.group_name,
        ),
    ] = UNSET
    weight: Annotated[int | UnsetType, _weight("Share of the budget among all that want it at once.")] = UNSET


class LimitsTable(Table, frozen=True):
    """What the share may use up."""

    requests: RequestsTable | UnsetType = UNSET
    disk: DiskTable | UnsetType = UNSET
    memory: MemoryTable | UnsetType = UNSET
    cpu: CpuTable | UnsetType = UNSET
    pids: PidsTable | UnsetType = UNSET
    group: GroupTable | UnsetType = UNSET
    unenforceable: Annotated[
        Literal["refuse", "warn"] | UnsetType,
        key(
            "What becomes of a limit that no control group can hold here: the share does not start, or without it.",
            '"refuse" or "warn"',
            '"refuse"',
        ),
    ] = UNSET
    parent: Annotated[
        str | UnsetType,
        key(
            "The control group that those of the shares are made in; it has to be there. Only in defaults.toml.",
            'its path from the root of the hierarchy, as in "/machine.slice"',
            "the caller's own, or (where others are in it too) the root",
            parse=control.group,
        ),
    ] = UNSET
