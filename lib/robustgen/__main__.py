"""The command line: `robustgen COMMAND`, or `python -m robustgen COMMAND`; `robustgen --help` lists the commands."""

import argparse
import json
import os
import sys

from .utils import paths
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
    from .utils import mirrors

    if not args.check:
        return mirrors.fetch_datasets(args.names)
    mirrors.check_datasets(args.names)
    sums = {name: mirrors.CHECKSUMS[name] for name in args.names}
    paths.write_text(args.check, json.dumps(sums, indent=1) + "\n")


def pack(args):
    from .data import imagenet
    from .utils import download

    for split in imagenet.SPLITS:
        imagenet.pack_imagenet(args.folder, download.folders()[0], split, args.side or imagenet.SIDE)


def train(args):
    from .training import family, runs
    from .utils.profiles import chosen_profile

    profile = args.profile or chosen_profile()
    if args.run is None:
        print("\n".join(runs.run_names(profile)))
    else:
        folder = family.train(args.run, profile, precision=args.precision, strategy=args.strategy)
        print(folder.relative_to(paths.ROOT))


def report(args):
    from .experiments.report import write_report
    from .utils.profiles import chosen_profile

    print(write_report(args.profile or chosen_profile()).relative_to(paths.ROOT))


def zoo(args):
    from .zoo.trained import print_nets

    print_nets(args.profile)


def profile(args):
    from .utils.profiles import chosen_profiles, select_profile

    print(select_profile(args.name) if args.name else " ".join(chosen_profiles()))


def parser():
    """The parser of all commands. Names of datasets and profiles in its help are those of this clone."""
    from .utils.mirrors import CHECKSUMS
    from .utils.profiles import profile_names

    profiles = f"one of: {', '.join(profile_names())}"
    whole = Parser(prog="robustgen", description="Why can a robust classifier generate? `make repro` runs everything; "
                                                 "these are its parts.")
    commands = whole.add_subparsers(metavar="COMMAND", dest="command", required=True)

    def command(function, description, **arguments):
        sub = commands.add_parser(function.__name__, help=description, description=description)
        for name, settings in arguments.items():
            flags = [name] if settings.pop("positional", False) else [f"--{name}"]
            sub.add_argument(*flags, **settings)
        sub.set_defaults(function=function)

    command(data, "Fetch MNIST and CIFAR-10 into data/ and check them.",
            names=dict(positional=True, nargs="*", default=list(CHECKSUMS), metavar="NAME",
                       help=f"of: {', '.join(CHECKSUMS)} (default: all)"),
            check=dict(metavar="FILE", help="fetch nothing: check what is there and write its MD5 sums to FILE"))
    command(train, "Train the nets of a run; a killed training goes on where it was.",
            run=dict(positional=True, nargs="?", metavar="RUN",
                     help="a section of params/<profile>/train.yaml; without it, their names are printed, a line each"),
            profile=dict(help=f"{profiles} (default: the chosen one)"),
            precision=dict(choices=("32-true", "bf16-mixed"), help="of the arithmetic, in place of the run's own"),
            strategy=dict(choices=("ddp", "fsdp"), default="ddp", help="for several processes (default: ddp)"))
    command(report, "Write results/<profile>/REPORT.md: published beside reproduced.",
            profile=dict(positional=True, nargs="?", metavar="PROFILE", help=f"{profiles} (default: the chosen one)"))
    command(zoo, "List the nets of a profile: what they are, whether they are trained, how well.",
            profile=dict(help=f"{profiles} (default: the chosen one)"))
    command(profile, "Show or choose the profile that `dvc repro` runs, the switch in params.yaml.",
            name=dict(positional=True, nargs="?", metavar="PROFILE",
                      help=f"{profiles}; without it, the chosen one is printed"))
    command(pack, "Pack ImageNet's files into one array of squares a split, for profile paper.",
            folder=dict(positional=True, metavar="FOLDER", help="that has train/ and val/ with a folder a class"),
            side=dict(type=positive, help="pixels of a square's side (default: 256; ImageNet-64 has 64)"))
    return whole


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if not paths.PARAMS.is_dir():
            raise OSError(f"robustgen's commands need a clone of the repository, with its params/ and dvc.yaml; "
                          f"{paths.ROOT} is none. Clone it, and run `make env` there.")
        whole = parser()
        if not arguments:
            whole.error("a command is missing: " + ", ".join(whole._subparsers._group_actions[0].choices))
        if not arguments[0].startswith("-"):
            known("command", arguments[0], whole._subparsers._group_actions[0].choices)
        args = whole.parse_args(arguments)
        args.function(args)
        sys.stdout.flush()
    except BrokenPipeError:   # such as `robustgen zoo | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, FloatingPointError) as problem:
        print(problem, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
