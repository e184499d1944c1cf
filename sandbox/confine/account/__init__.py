"""The whole confinement of a share, from the launch plan and the tables, so that it says what is done."""

from __future__ import annotations

from virtiofs_sandbox.confine.account import jail, offer, program, promises
from virtiofs_sandbox.confine.account.statement import Launch, Section, Statement

__all__ = ["TOPICS", "WITHHELD", "Launch", "Section", "Statement", "account"]

TOPICS = (*offer.TOPICS, *program.TOPICS, *jail.TOPICS, *promises.TOPICS)
# Fields of the plan that are spoken of and not shown.
WITHHELD = {"exec_key": "the jail must not learn it, and a report may be read by anybody"}


def account(launch: Launch) -> tuple[Section, ...]:
    """Every layer, in the order in which a reviewer asks."""
    return tuple(Section(topic.key, topic.title, topic.tell(launch)) for topic in TOPICS)
