"""`python -m daskmoe` is the `daskmoe` command."""

from daskmoe.cli import main

main()
