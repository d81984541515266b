"""scikit-learn: texts to vectors as the first step of a pipeline; needs scikit-learn.

llama-server -m model.gguf --embeddings --port 8080     # or: embedwire serve
python examples/recipes/sklearn_classifier.py
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from embedwire import SharedEmbeddingClient

TRAINING = {
    "The soup was cold and the bread was old.": "food",
    "Best noodles I have ever had.": "food",
    "The cake was dry.": "food",
    "The train was two hours late.": "travel",
    "Our flight was cancelled twice.": "travel",
    "The bus driver drove like a devil.": "travel",
}
TEXTS = ["The rice was burnt.", "We missed the last ferry.", "김치찌개가 너무 짰어요."]

client = SharedEmbeddingClient("http://localhost:8080", normalize=True)


def embed(texts: Iterable[str]) -> NDArray[np.float32]:
    """Texts to vectors, from a list, a Series or an array."""
    return client.embed_array(list(texts))


def main() -> None:
    model = make_pipeline(FunctionTransformer(embed), LogisticRegression(C=100))
    model.fit(list(TRAINING), list(TRAINING.values()))
    for text, topic in zip(TEXTS, model.predict(TEXTS), strict=True):
        print(f"{topic:8}{text}")


if __name__ == "__main__":
    main()
