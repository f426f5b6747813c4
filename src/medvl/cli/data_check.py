"""medvl doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    layout: Annotated[str | None, typer.Argument(help="a published layout; none: list them all")] = None,
    folder: Annotated[Path | None, typer.Argument(help="where the set lies; none: say what it consists of")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print what was found as JSON")] = False,
) -> None:
    """What is missing of a published set, where it is obtained and on which terms. Without arguments: all layouts.

    Exit code 0 when the set is complete, 1 when a required file is missing.
    """
    import json

    from medvl.data.importers.doctor import examine
    from medvl.data.importers.layouts import LAYOUTS, get_layout

    if layout is None:
        if as_json:
            print(json.dumps({"layouts": {known.name: known.title for known in LAYOUTS.values()}}))
            return
        width = max(map(len, LAYOUTS))
        for known in LAYOUTS.values():
            print(f"{known.name:{width}}  {known.title}")
        return
    chosen = get_layout(layout)
    facts: dict[str, object] = {"layout": chosen.name, "title": chosen.title}
    facts |= {"obtained": chosen.obtained, "terms": chosen.terms, "met": chosen.met, "note": chosen.note}
    if folder is None:
        parts = chosen.parts
        facts["parts"] = [
            {"what": part.what, "files": part.patterns, "expected": part.num, "required": part.required}
            for part in parts
        ]
        lines = [_line(part.what, part.patterns, part.num, part.required, "") for part in parts]
        complete = True
    else:
        result = examine(chosen, folder)
        complete = all(found.complete for found in result)
        facts |= {"folder": str(folder), "complete": complete}
        facts["parts"] = [
            {
                "what": found.part.what,
                "files": found.part.patterns,
                "expected": found.part.num,
                "required": found.part.required,
                "found": found.num_found,
                "missing": found.num_missing,
            }
            for found in result
        ]
        lines = []
        for found in result:
            state = "ok" if not found.num_missing else f"{found.num_missing:,} MISSING"
            if found.num_missing and not found.part.required:
                state = "absent"
            part, state = found.part, f"{found.num_found:,} found, {state}"
            lines.append(_line(part.what, part.patterns, part.num, part.required, state))
    if as_json:
        print(json.dumps(facts))
    else:
        print(f"{chosen.name}: {chosen.title}")
        print("\n".join(lines))
        said = {"obtained": chosen.obtained, "terms": chosen.terms, "real files met": chosen.met, "note": chosen.note}
        for label, text in said.items():
            if text:
                print(f"  {label}: {text}")
        if folder is not None:
            print(f"{folder}: {'complete' if complete else 'something is missing'}")
    if not complete:
        raise typer.Exit(code=1)


def _line(what: str, patterns: tuple[str, ...], num: int | None, required: bool, found: str) -> str:
    expected = "at least one" if num is None else f"{num:,} files"
    if not required:
        expected += ", optional"
    return f"  {what}: {expected} ({' or '.join(patterns)})" + (f": {found}" if found else "")
