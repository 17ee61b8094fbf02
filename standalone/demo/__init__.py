# SPDX-License-Identifier: Apache-2.0
"""Plays a recording in real time into the pose node and shows what arrives."""
