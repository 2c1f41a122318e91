"""`zeronvs evaluate fig7|fig9`: figures of the paper with our numbers."""

from typing import Any

from zeronvs.cli.arguments import check_counts, check_device
from zeronvs.cli.evaluate import (
    NO_PERCEPTUAL,
    EvaluateFig7Arguments,
    EvaluateFig9Arguments,
    perceptual_network,
)


def make_figure7(arguments: EvaluateFig7Arguments) -> None:
    """Measure, print and write Figure 7."""
    check_counts(size_px=arguments.size_px, limit=arguments.limit)
    from zeronvs.cli.evaluate_table import find_lpips
    from zeronvs.cli.report import print_table, progress_bar
    from zeronvs.depth.builtin import load_builtin_depth
    from zeronvs.evaluation.figure7 import Figure7Config, evaluate_figure7, ordering_notes
    from zeronvs.evaluation.image_metrics import ImageMetrics
    from zeronvs.evaluation.views_report import table_rows, write_views_report

    perceptual = perceptual_network(arguments.perceptual_weights)
    lpips = find_lpips({"VGG16": None, "AlexNet": None}) if arguments.lpips else ()
    with progress_bar() as progress:
        evaluation = evaluate_figure7(
            arguments.folder,
            ImageMetrics(perceptual=perceptual, lpips=tuple(lpips)),
            Figure7Config(size_px=arguments.size_px, limit=arguments.limit),
            geometry_estimator=load_builtin_depth(),
            progress=progress,
        )
    notes = ordering_notes(evaluation)
    files = write_views_report(
        arguments.out,
        evaluation,
        source=str(arguments.folder),
        model="Figure 7: blurred and misaligned views",
        notes=notes,
    )
    print_table(table_rows(evaluation))
    _print_end(notes, files, perceptual is None)


def make_figure9(arguments: EvaluateFig9Arguments) -> None:
    """Measure, print and write Figure 9."""
    check_counts(size=arguments.size)
    check_device(arguments.device)
    from zeronvs.cli.report import print_table, progress_bar
    from zeronvs.cli.resolve import best_device
    from zeronvs.evaluation.figure9 import (
        diversity_rows,
        evaluate_figure9,
        notes,
        write_figure9,
    )

    perceptual = perceptual_network(arguments.perceptual_weights)
    with progress_bar() as progress:
        groups = evaluate_figure9(
            arguments.runs,
            perceptual,
            size_px=arguments.size,
            device=best_device(arguments.device),
            progress=progress,
        )
    files = write_figure9(arguments.out, groups)
    print_table(diversity_rows(groups))
    _print_end(notes(groups), files, perceptual is None)


def _print_end(lines: list[str], files: list[Any], lacks_perceptual: bool) -> None:
    """Print notes, what is missing, and the files."""
    print("\n" + "\n".join(f"note: {line}" for line in lines))
    if lacks_perceptual:
        print(NO_PERCEPTUAL)
    print("\n" + "\n".join(str(path) for path in files))
