"""The command line `ingest`: one module per command. What the commands do lives elsewhere.

Exit codes: 0 ok; 1 a check failed, or something does not answer; 2 wrong use (a flag, a stream, a
setting, a contract, a statement).
"""


def main() -> None:
    """Run the command that the process was given, and exit with its code."""
    from ingestion_platform.cli.app import app

    app(prog_name="ingest")
