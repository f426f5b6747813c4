"""The command line: one verb per job. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

# Threads that wait must not spin: on a machine that does anything else besides, spinning makes a step several times
# slower (measured: 6 times on two cores). It must stand before torch is imported; results do not depend on it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer

from medvl.cli import convert, data, demo, evaluate, experiments, metric, old_spellings, predict, train
from medvl.cli.options import VerbGroup
from medvl.core.errors import InputError, hold_warnings, print_warnings
from medvl.data.workers import clear_worker_errors


def _group(help: str, **verbs: Callable[..., None]) -> typer.Typer:
    """A command with verbs, in the order given; `label_budget` is typed `label-budget`, `import_` is `import`."""
    group = typer.Typer(
        cls=VerbGroup,
        help=help,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for name, verb in verbs.items():
        group.command(name.rstrip("_").replace("_", "-"))(verb)
    return group


# In the order of use.
app = _group(
    "Medical images and their text: pre-train, segment, evaluate. Research software, not a medical device.",
    demo=demo.demo,
    predict=predict.predict,
    train=train.train,
    fit=train.fit,
    evaluate=evaluate.evaluate,
    compare=evaluate.compare,
    report=evaluate.report,
    convert=convert.convert,
)
app.add_typer(
    _group(
        "Prepare a table of images and texts: import, check, audit, split, pack, unpack, tokenizer, phantom.",
        import_=data.import_,
        check=data.check,
        audit=data.audit,
        split=data.split,
        pack=data.pack,
        unpack=data.unpack,
        tokenizer=data.tokenizer,
        phantom=data.phantom,
    ),
    name="data",
)
app.add_typer(_group("Say what the numbers of a table mean: explain.", explain=metric.explain), name="metric")
app.add_typer(
    _group(
        "Run experiments: sweep, benchmark, label-budget, suggest, localise, pretrain-text.",
        sweep=experiments.sweep,
        benchmark=experiments.benchmark,
        label_budget=experiments.label_budget,
        suggest=experiments.suggest,
        localise=experiments.localise,
        pretrain_text=experiments.pretrain_text,
    ),
    name="x",
)
for name, verb in old_spellings.VERBS.items():
    app.command(name, hidden=True)(verb)

_OTHER_PLACE = "another --out, or its permissions"
_ROOM = "free some space, then go on or give the same command again"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def main() -> None:
    """Run a verb; bad input and a file that cannot be used are one clear error and exit code 2, Ctrl-C is 130."""
    hold_warnings()
    try:
        with clear_worker_errors():
            code = app(standalone_mode=False) or 0
        print_warnings()
        if code > 128:  # a signal, 130 = Ctrl-C, of which typer makes an exit code
            print("interrupted", file=sys.stderr)
        sys.exit(code)
    except InputError as error:
        print_warnings()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        # The operating system names the file that it refused; without a name it may be a defect, whose trace is needed.
        name = error.filename2 or error.filename
        named = isinstance(name, (str, bytes, os.PathLike)) and bool(name)
        if not named and error.errno not in _NO_ROOM:
            raise
        what = f"cannot be written or read ({error.strerror or type(error).__name__})"
        remedy = _ROOM if error.errno in _NO_ROOM else _OTHER_PLACE
        print_warnings()
        place = os.fsdecode(name) if named else None
        print(f"error: {InputError.unreadable(what, file=place, remedy=remedy)}", file=sys.stderr)
        sys.exit(InputError.exit_code)
    except Exception as error:  # click's own usage errors know how to show themselves
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        sys.exit(2)
