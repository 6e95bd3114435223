"""python -m lag_core COMMAND, also installed as `lag`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from lag_core.commands import COMMANDS
from lag_core.interruption import ended_by_signals, interrupted
from lag_core.sentences import OUTPUT, naming_stream, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0: done; 2: a user's mistake, with a one-sentence message; 1: our bug; 130, 143: a signal."""
    from lag_core.config import ConfigError
    from lag_core.data.dataset import DatasetMissing
    from lag_core.data.pictures import DataError
    from lag_core.runs import RunError

    options = None
    try:
        with ended_by_signals():
            options = parser().parse_args(arguments)
            code = options.run_command(options) or 0
            with naming_stream(sys.stdout):
                sys.stdout.flush()
            return code
    except (ConfigError, RunError, DatasetMissing, DataError) as error:
        say(f"lag: {error}", sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.filename == OUTPUT:
            _say_no_more()
        say(f"lag: {error.filename or 'the system'}: {error.strerror or error}", sys.stderr)
        return 2
    except KeyboardInterrupt as ended:
        return interrupted(ended, trains=getattr(options, "command", "") == "train")


def _say_no_more() -> None:
    """Drop what is left in standard output: Python would try to write it again at exit, and print its own error."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows each option's default, if it has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        takes_value = action.nargs != 0 and action.option_strings
        bare = not takes_value or action.default in (None, "", []) or "default" in text
        return text if bare else f"{text} (default: %(default)s)"


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="lag", description="Train, evaluate and explain incremental segmentation.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2].rstrip("_").replace("_", "-")  # import is a Python keyword
        text = (module.__doc__ or "").strip()
        own = commands.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            formatter_class=_Help,
        )
        module.add_arguments(own)
        own.set_defaults(run_command=module.run, command=name)
    return top


if __name__ == "__main__":
    raise SystemExit(main())
