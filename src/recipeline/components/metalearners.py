"""Effects from any estimator: meta-learners that turn models of the outcome into models of a treatment's effect.

Künzel, Sekhon, Bickel and Yu (2019), Metalearners for estimating heterogeneous treatment effects using machine learning,
PNAS 116, section "Meta-algorithms". They take what the task `causal` hands on: `treatment` (n,) with 0 for control and
1 … t for the treatments; `predict` gives effects (n, t). X-, R- and DR-learners come with CausalML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, clone

from recipeline.contracts import Selected, take

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class _Effects(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """What both share: an example to try them on."""

    @classmethod
    def example(cls) -> dict[str, Any]:
        from sklearn.linear_model import LinearRegression

        return {"learner": LinearRegression()}

    @classmethod
    def example_data(cls) -> Selected:
        """Eighty rows (80, 2), two treatments, the effect of each another one."""
        random = np.random.default_rng(7)
        X, arm = random.normal(size=(80, 2)), np.arange(80) % 3
        return Selected(X=X, y=X[:, 0] + arm * X[:, 1] + random.normal(scale=0.1, size=80), extras={"treatment": arm})


class TLearner(_Effects):
    """Two models, one of the treated and one of the controls; the effect is the difference of what they say.

    learner          model of the outcome in every arm; a classifier where the outcome is one of two, or a regressor
    control_learner  another one for the controls

    Every arm has a model of its own, so it suits effects that differ much and arms with many rows each.
    """

    def __init__(self, learner: Any, *, control_learner: Any = None) -> None:
        self.learner, self.control_learner = learner, control_learner

    def fit(self, X: Any, y: Any, *, treatment: NDArray[Any], sample_weight: Floats | None = None) -> TLearner:
        """X (n, d), y (n,), treatment (n,) 0 … t with a row of each; `sample_weight` (n,) is handed on."""
        models = []
        for arm in range(int(treatment.max()) + 1):
            rows = np.flatnonzero(treatment == arm)
            model = clone(self.control_learner if arm == 0 and self.control_learner is not None else self.learner)
            weight = {} if sample_weight is None else {"sample_weight": sample_weight[rows]}
            models.append(model.fit(take(X, rows), y[rows], **weight))
        self.models_ = models
        return self

    def predict(self, X: Any) -> Floats:
        """Effects (n, t)."""
        control, *treated = [_outcome(model, X) for model in self.models_]
        return np.column_stack([one - control for one in treated])


class SLearner(_Effects):
    """One model that has the treatment among its features; the effect is what changes when that feature does.

    learner  model of the outcome; a classifier where the outcome is one of two, or a regressor

    A learner without interactions, as a linear one, gives everybody the same effect.
    """

    def __init__(self, learner: Any) -> None:
        self.learner = learner

    def fit(self, X: Any, y: Any, *, treatment: NDArray[Any], sample_weight: Floats | None = None) -> SLearner:
        """X (n, d) numbers, y (n,), treatment (n,) 0 … t; `sample_weight` (n,) is handed on."""
        self.arms_ = int(treatment.max()) + 1
        weight = {} if sample_weight is None else {"sample_weight": sample_weight}
        self.model_ = clone(self.learner).fit(self._with_arm(X, treatment), y, **weight)
        return self

    def predict(self, X: Any) -> Floats:
        """Effects (n, t)."""
        n = int(X.shape[0])
        control, *treated = [_outcome(self.model_, self._with_arm(X, np.full(n, arm))) for arm in range(self.arms_)]
        return np.column_stack([one - control for one in treated])

    def _with_arm(self, X: Any, treatment: NDArray[Any]) -> Floats:
        """(n, d + t): an indicator of each treatment beside the features."""
        indicators = (np.asarray(treatment)[:, None] == np.arange(1, self.arms_)).astype(np.float64)
        return np.hstack([np.asarray(X, dtype=np.float64), indicators])


class ConstantEffect(BaseEstimator):  # type: ignore[misc]
    """The same effect for everybody: the difference of the arms' mean outcomes. Ranks nothing, so it targets at random."""

    def fit(self, X: Any, y: Any, *, treatment: NDArray[Any], sample_weight: Floats | None = None) -> ConstantEffect:
        weight = np.ones(len(y)) if sample_weight is None else sample_weight
        means = [np.average(y[rows], weights=weight[rows]) for rows in (treatment == arm for arm in range(int(treatment.max()) + 1))]
        self.effects_ = np.array([mean - means[0] for mean in means[1:]])
        return self

    def predict(self, X: Any) -> Floats:
        return np.tile(self.effects_, (int(X.shape[0]), 1))


def _outcome(model: Any, X: Any) -> Floats:
    """The expected outcome (n,): the probability of 1 from a classifier, the prediction of a regressor."""
    if not hasattr(model, "predict_proba"):
        return np.asarray(model.predict(X), dtype=np.float64).reshape(-1)
    positive = np.flatnonzero(np.asarray(model.classes_) == 1)  # an arm may have seen one outcome only
    given = np.asarray(model.predict_proba(X), dtype=np.float64)
    return given[:, positive[0]] if len(positive) else np.zeros(len(given))
