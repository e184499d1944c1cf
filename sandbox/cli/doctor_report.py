"""The report of `doctor`, as text and as data (docs/doctor.md)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, zip_longest
from typing import Any

from virtiofs_sandbox.cli.page import hanging
from virtiofs_sandbox.confine import HostProbe
from virtiofs_sandbox.confine.features import Feature, State
from virtiofs_sandbox.confine.ways import Way, best

SHAPE = 1
_STATE_WIDTH = 12
_LABEL = 14
_EXPLANATION = 25
_SAID = 54
_OWNERS = {"caller": "guests' files keep the guest's ids", "self": "guests' files belong to the worker's own id"}


def data(host: HostProbe, features: tuple[Feature, ...], ways: tuple[Way, ...]) -> dict[str, Any]:
    tier = best(ways)
    return {
        "shape": SHAPE,
        "kernel": host.kernel,
        "uid": host.uid,
        "gid": host.gid,
        "tier": None if tier is None else tier.value,
        "features": [
            {
                "group": feature.group,
                "key": feature.key,
                "name": feature.name,
                "state": feature.answer.state.value,
                "said": feature.answer.said,
                "errno": feature.answer.errno,
                "lost": feature.lost,
                "remedy": feature.remedy,
            }
            for feature in features
        ],
        "ways": [
            {
                "name": way.name,
                "tier": None if way.tier is None else way.tier.value,
                "ids": way.ids,
                "warnings": list(way.warnings),
                "refusal": way.refusal,
            }
            for way in ways
        ],
    }


def text(host: HostProbe, features: tuple[Feature, ...], ways: tuple[Way, ...]) -> str:
    blocks = [f"Linux {host.kernel}, as uid {host.uid}, gid {host.gid}"]
    for group, members in groupby(features, key=lambda feature: feature.group):
        blocks.append("\n".join([group, *_features(list(members))]))
    blocks.append("\n".join(["what can be run here, as we are", *_ways(ways)]))
    blocks.append(_summary(features, ways))
    return "\n\n".join(blocks)


def _features(group: list[Feature]) -> Iterator[str]:
    """Loss and remedy stand below the last of several neighbours that share them."""
    for feature, after in zip_longest(group, group[1:]):
        yield hanging(f"  {feature.answer.state.value:{_STATE_WIDTH}}{feature.name}", feature.answer.said, _SAID)
        if feature.answer.state is State.THERE:
            continue
        follows = after is not None and after.answer.state is not State.THERE
        if not (follows and (after.lost, after.remedy) == (feature.lost, feature.remedy)):
            yield hanging(" " * _LABEL + "lost", feature.lost, _EXPLANATION)
        if not (follows and after.remedy == feature.remedy):
            yield hanging(" " * _LABEL + "get it by", feature.remedy, _EXPLANATION)


def _ways(ways: tuple[Way, ...]) -> Iterator[str]:
    for before, way in zip((None, *ways), ways, strict=False):
        tier = "none" if way.tier is None else way.tier.value
        said = way.refusal if way.refusal is not None else _OWNERS[way.ids or "self"]
        if before is not None and way.refusal is not None and before.refusal == way.refusal:
            said = "as above"
        yield hanging(f"  {tier:{_STATE_WIDTH}}{way.name}", said, _SAID)
        for sentence in () if before is not None and before.warnings == way.warnings else way.warnings:
            yield hanging(" " * _LABEL + "warning", sentence, _EXPLANATION)


def _summary(features: tuple[Feature, ...], ways: tuple[Way, ...]) -> str:
    tier = best(ways)
    absent = [feature for feature in features if feature.answer.state is not State.THERE]
    jail = "no jail can be built" if tier is None else f"the best jail here is {tier.value}"
    return f"{jail}; {len(features) - len(absent)} of {len(features)} features are there"
