"""The arguments of `doctor`, `completion` and `help`."""

from __future__ import annotations

import click

from clerk_async.cli.app import (
    COMPLETION_VARIABLE,
    Settings,
    app,
    command,
    pass_settings,
    program_name,
)
from clerk_async.cli.exits import DONE


@command("doctor")
@pass_settings
def doctor_command(settings: Settings, /) -> int:
    """Check everything that a run needs, one line per check, without revoking anything.

    It checks the key and where it came from, the base URL, its host name and TLS, whether the
    service accepts the key, the instance, this machine's clock, the pace of bulk runs, and the
    shared state if one is set. It never prints the key. Exits with the code of the first check that
    fails: 2 for a setting, 3 for a refused key, 4 if the network or the service is unreachable, 1
    for a clock that is more than 5 seconds off.
    """
    import asyncio  # noqa: PLC0415 - not for help

    from clerk_async.cli.doctor import Doctor  # noqa: PLC0415 - not for help

    return asyncio.run(Doctor(settings).examine())


@command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@pass_settings
def completion_command(settings: Settings, /, *, shell: str) -> int:
    """Print the script that completes commands and options in your shell.

    \b
      bash:  echo 'eval "$(clerk-async completion bash)"' >> ~/.bashrc
      zsh:   echo 'eval "$(clerk-async completion zsh)"' >> ~/.zshrc
      fish:  clerk-async completion fish > ~/.config/fish/completions/clerk-async.fish
    """  # noqa: D301 - a control character of click, not a backslash
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - rarely asked

    complete = get_completion_class(shell)
    if complete is None:
        raise click.UsageError(f"no completion for {shell}")
    settings.out.result(complete(app, {}, "clerk-async", COMPLETION_VARIABLE).source())
    return DONE


@command("help")
@click.argument("name", metavar="[COMMAND]", required=False)
@pass_settings
def help_command(settings: Settings, /, *, name: str | None) -> int:
    """Show all commands, or the help of one."""
    context = click.Context(app, info_name=program_name(), **app.context_settings)
    if name is None:
        settings.out.result(app.get_help(context))
        return DONE
    _, found, _ = app.resolve_command(context, [name])
    if found is None:
        raise click.UsageError(f"no such command: {name}", context)
    settings.out.result(found.get_help(click.Context(found, context, name)))
    return DONE
