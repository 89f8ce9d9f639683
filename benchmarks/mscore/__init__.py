"""What an M-Score is worth: its figures where the truth is known."""
