#!/usr/bin/env bash
# slack_bolt: an `ack()` that comes too late returns as if it had been sent, and Slack has been given a 404 instead.
#
# Most expect: a slow command listener holds the HTTP response until it acknowledges, so that a late `ack("text")` is late
#   at worst, or else raises: the listener can then answer by another way.
# What happens: after three seconds bolt answers the request by itself, with 404 "unhandled request", and lets the listener
#   run on. Its `ack()` returns a response object with the text, which goes nowhere. The log's advice is to define a
#   listener for the command, which exists and is running.
# Versions: slack_bolt 1.30.0, slack_sdk 3.48.0, Python 3.11 and newer.
# Source: seen by running; https://docs.slack.dev/tools/bolt-python/concepts/acknowledge
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet slack-bolt==1.30.0 slack-sdk==3.48.0 aiohttp==3.14.5
cat >"$folder/try.py" <<'PYTHON'
import asyncio
import logging
import urllib.parse

from slack_bolt.async_app import AsyncApp, AsyncBoltRequest
from slack_bolt.authorization import AuthorizeResult

FIELDS = {"command": "/report", "text": "", "team_id": "T1", "channel_id": "C1", "user_id": "U1", "trigger_id": "1"}


async def authorize(**_):
    return AuthorizeResult(enterprise_id=None, team_id="T1", bot_token="xoxb-none", bot_id="B1", bot_user_id="U2")


async def answer(seconds):
    """The response that Slack gets, and what the listener's `ack` comes to."""
    app = AsyncApp(signing_secret="none", request_verification_enabled=False, authorize=authorize)
    acknowledged = asyncio.get_running_loop().create_future()

    @app.command("/report")
    async def report(ack):
        await asyncio.sleep(seconds)
        try:
            returned = await ack("Here it is.")
            acknowledged.set_result((returned.status, returned.body))
        except Exception as error:
            acknowledged.set_result(type(error).__name__)

    headers = {"content-type": ["application/x-www-form-urlencoded"]}
    response = await app.async_dispatch(AsyncBoltRequest(body=urllib.parse.urlencode(FIELDS), headers=headers))
    return (response.status, response.body), await acknowledged


async def main():
    seen = {seconds: await answer(seconds) for seconds in (0, 5)}
    for seconds, (response, acknowledged) in seen.items():
        print(f"ack() after {seconds} s: Slack gets {response}, ack() returned {acknowledged}")
    assert seen[0][0] == seen[0][1] == (200, "Here it is."), "it has changed"
    assert seen[5][0][0] == 404 and seen[5][1] == (200, "Here it is."), "it has changed"


logging.disable(logging.CRITICAL)
asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
