# SPDX-License-Identifier: Apache-2.0
"""Losses of the heatmap family and of online distillation, on maps that a test can reckon with."""

import math

import pytest

torch = pytest.importorskip("torch")

from training.losses.distill import DistillConfig  # noqa: E402
from training.losses.heatmap import gaussian_maps, map_loss, of_class  # noqa: E402
from training.losses.online import (  # noqa: E402
    OnlineConfig,
    distance,
    gradient_ratio,
    map_terms,
    map_transport,
    online_terms,
    pixel_kl,
    spatial_log_softmax,
)

SHAPE = (16, 12)  # not square


@pytest.fixture
def maps():
    torch.manual_seed(0)
    return torch.rand(3, 2, 5, *SHAPE)  # (T, B, K, h, w)


def visible(batch=2, keypoints=5):
    return torch.ones(batch, keypoints)


def peaks(*points):
    return gaussian_maps(torch.tensor([points], dtype=torch.float32), (64, 64), 4)


def test_targets_peak_where_the_keypoint_is_between_pixels_too():
    (map_,) = peaks((5.5, 9.5))[0]  # map pixels (1, 2)
    assert map_[2, 1] == 1.0 and map_.max() == 1.0
    (between,) = peaks((7.5, 9.5))[0]
    assert between[2, 1] == pytest.approx(between[2, 2].item()) == pytest.approx(math.exp(-0.25 / 8))


def test_a_keypoint_nowhere_has_an_empty_map():
    assert peaks((-1e4, -1e4)).max() == 0


def test_maps_are_those_of_each_crops_class():
    maps = torch.arange(2 * 3 * 4).float().view(2, 3, 4, 1, 1)
    assert of_class(maps, torch.tensor([2, 0]))[:, 0, 0, 0].tolist() == [8.0, 12.0]
    assert of_class(maps.expand(5, 2, 3, 4, 1, 1), torch.tensor([2, 0])).shape == (5, 2, 4, 1, 1)


def test_invisible_keypoints_count_nothing_and_none_visible_gives_zero(maps):
    target, seen = torch.zeros(2, 5, *SHAPE), visible()
    seen[:, 3:] = 0
    maps.requires_grad_()
    map_loss(maps, target, seen).backward()
    assert (maps.grad[:, :, 3:] == 0).all() and (maps.grad[:, :, :3] != 0).all()
    expected = map_loss(maps[:, :, :3], target[:, :3], seen[:, :3])
    torch.testing.assert_close(map_loss(maps, target, seen), expected)
    none = map_loss(maps, target, torch.zeros(2, 5))
    none.backward()
    assert none == 0 and torch.isfinite(maps.grad).all()


@pytest.mark.parametrize("align", ["kl", "l2", "transport"])
def test_no_visible_keypoint_is_nothing_to_learn(maps, align):
    maps.requires_grad_()
    terms = distance(maps[1], maps, torch.zeros(2, 5), OnlineConfig("ensemble", align))
    terms["online"].backward()
    assert terms["online"] == 0 and torch.isfinite(maps.grad).all()


def test_temperature_puts_the_mass_under_the_peak():
    peak, near = peaks((126.0, 126.0))[0, 0], peaks((126.0, 126.0))[0, 0] > 0.05
    share = {t: spatial_log_softmax(peak, t).exp()[near.flatten()].sum().item() for t in (0.1, 1.0)}
    assert share[0.1] == pytest.approx(0.94, abs=0.02) and share[1.0] < 0.06


def test_kl_is_zero_where_maps_differ_by_a_constant_and_nowhere_else(maps):
    assert pixel_kl(maps, maps + 3.0, 0.1).abs().max() < 1e-6
    assert (pixel_kl(maps, maps.roll(1, -1), 0.1) > 1e-4).all()


def test_kl_is_the_libraries(maps):
    p, q = (m.flatten(-2) / 0.5 for m in (maps[0], maps[1]))
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    expected = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True)
    torch.testing.assert_close(pixel_kl(maps[0], maps[1], 0.5), 0.25 * expected.sum(-1))


def test_kl_is_reckoned_in_32_bits(maps):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pixel_kl(maps[0].bfloat16(), maps[1].bfloat16(), 0.1).dtype == torch.float32


@pytest.mark.parametrize("align", ["kl", "l2", "transport"])
def test_what_teaches_gets_no_gradient(maps, align):
    ensemble = maps.mean(0).requires_grad_()
    branches = maps.clone().requires_grad_()
    config = OnlineConfig("ensemble", align)
    online_terms(branches, branches, ensemble, visible(), config)["online"].backward()
    assert ensemble.grad is None and (branches.grad != 0).any()


RELEASED = OnlineConfig("ensemble", temperature=1.0, released=True)


