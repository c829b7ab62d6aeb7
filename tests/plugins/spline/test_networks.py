"""Networks and losses: shapes, order of quantiles, what a mask hides."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from recipeline_spline.committee import Committee, outwards  # noqa: E402  # torch is asked for first
from recipeline_spline.losses import LOSSES, Objective  # noqa: E402
from recipeline_spline.networks import ENCODERS, Forecaster, Shape  # noqa: E402

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def shaken(network):
    """Every weight drawn anew and large, so that nothing holds only because of how networks begin."""
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn_like(value))
    return network


KINDS = [*({"encoder": encoder} for encoder in ENCODERS), {"decoder": "segments"}, {"decoder": "segments", "skip": False, "layers": 2}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("lookback", [24, 23, 5])
def test_shapes_with_everything_known_and_segments_that_do_not_divide(kind, lookback):
    shape = Shape(lookback, 7, targets=2, channels=5, future=3, static=2, categories=(4, 2), levels=LEVELS)
    network = shaken(Forecaster(shape, **kind, hidden_size=8, segment=6))
    past, future, static = torch.randn(3, lookback, 5), torch.randn(3, 7, 3), torch.randn(3, 2)
    codes = torch.tensor([[0, 0], [4, 2], [1, 1]])
    fan = network(past, future, static, codes)
    assert fan.shape == (3, 7, 2, 5)
    assert (fan.diff(dim=-1) >= 0).all()
    moved = network(past + 100 * torch.tensor([1.0, 2, 0, 0, 0]), future, static, codes)
    assert torch.allclose(moved, fan + 100 * torch.tensor([1.0, 2])[:, None], atol=1e-2)  # the level of a window is only added


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_each_input_matters_and_each_window_only_for_itself(kind):
    shape = Shape(12, 4, targets=2, channels=3, future=2, static=1, categories=(3,), levels=LEVELS)
    network = shaken(Forecaster(shape, **kind, hidden_size=8, segment=5))
    inputs = [torch.randn(4, 12, 3), torch.randn(4, 4, 2), torch.randn(4, 1), torch.tensor([[1], [2], [3], [0]])]
    whole = network(*inputs)
    for number in range(4):
        changed = [part.clone() for part in inputs]
        changed[number][1] = (changed[number][1] + 1) % 4 if number == 3 else torch.randn_like(changed[number][1])
        other = network(*changed)
        assert not torch.equal(other[1], whole[1])
        assert torch.equal(other[[0, 2, 3]], whole[[0, 2, 3]])
    swapped = inputs[0].clone()
    swapped[:, :, 1] = torch.randn(4, 12)  # another second target says nothing of the first
    assert torch.allclose(network(swapped, *inputs[1:])[:, :, 0], whole[:, :, 0], atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_untrained_network_forecasts_the_mean_of_the_window(encoder):
    network = Forecaster(Shape(24, 6, levels=LEVELS), encoder=encoder, hidden_size=8, segment=6)
    past = torch.randn(5, 24, 1)
    assert torch.allclose(network(past)[..., 0, 2], past.mean(dim=1).expand(-1, 6), atol=1e-5)


@pytest.mark.parametrize("decoder", ["direct", "segments"])
def test_an_untrained_network_forecasts_nlinear_where_the_skip_begins_there(decoder):
    network = Forecaster(Shape(24, 10, targets=2, channels=2, levels=LEVELS), hidden_size=8, segment=6, decoder=decoder)
    weights, intercept, past = torch.randn(24, 10), torch.randn(10), torch.randn(5, 24, 2)
    network.start(weights, intercept)
    last = past[:, -1:]
    straight = torch.einsum("bln,lh->bhn", past - last, weights) + intercept[:, None] + last
    assert torch.allclose(network(past)[..., 2], straight, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_each_segment_ahead_is_one_more_step_of_the_lstm_from_the_same_states(layers):
    """Against the segments one by one, as SegRNN has them; the last one is cut where P does not divide H."""
    shape = Shape(13, 10, targets=2, channels=2, static=1, levels=(0.5,))
    network = shaken(Forecaster(shape, hidden_size=8, layers=layers, segment=4, decoder="segments", skip=False))
    past, static = torch.randn(3, 13, 2), torch.randn(3, 1)
    said = network(past, static=static)
    for row in range(3):
        for target in range(2):
            own = past[row, :, target] - past[row, -1, target]
            pieces = torch.cat([own[:1].repeat(3), own]).reshape(4, 4)  # filled up with the oldest value
            _, states = network.encoder.lstm(torch.relu(network.encoder.embed(pieces)))
            known = network.of_target.weight[target] + network.of_static(static[row])
            steps = [network.head.linear(network.encoder.lstm((place + known)[None], states)[0][0]) for place in network.places.place]
            assert torch.allclose(said[row, :, target, 0], torch.cat(steps)[:10] + past[row, -1, target], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_weight_is_learned_from(kind):
    network = shaken(Forecaster(Shape(12, 7, targets=2, channels=3, future=2, static=1, categories=(3,), levels=LEVELS), **kind, segment=5))
    fan = network(torch.randn(8, 12, 3), torch.randn(8, 7, 2), torch.randn(8, 1), torch.tensor([[0], [1], [2], [3]] * 2))
    Objective("pinball", LEVELS)(fan, torch.randn(8, 7, 2) * 10, None).backward()
    silent = [name for name, value in network.named_parameters() if not bool((value.grad != 0).any())]
    assert silent == []


def test_a_decoder_of_segments_needs_their_encoder():
    with pytest.raises(ValueError, match="seglstm"):
        Forecaster(Shape(12, 4), encoder="gru", decoder="segments")


def test_wrong_shapes_are_named():
    network = Forecaster(Shape(12, 4, future=2, static=1, categories=(3,)))
    past, future, static, codes = torch.randn(2, 12, 1), torch.randn(2, 4, 2), torch.randn(2, 1), torch.zeros(2, 1, dtype=torch.int64)
    network(past, future, static, codes)
    for wrong, name in (
        ((past[:, :11], future, static, codes), "past"),
        ((past, None, static, codes), "future"),
        ((past, future[:, :3], static, codes), "future"),
        ((past, future, None, codes), "static"),
        ((past, future, static, None), "codes"),
    ):
        with pytest.raises(ValueError, match=f"^{name} is"):
            network(*wrong)
    with pytest.raises(ValueError, match="levels"):
        Forecaster(Shape(12, 4, levels=(0.1, 0.9)))
    with pytest.raises(ValueError, match="targets"):
        Forecaster(Shape(12, 4, targets=2))


@pytest.mark.parametrize("loss", LOSSES)
def test_what_the_mask_hides_does_not_matter(loss):
    objective = Objective(loss, LEVELS)
    labels, mask = torch.randn(6, 4, 2), torch.rand(6, 4, 2) > 0.5
    results = []
    for planted in (0.0, float("nan"), float("inf"), 1e30):
        forecast = (torch.arange(6 * 4 * 2 * 5).reshape(6, 4, 2, 5) / 50).requires_grad_()
        value = objective(forecast, torch.where(mask, labels, torch.tensor(planted)), mask)
        value.backward()
        results.append((value.detach(), forecast.grad))
    assert torch.isfinite(results[0][0])
    assert (results[0][1][~mask] == 0).all()
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])
    nothing = objective(
        torch.zeros(1, 4, 2, 5, requires_grad=True), torch.full((1, 4, 2), torch.nan), torch.zeros(1, 4, 2, dtype=torch.bool)
    )
    assert nothing == 0


def test_pinball_is_its_definition():
    forecast, labels = torch.randn(3, 4, 2, 5), torch.randn(3, 4, 2)
    slow = 0.0
    for b in range(3):
        for h in range(4):
            for n in range(2):
                for q, level in enumerate(LEVELS):
                    error = float(labels[b, h, n] - forecast[b, h, n, q])
                    slow += 2 * (level * error if error >= 0 else (level - 1) * error)
    assert float(Objective("pinball", LEVELS)(forecast, labels, None)) == pytest.approx(slow / forecast.numel(), rel=1e-5)  # float32


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_widths_learn_around_the_point_and_do_not_move_it(loss):
    point = torch.randn(5, 4, 1, requires_grad=True)
    widths = torch.rand(5, 4, 1, 2, requires_grad=True)
    fan = torch.stack([point - widths[..., 0], point, point + widths[..., 1]], dim=-1)
    labels = torch.randn(5, 4, 1)
    Objective(loss, (0.1, 0.5, 0.9))(fan, labels, None).backward()
    alone = point.detach().clone().requires_grad_()
    Objective(loss, (0.5,))(alone.unsqueeze(-1), labels, None).backward()
    assert torch.allclose(point.grad, alone.grad, atol=1e-7)
    assert (widths.grad != 0).all()


def test_a_committee_is_the_mean_drawn_to_nlinear_and_keeps_the_order():
    shape = Shape(12, 4, targets=2, channels=2, levels=LEVELS)
    members = [shaken(Forecaster(shape, hidden_size=8, segment=6)) for _ in range(3)]
    past = torch.randn(7, 12, 2)
    plain = sum(member(past) for member in members) / 3
    assert torch.allclose(Committee(members)(past), plain, atol=1e-5)
    blended = Committee(members, blend=True)
    with torch.no_grad():
        blended.weights.copy_(torch.randn(12, 4))
        blended.intercept.copy_(torch.randn(4))
        blended.share.fill_(0.25)
    last = past[:, -1:]
    straight = torch.einsum("bln,lh->bhn", past - last, blended.weights) + blended.intercept[:, None] + last
    fan = blended(past)
    assert torch.allclose(fan[..., 2], 0.25 * plain[..., 2] + 0.75 * straight, atol=1e-4)
    assert torch.allclose(fan - fan[..., 2:3], plain - plain[..., 2:3], atol=1e-4)
    with torch.no_grad():
        blended.offsets.copy_(torch.randn(4, 2, 5) * 100)
        blended.offsets[..., 2] = 0
    torn = blended(past)
    assert (torn.diff(dim=-1) >= 0).all()
    assert torch.allclose(torn[..., 2], fan[..., 2], atol=1e-5)


def test_outwards_pushes_away_from_the_middle():
    assert outwards(torch.tensor([3.0, 5, 2, 1, 4]), 2).tolist() == [2, 2, 2, 2, 4]
