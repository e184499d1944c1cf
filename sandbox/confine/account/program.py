"""Which program serves, and which promises fall away where it is not our own worker (docs/stock-virtiofsd.md)."""

from __future__ import annotations

from virtiofs_sandbox.confine.account.statement import Launch, Statement, Topic, printed

# What another program does not do; the jail around it is the same.
FALLEN_AWAY = {
    "names": "names are passed on as they come: one with '..' is stopped by the jail's root, not by the daemon",
    "requests": "a malformed request may end or hang the daemon, and with it this client's mount; the next client has "
    "another",
    "second filter": "the list of system calls is one for all threads, from start to end, and wider",
    "executable memory": "it is loaded with its libraries, so that files of the jail, and guest memory, can be mapped "
    "executable, if not writable too; files of the share cannot",
    "threads": "what it makes of threads ends at the limit of processes, where that binds, or at limits.pids.max; in "
    "root's identity map without one, nowhere",
    "rules": "no path rules, no limits on requests, no time after which it counts as stuck",
    "changes": "whatever a policy changes waits until its client leaves, but for limits held by control groups",
    "counters": "no figures of its requests; what is known of it is its log, its end, and its control groups'",
    "stop": "a stop ends it at once: requests in flight are not waited for",
}


def _program(launch: Launch) -> tuple[Statement, ...]:
    plan = launch.plan.program
    if plan is None:
        return (Statement("own", "program", "the worker that comes with this command", {"own": True}),)
    said = [printed(argument) for argument in plan.arguments]
    named = launch.share.program
    return (
        Statement(
            "foreign",
            "program",
            f"{printed(plan.executed) if named is None else named.path}: not our own worker, but in the same jail",
            {"own": False, "path": printed(plan.executed)},
        ),
        Statement("arguments", "arguments", " ".join(said), {"arguments": said}),
        Statement(
            "client",
            "its client",
            "it waits in accept(2) until the supervisor answers that call with a connection; no later one is answered",
            {},
        ),
        *(Statement(f"without {key}", "not with it", sentence, {}) for key, sentence in FALLEN_AWAY.items()),
    )


TOPICS = (Topic("program", "Which program serves", frozenset({"program"}), _program),)