def test_the_released_form_teaches_the_ensemble_too(maps):
    ensemble = maps.mean(0).requires_grad_()
    distance(ensemble, maps, visible(), RELEASED)["online"].backward()
    assert (ensemble.grad != 0).any()


@pytest.mark.parametrize("batch", [1, 2])
def test_the_released_form_weighs_as_much_beside_the_squared_error_as_in_the_released_code(maps, batch):
    """There: half the squared error, mean over pixels, batch and keypoints; the KL's mean over pixels and
    batch, its sum over keypoints; maps of invisible keypoints are 0 in both."""
    student, target, seen = maps[0, :batch], maps[1, :batch], visible(batch)
    ensemble = maps[2, :batch]
    seen[0, 3:] = 0
    shown = seen[..., None, None]
    squared = 0.5 * ((student - target) * shown).square().mean()
    p, q = ((m * shown).flatten(-2).log_softmax(-1) for m in (ensemble, student))
    kl = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(1).mean()
    found = distance(ensemble, student, seen, RELEASED)["online"] / map_loss(student, target, seen)
    torch.testing.assert_close(found, kl / squared)


def test_the_sum_goes_over_all_supervised_maps(maps):
    ensemble, config = maps.mean(0), OnlineConfig("ensemble")
    all_maps = online_terms(maps[:2], maps, ensemble, visible(), config)["online"]
    each = [online_terms(m[None], m[None], ensemble, visible(), config)["online"] for m in maps]
    torch.testing.assert_close(all_maps, sum(each))


def test_peers_learn_from_each_other_and_one_alone_learns_nothing(maps):
    config = OnlineConfig("peers")
    pairs = [pixel_kl(maps[i], maps[j], 0.1).mean() for i in range(3) for j in range(3) if i != j]
    torch.testing.assert_close(online_terms(maps, maps, None, visible(), config)["online"], sum(pairs) / 2)
    alone = maps[:1].clone().requires_grad_()
    assert online_terms(alone, alone, None, visible(), config)["online"] == 0


def test_transport_is_half_the_squared_distance_of_two_peaks():
    config = OnlineConfig("ensemble", "transport", temperature=0.02, max_sweeps=500)
    a, b = peaks((100.0, 100.0)), peaks((132.0, 100.0))  # 8 map pixels of 64 apart
    values, unsolved = map_transport(a, b, config)
    assert unsolved == 0 and values.item() == pytest.approx(0.5 * (8 / 64) ** 2, rel=0.02)
    assert map_transport(a, a, config)[0].abs().max() < 1e-6


def test_transport_draws_a_peak_where_the_teachers_is():
    config = OnlineConfig("ensemble", "transport")
    student = peaks((100.0, 100.0)).requires_grad_()
    values, _ = map_transport(peaks((112.0, 100.0)), student, config)
    values.sum().backward()
    u = torch.arange(64.0)
    pull = -(student.grad[0, 0].sum(0))
    assert (pull * (u - 25)).sum() > 0  # descent raises what lies towards the teacher's peak


def test_ramp_is_the_papers():
    config = OnlineConfig("ensemble", ramp=0.6)
    assert config.share(0, 150) == pytest.approx(math.exp(-5))
    assert config.share(45, 150) == pytest.approx(math.exp(-1.25))
    assert config.share(90, 150) == config.share(149, 150) == 1.0
    by_epoch = OnlineConfig("ensemble", ramp=0.6, ramp_every=10)
    assert by_epoch.share(49, 150) == by_epoch.share(40, 150) == config.share(40, 150)


def test_gradient_ratio_is_that_of_the_weighted_terms(maps):
    config, target = OnlineConfig("ensemble", "l2"), torch.zeros(2, 5, *SHAPE)
    student, teacher = maps[0], maps[1]
    expected = 2 * (student - teacher).norm() / (3 * student.norm())
    found = gradient_ratio(student, teacher, target, visible(), config, (3.0, 2.0))
    torch.testing.assert_close(found, expected)


def test_a_frozen_teachers_maps(maps):
    naive = map_terms(maps[0], maps, visible(), DistillConfig("naive", teacher="x"))
    torch.testing.assert_close(naive["kd_map"], (maps - maps[0]).square().mean((1, 2, 3, 4)).sum())
    adlp = map_terms(maps[0], maps, visible(), DistillConfig("adlp", teacher="x"))
    assert set(adlp) == {"kd_map", "kd_unsolved"} and adlp["kd_map"] > 0


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"ramp": 2.0},
        {"ramp_every": 0},
        {"released": True, "teacher": "peers"},
        {"released": True, "teacher": "ensemble"},
    ],
)
def test_settings_without_a_meaning_are_refused(options):
    with pytest.raises(ValueError, match="online"):
        OnlineConfig(**options)
