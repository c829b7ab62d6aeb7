"""Write the data of the shipped recipes: scikit-learn's own small sets, as files and as a SQLite database.

    python recipes/data/write.py [FOLDER]

breast_cancer   569 rows, 30 measurements; Wolberg, Street and Mangasarian (1995), UCI, CC BY 4.0
wine            178 rows, 13 measurements; Aeberhard and Forina (1992), UCI, CC BY 4.0
diabetes        442 rows, 10 measurements; Efron, Hastie, Johnstone and Tibshirani (2004), Least Angle Regression
linnerud        20 rows, 3 exercises and 3 body measures; Tenenhaus (1998), La regression PLS
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pandas as pd
from sklearn import datasets


def frame(name: str) -> pd.DataFrame:
    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    data: pd.DataFrame = bunch.frame.copy()
    data.columns = [str(column).replace(" ", "_").replace("/", "_") for column in data.columns]
    if name == "breast_cancer":
        data["target"] = bunch.target.map(dict(enumerate(bunch.target_names)))
        data = data.rename(columns={"target": "diagnosis"})
        data.insert(0, "patient_id", [f"P{number:04d}" for number in range(len(data))])
    return data


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("breast_cancer", "wine", "diabetes", "linnerud"):
        data = frame(name)
        if name == "breast_cancer":  # what will be asked about later: patients without a diagnosis
            data.tail(60).drop(columns="diagnosis").to_csv(folder / "breast_cancer_new.csv", index=False)
            data = data.head(-60)
        data.to_csv(folder / f"{name}.csv", index=False)
        with closing(sqlite3.connect(folder / "samples.sqlite")) as database:
            data.to_sql(name, database, if_exists="replace", index=False)
    sys.stdout.write(f"data of the recipes written to {folder}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
