"""LanceDB: a table that embeds what is added and what is searched for.

llama-server -m model.gguf --embeddings --port 8080     # or: embedwire serve
python examples/doors/lancedb_table.py
"""

import lancedb
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector

import embedwire.lancedb  # noqa: F401 - registers "embedwire"

TEXTS = [
    "The library is open from nine to six, and closed on Mondays.",
    "Books may be kept for three weeks; each further day costs ten cents.",
    "A lost card is replaced at the front desk.",
]
QUESTIONS = ["How long can I keep a book?", "책을 얼마나 오래 빌릴 수 있나요?"]


def main() -> None:
    function = get_registry().get("embedwire").create(base_url="http://localhost:8080")

    class Note(LanceModel):
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()  # type: ignore[valid-type]

    table = lancedb.connect("lancedb").create_table("library", schema=Note, mode="overwrite")
    table.add([{"text": text} for text in TEXTS])

    # Later, in another process that has imported embedwire.lancedb:
    table = lancedb.connect("lancedb").open_table("library")
    for question in QUESTIONS:
        (found,) = table.search(question).distance_type("cosine").limit(1).to_list()
        print(f"{question}\n  {found['text']}")


if __name__ == "__main__":
    main()
