"""What people read of an evaluation: its page, its worst frames, and comparisons with other evaluations."""
