"""The slim process that forks jails."""

from __future__ import annotations

from typing import Self


class Zygote:
    """Owner of one zygote process and of the socket to it.

    A zygote that died is replaced: close() the old one, start() another. Running jails do not notice.
    """

    pid: int

    @classmethod
    def start(cls) -> Self:
        """Forks the zygote and makes the calling process a child subreaper, so that keepers become its children.

        To be called before the event loop starts and before any thread, listener or large import; a replacement may be
        started later as long as there is one thread. Raises LaunchError.
        """
        raise NotImplementedError

    def fileno(self) -> int:
        """The supervisor's end of the socket; readable between launches only when the zygote is gone."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the zygote and reaps it."""
        raise NotImplementedError
