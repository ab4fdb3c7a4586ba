"""The teacher of adult.toml: scikit-learn's gradient boosting. Needs: pip install scikit-learn"""

from collections.abc import Callable

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from distiq import Data


def gradient_boosting(data: Data, trees: int = 400, learning_rate: float = 0.05) -> Callable[[np.ndarray], np.ndarray]:
    """Fits on the training rows; returns what gives the classes' probabilities of rows (B, F)."""
    model = HistGradientBoostingClassifier(
        learning_rate=learning_rate, max_iter=trees, l2_regularization=1.0, early_stopping=False, random_state=0
    )
    return model.fit(data.train.inputs.numpy(), data.train.labels.numpy()).predict_proba
