"""Report of a preference study: tables, a plot, the answers as CSV."""

import csv
import html
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zeronvs._core.files import write_bytes, write_json
from zeronvs.evaluation.report_page import markdown, page, table
from zeronvs.evaluation.study import QUESTIONS, Study
from zeronvs.evaluation.study_answers import Answer
from zeronvs.evaluation.study_statistics import (
    Share,
    agreement,
    overall_share,
    scene_share,
    share_json,
    shown_first_share,
)

SCHEMA = 1
"""Version of the layout of metrics.json."""
PUBLISHED = {"realistic": 0.78, "creative": 0.82, "preferred": 0.80}
"""The paper's shares for anchoring (Sec. 4.2): 21 participants, 7 scenes of Mip-NeRF 360."""
Rows = list[list[str]]


def preference_rows(study: Study, answers: Sequence[Answer]) -> Rows:
    """Return the share of the first method by question: overall, then each scene."""
    rows = [["", *QUESTIONS]]
    rows.append(["all scenes", *(_cell(overall_share(_of(answers, q))) for q in QUESTIONS)])
    for pair in study.pairs:
        cells = [_cell(scene_share(_of(answers, q, pair.scene))) for q in QUESTIONS]
        rows.append([pair.scene, *cells])
    return rows


def agreement_rows(answers: Sequence[Answer]) -> Rows:
    """Return how far participants agree, and how often the first video was chosen."""
    rows = [["", *QUESTIONS]]
    alphas = [agreement(_of(answers, question)) for question in QUESTIONS]
    rows.append(["Krippendorff's alpha", *("" if a is None else f"{a:.2f}" for a in alphas)])
    sides = [shown_first_share(_of(answers, question)) for question in QUESTIONS]
    rows.append(["video 1 chosen", *("" if s is None else f"{100 * s:.0f} %" for s in sides)])
    return rows


def notes(study: Study, answers: Sequence[Answer]) -> list[str]:
    """Return what a reader must know to judge the numbers."""
    people = {answer.participant for answer in answers}
    whole = len(study.pairs) * len(QUESTIONS)
    complete = sum(sum(a.participant == person for a in answers) == whole for person in people)
    published = ", ".join(f"{name} {100 * value:.0f} %" for name, value in PUBLISHED.items())
    lines = [
        f"Share of answers for {study.methods[0]} over {study.methods[1]}, with 95 % intervals: "
        "over all scenes by bootstrap over participants, of each scene by Wilson.",
        f"Participants: {len(people)}, {complete} of them with all {whole} answers. Scenes: "
        f"{len(study.pairs)}. Answers: {len(answers)}.",
        "Krippendorff's alpha (nominal): 1 where all participants agree, 0 where as by chance; "
        "none where all answers are the same. Sides are random: video 1 should be near 50 %.",
        f"Published for anchoring over none (21 participants, 7 scenes): {published}.",
    ]
    if len(people) < 2:
        lines.append("With one participant there is no interval over participants.")
    elif any(
        share.low == share.high
        for question in QUESTIONS
        if (share := overall_share(_of(answers, question)))
    ):
        lines.append(
            "An interval of no width means that all participants gave the same share; it does not "
            "say how others would answer. See the scenes."
        )
    return lines


def write_study_report(out: Path, study: Study, answers: Sequence[Answer]) -> list[Path]:
    """Write `report.html`, `table.md`, `metrics.json`, `answers.csv` and `preference.svg`.

    Args:
        out: The folder.
        study: The study.
        answers: At least one, of this study.

    Returns:
        The files.
    """
    title = f"Preference study: {study.methods[0]} and {study.methods[1]}"
    preferences, agreements = preference_rows(study, answers), agreement_rows(answers)
    remarks, plot = notes(study, answers), preference_svg(study, answers)
    text = f"# {title}\n\n{markdown(preferences)}\n{markdown(agreements)}\n"
    text += "".join(f"- {line}\n" for line in remarks)
    parts = [f"<h1>{html.escape(title)}</h1>", table(preferences), plot]
    parts += ["<h2>Agreement</h2>", table(agreements)]
    parts += [f"<p>{html.escape(line)}</p>" for line in remarks]
    parts.append("<h2>Questions</h2>")
    parts.append(table([["", "as asked"], *([key, asked] for key, asked in QUESTIONS.items())]))
    settings = ", ".join(f"{name}: {value}" for name, value in study.settings.items())
    parts.append(f"<p><small>Study {study.id}; {html.escape(settings)}</small></p>")
    write_json(out / "metrics.json", _as_json(study, answers))
    write_bytes(out / "answers.csv", _csv(study, answers).encode())
    write_bytes(out / "preference.svg", plot.encode())
    write_bytes(out / "table.md", text.encode())
    write_bytes(out / "report.html", page(title, parts).encode())
    names = ("report.html", "table.md", "metrics.json", "answers.csv", "preference.svg")
    return [out / name for name in names]


