"""Tests that depend on the event loop, run again on uvloop: sessions, watches, cancellation, timeouts, streams, TLS.

The other tests pass on uvloop as well, and are left out to save time.
"""

from __future__ import annotations

import asyncio

import pytest
from test_attachments import (  # noqa: F401 - collected here
    test_a_stream_over_the_limit_is_stopped,
    test_an_endless_response_is_stopped,
    test_every_kind_of_source_arrives_whole,
)
from test_cancellation import (  # noqa: F401
    test_a_cancelled_wait_frees_its_connection,
    test_a_leader_of_a_shared_read_may_be_cancelled,
    test_an_outer_cancellation_is_never_swallowed,
    test_cancellation_at_every_await_loses_and_repeats_nothing,
    test_closing_wakes_a_task_that_waits,
    test_nothing_outlives_an_abandoned_watch,
    test_wait_for_timeouts_do_not_end_the_iteration,
)
from test_session_lifecycle import (  # noqa: F401
    test_closing_ends_a_prompt_under_way_as_unknown,
    test_closing_ends_a_read_under_way,
    test_closing_ends_calls_that_wait_for_a_connection,
    test_many_calls_at_once_share_the_connections,
    test_nothing_is_left_behind,
)
from test_transport import (  # noqa: F401
    authority,
    server_tls,
    test_a_certificate_of_nobody_is_refused,
    test_a_prompt_goes_out_when_the_service_comes_up,
    test_a_prompt_is_not_sent_again_into_the_unknown,
    test_a_prompt_that_takes_too_long_has_an_unknown_outcome,
    test_a_read_survives_a_broken_connection,
    test_a_read_that_takes_too_long_times_out,
    test_a_refused_connection_is_tried_again,
    test_own_trust_goes_in_through_http,
)
from test_watch import (  # noqa: F401
    test_each_message_comes_once_and_in_order,
    test_following_goes_on_until_closed,
    test_passing_faults_are_outlived,
    test_the_timeout_is_the_whole_wait,
    test_two_watchers_of_one_job_share_the_reads,
)

uvloop = pytest.importorskip("uvloop", reason="there is no uvloop for this system")

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Select the event loop of this file."""
    return "asyncio", {"use_uvloop": True}


async def test_the_loop_is_uvloop() -> None:
    """The tests of this file run on uvloop."""
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
