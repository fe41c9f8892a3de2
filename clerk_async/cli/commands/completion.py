"""`completion`: the script that teaches a shell to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from clerk_async.cli.app import COMPLETION_VARIABLE, Settings, app, command, pass_settings
from clerk_async.cli.exits import DONE


@command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@pass_settings
def completion_command(settings: Settings, /, *, shell: str) -> int:
    """Print the script that completes commands and options in your shell.

    \b
      bash:  echo 'eval "$(clerk-async completion bash)"' >> ~/.bashrc
      zsh:   echo 'eval "$(clerk-async completion zsh)"' >> ~/.zshrc
      fish:  clerk-async completion fish > ~/.config/fish/completions/clerk-async.fish
    """  # noqa: D301 - a control character of click, no backslash
    complete = get_completion_class(shell)
    if complete is None:
        raise click.UsageError(f"no completion for {shell}")
    settings.out.result(complete(app, {}, "clerk-async", COMPLETION_VARIABLE).source())
    return DONE
