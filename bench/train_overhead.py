"""`train` against a careful hand-written scikit-learn + Optuna + MLflow script that logs the same model, parameters and metrics.

Both save and read back the model by skops, judge what was read, and draw no report. Goal: CPU ≤ 1.10 x.

python -m bench.train_overhead [--times 5]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench.processes import paired

PROJECT = Path(__file__).parents[1]

RECIPES = {
    "logistic": """
name: logistic
model:
  class_path: sklearn.linear_model.LogisticRegression
  hyperparameters: {max_iter: 1000}
  loader: {source_uri: breast_cancer.csv, name: default_loader}
  preprocessor: {name: default_preprocessor, params: {numerical_strategy: standard}}
  data_interface: {task_type: classification, target_col: diagnosis, positive_class: malignant, entity_cols: [patient_id]}
evaluation: {metrics: [accuracy, roc_auc], validation: {method: train_test_split, test_size: 0.2, stratify: true, random_state: 42}}
""",
    "forest": """
name: forest
model:
  class_path: sklearn.ensemble.RandomForestClassifier
  hyperparameters: {n_estimators: 200, random_state: 42}
  loader: {source_uri: breast_cancer.csv, name: default_loader}
  data_interface: {task_type: classification, target_col: diagnosis, positive_class: malignant, entity_cols: [patient_id]}
evaluation: {metrics: [accuracy, roc_auc], validation: {method: train_test_split, test_size: 0.2, stratify: true, random_state: 42}}
""",
    "tuned": """
name: tuned
model:
  class_path: sklearn.linear_model.LogisticRegression
  hyperparameters: {max_iter: 1000, C: {type: float, low: 0.001, high: 100.0, log: true, default: 1.0}}
  loader: {source_uri: breast_cancer.csv, name: default_loader}
  preprocessor: {name: default_preprocessor, params: {numerical_strategy: standard}}
  data_interface: {task_type: classification, target_col: diagnosis, positive_class: malignant, entity_cols: [patient_id]}
hyperparameter_tuning: {enabled: true, n_trials: 30, metric: roc_auc, folds: 5}
evaluation: {metrics: [accuracy, roc_auc], validation: {method: train_test_split, test_size: 0.2, stratify: true, random_state: 42}}
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        sys.path.insert(0, str(PROJECT / "recipes" / "data"))
        import write  # type: ignore[import-not-found]

        write.frame("breast_cancer").to_csv(place / "breast_cancer.csv", index=False)
        for name, recipe in RECIPES.items():
            (place / f"{name}.yaml").write_text(recipe)
            ours = [
                sys.executable,
                str(PROJECT / "main.py"),
                "train",
                "--recipe-file",
                f"{name}.yaml",
                "--json",
                "--set",
                "execution.report=false",
                "--set",
                "execution.champion=false",  # the script judges no older model either
            ]
            theirs = [sys.executable, str(Path(__file__).parent / "by_hand" / "train_script.py"), name]
            paired(ours, theirs, cwd=place, times=1)  # both make their MLflow store once, before the clock runs
            mine, hand, ratio = paired(ours, theirs, cwd=place, times=times)
            rows.append({"model": name, "ours_cpu_s": round(mine, 3), "script_cpu_s": round(hand, 3), "ratio": round(ratio, 3)})
            print(f"{name:<10} ours {mine:6.3f} CPU s   script {hand:6.3f} CPU s   ratio {ratio:.3f}   goal 1.10")
    print(json.dumps({"bench": "train_overhead", "rows": rows, "passed": all(row["ratio"] <= 1.10 for row in rows)}))


if __name__ == "__main__":
    main()
