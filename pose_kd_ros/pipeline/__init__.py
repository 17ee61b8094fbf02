# SPDX-License-Identifier: Apache-2.0
"""Image in, poses out: preprocessing, network, decoding and PnP, as the node, the
evaluation and training run them."""
