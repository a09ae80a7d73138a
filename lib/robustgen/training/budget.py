"""Several runs in a given time: in order of worth, parents first, side by side with other processes that do the same.

    robustgen train --profile laptop --minutes 50 --export out
"""

import os
import time

from .export import export_run
from .family import check_family, run_folders, train
from .runs import load_run, run_names
from .starts import parent_runs, parents_first

PAUSE = 2.0   # seconds between looks at what other processes train


def train_runs(names, profile, minutes, *, export=None, precision=None):
    """Train runs for so many minutes, to the end of the epoch in which they are over; the next call goes on from there.

    names    of runs; none for all of the profile, in the order of its train.yaml. What they start from comes first.
    export   a folder to write finished nets to, see `export_run`.

    Several processes may do this at once: each takes the next run that no other one is at. A run that keeps diverging
    or whose data cannot be had is passed over, and so is what starts from it. Returns the names of runs that are left.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("--minutes trains runs in one process; start it several times instead of by torchrun, and "
                         "each process takes another run")
    until = time.monotonic() + 60 * minutes
    left = parents_first(profile, names or run_names(profile))
    for name in left:
        check_family(name, profile)   # all of them, before the first takes its time
    starts = {name: parent_runs(profile, name) for name in left}
    passed = set()
    while time.monotonic() < until:
        for name in left:   # parents first
            if passed & {*starts[name]}:
                passed.add(name)
        ahead = [name for name in left if name not in passed]
        if not ahead:
            break
        for name in ahead:
            if {*left} & {*starts[name]}:
                continue
            try:
                if train(name, profile, precision=precision, until=until):
                    left.remove(name)
                if export:   # the nets that are finished; what other processes are at is theirs to export
                    export_run(name, profile, export)
            except BlockingIOError:   # another process is at it
                continue
            except (FloatingPointError, OSError) as problem:
                print(problem, flush=True)
                passed.add(name)
            break
        else:
            time.sleep(min(PAUSE, max(0.0, until - time.monotonic())))
    for name in left:
        print(f"left: {name}, {_progress(name, profile)}" + (", passed over" if name in passed else ""), flush=True)
    return left


def _progress(name, profile):
    members = load_run(profile, name).members()
    work, _ = run_folders(name, profile)
    return f"{sum((work / f'{member}.json').exists() for member in members)} of {len(members)} nets trained"
