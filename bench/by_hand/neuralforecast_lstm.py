"""neuralforecast's LSTM on the series of `bench.spline_speed`: prints windows per CPU second. Runs in an environment of its own.

One encoder layer of 64 units, a direct head, revin scaler, quantile loss of three levels, batches of `batch` windows of one
series, one thread, no logger, no checkpoint, no progress bar; as many steps as asked for, after one fit of a single step that loads
what is loaded late. Windows with padding are left out by it as by us (start_padding_enabled is off).
"""

from __future__ import annotations

import logging
import sys
import time
import warnings

import numpy as np
import pandas as pd
import torch
from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MQLoss
from neuralforecast.models import LSTM


def main() -> None:
    lookback, horizon, batch, steps, rows = (int(word) for word in sys.argv[1:6])
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    at = np.arange(rows)
    values = 10 * np.sin(2 * np.pi * at / 24) + np.cumsum(np.random.default_rng(0).normal(size=rows)) / 10
    frame = pd.DataFrame({"unique_id": "a", "ds": pd.date_range("2020-01-01", periods=rows, freq="h"), "y": values})
    seconds = 0.0
    for count in (1, steps):
        model = LSTM(
            h=horizon, input_size=lookback, encoder_n_layers=1, encoder_hidden_size=64, decoder_layers=1, decoder_hidden_size=64,
            recurrent=False, loss=MQLoss(quantiles=[0.1, 0.5, 0.9]), scaler_type="revin", max_steps=count, val_check_steps=count,
            batch_size=1, windows_batch_size=batch, random_seed=0, accelerator="cpu", devices=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        start = time.process_time()
        NeuralForecast(models=[model], freq="h").fit(frame)
        seconds = time.process_time() - start
    sys.stdout.write(f"{steps * batch / seconds}\n")


if __name__ == "__main__":
    main()
