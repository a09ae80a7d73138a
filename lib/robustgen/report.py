"""What a notebook found, kept as files, and the report that puts it beside the papers' numbers.

A notebook writes `results/<profile>/<notebook>/`: metrics.json, figures and tables. `python -m
robustgen.report PROFILE` reads every metrics.json and `published.yaml` and writes `results/<profile>/REPORT.md`
with copies of the figures and metrics beside it.
"""

import json
import math
import shutil
import statistics
import sys
import time
from dataclasses import asdict

import yaml

from . import config, paths

MISSING = "–"   # in tables: not published, or not run here
PROFILE_OF_THE_PAPERS = "paper"   # its settings are the papers' own, so a profile's difference from it can be told


class Record:
    """Collects the values, figures, tables and verdicts of a notebook and saves them together."""

    def __init__(self, notebook, profile, settings):
        self.folder = paths.RESULTS / profile / notebook
        self.content = {"notebook": notebook, "profile": profile, "settings": asdict(settings),
                        "values": {}, "figures": {}, "verdict": []}
        self.began = time.perf_counter()

    def value(self, key, **columns):
        """Keep a quantity: for each column (such as standard=..., robust=...) one number a seed."""
        self.content["values"][key] = {column: [float(v) for v in values] for column, values in columns.items()}

    def mean(self, key, column):
        """Mean over the seeds of a quantity kept before."""
        return statistics.fmean(self.content["values"][key][column])

    def figure(self, figure, name, caption):
        """Save a figure as <name>.png with its caption."""
        from PIL import Image

        with paths.atomic(self.folder / f"{name}.png") as new:
            figure.savefig(new, format="png")
            Image.open(new).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(new, format="png", optimize=True)   # a third of the size
        self.content["figures"][f"{name}.png"] = caption

    def table(self, frame, name):
        """Save a data frame as <name>.csv."""
        paths.write(self.folder / f"{name}.csv", frame.to_csv(index=False))

    def claim(self, claim, evidence, holds):
        """A claim of the paper, the number that speaks for or against it in this run, and whether it holds."""
        self.content["verdict"].append({"claim": claim, "evidence": evidence, "holds": bool(holds)})

    def published(self):
        """The paper's tables beside this run's, as Markdown to display."""
        return _Markdown("\n\n".join(_tables(self.content, _published()[self.content["notebook"]])))

    def save(self):
        """Write metrics.json and return the verdict as Markdown to display."""
        self.content["seconds"] = round(time.perf_counter() - self.began, 1)
        paths.write(self.folder / "metrics.json", json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")
        return _Markdown(_verdict(self.content))


class _Markdown(str):
    def _repr_markdown_(self):
        return str(self)


def report(profile):
    """Write `results/<profile>/REPORT.md`, its figures and metrics; return its path."""
    config.known("profile", profile, config.profiles())
    home = paths.RESULTS / profile
    published = _published()
    parts = [f"# Published and reproduced: profile `{profile}`",
             "Reproduced values are mean ± sample standard deviation over training seeds. Made by `make repro`; do not edit."]
    with paths.atomic(home / "figures") as figures, paths.atomic(home / "metrics") as metrics:
        figures.mkdir()
        metrics.mkdir()
        for notebook, paper in published.items():
            source = home / notebook / "metrics.json"
            if not source.exists():
                raise FileNotFoundError(f"{source.relative_to(paths.ROOT)} is missing; make it with: make repro PROFILE={profile}")
            content = json.loads(source.read_text(encoding="utf-8"))
            shutil.copyfile(source, metrics / f"{notebook}.json")
            parts += [f"## {paper['paper']}", *_tables(content, paper), _differences(profile, notebook, paper["runs"]),
                      "\n".join(f"- {note}" for note in paper["notes"]), "### Verdict", _verdict(content)]
            for file, caption in content["figures"].items():
                name = f"{notebook}-{file}"
                shutil.copyfile(source.parent / file, figures / name)
                parts.append(f"![{caption}](figures/{name})\n\n*{caption}*")
    paths.write(home / "REPORT.md", "\n\n".join(parts) + "\n")
    return home / "REPORT.md"


def _published():
    return yaml.safe_load((paths.ROOT / "published.yaml").read_text(encoding="utf-8"))


def _tables(content, paper):
    """The paper's tables with this run's values beside them, each a heading and a Markdown table."""
    for table in paper["tables"]:
        columns = table["columns"]
        printed = {c for c in columns if any(c in row for row in table["rows"].values())}   # a figure in the paper has no numbers to print
        heads = [head for c in columns for head in ([f"{c}, published"] if c in printed else []) + [f"{c}, reproduced"]]
        lines = ["| | " + " | ".join(heads) + " | seeds |", "|---|" + "---:|" * (len(heads) + 1)]
        for key, row in table["rows"].items():
            ours = content["values"].get(key, {})   # a row may be only published, or not run in this profile
            if "ratio" in columns:
                ours = ours | {"ratio": [r / s for r, s in zip(ours["robust"], ours["standard"])]}
            seeds = len(next(iter(ours.values()))) if ours else MISSING
            digits = table.get("digits", 3)
            found = {c: spread(ours[c], digits) if c in ours else MISSING for c in columns}
            cells = [cell for c in columns for cell in ([str(row.get(c, MISSING))] if c in printed else []) + [found[c]]]
            lines.append(f"| {row['label']} | " + " | ".join(cells) + f" | {seeds} |")
        yield f"### {table['name']}\n\nPublished: {table['source']}.\n\n" + "\n".join(lines)


def spread(values, digits=3):
    """Mean ± sample standard deviation, to so many significant digits of the mean; values that are not finite are no measurements."""
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return MISSING
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.{digits}g}"
    return f"{mean:.{digits}g} ± {statistics.stdev(values):.2g}"


