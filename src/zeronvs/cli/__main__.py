"""`python -m zeronvs.cli` is `zeronvs`."""

from zeronvs.cli import main

main()
