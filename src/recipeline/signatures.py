"""What a constructor takes: names, defaults, and the values that it can be known to refuse before anything is built."""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from recipeline.errors import nearest


@dataclass(frozen=True)
class Signature:
    """The arguments that a class takes.

    names      every argument, in the order of the constructor; the documented ones of a library's table after them
    required   those without a default
    defaults   value of each that has one and shows it
    open       any other name is accepted too (`**kwargs` of unknown use)
    aliases    alias -> the name it stands for
    """

    owner: str
    names: tuple[str, ...]
    required: tuple[str, ...]
    defaults: Mapping[str, Any]
    open: bool
    aliases: Mapping[str, str]

    def accepts(self, name: str) -> bool:
        return self.open or name in self.names or name in self.aliases

    def meaning(self, name: str) -> str:
        """The constructor's own word for an argument that may be given by an alias."""
        return self.aliases.get(name, name)


@cache
def signature(made: type) -> Signature:
    """The arguments of a class: its `__init__`; with `**kwargs` also `get_params()` of a default instance and the library's table."""
    try:
        parameters = list(inspect.signature(made).parameters.values())
    except (TypeError, ValueError):  # a class written in C that does not tell
        return Signature(made.__name__, (), (), MappingProxyType({}), True, MappingProxyType({}))
    kinds = inspect.Parameter
    named = [p for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    defaults = {p.name: p.default for p in named if p.default is not kinds.empty}
    required = tuple(p.name for p in named if p.default is kinds.empty)
    names = dict.fromkeys(p.name for p in named)
    library = next((top for base in made.__mro__ if (top := base.__module__.partition(".")[0]) in _TABLES), None)
    opened = any(p.kind is kinds.VAR_KEYWORD for p in parameters)
    if opened and library and not required:
        learned = made().get_params(deep=False)
        names |= dict.fromkeys(learned)
        defaults |= learned
    aliases: dict[str, str] = {}
    if inner := _WRAPPED.get(f"{made.__module__}.{made.__qualname__}"):
        inside = signature(getattr(sys.modules[made.__module__], inner))
        names |= dict.fromkeys(inside.names)
        defaults |= inside.defaults
        aliases |= inside.aliases
        opened = inside.open
    if library:
        extra, groups = _TABLES[library]
        names |= dict.fromkeys(extra if opened else ())
        for name, others in groups.items():
            if name in names:
                aliases |= {alias: name for alias in others if opened or alias in names}
    return Signature(
        made.__name__, tuple(names), required, MappingProxyType(defaults), opened and library is None, MappingProxyType(aliases)
    )


# --- values ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Complaint:
    """Why a constructor will not take a value: what it takes instead, and the nearest allowed word."""

    wanted: str
    suggestion: str | None = None


def complaint(made: type, name: str, value: Any) -> Complaint | None:
    """Why `made` refuses `value` for the argument `name`, as far as scikit-learn's own constraints or the annotation tell."""
    constraints = _constraints(made, name)
    if constraints is not None:
        if any(c.is_satisfied_by(value) for c in constraints) or (isinstance(value, list) and _tuple_wanted(constraints, value)):
            return None
        words = [word for c in constraints for word in getattr(c, "options", ()) if isinstance(word, str)]
        return Complaint(_in_words(constraints), nearest(value, words) if isinstance(value, str) else None)
    return _by_annotation(made, name, value)


def complaint_of_part(made: type, name: str, inner: type) -> Complaint | None:
    """As `complaint`, for an argument that will be an instance of `inner`."""
    constraints = _constraints(made, name)
    if constraints is not None:
        return None if any(_class_satisfies(c, inner) for c in constraints) else Complaint(_in_words(constraints))
    wanted = [one for one in _union(_annotation(made, name)) if one is not type(None)]
    if not wanted or Any in wanted or not all(isinstance(one, type) and not getattr(one, "_is_protocol", False) for one in wanted):
        return None
    return None if any(issubclass(inner, one) for one in wanted) else Complaint(" or ".join(one.__name__ for one in wanted))


def coerced(made: type, name: str, value: Any) -> Any:
    """A list as a tuple where the constructor wants one: YAML has no tuples (`ngram_range: [1, 2]`)."""
    if not isinstance(value, list):
        return value
    constraints = _constraints(made, name)
    if constraints is not None:
        return tuple(value) if _tuple_wanted(constraints, value) else value
    if isinstance(signature(made).defaults.get(name), tuple) or any(typing.get_origin(t) is tuple for t in _union(_annotation(made, name))):
        return tuple(value)
    return value


def _constraints(made: type, name: str) -> list[Any] | None:
    """scikit-learn's constraints of one argument; None where it has none."""
    table = getattr(made, "_parameter_constraints", None)
    if not isinstance(table, dict) or name not in table or "sklearn" not in sys.modules:
        return None
    constraints = table[name]
    if not isinstance(constraints, list):  # "no_validation"
        return None
    from sklearn.utils._param_validation import make_constraint

    return [make_constraint(one) for one in constraints]


def _tuple_wanted(constraints: Iterable[Any], value: list[Any]) -> bool:
    listed = list(constraints)
    return not any(c.is_satisfied_by(value) for c in listed) and any(c.is_satisfied_by(tuple(value)) for c in listed)


def _in_words(constraints: Iterable[Any]) -> str:
    """The constraints as scikit-learn says them, in an order that does not change from run to run."""
    words = []
    for one in constraints:
        if getattr(one, "hidden", False):
            continue
        options = getattr(one, "options", None)
        words.append("one of " + ", ".join(sorted(map(str, options - one.deprecated))) if options is not None else str(one))
    return " or ".join(words)


def _class_satisfies(constraint: Any, inner: type) -> bool:
    """Whether instances of a class satisfy a constraint; what cannot be told without an instance is let pass."""
    kind = type(constraint).__name__
    if kind == "HasMethods":
        return all(hasattr(inner, method) for method in constraint.methods)
    if kind == "_InstancesOf":
        return issubclass(inner, constraint.type)
    if kind == "_CVObjects":
        return hasattr(inner, "split")
    if kind == "_Callables":
        return any("__call__" in base.__dict__ for base in inner.__mro__)
    return kind not in _SCALARS


_SCALARS = ("Options", "StrOptions", "Interval", "_NoneConstraint", "_Booleans", "_VerboseHelper", "_RandomStates", "_NanConstraint")


def _by_annotation(made: type, name: str, value: Any) -> Complaint | None:
    if made.__module__.partition(".")[0] in _LOOSE and not isinstance(value, str | int | float):
        return None  # these libraries take more containers than they say
    adapter = _adapter(made, name)
    if adapter is None:
        return None
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        return None  # not something a recipe could have said
    from pydantic import ValidationError

    try:
        adapter(text)
    except ValidationError as error:
        found = error.errors(include_url=False)
        wanted = list(dict.fromkeys(one["msg"].removeprefix("Input should be ").removeprefix("a valid ") for one in found))
        words = [word for one in found if one["type"] in ("literal_error", "enum") for word in re.findall(r"'([^']*)'", one["msg"])]
        return Complaint(" or ".join(wanted), nearest(value, words) if isinstance(value, str) else None)
    return None


@cache
def _adapter(made: type, name: str) -> Callable[[str], Any] | None:
    """A strict reader of the annotated type from JSON; None where the annotation says nothing that can be checked."""
    annotation = _annotation(made, name)
    if annotation in (None, Any, object) or isinstance(annotation, str):
        return None
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter

    try:
        # A class of the plugin's own makes an instance check, which plain data fails: parts are checked as parts.
        adapter = TypeAdapter(annotation, config=ConfigDict(strict=True))
    except PydanticUserError:
        return None
    return adapter.validate_json


def _annotation(made: type, name: str) -> Any:
    """The type that `__init__` declares for an argument, wherever it is declared; None where it cannot be known."""
    for base in made.__mro__:
        declared = getattr(base.__dict__.get("__init__"), "__annotations__", {})
        if name in declared:

            def holder() -> None: ...

            holder.__annotations__ = {name: declared[name]}
            try:
                return typing.get_type_hints(holder, globalns=vars(sys.modules[base.__module__]), include_extras=True)[name]
            except (NameError, AttributeError, TypeError):
                return None  # a name that only a type checker imports
    return None


def _union(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return () if annotation is None else (annotation,)


# --- tables of libraries --------------------------------------------------------------------------


def _table(text: str) -> dict[str, tuple[str, ...]]:
    """Lines of `name alias alias …`."""
    return {name: tuple(aliases) for name, *aliases in (line.split() for line in text.strip().splitlines())}


# get_params() does not know a library's documented aliases. From each library's parameter page; what reads or writes
# files, names machines or steers the command line only is left out on purpose.
# https://lightgbm.readthedocs.io/en/stable/Parameters.html (4.7)
_LIGHTGBM = _table("""
boosting_type boosting boost
class_weight
colsample_bytree feature_fraction sub_feature
importance_type
learning_rate eta shrinkage_rate
max_depth
min_child_samples min_data_in_leaf min_data min_data_per_leaf min_samples_leaf
min_child_weight min_sum_hessian_in_leaf min_hessian min_sum_hessian min_sum_hessian_per_leaf
min_split_gain min_gain_to_split
n_estimators num_iterations num_iteration n_iter num_tree num_trees num_round num_rounds nrounds num_boost_round max_iter
n_jobs num_threads num_thread nthread nthreads
num_leaves num_leaf max_leaves max_leaf max_leaf_nodes
objective objective_type app application loss
random_state seed random_seed
reg_alpha lambda_l1 l1_regularization
reg_lambda lambda_l2 lambda l2_regularization
subsample bagging_fraction bagging sub_row
subsample_for_bin bin_construct_sample_cnt
subsample_freq bagging_freq
alpha
auc_mu_weights
bagging_by_query
bagging_seed bagging_fraction_seed
boost_from_average
cat_l2
cat_smooth
categorical_feature cat_column cat_feature categorical_column categorical_features
cegb_penalty_feature_coupled
cegb_penalty_feature_lazy
cegb_penalty_split
cegb_tradeoff
data_random_seed data_seed
data_sample_strategy
deterministic
device_type device
drop_rate rate_drop
drop_seed
early_stopping_min_delta
early_stopping_round early_stopping early_stopping_rounds n_iter_no_change
enable_bundle bundle is_enable_bundle
eval_at map_at map_eval_at ndcg_at ndcg_eval_at
extra_seed
extra_trees extra_tree
fair_c
feature_contri fc feature_contrib feature_penalty fp
feature_fraction_bynode colsample_bynode sub_feature_bynode
feature_fraction_seed
feature_pre_filter
first_metric_only
force_col_wise
force_row_wise
gpu_device_id
gpu_platform_id
gpu_use_dp
histogram_pool_size hist_pool_size
interaction_constraints
is_enable_sparse enable_sparse is_sparse sparse
is_unbalance unbalance unbalanced_sets
label_gain
lambdarank_norm
lambdarank_position_bias_regularization
lambdarank_truncation_level
linear_lambda
linear_tree linear_trees
max_bin max_bins
max_bin_by_feature
max_cat_threshold
max_cat_to_onehot
max_delta_step max_leaf_output max_tree_output
max_drop
metric metric_types metrics
min_data_in_bin
min_data_per_group
monotone_constraints mc monotone_constraint monotonic_cst
monotone_constraints_method mc_method monotone_constraining_method
monotone_penalty mc_penalty monotone_splits_penalty ms_penalty
multi_error_top_k
neg_bagging_fraction neg_bagging neg_sub_row neg_subsample
num_class num_classes
num_gpu
num_grad_quant_bins
objective_seed
other_rate
path_smooth
poisson_max_delta_step
pos_bagging_fraction pos_bagging pos_sub_row pos_subsample
pred_early_stop
pred_early_stop_freq
pred_early_stop_margin
quant_train_renew_leaf
refit_decay_rate
reg_sqrt
scale_pos_weight
sigmoid
skip_drop
stochastic_rounding
top_k topk
top_rate
tree_learner tree tree_learner_type tree_type
tweedie_variance_power
uniform_drop
use_missing
use_quantized_grad
verbosity verbose
xgboost_dart_mode
zero_as_missing
""")

# https://xgboost.readthedocs.io/en/stable/parameter.html (3.2)
_XGBOOST = _table("""
gamma min_split_loss
learning_rate eta
n_jobs nthread
random_state seed
reg_alpha alpha
reg_lambda lambda
aft_loss_distribution
aft_loss_distribution_scale
disable_default_eval_metric
expectile_alpha
extmem_single_page
feature_selector
huber_slope
lambdarank_bias_norm
lambdarank_normalization
lambdarank_num_pair_per_sample
lambdarank_pair_method
lambdarank_score_normalization
lambdarank_unbiased
max_cached_hist_node
ndcg_exp_gain
normalize_type
num_class
one_drop
process_type
quantile_alpha
rate_drop
refresh_leaf
sample_type
seed_per_iteration
skip_drop
top_k
tweedie_variance_power
updater
use_rmm
""")

# https://catboost.ai/docs/en/references/training-parameters/ (1.2): all stand in the constructor, but one of each group may be given
_CATBOOST = _table("""
iterations n_estimators num_boost_round num_trees
learning_rate eta
depth max_depth
l2_leaf_reg reg_lambda
rsm colsample_bylevel
loss_function objective
border_count max_bin
random_seed random_state
min_data_in_leaf min_child_samples
max_leaves num_leaves
""")

_TABLES: Mapping[str, tuple[Iterable[str], Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {"lightgbm": (_LIGHTGBM, _LIGHTGBM), "xgboost": (_XGBOOST, _XGBOOST), "catboost": ((), _CATBOOST)}
)

# Classes that hand their `**kwargs` to another one, by the name under which their module knows it (CausalML 0.18).
_WRAPPED: Mapping[str, str] = MappingProxyType(
    {
        "causalml.inference.meta.tlearner.XGBTRegressor": "XGBRegressor",
        "causalml.inference.meta.tlearner.MLPTRegressor": "MLPRegressor",
        "causalml.inference.meta.drlearner.XGBDRRegressor": "XGBRegressor",
    }
)

_LOOSE = ("sklearn", "xgboost", "lightgbm", "catboost", "causalml")
