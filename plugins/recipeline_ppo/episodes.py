"""Episodes in the place of rows: which are sealed, how they are played, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recipeline.contracts import Evaluation, Fold, Metric, Part, Predictor, Selected, Split
from recipeline.errors import DataError, Problem
from recipeline_ppo.environments import broken
from recipeline_ppo.spaces import MASK_KEY
from recipeline_ppo.states import StateColumns

if TYPE_CHECKING:
    import pandas as pd

    from recipeline_ppo.gymnasium_loader import EnvironmentFactory

SEALED, INNER = 1, 2  # streams of the recipe's seed
ENVIRONMENTS = 64  # played side by side
LONGEST = 100_000  # steps of an episode in an environment without a limit
RESAMPLES = 2_000
MEND = "mend the environment; the same command again judges without training anew"


class Episodes:
    """Seal the seeds of episodes, which training never saw: the environment has no rows to hold back.

    episodes       how many are played
    deterministic  the most probable action each time; else one is drawn as in training
    seeds          of `reset`; several episodes of one seed are played one after the other, each going on with the
                   environment's random numbers. None: every episode has its own, drawn from the recipe's seed
    """

    unseen = True  # an episode is made for the judging: whatever agent of this environment, and however old, it is new to it

    def __init__(
        self, episodes: int = 100, *, deterministic: bool = True, seeds: list[int] | None = None, random_state: int | None = None
    ) -> None:
        self.episodes, self.deterministic, self.seeds, self.random_state = episodes, deterministic, seeds, random_state

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        problems = []
        episodes, seeds = params.get("episodes", 100), params.get("seeds")
        if isinstance(episodes, int) and episodes < 1:
            problems.append(Problem("bad-value", ("episodes",), f"{episodes} episodes say nothing", "play at least 1", "value"))
        if isinstance(seeds, list):
            if not seeds:
                problems.append(Problem("bad-value", ("seeds",), "no seed is listed", "list some, or leave seeds out", "value"))
            if any(not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31 for seed in seeds):
                problems.append(Problem("bad-value", ("seeds",), "a seed is a whole number from 0 to 2^31 - 1", "", "value"))
            elif len(set(seeds)) < len(seeds):
                problems.append(Problem("duplicate-value", ("seeds",), "a seed is listed twice", "keep one of them", "value"))
            elif isinstance(episodes, int) and 1 <= episodes < len(seeds):
                what = f"{len(seeds)} seeds for {episodes} episodes"
                problems.append(Problem("bad-value", ("seeds",), what, "play at least one episode of each seed", "value"))
        return problems

    def split(self, selected: Selected, task: Any) -> Split:
        seeds = self._drawn(SEALED) if self.seeds is None else np.resize(np.asarray(self.seeds, np.int64), self.episodes)
        ordered = np.array(seeds) if self.seeds is None else np.concatenate([seeds[seeds == seed] for seed in self.seeds])
        audit = {"method": "episodes", "episodes": self.episodes, "deterministic": self.deterministic, "seeds": ordered.tolist()}
        return Split((Fold(None, ordered, label="episodes"),), audit=audit)

    def inner(self, selected: Selected, task: Any, folds: int) -> tuple[Fold, ...]:
        """One, whatever the number asked for: there are no rows to cut, and `seeds_per_trial` says how often a trial trains.

        Its episodes are not the sealed ones.
        """
        return (Fold(None, self._drawn(INNER), label="inner"),)

    def _drawn(self, stream: int) -> NDArray[np.int64]:
        words = np.random.SeedSequence([self.random_state or 0, stream]).generate_state(self.episodes)
        return (words >> np.uint32(1)).astype(np.int64)


# --- playing ---------------------------------------------------------------------------------------------------------------


@dataclass
class _Player:
    """One environment and the episodes that it still has to play; all of one seed."""

    number: int
    environment: Any
    seed: int
    left: int
    observation: Any = None
    info: Mapping[str, Any] | None = None
    total: float = 0.0
    length: int = 0
    memory: NDArray[Any] | None = None

    def begin(self, *, first: bool) -> None:
        self.observation, self.info = self.environment.reset(seed=self.seed) if first else self.environment.reset()
        self.total, self.length, self.memory = 0.0, 0, None


def mask_of(environment: Any, observation: Any, info: Mapping[str, Any] | None) -> NDArray[np.bool_] | None:
    """The mask (k,) of a state, from wherever the environment gives it: the observation, the info, or `action_masks()`."""
    if isinstance(observation, Mapping) and MASK_KEY in observation:
        found = observation[MASK_KEY]
    elif info is not None and MASK_KEY in info:
        found = info[MASK_KEY]
    elif hasattr(environment.unwrapped, "action_masks"):
        found = environment.unwrapped.action_masks()
    else:
        return None
    return np.asarray(found).reshape(-1).astype(np.bool_)


def play(factory: EnvironmentFactory, agent: Any, columns: StateColumns, *, deterministic: bool, seed: int) -> pd.DataFrame:
    """Play the episodes of `factory.seeds`: one row for each, in that order.

    agent    act(observations (n, d), masks (n, k) or None, deterministic=…, rng=…) -> Actions; with `memory` from the second step of
             an episode on, where the answer to the first had one
    returns  episode, seed, return, length, truncated, success (1, 0, or NaN where nobody says what success is)

    Raises DataError for a NaN from the environment, a mask that allows nothing, and an episode that does not end.
    """
    import pandas as pd

    rng = np.random.default_rng([seed, 3])
    distinct = list(dict.fromkeys(factory.seeds))
    played: list[dict[str, Any]] = []
    for begin in range(0, len(distinct), ENVIRONMENTS):
        players = [
            _Player(begin + number, factory(), one, factory.seeds.count(one))
            for number, one in enumerate(distinct[begin : begin + ENVIRONMENTS])
        ]
        try:
            played += _played(players, agent, columns, factory, rng, deterministic=deterministic)
        finally:
            for player in players:
                player.environment.close()
    played.sort(key=lambda row: (row.pop("player"), row.pop("at")))
    return pd.DataFrame([{"episode": number, **row} for number, row in enumerate(played)])


def _played(
    players: list[_Player], agent: Any, columns: StateColumns, factory: EnvironmentFactory, rng: np.random.Generator, *, deterministic: bool
) -> Iterator[dict[str, Any]]:
    for player in players:
        player.begin(first=True)
    playing = players
    while playing:
        rows = np.stack([columns.numbers(player.observation) for player in playing])
        observations = columns.rows(rows)
        if not np.isfinite(observations).all():
            player = playing[int(np.flatnonzero(~np.isfinite(observations).all(axis=1))[0])]
            what = f"the observation has a NaN or an infinity in step {player.length}"
            raise DataError(what, hint=MEND, slug="nonfinite", where=factory.name)
        masks = _masks(playing, columns, factory)
        answered = agent.act(observations, masks, deterministic=deterministic, rng=rng, **_remembered(playing))
        if answered.memory is not None:
            for player, memory in zip(playing, answered.memory, strict=True):
                player.memory = memory
        going: list[_Player] = []
        for player, action in zip(playing, answered.action, strict=True):
            try:
                player.observation, reward, terminated, truncated, player.info = player.environment.step(action)
            except Exception as error:
                raise broken(error, f"step {player.length} of an evaluation", factory.name) from error
            if not np.isfinite(reward):
                raise DataError(f"the reward is {reward} in step {player.length}", hint=MEND, slug="nonfinite", where=factory.name)
            player.total += float(reward)
            player.length += 1
            if not terminated and not truncated:
                if player.length >= LONGEST:
                    hint = "give the loader max_episode_steps"
                    raise DataError(f"an episode did not end in {LONGEST:,} steps", hint=hint, slug="endless-episode", where=factory.name)
                going.append(player)
                continue
            yield {
                "player": player.number, "at": -player.left, "seed": player.seed, "return": player.total, "length": player.length,
                "truncated": bool(truncated and not terminated), "success": _success(player, factory),
            }  # fmt: skip
            player.left -= 1
            if player.left:
                player.begin(first=False)
                going.append(player)
        playing = going


def _remembered(playing: Sequence[_Player]) -> dict[str, Any]:
    """The memories (n, k) of an agent that has shown some; zeros where an episode begins."""
    known = next((player.memory for player in playing if player.memory is not None), None)
    if known is None:
        return {}
    return {"memory": np.stack([np.zeros_like(known) if player.memory is None else player.memory for player in playing])}


def _masks(playing: Sequence[_Player], columns: StateColumns, factory: EnvironmentFactory) -> NDArray[np.bool_] | None:
    if not columns.masked:
        return None
    found = []
    for player in playing:
        mask = mask_of(player.environment, player.observation, player.info)
        if mask is None or len(mask) != columns.action.mask_width:
            got = "none" if mask is None else str(len(mask))
            what = f"a mask of {columns.action.mask_width} expected in step {player.length}, got {got}"
            raise DataError(what, slug="action-mask", where=factory.name)
        if not all(mask[part].any() for part in columns.choices()):
            what, hint = f"the mask allows no action in step {player.length}", "end the episode where nothing can be done"
            raise DataError(what, hint=hint, slug="action-mask", where=factory.name)
        found.append(mask)
    return np.stack(found)


def _success(player: _Player, factory: EnvironmentFactory) -> float:
    """What the environment says itself, else whether the return reached the threshold, else NaN."""
    if player.info is not None and "is_success" in player.info:
        return float(bool(player.info["is_success"]))
    return float("nan") if factory.reward_threshold is None else float(player.total >= factory.reward_threshold)


# --- judging ---------------------------------------------------------------------------------------------------------------


def iqm(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interquartile mean over the last axis: the mean of the middle half (Agarwal et al. 2021)."""
    n = values.shape[-1]
    cut = int(0.25 * n)
    found: NDArray[np.float64] = np.sort(values, axis=-1)[..., cut : n - cut].mean(axis=-1)
    return found


