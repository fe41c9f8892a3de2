"""The table of commands, the global options, and the mapping from errors to exit codes."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click

from clerk_async.cli.exits import DONE, FAILED, INTERRUPTED, USAGE, Refused, exit_code_of
from clerk_async.cli.output import Output, escape_unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clerk_async.config import Endpoint

COMMANDS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Sessions": {
        "list": ("sessions", "List the sessions of a user or a client."),
        "get": ("sessions", "Show sessions by their ids."),
        "create": ("sessions", "Create a session (development instances only)."),
        "token": ("tokens", "Create a session token, or one from a JWT template."),
        "refresh": ("tokens", "Exchange an expired token for a new one."),
    },
    "In an incident": {
        "revoke": ("revoke", "Revoke sessions by their ids, one or a million."),
        "revoke-all": ("revoke", "Revoke every live session of users."),
        "deny": ("denying", "Refuse tokens in every process at once, without asking the service."),
        "allow": ("denying", "Take a denial back."),
    },
    "Check tokens": {
        "verify-token": ("tokens", "Verify a session token without asking the service."),
        "verify": ("tokens", "Verify a token over the network (deprecated by Clerk)."),
    },
    "Set up": {
        "doctor": ("set_up", "Check the key, the network, the clock and the pace of runs."),
        "shared-status": ("denying", "Show what the processes on a key share."),
        "completion": ("set_up", "Print the script that completes commands in your shell."),
        "help": ("set_up", "Show this text, or the help of a command."),
    },
    "Try it": {
        "demo": ("try_it", "Watch a bulk revocation on this machine, in under a minute."),
        "fake-server": ("try_it", "Run a Clerk Sessions service to test against."),
    },
}
"""By heading: each command's module and summary, so that help imports none of the modules."""


COMPLETION_VARIABLE: Final = "_CLERK_ASYNC_COMPLETE"
"""A shell sets it to ask for completions."""


class Settings:
    """The global options, all arguments, and what was made from them."""

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.arguments = arguments
        self.key_file: str | None = None
        self.base_url: str | None = None
        self.is_json = False
        self.is_quiet = False
        self.is_verbose = False
        self.secret_key: str | None = None
        self.endpoint: Endpoint | None = None
        self._output: Output | None = None

    @property
    def out(self) -> Output:
        """Where to print."""
        if self._output is None:
            self._output = Output(is_json=self.is_json, is_quiet=self.is_quiet)
        return self._output


pass_settings: Callable[[Callable[..., Any]], Callable[..., Any]] = click.make_pass_decorator(
    Settings, ensure=True
)


def _note(context: click.Context, option: click.Parameter, value: Any) -> None:
    if value is not None and value is not False:
        setattr(context.ensure_object(Settings), str(option.name), value)


def _shared_options(*, hidden: bool) -> list[click.Option]:
    """Make the global options; commands take them too, so the order doesn't matter."""
    option = partial(click.Option, expose_value=False, callback=_note, hidden=hidden)
    return [
        option(
            ["--key-file"],
            type=click.Path(),
            metavar="FILE",
            help="Read the secret key from FILE, which contains nothing else, or has a "
            "CLERK_SECRET_KEY= line, as .env files do.",
        ),
        option(
            ["--base-url"],
            metavar="URL",
            help="URL of the API, including /v1; default: CLERK_API_URL, or Clerk's own.",
        ),
        option(["--json", "is_json"], is_flag=True, help="Print results as JSON lines."),
        option(["--quiet", "-q", "is_quiet"], is_flag=True, help="Print only results and errors."),
        option(
            ["--verbose", "-v", "is_verbose"],
            is_flag=True,
            help="Log each request and its outcome on stderr.",
        ),
    ]


_SHARED: Final = (
    "The global options --key-file, --base-url, --json, --quiet and --verbose work here too: see "
    "clerk-async --help."
)


class _Command(click.Command):
    """A command that also accepts the global options.

    Args:
        greedy: Options that take all values up to the next option: `--user a b` means `--user a
            --user b`.
    """

    def __init__(self, *arguments: Any, greedy: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.epilog = _SHARED
        self.params.extend(_shared_options(hidden=True))
        self._greedy = greedy

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _spread(args, self._greedy))


