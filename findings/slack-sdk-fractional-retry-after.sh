#!/usr/bin/env bash
# slack_sdk: the handler that should wait out a rate limit raises ValueError for a `Retry-After` that is not a whole number.
#
# Most expect: with `AsyncRateLimitErrorRetryHandler` in the list, a 429 is waited out, whatever valid form its
#   `Retry-After` has. A proxy in front of a service may well send an HTTP date (RFC 9110, section 10.2.3).
# What happens: the header's text goes straight to `int()`. For a date (or `1.5`) the call ends with a bare `ValueError`,
#   which is no `SlackClientError`, so the usual `except` does not catch it. Without the handler the same response is a
#   `SlackApiError`.
# Versions: slack_sdk 3.48.0, aiohttp 3.14.5.
# Source: `slack_sdk/http_retry/builtin_async_handlers.py`; seen by running.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet slack-sdk==3.48.0 aiohttp==3.14.5
cat >"$folder/try.py" <<'PYTHON'
import asyncio

from aiohttp import web
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.http_retry.builtin_async_handlers import AsyncRateLimitErrorRetryHandler
from slack_sdk.web.async_client import AsyncWebClient


async def refuse(request):
    headers = {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}
    return web.json_response({"ok": False, "error": "ratelimited"}, status=429, headers=headers)


async def outcome(url, handlers):
    client = AsyncWebClient(token="xoxb-none", base_url=url, retry_handlers=handlers)
    try:
        await client.api_test()
    except Exception as error:
        return type(error), isinstance(error, SlackClientError)
    return None


async def main():
    app = web.Application()
    app.router.add_post("/api.test", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    seen = {
        "without the handler": await outcome(url, []),
        "with it": await outcome(url, [AsyncRateLimitErrorRetryHandler(max_retry_count=1)]),
    }
    await runner.cleanup()
    for name, (kind, is_theirs) in seen.items():
        print(f"{name}: {kind.__name__}, caught by `except SlackClientError`: {is_theirs}")
    assert seen == {"without the handler": (SlackApiError, True), "with it": (ValueError, False)}, "it has changed"


asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
