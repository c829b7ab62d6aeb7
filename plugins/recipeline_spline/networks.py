"""Networks that map a window of the past to quantiles of every step ahead.

    encoder         what it does with the past, after the last value was subtracted
    seglstm         cuts it into segments, embeds each, runs an LSTM over the segments: L / P steps instead of L
                    (Lin et al. 2023, "SegRNN", with an LSTM and a direct head)
    lstm, gru       runs over every step, the last state is the summary
    bilstm          the same from both ends; it sees nothing but the past, so nothing leaks
    attention_lstm  an LSTM whose states are summed with weights that the last state asks for (Luong et al. 2015, "dot")
    linear          nothing: only the linear skip and the widths (Zeng et al. 2023, "NLinear")

    decoder         what it does with the summary
    direct          one linear layer to all steps ahead
    segments        of seglstm: one more step of its LSTM per segment ahead, all of them at once, each asked for by a learned place
                    and by what is known of the series (SegRNN's parallel multi-step forecast); fewer weights on long horizons

Beside the encoder runs a linear skip from past to future that is initialised to the mean of the past: an untrained network
forecasts that mean, and training goes on from there (`skip: nlinear`: from the ridge solution). The widths between quantiles
are counted in how much a window moves, so that they follow when a series becomes calmer or wilder than it was in training.
Targets are forecast independently of each other with shared weights (Nie et al. 2023), each seeing its own past and all that
is not a target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

EncoderName = Literal["seglstm", "lstm", "gru", "attention_lstm", "bilstm", "linear"]
DecoderName = Literal["direct", "segments"]
ENCODERS: tuple[EncoderName, ...] = get_args(EncoderName)


@dataclass(frozen=True)
class Shape:
    """What goes in and comes out.

    lookback, horizon  steps L, H            targets  n, the first channels of the past      channels  C of the past, n or more
    future             F covariates known at the steps ahead        static  K numbers of a series
    categories         (G,) how many values each categorical one has; code 0 is "unknown", known ones are 1 … count
    levels             ascending quantile levels, 0.5 among them
    """

    lookback: int
    horizon: int
    targets: int = 1
    channels: int = 1
    future: int = 0
    static: int = 0
    categories: tuple[int, ...] = ()
    levels: tuple[float, ...] = (0.5,)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "categories": list(self.categories), "levels": list(self.levels)}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Shape:
        return cls(**{**state, "categories": tuple(state["categories"]), "levels": tuple(state["levels"])})


class Forecaster(nn.Module):
    """past (B, L, C), future (B, H, F), static (B, K), codes (B, G) -> quantiles (B, H, n, Q), in the units of the past.

    encoder, hidden_size, layers, dropout   of the recurrent part
    segment   P, steps per segment of seglstm; where P does not divide L the oldest segment is filled up with the oldest value
    decoder   direct, or segments (of P steps, H at most; where that does not divide H the last one is cut)
    skip      False: no linear skip, the encoder alone speaks
    """

    def __init__(
        self,
        shape: Shape,
        *,
        encoder: EncoderName = "seglstm",
        hidden_size: int = 64,
        layers: int = 1,
        segment: int = 24,
        dropout: float = 0.0,
        decoder: DecoderName = "direct",
        skip: bool = True,
    ) -> None:
        super().__init__()
        if decoder == "segments" and encoder != "seglstm":
            raise ValueError(f"decoder segments goes on with the LSTM of seglstm; got encoder {encoder!r}")
        if 0.5 not in shape.levels or list(shape.levels) != sorted(set(shape.levels)):
            raise ValueError(f"levels are ascending, 0.5 among them; got {shape.levels}")
        if not 1 <= shape.targets <= shape.channels:
            raise ValueError(f"targets are 1 to {shape.channels} of the channels; got {shape.targets}")
        self.shape = shape
        width = 1 + shape.channels - shape.targets
        self.encoder = encoder_of(encoder, shape.lookback, width, hidden_size, layers, min(segment, shape.lookback), dropout)
        self.skip = nn.Linear(shape.lookback, shape.horizon) if skip else None
        if self.skip is not None:
            nn.init.constant_(self.skip.weight, 1 / shape.lookback)
            nn.init.zeros_(self.skip.bias)
        self.of_target = nn.Embedding(shape.targets, hidden_size) if shape.targets > 1 else None
        self.of_static = nn.Linear(shape.static, hidden_size) if shape.static else None
        self.of_codes = nn.ModuleList(nn.Embedding(count + 1, hidden_size) for count in shape.categories)
        self.dropout = nn.Dropout(dropout)
        self.places = SegmentsAhead(hidden_size, shape.horizon, min(segment, shape.horizon)) if decoder == "segments" else None
        self.head = QuantileHead(hidden_size, self.places.segment if self.places else shape.horizon, shape.levels, silent=skip)
        self.ahead = StepsAhead(hidden_size, shape.future, len(shape.levels)) if shape.future else None
        for table in (self.of_target, *self.of_codes):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)  # a value never seen in training says almost nothing

    def start(self, weights: Tensor, intercept: Tensor) -> None:
        """The skip begins with these weights (L, H) and intercept (H,) of windows less their last value."""
        assert self.skip is not None, "a network without a skip has nothing that could begin there"
        with torch.no_grad():
            self.skip.weight.copy_(weights.T)
            self.skip.bias.copy_(intercept)

    def forward(self, past: Tensor, future: Tensor | None = None, static: Tensor | None = None, codes: Tensor | None = None) -> Tensor:
        s = self.shape
        if past.shape[1:] != (s.lookback, s.channels):
            raise ValueError(f"past is (B, {s.lookback}, {s.channels}); got {tuple(past.shape)}")
        n = s.targets
        own = past[:, :, :n]
        last = own[:, -1]  # (B, n)
        own = (own - last.unsqueeze(1)).transpose(1, 2).reshape(-1, s.lookback)  # (B n, L)
        inputs = own.unsqueeze(-1)
        if s.channels > n:
            rest = past[:, :, n:].unsqueeze(1).expand(-1, n, -1, -1).reshape(-1, s.lookback, s.channels - n)
            inputs = torch.cat([inputs, rest], dim=2)  # (B n, L, 1 + C - n)
        known = self._known(static, codes, len(past))
        if self.places is None:
            summary = self.encoder(inputs)  # (B n, D)
            summary = self.dropout(summary if known is None else summary + known)
            raw = self.head.raw(summary)  # (B n, H, Q)
        else:
            assert isinstance(self.encoder, SegmentLSTM)  # __init__ saw to that
            states = self.encoder.states(inputs)
            summary = self.dropout(states[0][-1] if known is None else states[0][-1] + known)
            raw = self.head.raw(self.dropout(self.places(self.encoder.lstm, states, known)))  # (B n M, P, Q)
            raw = raw.reshape(len(summary), -1, len(s.levels))[:, : s.horizon]
        if self.ahead is not None:
            if future is None or future.shape[1:] != (s.horizon, s.future):
                raise ValueError(f"future is (B, {s.horizon}, {s.future}); got {None if future is None else tuple(future.shape)}")
            raw = raw + self.ahead(summary, future.repeat_interleave(n, 0) if n > 1 else future)
        base = own.new_zeros(()) if self.skip is None else self.skip(own)
        fan = self.head.fan(raw, base, movement(own))  # (B n, H, Q)
        fan = fan.reshape(-1, n, s.horizon, len(s.levels)).transpose(1, 2)  # (B, H, n, Q)
        return fan + last[:, None, :, None]

    def _known(self, static: Tensor | None, codes: Tensor | None, count: int) -> Tensor | None:
        """(B n, D) or (n, D) tiled: what is known beside the past."""
        s = self.shape
        whole: Tensor | None = None
        if self.of_static is not None:
            if static is None or static.shape[1:] != (s.static,):
                raise ValueError(f"static is (B, {s.static}); got {None if static is None else tuple(static.shape)}")
            whole = self.of_static(static)
        if len(self.of_codes):
            if codes is None or codes.shape[1:] != (len(self.of_codes),):
                raise ValueError(f"codes is (B, {len(self.of_codes)}); got {None if codes is None else tuple(codes.shape)}")
            for column, table in enumerate(self.of_codes):
                said = table(codes[:, column])
                whole = said if whole is None else whole + said
        if whole is not None and s.targets > 1:
            whole = whole.repeat_interleave(s.targets, 0)
        if self.of_target is not None:
            every = self.of_target.weight.repeat(count, 1)
            whole = every if whole is None else whole + every
        return whole


CALM = 0.01
"""The least that a window moves, in scaled units: a constant one has narrow intervals, not none."""
FOLLOW = 0.75
"""How closely widths follow: 0 not at all, 1 in proportion. Chosen by coverage on validation data (7 columns of ETTh1, 4 cuts, NLinear):
80 % intervals miss by 5.8 points at 0, 2.9 at 0.5, 2.6 at 0.75, 3.2 at 1; 95 % ones by 3.5, 1.7, 1.1, 1.2."""


def movement(own: Tensor) -> Tensor:
    """(N, 1) how much windows (N, L) move: their standard deviation, to the power of 3/4."""
    if own.shape[1] == 1:
        return torch.ones_like(own)
    return (own - own.mean(dim=1, keepdim=True)).square().mean(dim=1, keepdim=True).sqrt().clamp(min=CALM).pow(FOLLOW)


class QuantileHead(nn.Module):
    """Quantiles that cannot cross: the median, and outwards from it a running sum of positive widths (softplus).

    summary (B, D) -> raw (B, H, Q) -> fan (B, H, Q), ascending along Q. `silent`: the median is 0 at first, whatever the summary.
    """

    def __init__(self, hidden_size: int, horizon: int, levels: Sequence[float], *, silent: bool = True) -> None:
        super().__init__()
        self.horizon, self.count, self.middle = horizon, len(levels), list(levels).index(0.5)
        self.linear = nn.Linear(hidden_size, horizon * self.count)
        with torch.no_grad():
            bias = self.linear.bias.view(horizon, self.count)
            bias.fill_(math.log(math.expm1(0.3)))  # widths of that unit at first
            bias[:, self.middle] = 0.0
            if silent:  # at first the skip alone speaks
                self.linear.weight.view(horizon, self.count, hidden_size)[:, self.middle] = 0.0

    def raw(self, summary: Tensor) -> Tensor:
        return self.linear(summary).reshape(-1, self.horizon, self.count)  # type: ignore[no-any-return]

    def fan(self, raw: Tensor, base: Tensor, unit: Tensor) -> Tensor:
        """raw (B, H, Q), base (B, H) or () added to the median, unit (B, 1) of the widths."""
        middle = raw[..., self.middle : self.middle + 1] + base.unsqueeze(-1)
        if self.count == 1:
            return middle
        widths = functional.softplus(raw) * unit.unsqueeze(-1)
        above = middle + widths[..., self.middle + 1 :].cumsum(-1)
        below = middle - widths[..., : self.middle].flip(-1).cumsum(-1).flip(-1)
        return torch.cat([below, middle, above], dim=-1)


class StepsAhead(nn.Module):
    """What covariates of a step ahead say of it, given the summary: (B, D) and (B, H, F) -> (B, H, Q), nothing at first."""

    def __init__(self, hidden_size: int, covariates: int, count: int) -> None:
        super().__init__()
        self.of_summary = nn.Linear(hidden_size, hidden_size)
        self.of_step = nn.Linear(covariates, hidden_size)
        self.out = nn.Linear(hidden_size, count)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, summary: Tensor, future: Tensor) -> Tensor:
        said: Tensor = self.out(functional.relu(self.of_summary(summary).unsqueeze(1) + self.of_step(future)))
        return said


class SegmentsAhead(nn.Module):
    """Summaries (B M, D) of M segments of P steps ahead, from the states of the encoder's LSTM and what is known (B, D).

    Each segment is one step of that LSTM from the same states, so that no error is handed on from one to the next.
    """

    def __init__(self, hidden_size: int, horizon: int, segment: int) -> None:
        super().__init__()
        self.segment, self.segments = segment, -(-horizon // segment)
        self.place = nn.Parameter(torch.randn(self.segments, hidden_size))

    def forward(self, lstm: nn.LSTM, states: tuple[Tensor, Tensor], known: Tensor | None) -> Tensor:
        hidden, cell = (state.repeat_interleave(self.segments, 1) for state in states)  # (layers, B M, D)
        asked = self.place.repeat(states[0].shape[1], 1)
        if known is not None:
            asked = asked + known.repeat_interleave(self.segments, 0)
        said, _ = lstm(asked.unsqueeze(1), (hidden, cell))
        return said[:, 0]  # type: ignore[no-any-return]


# --- encoders: (B, L, c) -> (B, D) ----------------------------------------------------------------------------------------


def encoder_of(name: EncoderName, lookback: int, width: int, hidden_size: int, layers: int, segment: int, dropout: float) -> nn.Module:
    """The encoder of that name."""
    between = dropout if layers > 1 else 0.0
    if name == "seglstm":
        return SegmentLSTM(lookback, width, hidden_size, layers, segment, dropout)
    if name in ("lstm", "gru", "bilstm"):
        return Recurrent(name, width, hidden_size, layers, between)
    if name == "attention_lstm":
        return AttentionLSTM(width, hidden_size, layers, between)
    if name == "linear":
        return Nothing(hidden_size)
    raise ValueError(f"encoder is one of {', '.join(ENCODERS)}; got {name!r}")


class SegmentLSTM(nn.Module):
    def __init__(self, lookback: int, width: int, hidden_size: int, layers: int, segment: int, dropout: float) -> None:
        super().__init__()
        self.segment, self.segments = segment, -(-lookback // segment)
        self.short = self.segments * segment - lookback
        self.embed = nn.Linear(segment * width, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(hidden_size, hidden_size, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self._pieces(x))
        return states[:, -1]  # type: ignore[no-any-return]

    def states(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(layers, B, D) twice: where a decoder goes on."""
        _, (hidden, cell) = self.lstm(self._pieces(x))
        return hidden, cell

    def _pieces(self, x: Tensor) -> Tensor:
        """(B, L / P, D)"""
        if self.short:
            x = torch.cat([x[:, :1].expand(-1, self.short, -1), x], dim=1)
        pieces = x.reshape(x.shape[0], self.segments, -1)  # (B, L / P, P c)
        return self.dropout(functional.relu(self.embed(pieces)))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self, name: str, width: int, hidden_size: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.both = name == "bilstm"
        cell = nn.GRU if name == "gru" else nn.LSTM
        if self.both and hidden_size % 2:
            raise ValueError(f"bilstm halves hidden_size ({hidden_size}) between its two directions: give an even one")
        size = hidden_size // 2 if self.both else hidden_size
        self.rnn = cell(width, size, layers, batch_first=True, dropout=dropout, bidirectional=self.both)

    def forward(self, x: Tensor) -> Tensor:
        states, last = self.rnn(x)
        if not self.both:
            return states[:, -1]  # type: ignore[no-any-return]
        forward, backward = (last[0] if isinstance(last, tuple) else last)[-2:]
        return torch.cat([forward, backward], dim=1)


class AttentionLSTM(nn.Module):
    def __init__(self, width: int, hidden_size: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, hidden_size, layers, batch_first=True, dropout=dropout)
        self.combine = nn.Linear(2 * hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)  # (B, L, D)
        query = states[:, -1]
        scores = torch.einsum("bld,bd->bl", states, query) / math.sqrt(states.shape[-1])
        context = torch.einsum("bl,bld->bd", scores.softmax(dim=1), states)
        return torch.tanh(self.combine(torch.cat([context, query], dim=1)))


class Nothing(nn.Module):
    """A summary that never changes; what is left are the skip, the widths' biases and what is known beside the past."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        return self.constant.expand(x.shape[0], -1)
