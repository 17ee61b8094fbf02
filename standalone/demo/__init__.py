# SPDX-License-Identifier: Apache-2.0
"""Plays a recording in real time to the pose node and shows the detections."""
