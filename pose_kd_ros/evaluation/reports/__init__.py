# SPDX-License-Identifier: Apache-2.0
"""What people read of an evaluation: its page, its worst frames, and comparisons with other evaluations."""
