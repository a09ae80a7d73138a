"""The report: every notebook's metrics.json beside the papers' numbers of published.yaml, as
results/<profile>/REPORT.md.

Figures and metrics are copied beside it.
"""

import json
import math
import shutil
import statistics
from dataclasses import asdict

from ..training.runs import load_run
from ..utils import locks, paths
from ..utils.arguments import known
from ..utils.profiles import profile_names
from .record import published_tables, read_published, verdict_table
from .settings import load_settings

PROFILE_OF_THE_PAPERS = "paper"   # its settings are the papers' own, so a profile's difference from it can be told


def write_report(profile):
    """Write `results/<profile>/REPORT.md`, its figures, metrics and summary; return its path.

    summary.json has every notebook's means over seeds, {notebook: {row: {column: mean}}}, for `dvc metrics`.
    """
    known("profile", profile, profile_names())
    home = paths.RESULTS / profile
    published = read_published()
    parts = [f"# Published and reproduced: profile `{profile}`",
             "Reproduced values are mean ± sample standard deviation over training seeds. Made by `make repro`; do not "
             "edit."]
    sources = {notebook: home / notebook / "metrics.json" for notebook in published}
    for source in sources.values():   # all of them, before anything is written
        if not source.exists():
            raise FileNotFoundError(f"{source.relative_to(paths.ROOT)} is missing; make it with: make repro "
                                    f"PROFILE={profile}")
    summary = {}
    busy = f"the report of profile {profile!r} is being written by another process; wait until it ends"
    with (locks.writing(home, busy), paths.atomic(home / "figures") as figures,
          paths.atomic(home / "metrics") as metrics):
        figures.mkdir()
        metrics.mkdir()
        for notebook, paper in published.items():
            source = sources[notebook]
            content = json.loads(source.read_text(encoding="utf-8"))
            shutil.copyfile(source, metrics / f"{notebook}.json")
            summary[notebook] = {row: _means(columns) for row, columns in content["values"].items()}
            parts += [f"## {paper['paper']}", *published_tables(content, paper),
                      _differences(profile, notebook, paper["runs"]),
                      "\n".join(f"- {note}" for note in paper["notes"]), "### Verdict", verdict_table(content)]
            for file, caption in content["figures"].items():
                name = f"{notebook}-{file}"
                shutil.copyfile(source.parent / file, figures / name)
                parts.append(f"![{caption}](figures/{name})\n\n*{caption}*")
    paths.write_text(home / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    paths.write_text(home / "REPORT.md", "\n\n".join(parts) + "\n")
    return home / "REPORT.md"


def _means(columns):
    """{column: mean} of {column: values}, over the finite values; columns that have none are left out."""
    finite = {column: [v for v in values if math.isfinite(v)] for column, values in columns.items()}
    return {column: statistics.fmean(values) for column, values in finite.items() if values}


def _differences(profile, notebook, runs):
    """The settings in which a profile departs from the papers' own, as a Markdown table."""
    def flat(settings, prefix=""):
        for key, value in settings.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            # such as rows of a figure: too long for a table
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                yield f"{prefix}{key}", f"{len(value)}, see params/"
            else:
                yield f"{prefix}{key}", value

    lines = ["| setting | paper | here |", "|---|---|---|"]
    trained = [run for run in runs if load_run(profile, run).members()]
    lines += [f"| {run} | trained | not in this profile |" for run in runs if run not in trained]
    sources = [(notebook, lambda p: load_settings(p, notebook))]
    sources += [(run, lambda p, run=run: load_run(p, run)) for run in trained]
    for where, get in sources:
        theirs, ours = (dict(flat(asdict(get(p)))) for p in (PROFILE_OF_THE_PAPERS, profile))
        lines += [f"| {where}: {key} | {theirs.get(key, '–')} | {value} |" for key, value in ours.items()
                  if theirs.get(key) != value]
    return "### Settings that differ\n\n" + ("\n".join(lines) if len(lines) > 2 else "None.")
