"""Augmenters: what brings further columns to the rows before anything else sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class PassThrough:
    """Brings nothing: the rows go on as they came."""

    def augment(self, frame: pd.DataFrame, *, online: bool) -> pd.DataFrame:  # the signature that all augmenters share
        return frame
