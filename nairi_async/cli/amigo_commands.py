"""The commands below `nairi-async amigo`, as data."""

from __future__ import annotations

from typing import Final

from nairi_async.cli.arguments import LOGGING, PROMPT, TIMEOUT, Argument, Command, count, json_option, plain_url

_CONNECTION: Final = (
    Argument(
        "--base-url",
        help="URL of the service; else AMIGO_BASE_URL, else the real service",
        type=plain_url,
        metavar="URL",
    ),
    *LOGGING,
)
_CONVERSATION: Final = Argument("conversation", help="id of the conversation", metavar="CONVERSATION")

AMIGO: Final = Command(
    "amigo",
    None,
    "talk to a service of Amigo: create, ask, finish, list",
    "Conversations with Amigo's services. The reply is printed as it streams; everything else goes to standard error."
    " The account comes from AMIGO_API_KEY (or AMIGO_API_KEY_FILE), AMIGO_API_KEY_ID, AMIGO_USER_ID and"
    " AMIGO_ORGANIZATION_ID.",
    commands=(
        Command(
            "create",
            "amigo:create",
            "begin a conversation and print the reply",
            "Begin a conversation. Without a prompt the agent speaks first.",
            (
                Argument("service", help="id of the service", metavar="SERVICE"),
                Argument(*PROMPT.names, help=PROMPT.help, metavar="PROMPT", nargs="?"),
                TIMEOUT,
                json_option("the reply"),
                *_CONNECTION,
            ),
        ),
        Command(
            "ask",
            "amigo:ask",
            "send a further prompt to a conversation",
            "Send a further prompt to a conversation, and print the reply.",
            (_CONVERSATION, PROMPT, TIMEOUT, json_option("the reply"), *_CONNECTION),
        ),
        Command(
            "finish",
            "amigo:finish",
            "finish a conversation",
            "Finish a conversation: only then can the same user begin another with the same service.",
            (_CONVERSATION, *_CONNECTION),
        ),
        Command(
            "list",
            "amigo:list_",
            "list conversations",
            "List the conversations that the user may see, newest first: id, service, beginning, messages, state.",
            (
                Argument("--service", help="list only those of this service", metavar="SERVICE"),
                Argument("--open", help="list only those that are not finished", action="store_true"),
                Argument("--limit", help="stop after so many", type=count, metavar="N"),
                json_option("each conversation"),
                *_CONNECTION,
            ),
        ),
        Command(
            "messages",
            "amigo:messages",
            "print the messages of a conversation",
            "Print the messages of a conversation as they are now, oldest first.",
            (_CONVERSATION, json_option("each message"), *_CONNECTION),
        ),
        Command(
            "services",
            "amigo:services",
            "list the services of the organisation",
            "List the services of the organisation: id and name.",
            (json_option("each service"), *_CONNECTION),
        ),
    ),
)