def _spread(arguments: list[str], greedy: Sequence[str]) -> list[str]:
    spread: list[str] = []
    option, has_value = "", False
    for position, argument in enumerate(arguments):
        if argument == "--":
            return spread + arguments[position:]
        if argument.startswith("-") and argument != "-":
            name, equals, _ = argument.partition("=")
            option, has_value = (name if name in greedy else ""), bool(equals)
        elif option:
            if has_value:
                spread.append(option)
            has_value = True
        spread.append(argument)
    return spread


def command(name: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Turn a function into a command, with its one-line help from the table."""
    short_help = next(rows[name][1] for rows in COMMANDS.values() if name in rows)
    return click.command(name, cls=_Command, short_help=short_help, **settings)


class _App(click.Group):
    """The program: a group that imports each command on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return [name for rows in COMMANDS.values() for name in rows]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        for rows in COMMANDS.values():
            if cmd_name in rows:
                module = import_module(f"clerk_async.cli.commands.{rows[cmd_name][0]}")
                found: click.Command = getattr(module, cmd_name.replace("-", "_") + "_command")
                return found
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            from difflib import get_close_matches  # noqa: PLC0415 - only for a slip

            near = get_close_matches(args[0], self.list_commands(ctx), 1)
            hint = f" Did you mean {near[0]}?" if near else " See clerk-async --help."
            ctx.fail(f"no such command: {args[0]}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        width = max(len(name) for rows in COMMANDS.values() for name in rows)
        for heading, rows in COMMANDS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), text) for name, (_, text) in rows.items()])


_HELP = """List and revoke Clerk sessions, and verify their tokens.

The secret key comes from CLERK_SECRET_KEY or --key-file. No option takes the key itself, because it
would be visible in the process list.
"""
_EPILOG = """Exit codes: 0 done; 1 some sessions failed, or nothing matched; 2 wrong usage, or not
confirmed; 3 key refused; 4 service or network unreachable; 130 interrupted."""


def _version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from clerk_async.version import __version__  # noqa: PLC0415 - rarely asked

        context.ensure_object(Settings).out.result(f"clerk-async {__version__}")
        context.exit()


app: click.Group = _App(
    "clerk-async",
    help=_HELP,
    epilog=_EPILOG,
    callback=lambda: None,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[
        *_shared_options(hidden=False),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="Show the version and exit.",
        ),
    ],
)


def program_name() -> str:
    """Return the command that started this program."""
    return "python -m clerk_async" if sys.argv[0].endswith("__main__.py") else "clerk-async"


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    settings = Settings(arguments)
    for stream in (sys.stdout, sys.stderr):  # click writes help to them
        escape_unknown(stream)
    try:
        code = _invoke(settings)
    except SystemExit as end:
        # click also ends the process this way if the reader of the help has gone.
        is_reader_gone = type(sys.stdout).__name__.endswith("PacifyFlushWrapper")
        code = DONE if is_reader_gone else int(end.code or 0)
    except OSError as error:
        settings.out.out.let_go(error)
        code = FAILED
    finally:
        if "clerk_async.cli.messages" in sys.modules:
            from clerk_async.cli.messages import hide_log  # noqa: PLC0415 - not for help

            hide_log()
    return FAILED if code == DONE and settings.out.out.has_failed else code


def _invoke(settings: Settings) -> int:
    if not settings.arguments and COMPLETION_VARIABLE not in os.environ:
        context = click.Context(app, info_name=program_name(), **app.context_settings)
        settings.out.err.write(app.get_help(context) + "\n")
        return USAGE
    try:
        code = app.main(
            list(settings.arguments),
            prog_name=program_name(),
            complete_var=COMPLETION_VARIABLE,
            standalone_mode=False,
            obj=settings,
        )
    except click.ClickException as error:
        return _refuse_usage(error, settings)
    except (KeyboardInterrupt, click.Abort):
        settings.out.clear_live()
        settings.out.error("interrupted")
        return INTERRUPTED
    except Exception as error:
        from clerk_async.errors import ClerkError  # noqa: PLC0415 - attrs, not for help

        if not isinstance(error, ClerkError):
            raise
        from clerk_async.cli.messages import error_text  # noqa: PLC0415 - not for help

        settings.out.clear_live()
        settings.out.error(error_text(error))
        return exit_code_of(error)
    return code if isinstance(code, int) else DONE


def _refuse_usage(error: click.ClickException, settings: Settings) -> int:
    out = settings.out
    out.error(error.format_message())
    context = getattr(error, "ctx", None)
    if isinstance(context, click.Context):
        out.note(f"{context.get_usage()}\nTry: {context.command_path} --help")
    return USAGE if isinstance(error, click.UsageError | Refused) else FAILED