def preference_svg(study: Study, answers: Sequence[Answer]) -> str:
    """Return a plot of the shares with their intervals, by question; the line is 50 %."""
    lines: list[tuple[str, Share | None, bool]] = []  # the last: over all scenes
    for question in QUESTIONS:
        lines.append((question, overall_share(_of(answers, question)), True))
        for pair in study.pairs:
            lines.append((pair.scene, scene_share(_of(answers, question, pair.scene)), False))
    left, width, row = 220, 480, 24
    height = row * len(lines) + 56
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 40} {height}" '
        f'width="{left + width + 40}" role="img" style="max-width: 100%; background: #fff" '
        'font-family="system-ui, sans-serif" font-size="13">'
        f"<title>Share of answers for {html.escape(study.methods[0])}</title>"
    ]
    for percent in (0, 25, 50, 75, 100):
        x = left + width * percent / 100
        shade = "#333" if percent == 50 else "#ccc"
        parts.append(f'<path d="M{x:g} 8V{height - 44}" stroke="{shade}" stroke-width="1"/>')
        parts.append(f'<text x="{x:g}" y="{height - 28}" text-anchor="middle">{percent} %</text>')
    caption = f"{study.methods[1]} chosen — {study.methods[0]} chosen"
    parts.append(
        f'<text x="{left + width / 2:g}" y="{height - 8}" text-anchor="middle">'
        f"{html.escape(caption)}</text>"
    )
    for index, line in enumerate(lines):
        parts.append(_plot_line(*line, y=index * row + 20, left=left, width=width))
    return "".join(parts) + "</svg>\n"


def _plot_line(
    label: str, share: Share | None, over_all: bool, *, y: int, left: int, width: int
) -> str:
    """Return one line of the plot: a name, an interval, a dot."""
    weight, colour = ("bold", "#9a4f10") if over_all else ("normal", "#35618e")
    short = label if len(label) <= 28 else f"{label[:27]}…"
    drawn = (
        f'<text x="{left - 14}" y="{y + 4}" text-anchor="end" font-weight="{weight}">'
        f"{html.escape(short)}</text>"
    )
    if share is None:
        return drawn
    if share.low is not None and share.high is not None:
        ends = f"M{left + width * share.low:.1f} {y}H{left + width * share.high:.1f}"
        drawn += f'<path d="{ends}" stroke="{colour}" stroke-width="{4 if over_all else 2}"/>'
    middle = left + width * share.value
    return drawn + f'<circle cx="{middle:.1f}" cy="{y}" r="5" fill="{colour}"/>'


def _of(answers: Sequence[Answer], question: str, scene: str | None = None) -> list[Answer]:
    """Return the answers to one question, about one scene where it is given."""
    return [a for a in answers if a.question == question and scene in (None, a.scene)]


def _cell(share: Share | None) -> str:
    if share is None:
        return ""
    text = f"{100 * share.value:.0f} %"
    if share.low is not None and share.high is not None:
        text += f" [{100 * share.low:.0f}, {100 * share.high:.0f}]"
    return f"{text} ({share.count}/{share.answers})"


def _csv(study: Study, answers: Sequence[Answer]) -> str:
    """Return the answers, with participants by number in the order of their hashes."""
    people = sorted({answer.participant for answer in answers})
    number = {person: index + 1 for index, person in enumerate(people)}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["participant", "scene", "question", "chosen", "video_1", "answered_at"])
    for answer in answers:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(answer.answered_at))
        methods = study.methods[answer.chosen], study.methods[answer.first]
        person = number[answer.participant]
        writer.writerow([person, answer.scene, answer.question, *methods, moment])
    return stream.getvalue()


def _as_json(study: Study, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return every number of the report."""
    results: list[dict[str, Any]] = []
    for question in QUESTIONS:
        whole = overall_share(_of(answers, question))
        shares: list[tuple[str | None, str, Share | None]] = [
            (None, "bootstrap over participants", whole)
        ]
        for pair in study.pairs:
            shares.append((pair.scene, "Wilson", scene_share(_of(answers, question, pair.scene))))
        for scene, interval, share in shares:
            if share is not None:
                place = {"question": question, "scene": scene, "interval": interval}
                results.append({"metric": "preference"} | place | dict(share_json(share)))
    return {
        "schema": SCHEMA,
        "kind": "preference study",
        "study": study.id,
        "methods": list(study.methods),
        "settings": study.settings,
        "participants": len({answer.participant for answer in answers}),
        "results": results,
        "agreement": {
            question: {
                "krippendorff_alpha": agreement(_of(answers, question)),
                "video_1": shown_first_share(_of(answers, question)),
            }
            for question in QUESTIONS
        },
        "published": PUBLISHED,
        "notes": notes(study, answers),
    }