def resampled(values: NDArray[np.float64], groups: NDArray[Any], seed: int) -> NDArray[np.float64]:
    """(RESAMPLES, n): the stratified bootstrap turned around, seeds drawn first and then episodes of each (Davison and Hinkley
    1997, section 3.8), so that episodes of one seed do not pass for independent ones.
    """
    rng = np.random.default_rng([seed, 4])
    _, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    k, most = len(counts), int(counts.max())
    table = np.zeros((k, most))
    table[codes, _rank(codes)] = values
    drawn = rng.integers(k, size=(RESAMPLES, k))
    within = (rng.random((RESAMPLES, k, most)) * counts[drawn][:, :, None]).astype(np.int64)
    picked = table[drawn[:, :, None], within]
    kept = np.arange(most) < counts[drawn][:, :, None]
    if kept.all():
        return picked.reshape(RESAMPLES, k * most)
    n = len(values)  # seeds with unequal numbers of episodes: as many values as there were, in a random order of seeds
    found = np.empty((RESAMPLES, n))
    for row, (one, use) in enumerate(zip(picked, kept, strict=True)):
        found[row] = np.resize(one[use], n)
    return found


def _rank(codes: NDArray[np.intp]) -> NDArray[np.intp]:
    """(n,): the how-manieth of its group each one is."""
    order = np.argsort(codes, kind="stable")
    starts = np.r_[0, np.flatnonzero(np.diff(codes[order])) + 1]
    ranks = np.arange(len(codes)) - np.repeat(starts, np.diff(np.r_[starts, len(codes)]))
    found = np.empty(len(codes), np.intp)
    found[order] = ranks
    return found


