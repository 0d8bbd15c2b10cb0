"""`python -m daskmoe.cli` is the `daskmoe` command."""

from daskmoe.cli import main

main()
