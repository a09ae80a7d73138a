"""What a notebook found, kept as files: metrics.json, figures, tables, and its verdicts."""

import json
import math
import statistics
import time
from dataclasses import asdict

import yaml

from ..utils import paths

MISSING = "–"   # in tables: not published, or not run here


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
            image = Image.open(new).convert("RGB").quantize(256, dither=Image.Dither.NONE)   # a third of the size
            image.save(new, format="png", optimize=True)
        self.content["figures"][f"{name}.png"] = caption

    def table(self, frame, name):
        """Save a data frame as <name>.csv."""
        paths.write_text(self.folder / f"{name}.csv", frame.to_csv(index=False))

    def claim(self, claim, evidence, holds):
        """A claim of the paper, the number that speaks for or against it in this run, and whether it holds."""
        self.content["verdict"].append({"claim": claim, "evidence": evidence, "holds": bool(holds)})

    def published(self):
        """The paper's tables beside this run's, as Markdown to display."""
        return Markdown("\n\n".join(published_tables(self.content, read_published()[self.content["notebook"]])))

    def save(self):
        """Write metrics.json and return the verdict as Markdown to display."""
        self.content["seconds"] = round(time.perf_counter() - self.began, 1)
        paths.write_text(self.folder / "metrics.json", json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")
        return Markdown(verdict_table(self.content))


class Markdown(str):
    def _repr_markdown_(self):
        return str(self)


def read_published():
    return yaml.safe_load((paths.ROOT / "published.yaml").read_text(encoding="utf-8"))


def published_tables(content, paper):
    """The paper's tables with this run's values beside them, each a heading and a Markdown table."""
    for table in paper["tables"]:
        columns = table["columns"]
        # a figure in the paper has no numbers to print
        printed = {c for c in columns if any(c in row for row in table["rows"].values())}
        heads = [head for c in columns for head in ([f"{c}, published"] if c in printed else []) + [f"{c}, reproduced"]]
        lines = ["| | " + " | ".join(heads) + " | seeds |", "|---|" + "---:|" * (len(heads) + 1)]
        for key, row in table["rows"].items():
            ours = content["values"].get(key, {})   # a row may be only published, or not run in this profile
            if "ratio" in columns:
                ours = ours | {"ratio": [r / s for r, s in zip(ours["robust"], ours["standard"])]}
            seeds = len(next(iter(ours.values()))) if ours else MISSING
            digits = table.get("digits", 3)
            found = {c: spread(ours[c], digits) if c in ours else MISSING for c in columns}
            cells = [cell for c in columns for cell in ([str(row.get(c, MISSING))] if c in printed else [])
                     + [found[c]]]
            lines.append(f"| {row['label']} | " + " | ".join(cells) + f" | {seeds} |")
        yield f"### {table['name']}\n\nPublished: {table['source']}.\n\n" + "\n".join(lines)


def spread(values, digits=3):
    """Mean ± sample standard deviation, to so many significant digits of the mean; values that are not finite are no
    measurements."""
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return MISSING
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.{digits}g}"
    return f"{mean:.{digits}g} ± {statistics.stdev(values):.2g}"


def verdict_table(content):
    lines = ["| claim | evidence | holds? |", "|---|---|---|"]
    return "\n".join(lines + [f"| {v['claim']} | {v['evidence']} | {'yes' if v['holds'] else '**no**'} |"
                              for v in content["verdict"]])
