"""The metrics of two runs, such as this one and the committed one: how far they agree, and what does not.

Machines differ in the last bit of a float, and the steps of an attack amplify it. So values are counted by how closely
they agree, and each verdict that turned over is told with both evidences.
"""

import collections
import json
import math
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..utils import paths
from ..utils.arguments import known
from ..utils.profiles import profile_names

CLOSE, NEAR = 0.01, 0.1
ROUNDING = 2.0**-23      # of float32 at 1: values that differ by less agree, however small they are
TIMES = (", h", ", s")   # how names of quantities end that tell a machine's speed, which is no result


@dataclass
class Comparison:
    """How far two runs agree. The lists `far`, `verdicts`, `missing` and `settings` have a text for each difference."""

    names: tuple       # what the two runs are called
    counts: collections.Counter   # of single values: "same", "close" (within 1 %), "near" (within 10 %), "far"
    far: list          # quantities with a value that is further away
    agreed: int        # verdicts
    verdicts: list     # that differ, with both evidences
    missing: list      # values and claims of one run alone
    settings: list     # of the notebooks
    seconds: list      # that the cells of the notebooks took, in either run

    def problems(self):
        """What `--strict` refuses, in words; "" if nothing."""
        counted = {"verdicts differ": len(self.verdicts), "values are more than 10 % apart": self.counts["far"],
                   "values or claims are in one run only": len(self.missing)}
        return ", ".join(f"{count} {words}" for words, count in counted.items() if count)

    def text(self, title):
        """What differs, a line each, and one that sums it up. Each begins with `title`."""
        old, new = self.names
        times = " and ".join(f"{_minutes(seconds)} in {run}" for seconds, run in zip(self.seconds, self.names))
        values, close = self.counts.total(), self.counts["same"] + self.counts["close"]
        if not self.problems() and not self.settings and self.counts["same"] == values:
            found = f"{new} changes nothing of {old}: all {values} values and {self.agreed} verdicts are the same"
        else:
            verdicts = self.agreed + len(self.verdicts)
            found = (f"{new} and {old} agree within 1 % in {close} of {values} values, within 10 % in "
                     f"{self.counts['near']} more, and not in {self.counts['far']}; {self.agreed} of {verdicts} "
                     "verdicts are the same")
        details = [*self.settings, *self.missing, *self.far, *self.verdicts]
        return "\n".join([f"{title}: {line}" for line in [*details, f"{found}. The notebooks' cells took {times}"]])


def compare_profile(profile):
    """Compare `results/<profile>/metrics` with the committed ones; return a `Comparison`, or None if none are
    committed."""
    known("profile", profile, profile_names())
    committed = committed_metrics(profile)
    if not committed:
        return None
    folder = paths.RESULTS / profile / "metrics"
    if not folder.is_dir():
        raise FileNotFoundError(f"{paths.shown(folder)} is missing; make it with: make repro PROFILE={profile}")
    return compare_metrics(committed, read_metrics(folder), ("the committed run", "this run"))


def committed_metrics(profile):
    """{notebook: the content of its metrics.json} of a profile in the last commit; empty if it has none."""
    listed = _git("ls-tree", "-z", "--name-only", "HEAD", f"results/{profile}/metrics/")
    return {Path(name).stem: _parsed(_git("show", f"HEAD:./{name}"), name) for name in filter(None, listed.split("\0"))}


def _git(*command):
    try:
        done = subprocess.run(["git", *command], cwd=paths.ROOT, capture_output=True, text=True, encoding="utf-8")
    except FileNotFoundError:
        raise OSError("the committed results cannot be read, as git is not installed; install it") from None
    if done.returncode:
        raise OSError("the committed results cannot be read: this should be a git clone of the repository; git says: "
                      + done.stderr.strip().partition("\n")[0])
    return done.stdout


def read_metrics(folder):
    """{notebook: content} of a folder's <notebook>.json, such as `results/<profile>/metrics`."""
    files = sorted(Path(folder).glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{folder} has no metrics; it should be a folder with a <notebook>.json for each "
                                "notebook, such as results/laptop/metrics")
    return {file.stem: _parsed(file.read_text(encoding="utf-8"), file) for file in files}


