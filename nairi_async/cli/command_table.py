"""What the command line understands, as data: the parser and the completion scripts are both made from it."""

from __future__ import annotations

from typing import Final

from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._core.concealed import Concealed
from nairi_async._nairi.delivery.search_window import SETTLING_TIME
from nairi_async._nairi.listing.listing import JOB_STATUSES
from nairi_async._nairi.listing.paging import SORTS
from nairi_async.cli.amigo_commands import AMIGO
from nairi_async.cli.arguments import (
    AGENT,
    ASK_MODE,
    ATTACHMENTS,
    CONNECTION,
    JOB,
    PROGRESS,
    PROMPT,
    TIMEOUT,
    Argument,
    Command,
    count,
    factor,
    json_option,
    port,
    share,
)

SHELLS: Final = ("bash", "fish", "zsh")
"""Shells for which there is a completion script."""

DATABASE: Final = Argument(
    "--database",
    help="a PostgreSQL database that workers share: postgresql://user@host/name",
    metavar="URL",
    type=Concealed,
)

COMMANDS: Final = (
    Command(
        "demo",
        "demo:demo",
        "show a conversation, without a key or an account",
        "Show a conversation of two turns with a simulated agent, and how to have one with the real service.",
        (Argument("--fast", help="run in virtual time: the whole demo in a moment", action="store_true"),),
    ),
    Command(
        "ask",
        "conversation:ask",
        "send a prompt and print the reply",
        "Send a prompt. The reply's text goes to standard output, everything else to standard error.",
        (
            AGENT,
            PROMPT,
            ASK_MODE,
            *ATTACHMENTS,
            PROGRESS,
            TIMEOUT,
            json_option("the reply"),
            *CONNECTION,
        ),
    ),
    Command(
        "continue",
        "conversation:continue_",
        "send a further prompt to a conversation",
        "Send a further prompt to a conversation. The reply's text goes to standard output, everything else to standard"
        " error.",
        (JOB, PROMPT, *ATTACHMENTS, PROGRESS, TIMEOUT, json_option("the reply"), *CONNECTION),
    ),
    Command(
        "chat",
        "chat:chat",
        "talk to an agent, line by line",
        "Talk to an agent: each line is a prompt, and a line that ends in a backslash goes on. What the agent does is"
        " shown while it runs. Ctrl-C stops the wait, and not the turn: an empty line waits again. Ctrl-D, or Ctrl-C at"
        " the prompt, ends the chat and prints the command that goes on with it.",
        (
            Argument("agent", help="slug or id of the agent", metavar="AGENT", nargs="?"),
            Argument("--job", help="go on with this conversation", metavar="JOB"),
            ASK_MODE,
            TIMEOUT,
            json_option("each reply"),
            *CONNECTION,
        ),
    ),
    Command(
        "watch",
        "conversation:watch",
        "print the messages of a conversation as they come",
        "Print the messages of a conversation as they come, and at the end the command that continues from there.",
        (
            JOB,
            Argument("--after", help="print only what follows this message", metavar="ID"),
            Argument("--follow", help="go on after the last turn has ended", action="store_true"),
            PROGRESS,
            TIMEOUT,
            json_option("each message"),
            *CONNECTION,
        ),
    ),
    Command(
        "simulate",
        "simulate:simulate",
        "run the simulated service until Ctrl-C",
        "Run a simulated service on this machine until Ctrl-C or SIGTERM, for programs in any language. The variables"
        " to set are printed first, then each request.",
        (
            Argument("--host", help="address to listen on (%(default)s)", default="127.0.0.1"),
            Argument("--port", help="port to listen on (0: any free one)", type=port, default=0),
            Argument("--api-key", help="the key to accept, not a real one", metavar="KEY"),
            Argument("--amigo", help="simulate Amigo instead of Nairi", action="store_true"),
            Argument(
                "--script",
                help="what each agent, or service of Amigo, does: a file of JSON, see help(nairi_async.testing)",
                metavar="FILE",
            ),
            Argument(
                "--slow",
                help="let everything take so many times as long (%(const)s without a number)",
                type=factor,
                nargs="?",
                const=20.0,
                metavar="FACTOR",
            ),
            Argument(
                "--faults",
                help="let this share of the requests fail (%(const)s without a number)",
                type=share,
                nargs="?",
                const=0.1,
                metavar="SHARE",
            ),
            Argument("--seed", help="selects the requests that fail (%(default)s)", type=int, default=0, metavar="N"),
            Argument("--concurrency", help="turns that each agent runs at a time", type=count, metavar="N"),
            Argument("--strict-agents", help="refuse agents that the script does not name", action="store_true"),
        ),
    ),
    Command(
        "agents",
        "resources:agents",
        "list the agents of the organisation",
        "List the agents of the organisation: slug, id, name, description.",
        (json_option("each agent"), *CONNECTION),
    ),
    Command(
        "conversations",
        "resources:conversations",
        "list the conversations of an agent",
        "List the conversations of an agent: id, status, time of the last change. Pages are read as they are printed.",
        (
            AGENT,
            Argument(
                "--status",
                help="list only these; may be repeated",
                action="append",
                default=[],
                choices=JOB_STATUSES,
            ),
            Argument("--sort", help="the order (%(default)s)", default="created_at_desc", choices=SORTS),
            Argument("--limit", help="stop after so many", type=count, metavar="N"),
            json_option("each conversation"),
            *CONNECTION,
        ),
    ),
    Command(
        "messages",
        "resources:messages",
        "print the messages of a conversation as they are now",
        "Print the messages of a conversation as they are now, oldest first.",
        (
            JOB,
            Argument("--progress", help="include what the agent was doing", action="store_true"),
            json_option("each message"),
            *CONNECTION,
        ),
    ),
    Command(
        "upload",
        "resources:upload",
        "upload files and print their ids",
        "Upload files. Each row is the id, for --attachment-id, and the name.",
        (
            Argument("files", help="a file; - reads standard input", metavar="FILE", nargs="+"),
            Argument("--filename", help="the name to store instead of the file's own", metavar="NAME"),
            json_option("each id"),
            *CONNECTION,
        ),
    ),
    Command(
        "download",
        "resources:download",
        "download files",
        "Download files into a directory and print their paths, or write one file to standard output.",
        (
            Argument("ids", help="id of a file", metavar="ID", nargs="+"),
            Argument("--directory", help="where to write (the current one)", metavar="DIR", default="."),
            Argument("--overwrite", help="replace files that exist", action="store_true"),
            Argument("--stdout", help="write the file to standard output instead", action="store_true"),
            json_option("each path"),
            *CONNECTION,
        ),
    ),
    Command(
        "batch",
        "batch:batch",
        "send many prompts, and go on where an earlier run ended",
        "Send all prompts of a file, and go on where an earlier run ended. Replies go to --output, else they are"
        ' printed. Each line of the file is a JSON string, or an object with "prompt" and optionally "id" and'
        ' "attachments" (paths). A file .csv or .tsv is a table whose first row names the same columns; of a file .txt'
        " each line is a prompt.",
        (
            Argument("prompts", help="file of prompts; - reads standard input", metavar="PROMPTS", nargs="?"),
            Argument(
                "--format", help="what the file holds (by default its name says)", choices=("json", "csv", "text")
            ),
            Argument("--agent", help="slug or id of the agent", metavar="AGENT"),
            Argument("--ledger", help="the file that records prompts and outcomes", metavar="FILE"),
            DATABASE,
            Argument("--name", help="the batch's name in the database", metavar="NAME"),
            Argument(
                "--reader",
                help="whose place in the outcomes to go on from, with a database (%(default)s)",
                default="command",
                metavar="NAME",
            ),
            Argument("--output", help="append each outcome, once, as a line of JSON", metavar="FILE"),
            Argument(
                "--attachments-from",
                help="refuse attachments outside of this directory; without it the records may name any file that you"
                " can read, so give it if they come from others",
                metavar="DIR",
            ),
            Argument("--limit", help="conversations at once (%(default)s)", type=count, default=100, metavar="N"),
            ASK_MODE,
            Argument(
                "--timeout",
                help="how long to wait for each turn (default: 6 hours)",
                type=float,
                default=DEFAULT_TIMEOUT,
                metavar="SECONDS",
            ),
            Argument("--retry-failed", help="send again what ended without a reply", action="store_true"),
            Argument(
                "--on-unknown",
                help="look up prompts whose response was lost, or only report them (%(default)s)",
                choices=("reconcile", "report"),
                default="reconcile",
            ),
            Argument(
                "--settle",
                help="how long to look for them (%(default)s)",
                type=float,
                default=SETTLING_TIME,
                metavar="SECONDS",
            ),
            Argument("--status", help="show how far a batch is, and send nothing", action="store_true"),
            Argument("--check", help="check all records, and send nothing", action="store_true"),
            json_option("the status or the check"),
            *CONNECTION,
        ),
    ),
    AMIGO,
    Command(
        "worker",
        "cluster:worker",
        "work on the batches of a database, with any number of other workers",
        "Send the prompts of all batches in a database, and wait for their replies, until Ctrl-C or SIGTERM. Workers"
        " may be started, stopped and killed at any time. A password belongs into PGPASSWORD or ~/.pgpass.",
        (
            DATABASE,
            Argument("--limit", help="conversations at once (%(default)s)", type=count, default=100, metavar="N"),
            Argument(
                "--requests-per-second",
                help="rate of all workers together; give the same to each (default: no limit)",
                type=float,
                metavar="N",
            ),
            Argument(
                "--concurrency",
                help="conversations at once of all workers together; give the same to each (default: no limit)",
                type=count,
                metavar="N",
            ),
            *CONNECTION,
        ),
    ),
    Command(
        "completion",
        "completion:completion",
        "print a script that completes commands in a shell",
        "Print a script that completes commands and options; source it from the shell's start-up file.",
        (Argument("shell", help="the shell", choices=SHELLS),),
    ),
)
"""All commands, in the order of the help."""
