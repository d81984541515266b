"""LangGraph's store: what an agent remembers, found by meaning; needs langgraph.

llama-server -m model.gguf --embeddings --port 8080     # or: embedwire serve
python examples/stores/store_langgraph.py
"""

from langgraph.store.memory import InMemoryStore

from embedwire.langchain import EmbedwireEmbeddings

MEMORIES = {
    "food": "The user does not eat fish.",
    "work": "The user teaches chemistry at a school in Busan.",
    "pet": "The user has an old cat called Nabi.",
}
QUESTIONS = ["What is the name of the cat?", "고양이 이름이 뭐예요?"]


def main() -> None:
    embeddings = EmbedwireEmbeddings("http://localhost:8080")
    store = InMemoryStore(
        index={"embed": embeddings, "dims": embeddings.get_dimensions(), "fields": ["text"]}
    )
    for key, text in MEMORIES.items():
        store.put(("memories", "user-1"), key, {"text": text})

    for question in QUESTIONS:
        (found,) = store.search(("memories", "user-1"), query=question, limit=1)
        print(f"{question}\n  {found.value['text']}")


if __name__ == "__main__":
    main()
