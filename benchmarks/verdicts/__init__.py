"""Whether verdicts are right where the truth is known."""
