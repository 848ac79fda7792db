"""Runs: a checked configuration becomes a compiled program, which is driven, written down, stopped and resumed."""
