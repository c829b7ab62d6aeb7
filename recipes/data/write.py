"""Write the data of the shipped recipes: scikit-learn's own small sets, as files and as a SQLite database; and some series.

    python recipes/data/write.py [FOLDER]

breast_cancer   569 rows, 30 measurements; Wolberg, Street and Mangasarian (1995), UCI, CC BY 4.0
wine            178 rows, 13 measurements; Aeberhard and Forina (1992), UCI, CC BY 4.0
diabetes        442 rows, 10 measurements; Efron, Hastie, Johnstone and Tibshirani (2004), Least Angle Regression
linnerud        20 rows, 3 exercises and 3 body measures; Tenenhaus (1998), La regression PLS
subscribers     1,500 customers as they come out of a shop's database: gaps, texts, a date, one in eight leaves; drawn here.
                subscribers_new: 100 more, of whom nobody knows yet
coupons         3000 rows, drawn here: a trial in which half of the customers got a coupon, with a known effect on each
co2             2,284 weeks of CO2 at Mauna Loa, 59 not measured; Keeling and Whorf (2004), public domain, from co2.txt
shops           daily sales of 12 shops over 200 to 400 days, with price and promotions; generated here. shops_next: their last
                40 days, and the next 14 without sales, of these shops and of a new one
stations        daily rides at 50 bicycle stations over 60 to 300 days, with holidays and temperature; generated here.
                stations_recent: the last 60 days of nine of them and of a new one. stations_next: the same, and the next 14 days
                without rides, of which holidays are known and temperatures are not
markets         prices of 12 prediction markets every 5 minutes for three days; generated here. markets_next: their next day, up to
                the moment that is to be forecast from
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
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


def coupon_effect(customers: pd.DataFrame) -> pd.Series[float]:
    """What a coupon changes in the probability of buying (n,): much for app users who come rarely, less than nothing for regulars."""
    reach = customers["channel"].map({"app": 1.0, "web": 0.6, "store": 0.2})
    return reach * (0.4 - 0.07 * customers["visits"])


def coupons(rows: int = 3000, seed: int = 19) -> pd.DataFrame:
    """A randomised trial: half of the customers get a coupon; did they buy?"""
    random = np.random.default_rng(seed)
    data = pd.DataFrame(
        {
            "customer_id": [f"C{number:05d}" for number in range(rows)],
            "visits": random.poisson(4.0, rows).clip(0, 9),
            "age": random.integers(18, 80, rows),
            "channel": random.choice(["app", "web", "store"], rows, p=[0.4, 0.35, 0.25]),
            "basket": random.gamma(3.0, 12.0, rows).round(2),
        }
    )
    data["coupon"] = np.where(random.random(rows) < 0.5, "coupon", "control")
    chance = 0.15 + 0.05 * data["visits"] + 0.05 * (data["age"] < 40) + coupon_effect(data) * (data["coupon"] == "coupon")
    data["bought"] = (random.random(rows) < chance.clip(0.02, 0.98)).astype(int)
    return data


def co2() -> pd.DataFrame:
    text = (Path(__file__).parent / "co2.txt").read_text(encoding="utf-8")
    words = [word for line in text.splitlines() if not line.startswith("#") for word in line.split()]
    values = [np.nan if word == "-" else float(word) for word in words]
    return pd.DataFrame({"date": pd.date_range("1958-03-29", periods=len(values), freq="W-SAT"), "co2": values})


def shops() -> pd.DataFrame:
    """Sales follow the week, the year, the price and promotions, on another level in each shop; some days were not counted.

    The last 14 days are to come: price and promotions are known, sales are not. The last shop is new.
    """
    random = np.random.default_rng(20240101)
    pieces = []
    for number in range(13):
        known = int(random.integers(200, 401)) if number < 12 else 60
        day = pd.date_range("2023-01-01", periods=414)[-known - 14 :]
        t = (day - pd.Timestamp("2023-01-01")).days.to_numpy()
        size = ("small", "large")[int(random.random() < 0.4)]
        level = (60.0 if size == "small" else 240.0) * random.uniform(0.7, 1.4)
        price = np.round(2.0 + 0.4 * np.sin(2 * np.pi * t / 90 + number) + 0.1 * random.normal(size=len(t)), 2)
        promotion = (random.random(len(t)) < 0.12).astype(int)
        weekly = 1 + 0.25 * np.sin(2 * np.pi * t / 7) + 0.1 * np.sin(2 * np.pi * t / 365.25)
        sales = level * weekly * (1 + 0.5 * promotion) * price**-0.8 * np.exp(0.06 * random.normal(size=len(t)))
        sales = np.where((random.random(len(t)) < 0.03) | (t >= 400), np.nan, np.round(sales, 1))
        rows = {"shop": f"shop-{number:02d}", "day": day, "size": size, "price": price, "promotion": promotion, "sales": sales}
        pieces.append(pd.DataFrame(rows))
    return pd.concat(pieces, ignore_index=True)


def stations() -> pd.DataFrame:
    """Rides follow the week, the summer, the temperature of the day before and holidays; some days were not counted.

    The last 14 days are to come: holidays are known, rides and temperatures are not. The last station is new.
    """
    random = np.random.default_rng(20230301)
    days = pd.date_range("2022-10-01", periods=364)
    t = np.arange(len(days))
    warm = 10 - 9 * np.cos(2 * np.pi * (t + 270) / 365.25) + 3 * np.convolve(random.normal(size=len(t) + 6), np.ones(7) / 7, mode="valid")
    festive = {(1, 1), (5, 1), (10, 3), (11, 1), (12, 25), (12, 26)} | {(4, 7), (4, 10), (5, 18), (5, 29), (8, 15), (9, 20), (9, 25)}
    holiday = np.array([(day.month, day.day) in festive for day in days]).astype(int)
    pieces = []
    for number in range(51):
        known = int(random.integers(60, 301)) if number < 50 else 60
        office = number % 3 > 0
        week = np.where(days.dayofweek < 5, 1.2 if office else 0.8, 0.5 if office else 1.5)
        level = random.uniform(20, 400)
        closed = np.where(holiday == 1, 0.45 if office else 1.35, 1.0)
        rides = level * week * closed * np.exp(0.012 * (np.roll(warm, 1) - 10) + 0.08 * random.normal(size=len(t)))
        rides = np.where((random.random(len(t)) < 0.03) | (t >= 350), np.nan, np.round(rides))
        rows = {"station": f"station-{number:02d}", "day": days, "kind": "office" if office else "park", "holiday": holiday}
        piece = pd.DataFrame({**rows, "temperature": np.where(t < 350, np.round(warm, 1), np.nan), "rides": rides})
        pieces.append(piece.tail(known + 14))
    return pd.concat(pieces, ignore_index=True)


def markets(days: int = 4) -> pd.DataFrame:
    """Prices in (0, 1): an AR(1) process in logit space, noisier where few trade; a few ticks were not seen.

    liquidity_bucket and category belong to a market, tte_bucket says how far its event is away.
    """
    random = np.random.default_rng(20260220)
    ticks = days * 288
    ts = pd.date_range("2026-02-17", periods=ticks, freq="5min", tz="UTC")
    pieces = []
    for number in range(12):
        liquidity, category = ("high", "mid", "low")[number % 3], ("politics", "sports")[number // 6]
        mean, noise = random.uniform(-1.5, 1.5), {"high": 0.03, "mid": 0.05, "low": 0.08}[liquidity]
        x = np.full(ticks, mean)
        for tick in range(1, ticks):
            x[tick] = mean + 0.98 * (x[tick - 1] - mean) + noise * random.standard_normal()
        price = np.round(1 / (1 + np.exp(-x)), 4)
        event = ts[0] + pd.Timedelta(days=float(random.uniform(3, 20)))
        left = (event - ts).total_seconds().to_numpy() / 86_400
        rows = {
            "market_id": f"m-{number:02d}",
            "ts": ts,
            "y": np.where(random.random(ticks) < 0.01, np.nan, price),
            "category": category,
            "liquidity_bucket": liquidity,
            "tte_bucket": np.where(left < 1, "day", np.where(left < 7, "week", "later")),
        }
        pieces.append(pd.DataFrame(rows))
    return pd.concat(pieces, ignore_index=True)


def subscribers() -> pd.DataFrame:
    """They leave with probability 1 / (1 + exp(-u)); u grows with calls and days since the last login, and falls with the months."""
    random = np.random.default_rng(11)
    n = 1600
    months = random.integers(1, 40, n)
    calls, quiet = random.poisson(1.2, n), random.exponential(12, n).round()
    plan = random.choice(["basic", "plus", "family"], n, p=[0.5, 0.3, 0.2])
    u = -3.6 + 0.55 * calls + 0.05 * quiet - 0.03 * months + 0.6 * (plan == "basic")
    fee = pd.Series({"basic": 9.0, "plus": 14.0, "family": 19.0})[plan].to_numpy() + random.choice([0.0, 0.99], n)
    data = pd.DataFrame(
        {
            "customer_id": [f"S{number:05d}" for number in range(n)],
            "signed_up": (pd.Timestamp("2024-06-30") - pd.to_timedelta(months * 30 + random.integers(0, 30, n), unit="D")),
            "country": random.choice(["DE", "FR", "PL", "AT", "IT", "LU"], n, p=[0.4, 0.25, 0.15, 0.1, 0.08, 0.02]),
            "plan": plan,
            "monthly_fee": fee,
            "months": months,
            "support_calls": calls,
            "days_since_login": quiet,
            "churned": np.where(random.random(n) < 1 / (1 + np.exp(-u)), "yes", "no"),
        }
    )
    for column, share in {"country": 0.04, "monthly_fee": 0.06, "days_since_login": 0.1}.items():
        data.loc[random.random(n) < share, column] = None
    return data


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("breast_cancer", "wine", "diabetes", "linnerud", "coupons"):
        data = coupons() if name == "coupons" else frame(name)
        if name == "breast_cancer":  # what will be asked about later: patients without a diagnosis
            data.tail(60).drop(columns="diagnosis").to_csv(folder / "breast_cancer_new.csv", index=False)
            data = data.head(-60)
        if name == "coupons":  # who might get the next coupon: neither sent nor bought yet
            data.tail(200).drop(columns=["coupon", "bought"]).to_csv(folder / "coupons_new.csv", index=False)
            data = data.head(-200)
        data.to_csv(folder / f"{name}.csv", index=False)
        with closing(sqlite3.connect(folder / "samples.sqlite")) as database:
            data.to_sql(name, database, if_exists="replace", index=False)
    people = subscribers()
    people.head(-100).to_csv(folder / "subscribers.csv", index=False)
    people.tail(100).drop(columns="churned").to_csv(folder / "subscribers_new.csv", index=False)
    sales = shops()
    border = pd.Timestamp("2024-02-05")  # 400 days after the first
    co2().to_csv(folder / "co2.csv", index=False)
    sales[(sales["day"] < border) & (sales["shop"] != "shop-12")].to_csv(folder / "shops.csv", index=False)
    sales[sales["day"] >= border - pd.Timedelta("40D")].to_csv(folder / "shops_next.csv", index=False)
    rides = stations()
    border = pd.Timestamp("2023-09-16")  # the first day to come
    new = rides["station"] == "station-50"
    some = rides["station"].isin([f"station-{number:02d}" for number in range(0, 45, 5)]) | new
    recent = rides[some & (rides["day"] >= border - pd.Timedelta("60D"))]
    rides[(rides["day"] < border) & ~new].to_csv(folder / "stations.csv", index=False)
    recent[recent["day"] < border].to_csv(folder / "stations_recent.csv", index=False)
    recent.to_csv(folder / "stations_next.csv", index=False)
    prices = markets()
    day = pd.Timestamp("2026-02-20", tz="UTC")
    prices[prices["ts"] < day].to_parquet(folder / "markets.parquet", index=False)
    prices[prices["ts"] >= day].to_parquet(folder / "markets_next.parquet", index=False)
    sys.stdout.write(f"data of the recipes written to {folder}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