def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values.mean(axis=-1)
    return found


def interval(
    values: NDArray[np.float64],
    groups: NDArray[Any],
    seed: int,
    *,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]] = mean,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic of the last axis, over episodes and seeds."""
    low, high = np.quantile(statistic(resampled(values, groups, seed)), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _returns(played: pd.DataFrame) -> NDArray[np.float64]:
    return played["return"].to_numpy(np.float64)


def _mean(played: pd.DataFrame) -> float:
    return float(_returns(played).mean())


def _iqm(played: pd.DataFrame) -> float:
    return float(iqm(_returns(played)))


def _sd(played: pd.DataFrame) -> float:
    return float(_returns(played).std(ddof=1)) if len(played) > 1 else 0.0


def _lcb(played: pd.DataFrame) -> float:
    return interval(_returns(played), played["seed"].to_numpy(), 0)[0]


def _success_rate(played: pd.DataFrame) -> float:
    if played["success"].isna().any():
        hint = "give the loader reward_threshold, or let the environment say info['is_success'] at the end of an episode"
        raise DataError("nobody says from which return an episode is a success", hint=hint, slug="no-success", where="success_rate")
    return float(played["success"].mean())


def _length(played: pd.DataFrame) -> float:
    return float(played["length"].mean())


METRICS = (
    Metric("return_mean", "maximize", "frame", _mean, summary="mean return of the evaluation episodes"),
    Metric("return_iqm", "maximize", "frame", _iqm, summary="mean of the middle half of the returns (Agarwal et al. 2021)"),
    Metric("return_sd", "minimize", "frame", _sd, summary="standard deviation of the returns"),
    Metric("return_lcb", "maximize", "frame", _lcb, summary="lower end of the 95 % interval of the mean return, over episodes and seeds"),
    Metric(
        "success_rate",
        "maximize",
        "frame",
        _success_rate,
        summary="share of episodes that the environment, or its threshold, calls a success",
    ),
    Metric("episode_length", "minimize", "frame", _length, summary="mean number of steps of an episode"),
)


def while_training(metric: str, threshold: float | None) -> Callable[[Sequence[tuple[float, int]]], float | None]:
    """A metric of `METRICS` of the episodes that training itself played, given as (return, length).

    threshold  a return from which an episode is a success
    returns    a function; it gives None of a metric that training cannot know: another evaluator's, or successes that the
               environment alone can tell
    """
    import pandas as pd

    function = next((one.function for one in METRICS if one.name == metric), None)
    if function is None or (metric == "success_rate" and threshold is None):
        return lambda _: None
    limit = np.inf if threshold is None else threshold

    def told(recent: Sequence[tuple[float, int]]) -> float:
        returns = np.array([one for one, _ in recent], np.float64)
        lengths = [length for _, length in recent]
        return float(
            function(pd.DataFrame({"seed": range(len(recent)), "return": returns, "length": lengths, "success": returns >= limit}))
        )

    return told


class EpisodesEvaluator:
    """Play the sealed episodes: returns with their spread and intervals, successes, lengths.

    level  of the bootstrap intervals in the table `intervals`
    """

    measures = METRICS

    def __init__(self, level: float = 0.95, *, validation: Mapping[str, Any] | None = None) -> None:
        self.level = level
        self.deterministic = bool((validation or {}).get("deterministic", True))

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        level = params.get("level", 0.95)
        if isinstance(level, float) and not 0 < level < 1:
            return [Problem("bad-value", ("level",), f"{level} is not between 0 and 1", "write 0.95", "value")]
        return []

    def judge(self, pipeline: Predictor, part: Part) -> Evaluation:
        columns = StateColumns.of(pipeline.schema.extras["states"])
        played = play(part.rows, pipeline.model, columns, deterministic=self.deterministic, seed=part.seed)
        functions = {metric.name: metric.function for metric in self.measures}
        metrics = {name: functions[name](played) for name in part.metrics}
        if not part.detail:
            return Evaluation(metrics)
        from recipeline_ppo import figures

        history = getattr(pipeline.model, "history", None)
        pictures = figures.of_training(history) if history is not None else {}
        return Evaluation(
            metrics,
            {"intervals": self._intervals(played, part), "episodes": played},
            {**pictures, **figures.of_episodes(played, self.level)},
        )

    def _intervals(self, played: pd.DataFrame, part: Part) -> pd.DataFrame:
        import pandas as pd

        returns, groups = _returns(played), played["seed"].to_numpy()
        rows = [("return_mean", _mean(played), interval(returns, groups, part.seed, level=self.level))]
        rows.append(("return_iqm", _iqm(played), interval(returns, groups, part.seed, statistic=iqm, level=self.level)))
        if not played["success"].isna().any():
            successes = played["success"].to_numpy(np.float64)
            rows.append(("success_rate", float(successes.mean()), interval(successes, groups, part.seed, level=self.level)))
        found = [{"metric": name, "value": value, "level": self.level, "low": low, "high": high} for name, value, (low, high) in rows]
        return pd.DataFrame(found)
