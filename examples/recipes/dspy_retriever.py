"""DSPy: its retriever over vectors of your own server; needs dspy.

llama-server -m model.gguf --embeddings --port 8080     # or: embedwire serve
python examples/recipes/dspy_retriever.py
"""

import dspy

from embedwire import SharedEmbeddingClient

TEXTS = [
    "The library is open from nine to six, and closed on Mondays.",
    "Books may be kept for three weeks; each further day costs ten cents.",
    "A lost card is replaced at the front desk.",
]
QUESTIONS = ["How long can I keep a book?", "책을 얼마나 오래 빌릴 수 있나요?"]


def main() -> None:
    client = SharedEmbeddingClient("http://localhost:8080")
    embedder = dspy.Embedder(client.embed_array, caching=False)  # queries too are embedded as documents
    search = dspy.retrievers.Embeddings(corpus=TEXTS, embedder=embedder, k=1)

    for question in QUESTIONS:
        print(f"{question}\n  {search(question).passages[0]}")


if __name__ == "__main__":
    main()
