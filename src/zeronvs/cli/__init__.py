"""The command line: one file a verb; the only place that prints, parses arguments or exits."""


def main() -> None:
    """Run the command line."""
    raise SystemExit("not built yet")