def bootstrap(*values, statistic=None, draws=2000, generator=0):
    """95 % percentile interval of a statistic of `values`, each (n,): resampled with replacement, together.

    statistic   called with resampled values, each (draws, n), gives (draws,); the default is the mean.
    """
    import torch

    values = [torch.as_tensor(v).cpu().double() for v in values]
    n = len(values[0])
    resampled = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(generator))
    found = (statistic or (lambda v: v.mean(1)))(*(v[resampled] for v in values))
    return found.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()


def _differences(profile, notebook, runs):
    """The settings in which a profile departs from the papers' own, as a Markdown table."""
    def flat(settings, prefix=""):
        for key, value in settings.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            elif isinstance(value, list) and value and isinstance(value[0], dict):   # such as rows of a figure: too long for a table
                yield f"{prefix}{key}", f"{len(value)}, see params/"
            else:
                yield f"{prefix}{key}", value

    lines = ["| setting | paper | here |", "|---|---|---|"]
    trained = [run for run in runs if config.run(profile, run).members()]
    lines += [f"| {run} | trained | not in this profile |" for run in runs if run not in trained]
    for where, get in [(notebook, lambda p: config.load(p, notebook))] + [(run, lambda p, run=run: config.run(p, run)) for run in trained]:
        theirs, ours = (dict(flat(asdict(get(p)))) for p in (PROFILE_OF_THE_PAPERS, profile))
        lines += [f"| {where}: {key} | {theirs.get(key, '–')} | {value} |" for key, value in ours.items() if theirs.get(key) != value]
    return "### Settings that differ\n\n" + ("\n".join(lines) if len(lines) > 2 else "None.")


def _verdict(content):
    lines = ["| claim | evidence | holds? |", "|---|---|---|"]
    return "\n".join(lines + [f"| {v['claim']} | {v['evidence']} | {'yes' if v['holds'] else '**no**'} |" for v in content["verdict"]])


def main():
    import argparse

    parser = argparse.ArgumentParser(prog="python -m robustgen.report", description="Write results/<profile>/REPORT.md.")
    parser.add_argument("profile", help=f"one of: {', '.join(config.profiles())}")
    try:
        print(report(parser.parse_args().profile).relative_to(paths.ROOT))
    except (ValueError, OSError) as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
