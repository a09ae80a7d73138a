"""The command line: `robustgen COMMAND`, or `python -m robustgen COMMAND`; `robustgen --help` lists the commands."""

import argparse
import errno
import json
import math
import os
import sys

from .utils import paths, profiles
from .utils.arguments import known


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one sentence."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; see: {self.prog} --help\n")


def positive(text):
    """A whole number from 1 up."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number, at least 1")
    return int(text)


def data(args):
    """Fetch MNIST, CIFAR-10 and LPIPS's weights into data/ and check them."""
    from .utils import mirrors

    if not args.check:
        return mirrors.fetch_datasets(args.names)
    mirrors.check_datasets(args.names)
    sums = {name: mirrors.CHECKSUMS[name] for name in args.names}
    paths.write_text(args.check, json.dumps(sums, indent=1) + "\n")


def minutes(text):
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} should be a number of minutes, greater than 0")
    return value


def train(args):
    """Train the nets of runs; a killed training goes on where it was."""
    from .training import budget, family, runs

    profile = args.profile or profiles.chosen_profile()
    if args.minutes:
        if not budget.train_runs(args.runs, profile, args.minutes, export=args.export, precision=args.precision):
            print("all are trained")
    elif args.export:
        raise ValueError("--export belongs to --minutes; say for how many minutes to train")
    elif not args.runs:
        print("\n".join(runs.run_names(profile)))
    else:
        for name in args.runs:
            folder = family.train(name, profile, precision=args.precision, strategy=args.strategy)
            print(folder.relative_to(paths.ROOT))


def restore(args):
    """Put nets that another machine has exported into results/."""
    from .training.export import restore_runs

    for folder in restore_runs(args.folder):
        print(folder.relative_to(paths.ROOT))


def report(args):
    """Write results/<profile>/REPORT.md: published beside reproduced."""
    from .experiments.report import write_report

    print(write_report(args.profile or profiles.chosen_profile()).relative_to(paths.ROOT))


def compare(args):
    """Tell how far this run's metrics agree with the committed ones, or those of two folders with each other."""
    from .experiments.compare import compare_metrics, compare_profile, read_metrics

    if len(args.what) > 2:
        raise ValueError(f"robustgen compare takes one profile or two folders; got {len(args.what)} names")
    if len(args.what) == 2:
        found = {"metrics": compare_metrics(*map(read_metrics, args.what), args.what)}
    else:
        found = {profile: compare_profile(profile) for profile in args.what or profiles.chosen_profiles()}
    for title, result in found.items():
        print(result.text(title) if result else f"{title}: no results are committed to compare this run with")
    problems = [f"{title}: {result.problems()}" for title, result in found.items() if result and result.problems()]
    if args.strict and problems:
        raise ValueError("; ".join(problems))


def zoo(args):
    """List the nets of a profile: what they are, whether they are trained, how well."""
    from .zoo.trained import print_nets

    print_nets(args.profile)


def profile(args):
    """Show or choose the profile that `dvc repro` runs, the switch in params.yaml."""
    print(profiles.select_profile(args.name) if args.name else " ".join(profiles.chosen_profiles()))


def pack(args):
    """Pack ImageNet's files into one array of squares a split, for profile paper."""
    from .data import imagenet
    from .utils import download

    target = download.given_folder() or paths.cache_folder()
    for split in imagenet.SPLITS:
        imagenet.pack_imagenet(args.folder, target, split, args.side or imagenet.SIDE)


COMMANDS = {function.__name__: function for function in (data, train, restore, report, compare, zoo, profile, pack)}


def parser():
    """The parser of all commands. The names of datasets and profiles in its help are those of this clone."""
    from .utils.mirrors import CHECKSUMS

    whole = Parser(prog="robustgen", description="Why can a robust classifier generate? `make repro` runs everything; "
                                                 "these are its parts.")
    commands = whole.add_subparsers(metavar="COMMAND", required=True)
    subs = {name: commands.add_parser(name, help=function.__doc__, description=function.__doc__)
            for name, function in COMMANDS.items()}
    for name, function in COMMANDS.items():
        subs[name].set_defaults(function=function)

    names = f"one of: {', '.join(profiles.profile_names())} (default: the chosen one)"
    for name in ("train", "zoo"):
        subs[name].add_argument("--profile", help=names)
    subs["report"].add_argument("profile", nargs="?", metavar="PROFILE", help=names)
    subs["compare"].add_argument("what", nargs="*", metavar="PROFILE | OLD NEW",
                                 help=f"{names}, all of those; or two folders such as results/laptop/metrics")
    subs["compare"].add_argument("--strict", action="store_true",
                                 help="exit with 1 if a verdict differs, a value is more than 10 %% apart, or one run "
                                      "has what the other lacks")
    subs["profile"].add_argument("name", nargs="?", metavar="PROFILE", help=names)
    subs["data"].add_argument("names", nargs="*", default=list(CHECKSUMS), metavar="NAME",
                              help=f"of: {', '.join(CHECKSUMS)} (default: all)")
    subs["data"].add_argument("--check", metavar="FILE",
                              help="fetch nothing: check what is there and write its MD5 sums to FILE")
    subs["train"].add_argument("runs", nargs="*", metavar="RUN",
                               help="a section of train.yaml; without one, their names are printed, a line each")
    subs["train"].add_argument("--minutes", type=minutes, metavar="M",
                               help="train for so long, without a RUN all of the profile; the next call goes on")
    subs["train"].add_argument("--export", metavar="FOLDER",
                               help="with --minutes: pack finished nets into FOLDER, in parts of at most 15 MB")
    subs["train"].add_argument("--precision", choices=("auto", "32-true", "bf16-mixed"),
                               help="of the arithmetic, in place of the run's own")
    subs["train"].add_argument("--strategy", choices=("ddp", "fsdp"), default="ddp",
                               help="for several processes (default: ddp)")
    subs["restore"].add_argument("folder", metavar="FOLDER", help="that `robustgen train --export` has written")
    subs["pack"].add_argument("folder", metavar="FOLDER", help="that has train/ and val/ with a folder a class")
    subs["pack"].add_argument("--side", type=positive,
                              help="pixels of a square's side (default: 256; ImageNet-64 has 64)")
    return whole


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        whole = parser()
        if not arguments:
            whole.error(f"a command is missing: {', '.join(COMMANDS)}")
        if not arguments[0].startswith("-"):
            known("command", arguments[0], COMMANDS)
        args = whole.parse_args(arguments)
        args.function(args)
        sys.stdout.flush()
    except BrokenPipeError:   # such as `robustgen zoo | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, FloatingPointError) as problem:
        if getattr(problem, "errno", None) == errno.ENOSPC:
            problem = "the disk is full; make room, then give the same command again: what is finished is kept"
        print(problem, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
