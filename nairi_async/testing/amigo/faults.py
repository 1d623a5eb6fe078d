"""Faults that are planned for the next requests: errors, connections cut before or after processing, hangs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

from attrs import define, field

from nairi_async.testing.amigo.limits import ENDPOINTS
from nairi_async.testing.clock import stalled
from nairi_async.testing.json_bodies import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nairi_async.clock import Clock


FaultKind: TypeAlias = Literal["refuse", "cut", "lose", "hang"]


@define
class Fault:
    """A fault of the next `times` requests to an endpoint; `None` is any endpoint."""

    kind: FaultKind
    endpoint: str | None
    times: int
    status: int = 500
    text: str = ""
    headers: Mapping[str, str] = field(factory=dict)


@define
class Faults:
    """The faults still to come, in order; each request has at most one."""

    planned: list[Fault] = field(factory=list)

    def plan(self, fault: Fault) -> None:
        """Add a fault."""
        if fault.endpoint is not None and fault.endpoint not in ENDPOINTS:
            msg = f"on must be one of {', '.join(ENDPOINTS)}, not {fault.endpoint!r}"
            raise ValueError(msg)
        if fault.times < 1:
            msg = f"times must be at least 1, not {fault.times}"
            raise ValueError(msg)
        self.planned.append(fault)

    async def apply(self, endpoint: str | None, clock: Clock) -> bool:
        """Apply the next fault for that endpoint; return whether the response is to be lost."""
        fault = next((one for one in self.planned if one.endpoint in {None, endpoint}), None)
        if fault is None:
            return False
        fault.times -= 1
        if not fault.times:
            self.planned.remove(fault)
        match fault.kind:
            case "refuse":
                raise RefusedError(fault.status, fault.text, fault.headers)
            case "cut":
                raise ConnectionResetError
            case "hang":
                with stalled(clock):
                    await clock.sleep(math.inf)
            case "lose":
                pass
        return True
