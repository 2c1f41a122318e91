"""`zeronvs study`: which of two methods people prefer, by pairs of videos on a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zeronvs._core.errors import InputError
from zeronvs.cli.arguments import (
    Device,
    check_counts,
    check_device,
    check_path,
    check_port,
    parse,
)


@dataclass(frozen=True, kw_only=True)
class StudyBuildArguments:
    """Make a preference study: videos of the same photographs by two methods, in pairs."""

    first: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="A")]
    """A run folder of `zeronvs scene`, or a folder of them."""
    second: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="B")]
    """The same photographs by another method."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
    """The study folder to make; a build that was stopped there is resumed."""
    names: Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="NAME NAME")] = None
    """Names of the methods in the report; those of the folders if not given."""
    path: str | None = None
    """A named path (see `zeronvs views --help`) or a file with cameras; if not given, the way all
    round of each run in A."""
    frames: int = 96
    """Frames along the path."""
    size: int = 512
    """Longer side in pixels."""
    fps: int = 24
    """Frames a second."""
    video: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Take this video of every run folder, such as orbit.mp4, instead of rendering."""
    device: Device = None
    """cpu, cuda, cuda:1, mps; the best one here if not given."""


@dataclass(frozen=True, kw_only=True)
class StudyServeArguments:
    """Serve the page of a study; several participants can answer at once, each when they like."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STUDY")]
    """The folder that `zeronvs study build` made; answers are kept there."""
    host: str = "127.0.0.1"
    """Address to serve at. With 0.0.0.0 the network can take part, for instance phones."""
    port: int = 8060
    """Port to serve at; 0 takes any that is free."""


@dataclass(frozen=True, kw_only=True)
class StudyReportArguments:
    """Report the preferences: shares with intervals by question and scene, and agreement."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STUDY")]
    """The folder that `zeronvs study build` made."""
    answers: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FILE")] = ()
    """Answers to the same study from other machines: their answers.sqlite."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None
    """A folder for report.html, table.md, metrics.json, answers.csv and preference.svg; report in
    the study folder if not given."""


def run(words: Sequence[str]) -> None:
    """Parse the second word and its arguments, and do it."""
    kind, rest = (words[0], words[1:]) if words else ("--help", [])
    if kind in ("-h", "--help"):
        print(
            "usage: zeronvs study build A B -o STUDY\n"
            "       zeronvs study serve STUDY [--host HOST] [--port PORT]\n"
            "       zeronvs study report STUDY [FILE ...] [-o OUT]"
        )
    elif kind == "build":
        _build(parse(StudyBuildArguments, rest, "study build"))
    elif kind == "serve":
        _serve(parse(StudyServeArguments, rest, "study serve"))
    elif kind == "report":
        _report(parse(StudyReportArguments, rest, "study report"))
    else:
        raise InputError(
            f"there is no 'study {kind}'; there are: study build, study serve, study report"
        )


def _build(arguments: StudyBuildArguments) -> None:
    """Make the videos that are missing, and say what is in the study."""
    check_counts(frames=arguments.frames, size=arguments.size, fps=arguments.fps)
    if arguments.path is not None:
        check_path(arguments.path)
    check_device(arguments.device)
    from zeronvs.cli.report import progress_bar
    from zeronvs.cli.resolve import best_device
    from zeronvs.evaluation.study_build import StudyConfig, build_study

    config = StudyConfig(
        path=arguments.path,
        frames=arguments.frames,
        size_px=arguments.size,
        frames_per_second=arguments.fps,
        video=arguments.video,
    )
    with progress_bar() as progress:
        built = build_study(
            arguments.first,
            arguments.second,
            arguments.out,
            config,
            methods=arguments.names,
            device=best_device(arguments.device),
            progress=progress,
        )
    for line in built.left_out:
        print(f"left out: {line}")
    study = built.study
    print(f"{arguments.out}: {len(study.pairs)} pairs, {study.methods[0]} and {study.methods[1]}")


def _serve(arguments: StudyServeArguments) -> None:
    """Serve the page until interrupted."""
    check_port(arguments.port)
    from zeronvs.cli.report import print_address
    from zeronvs.evaluation.study import read_study
    from zeronvs.evaluation.study_answers import Answers
    from zeronvs.web.server import serve
    from zeronvs.web.study_page import make_study_app

    study = read_study(arguments.folder)
    if missing := study.missing:
        raise InputError(
            f"{arguments.folder} lacks {len(missing)} videos. Call `zeronvs study build` again "
            "with the same arguments"
        )
    app = make_study_app(study, Answers(study), host=arguments.host)
    serve(app, host=arguments.host, port=arguments.port, started=print_address)


def _report(arguments: StudyReportArguments) -> None:
    """Print the table and write the report."""
    from zeronvs.cli.report import print_table
    from zeronvs.evaluation.study import read_study
    from zeronvs.evaluation.study_answers import ANSWERS_FILE, Answers, merged, read_answers
    from zeronvs.evaluation.study_report import (
        agreement_rows,
        notes,
        preference_rows,
        write_study_report,
    )

    study = read_study(arguments.folder)
    files = list(arguments.answers)
    if (own := arguments.folder / ANSWERS_FILE).exists():
        Answers(study)  # undoes what a killed server left half-done
        files.append(own)
    answers = merged(read_answers(file, study) for file in files)
    if not answers:
        raise InputError(
            f"{arguments.folder} has no answers yet. Collect them: zeronvs study serve"
        )
    written = write_study_report(arguments.out or arguments.folder / "report", study, answers)
    print_table(preference_rows(study, answers))
    print()
    print_table(agreement_rows(answers))
    print("\n" + "\n".join(f"note: {line}" for line in notes(study, answers)))
    print("\n" + "\n".join(str(path) for path in written))
