"""mem0: memories embedded by your own server, through its LangChain embedder; needs mem0ai, langchain and an LLM.

    llama-server -m model.gguf --embeddings --port 8080     # or: embedwire serve
    OPENAI_API_KEY=… python examples/recipes/mem0_memory.py

Here no LLM is asked, since with infer=False each message is kept as it is.
"""

from mem0 import Memory

from embedwire.langchain import EmbedwireEmbeddings

MEMORIES = ["I do not eat fish.", "I teach chemistry at a school in Busan.", "I have an old cat called Nabi."]
QUESTIONS = ["What is the name of the cat?", "고양이 이름이 뭐예요?"]


def main() -> None:
    embeddings = EmbedwireEmbeddings("http://localhost:8080")  # no prompts: see docs/INTEGRATIONS.md
    memory = Memory.from_config(
        {
            "embedder": {"provider": "langchain", "config": {"model": embeddings}},
            "vector_store": {
                "provider": "qdrant",
                "config": {"path": "mem0", "embedding_model_dims": embeddings.get_dimensions()},
            },
        }
    )
    for text in MEMORIES:
        memory.add(text, user_id="kim", infer=False)

    for question in QUESTIONS:
        found = memory.search(question, filters={"user_id": "kim"}, limit=1)
        print(f"{question}\n  {found['results'][0]['memory']}")


if __name__ == "__main__":
    main()
