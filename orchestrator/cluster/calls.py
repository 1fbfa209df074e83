"""What an executor needs of a cluster: workers, calls to them, and how calls fail; no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from orchestrator.core.plans import FailureKind


class CallFailed(Exception):  # noqa: N818  (an answer, of a kind that the controller knows)
    """What a call comes to where it brings no answer."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(kind, message)
        self.kind, self.message = kind, message


class Cluster(Protocol):
    """What runs workers (actors) and calls their methods, one after another for each of them."""

    def place(self, shell: type, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """A worker to be started with these options of Ray; calls to it wait until it stands."""
        ...

    def call(self, worker: Any, method: str, *arguments: Any) -> Any:
        """The answer to come; arguments may be answers to come of other workers."""
        ...

    def wait(self, calls: list[Any], timeout: float) -> list[Any]:
        """Those of the calls that came back; none after ``timeout`` seconds without any."""
        ...

    def answer(self, call: Any) -> Any:
        """What a call that came back brought; raises CallFailed where that is no answer."""
        ...

    def kill(self, worker: Any) -> None: ...
    def reserve(self, bundles: Sequence[Mapping[str, float]]) -> Any:
        """Room for all of the bundles at once."""
        ...

    def within(self, room: Any, index: int) -> Mapping[str, Any]:
        """Options that place a worker in one bundle of reserved room."""
        ...

    def release(self, room: Any) -> None: ...
    def size(self) -> tuple[float, float]:
        """CPUs and GPUs of all live nodes."""
        ...

    def own_address(self) -> str:
        """The address under which other nodes reach the one that this is called on."""
        ...
