"""Command line: parses options, calls functions, and turns expected errors into one line and an exit code."""
