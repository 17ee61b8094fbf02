# SPDX-License-Identifier: Apache-2.0
"""The bundle: a folder that holds one exported network and all that is needed to use it.
Training writes, all else reads."""