def _parsed(text, source):
    try:
        content = json.loads(text)
        return {"values": dict(_leaves(content["values"])), "settings": dict(_leaves(content["settings"])),
                "verdict": _claims(content["verdict"]), "seconds": float(content["seconds"])}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{paths.shown(source)} is no file of a notebook's metrics: {error!r}") from None


def _leaves(tree, path=()):
    """(path, list of numbers or strings) of each quantity in nested dicts and lists."""
    if isinstance(tree, list) and not any(isinstance(entry, dict | list) for entry in tree):
        yield path, tree
    elif isinstance(tree, dict | list):
        for key, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _leaves(branch, (*path, str(key)))
    else:
        yield path, [tree]


def _claims(verdict):
    """{(claim, which of those with this wording): (verdict, evidence)}."""
    seen = collections.Counter()
    found = {}
    for entry in verdict:
        seen[entry["claim"]] += 1
        found[entry["claim"], seen[entry["claim"]]] = entry["holds"], entry["evidence"]
    return found


def compare_metrics(old, new, names):
    """Compare {notebook: content} of two runs, as `read_metrics` gives them; `names` is what the two are called.

    A value's difference is relative to the larger of the two, or to the median over the quantity's seeds where that is
    larger still: so one seed's value near 0 is judged by the size of the others. Values that are not finite, and texts,
    agree if they are the same. Training times are left out.
    """
    result = Comparison(names, collections.Counter(), [], 0, [], [], [],
                        [sum(content["seconds"] for content in run.values()) for run in (old, new)])
    for notebook in sorted({*old, *new}):
        sides = [run.get(notebook) for run in (old, new)]
        if None in sides:
            result.missing.append(f"notebook {notebook} is only in {names[sides.index(None) - 1]}")
            continue
        for path, pair in _paired(sides, "settings"):
            if pair[0] != pair[1]:
                result.settings.append(f"settings differ: {notebook}, {'.'.join(path)}: {_both(pair, names)}")
        for path, pair in _paired(sides, "values"):
            label = f"{notebook}, {', '.join(path)}"
            if label.endswith(TIMES):
                continue
            grades = [_grade(*values, pair) for values in zip(*(side or [] for side in pair))]
            result.counts.update(grades)
            if len(pair[0] or []) != len(pair[1] or []):
                result.missing.append(f"{label} differs in how many values it has: {_both(pair, names)}")
            elif "far" in grades:
                result.far.append(f"more than 10 % apart: {label}: {_both(pair, names)}")
        for (claim, _), pair in _paired(sides, "verdict"):
            if None in pair:
                result.missing.append(f"claim is only in {names[pair.index(None) - 1]}: {notebook}, {claim}")
            elif pair[0][0] == pair[1][0]:
                result.agreed += 1
            else:
                result.verdicts.append(f"verdict differs: {notebook}, {claim}: " + "; ".join(
                    f"{_word(holds)} in {name} ({evidence})" for (holds, evidence), name in zip(pair, names)))
    return result


def _paired(sides, part):
    """(key, [old entry, new entry]) of all keys of either run, None where it has none."""
    old, new = (side[part] for side in sides)
    return [(key, [old.get(key), new.get(key)]) for key in {**old, **new}]


def _both(pair, names):
    return ", ".join(f"{_numbers(values)} in {name}" for values, name in zip(pair, names))


def _numbers(values):
    if values is None:
        return "none"
    return " ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)


def _grade(old, new, pair):
    """How far two values agree: "same", "close", "near" or "far"."""
    if old == new or (old != old and new != new):   # NaN in both
        return "same"
    if isinstance(old, str) or isinstance(new, str) or None in (old, new) or not math.isfinite(old - new):
        return "far"
    usual = statistics.median(abs(value) for side in pair for value in side
                              if isinstance(value, float | int) and math.isfinite(value))
    apart = abs(old - new) / max(abs(old), abs(new), usual) if abs(old - new) > ROUNDING else 0.0
    return "close" if apart <= CLOSE else "near" if apart <= NEAR else "far"


def _word(holds):
    return {True: "yes", False: "no"}.get(holds, holds)


def _minutes(seconds):
    return f"{int(seconds // 60)} min {round(seconds % 60)} s"
