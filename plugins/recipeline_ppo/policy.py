"""What training leaves: a policy that answers observations with actions, on numpy alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipeline.errors import Damaged, DataError
from recipeline_ppo.architectures import Convolutions, Recurrent
from recipeline_ppo.distributions import DiagGaussian, distribution, impossible
from recipeline_ppo.networks import Perceptron
from recipeline_ppo.normalizer import ObservationNormalizer
from recipeline_ppo.spaces import ActionSpec, ObservationSpec

Floats = NDArray[np.floating[Any]]

PIECE = 4096  # rows that are computed at once: their activations stay in the cache of the processor


@dataclass(frozen=True)
class Actions:
    """Answers to n observations.

    action (n,) or (n, *shape), as the environment takes it     value (n,) expected discounted return     log_prob (n,)
    memory of a network that has one, for the next call; None of others
    """

    action: NDArray[Any]
    value: Floats
    log_prob: Floats
    memory: Floats | None = None


class Policy:
    """A trained policy; immutable, and safe to share between threads.

    `mlp`, `cnn` and `lstm` are computed on numpy. A network of one's own needs torch, and the object that made it as `network`.
    """

    def __init__(
        self, observation: ObservationSpec, action: ActionSpec, arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any],
        network: Any = None,
    ) -> None:  # fmt: skip
        self.observation, self.action = observation, action
        self._arrays = {name: _frozen(array) for name, array in arrays.items()}
        self._info = dict(info)
        self._normalizer = _normalizer(info.get("normalizer"), self._arrays)
        self._pi = distribution(action, squash=info["squash"])
        if isinstance(self._pi, DiagGaussian):
            self._pi.fix(self._arrays["log_std"])
        self.memory_width = 0  # numbers that an environment's episode is remembered by
        self._forward = self._road(self._pi.outputs, network)

    def _road(self, outputs: int, network: Any) -> Callable[[Floats, Floats | None], tuple[Floats, Floats, Floats | None]]:
        """From rows (and memory) to outputs, values (and memory), by the kind of network."""
        kind, hidden, arrays = self._info["network"], tuple(self._info["hidden"]), self._arrays
        if kind == "mlp":
            perceptron = Perceptron(self.observation.width, hidden, outputs, self._info["activation"], arrays)
            return lambda x, _: (*perceptron.forward(x), None)
        if kind == "cnn":
            images = Convolutions.of(self.observation, hidden, outputs)
            _have_shapes(arrays, images.shapes())
            return lambda x, _: (*images.forward(arrays, x), None)
        if kind == "lstm":
            recurrent = Recurrent(self.observation.width, hidden, outputs)
            _have_shapes(arrays, recurrent.shapes())
            self.memory_width = 2 * recurrent.units
            blank = np.zeros((1, self.memory_width), dtype=np.float32)
            return lambda x, memory: recurrent.forward(arrays, x, np.repeat(blank, len(x), 0) if memory is None else memory)
        if network is None or isinstance(network, str):
            raise DataError(f"the policy has a network of its own, {kind}", hint="give the object that made it as network")
        from recipeline_ppo.torch_networks import answering

        own = answering(network, self.observation, outputs, arrays)
        return lambda x, _: (*own(x), None)

    def act(
        self, observations: Any, masks: ArrayLike | None = None, deterministic: bool = True, rng: np.random.Generator | None = None,
        *, memory: Floats | None = None,
    ) -> Actions:  # fmt: skip
        """The most likely actions, or drawn ones with `rng` where not `deterministic`.

        observations  (n, *shape), or a sequence of n dicts where the space is a Dict
        masks         (n, mask_width) True where allowed, see `ActionSpec`
        memory        (n, memory_width) what the last call gave, zeros in rows where an episode begins; None: all begin
        DataError     of observations or masks that do not fit, are not finite, or allow nothing; the row is named
        """
        return self.answer(self.observation.rows(observations), masks, deterministic, rng, memory)

    def answer(
        self,
        x: Floats,
        masks: ArrayLike | None = None,
        deterministic: bool = True,
        rng: np.random.Generator | None = None,
        memory: Floats | None = None,
    ) -> Actions:
        """As `act`, for observations that are rows (n, width) float32 already, as `ObservationSpec.rows` makes them; left as they are."""
        if not math.isfinite(np.vdot(x, x)):  # cheap; a sum that overflows is looked at again, row by row
            finite = np.isfinite(x).all(axis=1)
            if not finite.all():
                raise DataError(f"observation {int(np.argmin(finite))} has values that are not finite", slug="nonfinite-observation")
        mask = None if masks is None else self._mask(masks, len(x))
        if len(x) <= PIECE:
            return self._answer(x, mask, memory, deterministic, rng)
        own = [slice(start, start + PIECE) for start in range(0, len(x), PIECE)]
        pieces = [
            self._answer(x[k], None if mask is None else mask[k], None if memory is None else memory[k], deterministic, rng) for k in own
        ]
        action, value, log_prob = (np.concatenate([getattr(p, name) for p in pieces]) for name in ("action", "value", "log_prob"))
        remembered = [p.memory for p in pieces if p.memory is not None]
        return Actions(action, value, log_prob, np.concatenate(remembered) if remembered else None)

    def _answer(
        self, x: Floats, mask: NDArray[np.bool_] | None, memory: Floats | None, deterministic: bool, rng: np.random.Generator | None
    ) -> Actions:
        if self._normalizer is not None:
            x = self._normalizer.transform(x)
        outputs, values, memory = self._forward(x, memory)
        pi = self._pi
        if deterministic:
            chosen = pi.mode(outputs, mask)
        else:
            chosen = pi.sample(outputs, pi.noise(rng if rng is not None else np.random.default_rng(), len(x)), mask)
        return Actions(pi.native(chosen), values, pi.log_prob(outputs, chosen, mask), memory)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Parameters by name, and the moments of the normaliser; read-only."""
        return dict(self._arrays)

    def info(self) -> dict[str, Any]:
        """As JSON, all that `of` needs beside the arrays."""
        return dict(self._info)

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any], *, network: Any = None) -> Policy:
        """What `arrays` and `info` were of; Damaged where they do not belong together."""
        try:
            return cls(ObservationSpec.of(info["observation"]), ActionSpec.of(info["action"]), arrays, info, network)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise Damaged(f"this is no policy: {error}", hint="train it again, or read an intact file") from None

    def _mask(self, masks: ArrayLike, n: int) -> NDArray[np.bool_]:
        width = self.action.mask_width
        mask = np.asarray(masks)
        if not width:
            raise DataError(f"actions of kind {self.action.kind} cannot be masked", hint="leave the mask out")
        if mask.shape != (n, width):
            raise DataError(f"masks have shape {list(mask.shape)}, not [{n}, {width}]")
        mask = mask.astype(bool)
        nothing = impossible(self.action, mask)
        if nothing.any():
            raise DataError(f"the mask of observation {int(np.argmax(nothing))} allows no action", slug="empty-mask")
        return mask


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    kept = np.array(array)
    kept.flags.writeable = False
    return kept


def _normalizer(info: Mapping[str, Any] | None, arrays: Mapping[str, NDArray[Any]]) -> ObservationNormalizer | None:
    if info is None:
        return None
    found = ObservationNormalizer(info["clip"], info["epsilon"])
    moments = {key: arrays[f"normalizer.{key}"] for key in ("mean", "square") if info["count"]}
    found.restore({"count": info["count"], **moments})
    return found


def _have_shapes(arrays: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {list(arrays[name].shape)}, not {list(shape)}")
