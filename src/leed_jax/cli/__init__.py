"""The command lines: what each understands, asks the library for, and prints."""
